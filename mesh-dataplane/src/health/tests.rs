use proptest::prelude::*;

use super::*;

const NODE: &str = "west/n1";
const BACKEND: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 9)), 80);

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

/// One path under virtual time.
struct Path1 {
    health: Health,
    now: u64,
    /// When the path moved in or out of reach, and where to.
    shifts: Vec<(u64, bool)>,
}

impl Path1 {
    fn new() -> Path1 {
        let mut health = Health::new();
        health.set_paths(&[(NODE.parse().expect("a node"), [10, 2, 0, 1].into())].into(), at(0));
        Path1 { health, now: 0, shifts: Vec::new() }
    }

    fn reach(&self) -> Reach {
        let node: NodeId = NODE.parse().expect("a node");
        self.health.reach(BACKEND, Some(&node), &node.cluster)
    }

    /// Goes on to `until`; probes are answered within the same 50 ms while `is_up`.
    fn run(&mut self, until: u64, is_up: impl Fn(u64) -> bool) {
        while self.now < until {
            self.now += 50;
            while let Some(probe) = self.health.poll_probe(at(self.now)) {
                if is_up(self.now) {
                    self.health.handle_reply(probe.address, probe.sequence, at(self.now));
                }
            }
            self.health.handle_timeout(at(self.now));
            if !self.health.take_moved().is_empty() {
                self.shifts.push((self.now, self.reach().is_good()));
            }
        }
    }
}

#[test]
fn a_path_that_dies_is_found_out_within_two_and_a_half_seconds() {
    for phase in (0..600).step_by(50) {
        let mut path = Path1::new();
        path.run(10_000 + phase, |_| true);
        assert_eq!(path.reach(), Reach::Answers);
        path.run(20_000, |_| false);
        let [(died, false)] = path.shifts[..] else { panic!("{:?}", path.shifts) };
        assert!(died <= 10_000 + phase + 2_500, "after {} ms", died - 10_000 - phase);
        assert_eq!(path.reach(), Reach::Dead);
    }
}

#[test]
fn a_path_that_heals_counts_again_after_the_hold_down() {
    let mut path = Path1::new();
    path.run(5_000, |_| true);
    path.run(9_000, |_| false);
    path.run(12_000, |_| true);
    assert_eq!(path.reach(), Reach::Held);
    path.run(30_000, |_| true);
    let [(_, false), (back, true)] = path.shifts[..] else { panic!("{:?}", path.shifts) };
    assert!((19_000..20_500).contains(&back), "{back}");
}

/// Whatever the length of the beats and where they begin, also when they are slow enough to kill the path each time.
#[test]
fn flapping_shifts_twice_a_minute_at_most() {
    for (up, down) in [(500, 500), (1_000, 1_000), (400, 600), (2_000, 2_000), (5_000, 3_000)] {
        for phase in (0..1_000).step_by(100) {
            let mut path = Path1::new();
            path.run(5_000, |_| true);
            path.run(305_000, |now| (now + phase) % (up + down) < up);
            let in_a_minute = |from: u64| path.shifts.iter().filter(|(at, _)| (from..from + 60_000).contains(at)).count();
            let most = path.shifts.iter().map(|(at, _)| in_a_minute(*at)).max().unwrap_or(0);
            assert!(most <= 2, "{up} ms up, {down} ms down: {most} shifts in a minute, {:?}", path.shifts);
        }
    }
}

#[test]
fn a_path_that_loses_one_in_a_hundred_is_fine() {
    let mut path = Path1::new();
    path.run(3_600_000, |now| (now / 500) % 100 != 7);
    assert_eq!(path.shifts, []);
    assert_eq!(path.reach(), Reach::Answers);
}

#[test]
fn a_path_that_never_answered_is_dead_until_it_does() {
    let mut path = Path1::new();
    assert_eq!(path.reach(), Reach::Presumed);
    path.run(5_000, |_| false);
    assert_eq!(path.reach(), Reach::Dead);
    path.run(6_000, |_| true);
    assert_eq!(path.reach(), Reach::Answers, "a tunnel that comes up late is no path that flaps");
}

#[test]
fn a_round_trip_longer_than_the_interval_is_no_loss() {
    let mut path = Path1::new();
    let mut on_the_way = std::collections::VecDeque::new();
    for now in (0..60_000).step_by(50) {
        while let Some(probe) = path.health.poll_probe(at(now)) {
            on_the_way.push_back((now + 900, probe));
        }
        while on_the_way.front().is_some_and(|(arrival, _)| *arrival <= now) {
            let (_, probe) = on_the_way.pop_front().expect("it is there");
            path.health.handle_reply(probe.address, probe.sequence, at(now));
        }
    }
    assert_eq!(path.reach(), Reach::Answers);
    assert!(path.health.take_moved().is_empty());
}

#[test]
fn what_lease_and_path_say_together() {
    let mut path = Path1::new();
    let cluster: ClusterName = "west".parse().expect("a name");
    let unprobed: NodeId = "west/n2".parse().expect("a node");
    let other = |path: &Path1| path.health.reach(([10, 2, 0, 77].into(), 80), Some(&unprobed), &cluster);
    for (freshness, unprobed) in [
        (Freshness::Live, Reach::Presumed),
        (Freshness::Suspect, Reach::Presumed),
        (Freshness::Stale, Reach::Presumed),
        (Freshness::Expired, Reach::Expired),
    ] {
        path.health.set_freshness(&cluster, freshness);
        path.run(path.now + 2_000, |_| true);
        assert_eq!((path.reach(), other(&path)), (Reach::Answers, unprobed), "{freshness:?}: a dead control plane moves nothing");
    }
    path.health.set_freshness(&cluster, Freshness::Live);
    path.run(path.now + 3_000, |_| false);
    assert_eq!(path.reach(), Reach::Dead, "whatever the lease says");
}

#[test]
fn a_backend_that_refuses_is_left_alone_for_a_minute() {
    let mut path = Path1::new();
    path.run(2_000, |_| true);
    for refused in [true, true, false, true, true] {
        path.health.handle_opening(BACKEND, refused, at(2_000));
    }
    assert_eq!(path.reach(), Reach::Answers, "it answered in between");
    path.health.handle_opening(BACKEND, true, at(2_000));
    assert_eq!(path.reach(), Reach::Refuses);
    path.run(61_950, |_| true);
    assert_eq!(path.reach(), Reach::Refuses);
    path.run(62_050, |_| true);
    assert_eq!(path.reach(), Reach::Answers);
}

#[test]
fn probes_are_bounded_in_number_and_rate() {
    let mut health = Health::new();
    let paths = (0..300u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        (format!("west/n{n}").parse().expect("a node"), [10, 2, high, low].into())
    });
    health.set_paths(&paths.collect(), at(0));
    let mut sent = 0;
    for now in (0..10_000).step_by(50) {
        while health.poll_probe(at(now)).is_some() {
            sent += 1;
        }
    }
    let expected = MAX_PATHS * 20;
    assert!((expected * 8 / 10..=expected * 12 / 10).contains(&sent), "{sent} probes in ten seconds");
    assert_eq!(health.paths().count(), MAX_PATHS);
}

#[test]
fn a_path_that_is_probed_no_more_has_no_say() {
    let mut path = Path1::new();
    path.run(5_000, |_| false);
    assert_eq!(path.reach(), Reach::Dead);
    path.health.set_paths(&BTreeMap::new(), at(path.now));
    assert_eq!(path.reach(), Reach::Presumed);
    assert_eq!(path.health.take_moved().nodes.len(), 1);
}

proptest! {
    /// For every pattern at all: three shifts in a minute have a path that was up for ten minutes before, or from the start.
    #[test]
    fn no_pattern_shifts_often(beats in proptest::collection::vec(1u64..30_000, 1..60)) {
        let edges: Vec<u64> = beats.iter().scan(5_000, |at, beat| { *at += beat; Some(*at) }).collect();
        let mut path = Path1::new();
        path.run(edges[edges.len() - 1] + 5_000, |now| edges.partition_point(|edge| *edge <= now) % 2 == 0);
        for (index, window) in path.shifts.windows(3).enumerate().filter(|(_, window)| window[2].0 - window[0].0 <= 60_000) {
            let came_back = index.checked_sub(1).map(|before| path.shifts[before].0);
            let was_up = came_back.is_none_or(|at| window[0].0 - at >= 600_000);
            prop_assert!(!window[0].1 && was_up, "{:?}", path.shifts);
        }
        for window in path.shifts.windows(2).filter(|window| window[1].1) {
            prop_assert!(window[1].0 - window[0].0 >= 10_000, "promoted early: {:?}", path.shifts);
        }
    }
}
