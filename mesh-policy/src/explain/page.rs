//! An explanation as a page for a person: the answer first, then who is there, then each side.

use std::fmt;

use mesh_core::{Labels, Tier};

use super::lack::port_of;
use super::{Action, End, Explanation, Otherwise, Outcome, Policy, Rule, Side, Who};
use crate::check::Word;

/// The width of the column of headings.
const HEADING: usize = 11;
/// How much of an identity's 64 digits is shown: enough to compare, and the JSON has the rest.
const IDENTITY_DIGITS: usize = 12;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = word(self.verdict).to_uppercase();
        writeln!(f, "{word}  {} > {}  {}", self.from.name(), self.to.name(), port_of(&self.tuple))?;
        for side in [&self.egress, &self.ingress] {
            let by = side.rule.as_deref().map_or_else(|| side.reason.to_owned(), |rule| format!("by {rule}"));
            writeln!(f, "  {:<8} {:<5}  {by} ({})", side.direction.to_string(), word_of(side), side.tier)?;
        }
        writeln!(f)?;
        write_end(f, "from", &self.from)?;
        write_end(f, "to", &self.to)?;
        write_side(f, &self.egress, &self.from)?;
        write_side(f, &self.ingress, &self.to)
    }
}

impl End {
    /// Returns who it is: a workload's name, `node …`, or the address.
    fn name(&self) -> String {
        match &self.who {
            Who::Workload(workload) => workload.workload.to_string(),
            Who::Node { node, .. } => format!("node {node}"),
            Who::Pending { .. } | Who::External => self.address.to_string(),
        }
    }
}

fn word(word: Word) -> &'static str {
    match word {
        Word::Allow => "allow",
        Word::Deny => "deny",
    }
}

fn word_of(side: &Side) -> &'static str {
    word(side.verdict)
}

fn write_end(f: &mut fmt::Formatter<'_>, heading: &str, end: &End) -> fmt::Result {
    let line = |f: &mut fmt::Formatter<'_>, what: &str, text: String| writeln!(f, "       {what:<HEADING$}{text}");
    match &end.who {
        Who::Workload(workload) => {
            writeln!(f, "{heading:<5}  {} at {}", workload.workload, end.address)?;
            line(f, "labels", labels(&workload.labels))?;
            line(f, "namespace", labels(&workload.namespace_labels))?;
            let node = workload.node.as_ref().map_or_else(|| "none yet".into(), ToString::to_string);
            let identity: String = workload.identity.to_string().chars().take(IDENTITY_DIGITS).collect();
            line(f, "node", format!("{node}, identity {identity}…"))
        }
        Who::Node { node, labels: seen } => {
            writeln!(f, "{heading:<5}  node {node} at {}", end.address)?;
            line(f, "labels", labels(seen))
        }
        Who::Pending { because } => {
            writeln!(f, "{heading:<5}  {}, identity pending", end.address)?;
            line(f, "because", because.clone())
        }
        Who::External => writeln!(f, "{heading:<5}  {}, outside the fleet", end.address),
    }
}

fn labels(labels: &Labels) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if labels.is_empty() { "none".into() } else { labels.join("  ") }
}

fn write_side(f: &mut fmt::Formatter<'_>, side: &Side, own: &End) -> fmt::Result {
    let whose = match &own.who {
        Who::Workload(workload) => format!(", decided by the policies of {}", workload.workload.cluster),
        _ => String::new(),
    };
    writeln!(f, "\n{} {}{whose}", side.direction.to_string().to_uppercase(), word_of(side))?;
    writeln!(f, "  {:<HEADING$}{}", "why", side.because)?;
    if let (Some(without), Some(_)) = (&side.without, &side.rule) {
        writeln!(f, "  {:<HEADING$}{without}", "without it")?;
    }
    if let Some(otherwise) = &side.otherwise {
        write_otherwise(f, side, otherwise)?;
    }
    let Who::Workload(workload) = &own.who else { return Ok(()) };
    if side.policies.is_empty() {
        return match side.tier {
            Tier::SelfAccess => Ok(()),
            _ if side.reason == "identity-pending" => Ok(()),
            _ => writeln!(f, "  {:<HEADING$}none selects {} for {}", "policies", workload.workload, side.direction),
        };
    }
    writeln!(f, "  {:<HEADING$}in the order in which they are asked", "policies")?;
    side.policies.iter().try_for_each(|policy| write_policy(f, policy))
}

fn write_otherwise(f: &mut fmt::Formatter<'_>, side: &Side, otherwise: &Otherwise) -> fmt::Result {
    let other = if side.verdict == Word::Allow { "to deny" } else { "to allow" };
    let by = match (&otherwise.rule, &otherwise.then) {
        (Some(rule), Some(then)) if then.reason().rule() != Some(rule) => format!("{rule} is nearest (then {then})"),
        (Some(rule), _) => format!("{rule} is nearest"),
        (None, Some(_)) => "the fleet's default would".into(),
        (None, None) => "no rule can".into(),
    };
    let lacks = if otherwise.lacks.len() == 1 { "it lacks one thing" } else { "it lacks" };
    let lacks = if otherwise.rule.is_none() { "what is missing" } else { lacks };
    writeln!(f, "  {other:<HEADING$}{by}; {lacks}:")?;
    otherwise.lacks.iter().try_for_each(|lack| writeln!(f, "  {:<HEADING$}- {lack}", ""))
}

fn write_policy(f: &mut fmt::Formatter<'_>, policy: &Policy) -> fmt::Result {
    let tier = match policy.priority {
        Some(priority) => format!("{} {priority}", policy.tier),
        None => policy.tier.to_string(),
    };
    let fleet = if policy.fleet { ", of the fleet" } else { "" };
    let asked = if policy.asked { "" } else { ", not asked" };
    writeln!(f, "    {} ({tier}{fleet}{asked})", policy.name)?;
    writeln!(f, "      selects  {}", policy.selects)?;
    if policy.rules.is_empty() {
        writeln!(f, "      no rule")?;
    }
    policy.rules.iter().try_for_each(|rule| write_rule(f, rule, policy.asked))
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &Rule, asked: bool) -> fmt::Result {
    let action = match rule.action {
        Action::Accept => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
    };
    let mark = if rule.outcome == Outcome::Decides || rule.outcome == Outcome::Passes { '>' } else { ' ' };
    let who = if rule.name.direction == mesh_core::Direction::Ingress { "from" } else { "to" };
    let outcome = match rule.outcome {
        Outcome::Decides => "matches and decides",
        Outcome::Passes => "matches and leaves the tier",
        Outcome::Matches if asked => "matches too",
        Outcome::Matches => "matches, and is not asked",
        Outcome::Differs => "does not match",
    };
    let peers = rule.peers.join(" | ");
    writeln!(f, "    {mark} [{}] {action:<5} {who} {peers}; {}: {outcome}", rule.name.index, rule.ports)?;
    rule.lacks.iter().try_for_each(|lack| writeln!(f, "          - {lack}"))
}
