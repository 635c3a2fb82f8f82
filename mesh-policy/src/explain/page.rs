//! An explanation as a page for a person: the answer first, then who is there, then each side.

use std::fmt;

use mesh_core::labels::{CLUSTER_LABEL, NAMESPACE_NAME_LABEL, RESERVED_PREFIX};
use mesh_core::{Direction, Labels, RuleName, Tier};

use super::lack::port_of;
use super::{Action, End, Explanation, Otherwise, Outcome, Policy, Rule, Side, Who};
use crate::check::Word;

/// The width of the column of headings.
const HEADING: usize = 12;
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
    let line = |f: &mut fmt::Formatter<'_>, what: &str, text: String| {
        let text = if text.is_empty() { "none".into() } else { text };
        writeln!(f, "       {what:<HEADING$}{}", text.trim_end())
    };
    match &end.who {
        Who::Workload(workload) => {
            let id = &workload.workload;
            writeln!(f, "{heading:<5}  {id} at {}", end.address)?;
            // What cluster and namespace say is on the pod's labels too: once is enough for a reader.
            let shared = |key: &str| workload.namespace_labels.get(key).is_some() && key.starts_with(RESERVED_PREFIX);
            let own = |key: &str| !shared(key);
            line(f, "labels", labels(&workload.labels, own))?;
            let of_namespace = |key: &str| own(key) && key != NAMESPACE_NAME_LABEL;
            line(f, "namespace", format!("{}  {}", id.namespace, labels(&workload.namespace_labels, of_namespace)))?;
            let of_cluster = |key: &str| shared(key) && key != CLUSTER_LABEL;
            line(f, "cluster", format!("{}  {}", id.cluster, labels(&workload.namespace_labels, of_cluster)))?;
            let node = workload.node.as_ref().map_or_else(|| "none yet".into(), |node| node.name.to_string());
            let identity: String = workload.identity.to_string().chars().take(IDENTITY_DIGITS).collect();
            line(f, "node", format!("{node}, identity {identity}…"))
        }
        Who::Node { node, labels: seen } => {
            writeln!(f, "{heading:<5}  node {node} at {}", end.address)?;
            line(f, "labels", labels(seen, |_| true))
        }
        Who::Pending { because } => {
            writeln!(f, "{heading:<5}  {}, identity pending", end.address)?;
            line(f, "because", because.clone())
        }
        Who::External => writeln!(f, "{heading:<5}  {}, outside the fleet", end.address),
    }
}

fn labels(labels: &Labels, shown: impl Fn(&str) -> bool) -> String {
    let labels: Vec<String> = labels.iter().filter(|(key, _)| shown(key)).map(|(key, value)| format!("{key}={value}")).collect();
    labels.join("  ")
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
    let nearest = side.otherwise.as_ref().and_then(|otherwise| otherwise.rule.as_ref());
    side.policies.iter().try_for_each(|policy| write_policy(f, policy, side.direction, nearest))
}

fn write_otherwise(f: &mut fmt::Formatter<'_>, side: &Side, otherwise: &Otherwise) -> fmt::Result {
    let other = if side.verdict == Word::Allow { "to deny" } else { "to allow" };
    let by = match (&otherwise.rule, &otherwise.then) {
        (Some(rule), Some(then)) if then.reason().rule() != Some(rule) => format!("nearest is {rule} (then {then}); it lacks:"),
        (Some(rule), _) => format!("nearest is {rule}; it lacks:"),
        (None, Some(_)) => "nearest is the fleet's default; it lacks:".into(),
        (None, None) => "no rule can; what is missing:".into(),
    };
    writeln!(f, "  {other:<HEADING$}{by}")?;
    otherwise.lacks.iter().try_for_each(|lack| writeln!(f, "  {:<HEADING$}- {lack}", ""))
}

fn write_policy(f: &mut fmt::Formatter<'_>, policy: &Policy, direction: Direction, nearest: Option<&RuleName>) -> fmt::Result {
    let tier = match policy.priority {
        Some(priority) => format!("{} {priority}", policy.tier),
        None => policy.tier.to_string(),
    };
    let fleet = if policy.fleet { ", of the fleet" } else { "" };
    let asked = if policy.asked { "" } else { ", not asked" };
    let rules = if policy.rules.is_empty() { format!("; it has no {direction} rule") } else { String::new() };
    writeln!(f, "    {} ({tier}{fleet}{asked})", policy.name)?;
    writeln!(f, "      selects {}{rules}", policy.selects)?;
    policy.rules.iter().try_for_each(|rule| write_rule(f, rule, policy.asked, nearest == Some(&rule.name)))
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &Rule, asked: bool, nearest: bool) -> fmt::Result {
    let action = match rule.action {
        Action::Accept => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
    };
    let mark = if matches!(rule.outcome, Outcome::Decides | Outcome::Passes) { '>' } else { ' ' };
    let who = if rule.name.direction == Direction::Ingress { "from" } else { "to" };
    let outcome = match rule.outcome {
        Outcome::Decides => "matches and decides",
        Outcome::Passes => "matches and leaves the tier",
        Outcome::Matches if asked => "matches too",
        Outcome::Matches => "matches, and is not asked",
        Outcome::Differs if nearest => "does not match (nearest, see above)",
        Outcome::Differs => "does not match",
    };
    let peers = rule.peers.join(" or ");
    writeln!(f, "    {mark} [{}] {action:<5} {who} {peers}, on {}: {outcome}", rule.name.index, rule.ports)?;
    // What the nearest rule lacks is on the page already.
    let lacks = rule.lacks.iter().filter(|_| !nearest);
    lacks.into_iter().try_for_each(|lack| writeln!(f, "          - {lack}"))
}
