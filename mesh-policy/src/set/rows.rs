//! Rows: what a rule set decides at each protocol and port, for the peers of some classes.

use std::hash::{Hash, Hasher};
use std::hint::select_unpredictable;
use std::sync::Arc;

use mesh_core::{Protocol, Reason, RuleId, Verdict};

/// What a rule set decides: the tier and, with it, whether a rule did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// No tier decides.
    Undecided,
    /// A NetworkPolicy selects the subject and none of its rules matches.
    Isolated,
    /// The rule of that number in the rule set decides.
    AdminAllow(u32),
    AdminDeny(u32),
    NetworkAllow(u32),
    BaselineAllow(u32),
    BaselineDeny(u32),
}

/// An [`Outcome`] as it is stored: a bit for `Allow`, two bits for the tier (none, Admin, NetworkPolicy, Baseline), then the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Packed(u32);

impl Packed {
    pub(crate) const ISOLATED: Packed = Packed(0);
    pub(crate) const UNDECIDED: Packed = Packed(1);

    pub(crate) fn new(outcome: Outcome) -> Packed {
        let packed = |kind: u32, rule: u32| {
            assert!(rule < 1 << 29, "fewer rules apply to a subject than 29 bits count");
            Packed(rule << 3 | kind)
        };
        match outcome {
            Outcome::Isolated => Packed::ISOLATED,
            Outcome::Undecided => Packed::UNDECIDED,
            Outcome::AdminDeny(rule) => packed(2, rule),
            Outcome::AdminAllow(rule) => packed(3, rule),
            Outcome::NetworkAllow(rule) => packed(5, rule),
            Outcome::BaselineDeny(rule) => packed(6, rule),
            Outcome::BaselineAllow(rule) => packed(7, rule),
        }
    }

    pub(crate) fn outcome(self) -> Outcome {
        let rule = self.rule();
        match self.0 & 7 {
            0 => Outcome::Isolated,
            2 => Outcome::AdminDeny(rule),
            3 => Outcome::AdminAllow(rule),
            5 => Outcome::NetworkAllow(rule),
            6 => Outcome::BaselineDeny(rule),
            7 => Outcome::BaselineAllow(rule),
            _ => Outcome::Undecided,
        }
    }

    /// Returns the rule's number; 0 where no rule decides.
    #[inline]
    pub(crate) fn rule(self) -> u32 {
        self.0 >> 3
    }

    /// Returns the verdict, where `rule` decides if one does, and `default` says what holds where no tier decides.
    ///
    /// It is put together of its parts, not chosen among all verdicts: nobody could predict that choice.
    #[inline(always)]
    pub(crate) fn verdict(self, rule: RuleId, default: NoTier) -> Verdict<RuleId> {
        const PLAIN: [Verdict<RuleId>; 4] = [
            Verdict::Deny(Reason::Isolated),
            Verdict::Allow(Reason::Default),
            Verdict::Deny(Reason::NotExported),
            Verdict::Allow(Reason::FleetDefault),
        ];
        let tier = self.0 >> 1 & 3;
        let reason = match tier {
            1 => Reason::Admin(rule),
            2 => Reason::NetworkPolicy(rule),
            _ => Reason::Baseline(rule),
        };
        let by_rule = if self.0 & 1 == 1 { Verdict::Allow(reason) } else { Verdict::Deny(reason) };
        let plain = &PLAIN[default as usize & 0usize.wrapping_sub((self.0 & 1) as usize)];
        *select_unpredictable(tier == 0, plain, &by_rule)
    }
}

/// What holds where no tier decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTier {
    /// Inside a cluster, and with what is no workload.
    Allowed = 1,
    /// Between clusters, where the fleet's default asks for an export or is `deny`.
    NotExported = 2,
    /// Between clusters, where it is exported or the fleet's default is `allow`.
    FleetDefault = 3,
}

/// Returns the place of a protocol and port: TCP's ports, UDP's, SCTP's, and then a place for each protocol without ports.
#[inline]
pub(crate) fn key(protocol: Protocol, port: u16) -> u32 {
    match protocol {
        Protocol::Tcp => u32::from(port),
        Protocol::Udp => 1 << 16 | u32::from(port),
        Protocol::Sctp => 2 << 16 | u32::from(port),
        Protocol::Other(number) => OTHERS | u32::from(number),
    }
}

/// Returns the protocol and port of a place.
pub(crate) fn protocol_and_port(key: u32) -> (Protocol, u16) {
    let low = key as u16;
    match key >> 16 {
        0 => (Protocol::Tcp, low),
        1 => (Protocol::Udp, low),
        2 => (Protocol::Sctp, low),
        _ => (Protocol::Other(low as u8), 0),
    }
}

/// Where the protocols without ports begin.
pub(crate) const OTHERS: u32 = 3 << 16;
/// The end of all places.
pub(crate) const KEYS: u32 = OTHERS + 256;

/// Returns the places of every port of `protocol`, the second one excluded.
pub(crate) fn span_of_protocol(protocol: Protocol) -> (u32, u32) {
    let first = key(protocol, 0);
    (first, first + if protocol.has_ports() { 1 << 16 } else { 1 })
}

/// From `start` on, to the next step's start, the outcome is this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    /// A place, or in a row the port alone.
    pub(crate) start: u32,
    pub(crate) outcome: Packed,
}

/// The protocols that have rows of their own: TCP, UDP, SCTP, and together those without ports, by their numbers.
pub(crate) const PROTOCOLS: usize = 4;

/// Where a row is: 0 for none, else a number of a line or a step, and in the lowest two bits which form the row has.
pub(crate) type Place = u32;

const ONE_LINE: u32 = 1;
const TWO_LINES: u32 = 2;
const LONG: u32 = 3;

/// Sixteen steps in a cache line: nearly every row is one or two of them.
///
/// What is left of a row's last line is filled up with its last outcome, which starts anew at the last port. The first step of a
/// row starts at port 0, which need not be said: there a first line has the port at which a second one begins, else the last port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(align(64))]
pub(crate) struct Line {
    starts: [u16; LINE],
    outcomes: [u16; LINE],
}

/// The steps of a line.
const LINE: usize = 16;

impl Line {
    /// Returns the outcome of the last step that starts at `port` or before, or of the line's first one: by halving, without a
    /// branch, as nobody could predict where it leads.
    #[inline(always)]
    fn outcome(&self, port: u16) -> u16 {
        let mut at = 0;
        for half in [8, 4, 2, 1] {
            let next = (at + half) % LINE;
            at = select_unpredictable(self.starts[next] <= port, next, at);
        }
        self.outcomes[at]
    }
}

/// The rows of a rule set, each for one protocol.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    lines: Arc<[Line]>,
    /// Rows that two lines do not hold: the number of the steps as the start of a first one, then the steps.
    steps: Option<Arc<Vec<Step>>>,
}

impl Rows {
    /// Returns the outcome at `port` of the row at `place`.
    #[inline(always)]
    pub(crate) fn outcome(&self, place: Place, port: u16) -> Packed {
        let (form, at) = (place & 3, (place >> 2) as usize);
        let Some(first) = self.lines.get(at).filter(|_| form != LONG) else { return self.long_outcome(place, port) };
        let is_second = (form == TWO_LINES) & (first.starts[0] <= port);
        match self.lines.get(at + usize::from(is_second)) {
            Some(line) => Packed(line.outcome(port).into()),
            None => Packed::UNDECIDED,
        }
    }

    #[cold]
    fn long_outcome(&self, place: Place, port: u16) -> Packed {
        let steps = long(self.long_steps(), place);
        let after = steps.partition_point(|step| step.start <= u32::from(port));
        after.checked_sub(1).map_or(Packed::UNDECIDED, |at| steps[at].outcome)
    }

    /// Returns the steps of the row at `place` by their ports, the first of which is 0; none where there is no row.
    pub(crate) fn steps(&self, place: Place) -> Vec<Step> {
        if place & 3 == LONG {
            return long(self.long_steps(), place).to_vec();
        }
        let all = lines(&self.lines, place).iter().flat_map(|line| line.starts.iter().zip(&line.outcomes));
        let start = |number: usize, start: u16| if number == 0 { 0 } else { u32::from(start) };
        let step = |(number, (at, outcome)): (usize, (&u16, &u16))| Step {
            start: start(number, *at),
            outcome: Packed((*outcome).into()),
        };
        let mut steps: Vec<Step> = all.enumerate().map(step).collect();
        // What fills a line up changes nothing.
        steps.dedup_by_key(|step| step.outcome);
        steps
    }

    /// Tells whether these are `other`, or a copy that shares everything.
    pub(crate) fn shares_all(&self, other: &Rows) -> bool {
        let steps = match (&self.steps, &other.steps) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        steps && Arc::ptr_eq(&self.lines, &other.lines)
    }

    /// Returns how much there is, in lines.
    pub(crate) fn len(&self) -> usize {
        self.lines.len() + self.long_steps().len() / (LINE / 2)
    }

    fn long_steps(&self) -> &[Step] {
        self.steps.as_ref().map_or(&[], |steps| steps)
    }
}

fn lines(lines: &[Line], place: Place) -> &[Line] {
    let at = (place >> 2) as usize;
    match place & 3 {
        ONE_LINE => &lines[at..=at],
        TWO_LINES => &lines[at..at + 2],
        _ => &[],
    }
}

fn long(steps: &[Step], place: Place) -> &[Step] {
    match steps.get((place >> 2) as usize..).and_then(<[Step]>::split_first) {
        Some((head, rest)) if place & 3 == LONG => &rest[..head.start as usize],
        _ => &[],
    }
}

/// Rows that are being made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builder {
    lines: Vec<Line>,
    steps: Vec<Step>,
}

impl Builder {
    /// Begins with the rows that are there.
    pub(crate) fn of(rows: &Rows) -> Builder {
        Builder { lines: rows.lines.to_vec(), steps: rows.long_steps().to_vec() }
    }

    /// Returns the rows, sharing with `before` what did not grow.
    pub(crate) fn finish(self, before: &Rows) -> Rows {
        let Builder { lines, steps } = self;
        Rows {
            lines: if lines.len() == before.lines.len() { before.lines.clone() } else { lines.into() },
            steps: if steps.len() == before.long_steps().len() { before.steps.clone() } else { Some(Arc::new(steps)) },
        }
    }

    /// Appends the row of `steps`: of one protocol, the first of them for all ports, each with another outcome than the one before.
    pub(crate) fn push(&mut self, steps: &[Step]) -> Place {
        let fits = steps.len() <= 2 * LINE && steps.iter().all(|step| u16::try_from(step.outcome.0).is_ok());
        if !fits {
            let at = place(self.steps.len(), LONG);
            self.steps.push(Step { start: count(steps.len()), outcome: Packed::UNDECIDED });
            self.steps.extend(steps.iter().map(|step| Step { start: step.start & 0xffff, outcome: step.outcome }));
            return at;
        }
        let at = place(self.lines.len(), if steps.len() <= LINE { ONE_LINE } else { TWO_LINES });
        let (first, last) = (self.lines.len(), steps.last().map_or(0, |step| step.outcome.0 as u16));
        for steps in steps.chunks(LINE) {
            let mut line = Line { starts: [u16::MAX; LINE], outcomes: [last; LINE] };
            for (number, step) in steps.iter().enumerate() {
                (line.starts[number], line.outcomes[number]) = (step.start as u16, step.outcome.0 as u16);
            }
            self.lines.push(line);
        }
        self.lines[first].starts[0] = steps.get(LINE).map_or(u16::MAX, |step| step.start as u16);
        at
    }

    /// Takes back the row at `place`, which was the last one to be appended.
    pub(crate) fn pop(&mut self, place: Place) {
        let at = (place >> 2) as usize;
        if place & 3 == LONG { self.steps.truncate(at) } else { self.lines.truncate(at) }
    }

    /// Tells whether the rows at two places are the same.
    pub(crate) fn is_same(&self, a: Place, b: Place) -> bool {
        a & 3 == b & 3 && lines(&self.lines, a) == lines(&self.lines, b) && long(&self.steps, a) == long(&self.steps, b)
    }

    /// Feeds the row at `place` to a hasher.
    pub(crate) fn hash(&self, place: Place, hasher: &mut impl Hasher) {
        (lines(&self.lines, place), long(&self.steps, place)).hash(hasher);
    }
}

fn place(at: usize, form: u32) -> Place {
    u32::try_from(at).ok().filter(|at| at >> 30 == 0).expect("fewer lines than 30 bits count") << 2 | form
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("fewer steps than a u32 counts")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_of_one_protocol_and_port() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Other(0), Protocol::Other(255)] {
            let port = if protocol.has_ports() { 5432 } else { 0 };
            assert_eq!(protocol_and_port(key(protocol, port)), (protocol, port));
            assert!(span_of_protocol(protocol).1 <= KEYS);
        }
    }

    fn any_steps() -> impl Strategy<Value = Vec<Step>> {
        let port = prop_oneof![any::<u16>(), Just(u16::MAX), 0u16..20];
        let rule = prop_oneof![9 => 0u32..1 << 13, 1 => 0u32..1 << 29];
        proptest::collection::btree_map(port, (rule, 2u32..8), 0..48).prop_map(|mut steps| {
            steps.insert(0, (0, 1));
            let step = |(start, (rule, kind))| Step { start: u32::from(start), outcome: Packed(rule << 3 | kind) };
            let mut steps: Vec<Step> = steps.into_iter().map(step).collect();
            steps.dedup_by_key(|step| step.outcome);
            steps
        })
    }

    proptest! {
        #[test]
        fn a_row_says_what_its_steps_say(
            rows in proptest::collection::vec(any_steps(), 1..6),
            probes in proptest::collection::vec(any::<u16>(), 1..40),
        ) {
            let mut builder = Builder::default();
            let places: Vec<Place> = rows.iter().map(|steps| builder.push(steps)).collect();
            let built = builder.clone().finish(&Rows::default());
            for (place, steps) in places.iter().zip(&rows) {
                prop_assert_eq!(&built.steps(*place), steps);
                let edges = steps.iter().map(|step| step.start as u16);
                let edges = edges.flat_map(|port| [port, port.saturating_sub(1), port.saturating_add(1)]);
                for port in edges.chain(probes.iter().copied()) {
                    let expected = steps.iter().rfind(|step| step.start <= u32::from(port)).map(|step| step.outcome);
                    prop_assert_eq!(Some(built.outcome(*place, port)), expected, "{} in {:?}", port, steps);
                }
            }
            for (a, one) in places.iter().zip(&rows) {
                prop_assert!(places.iter().zip(&rows).all(|(b, other)| builder.is_same(*a, *b) == (one == other)));
            }
            let (again, last) = (builder.push(&rows[0]), places[0]);
            prop_assert!(builder.is_same(again, last));
            builder.pop(again);
            prop_assert_eq!(builder.push(&rows[0]), again);
            prop_assert_eq!(Rows::default().outcome(0, 7), Packed::UNDECIDED);
        }
    }
}
