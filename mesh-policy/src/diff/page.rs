//! A difference as a page for people.

use std::fmt;

use mesh_core::{Reason, RuleName, Verdict};

use super::{Alone, Change, Decision, Diff, Kind, Pairs};

impl fmt::Display for Diff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        write_alone(f, "added", &self.added)?;
        write_alone(f, "removed", &self.removed)?;
        let count = |kind| self.changes.iter().filter(|change| change.kind == kind).count();
        let [opened, closed, reasons] = [Kind::Opened, Kind::Closed, Kind::Reason].map(count);
        match opened + closed {
            0 => write!(f, "no verdict changes")?,
            _ => write!(f, "{opened} group(s) of connections opened, {closed} closed")?,
        }
        if reasons > 0 {
            write!(f, ", {reasons} with other reasons only")?;
        }
        let (added, removed) = (self.added.len(), self.removed.len());
        if added + removed > 0 {
            write!(f, "; {added} end(s) added, {removed} removed: what they may is no change")?;
        }
        writeln!(f)
    }
}

/// More than these are counted.
const MAX_ALONE: usize = 20;

fn write_alone(f: &mut fmt::Formatter<'_>, word: &str, ends: &[Alone]) -> fmt::Result {
    for end in ends.iter().take(MAX_ALONE) {
        let addresses = end.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let known = if end.is_identity_known { ", of an identity that is there before and after" } else { "" };
        writeln!(f, "{word:<8}{} at {addresses}{known}", end.name)?;
    }
    if ends.len() > MAX_ALONE {
        writeln!(f, "{word:<8}and {} more", ends.len() - MAX_ALONE)?;
    }
    if !ends.is_empty() {
        writeln!(f)?;
    }
    Ok(())
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.kind {
            Kind::Opened => "OPENED",
            Kind::Closed => "CLOSED",
            Kind::Reason => "REASON",
        };
        let only = match self.only {
            Pairs::All => "",
            Pairs::NotOwnNode => ", not a pod's own node",
            Pairs::OwnNode => ", a pod's own node only",
            Pairs::Itself => ", each with itself only",
        };
        let family = self.family.map(|family| format!(", {family} only")).unwrap_or_default();
        writeln!(f, "{word}  {} > {}: {}{only}{family}", self.sources.text(), self.destinations.text(), self.ports)?;
        writeln!(f, "  was   {}", self.before)?;
        writeln!(f, "  now   {}", self.after)
    }
}

impl fmt::Display for Decision {
    /// Writes `deny, ingress isolated-by-network-policy`, or `allow, egress default, ingress west/NetworkPolicy/shop/db-in/ingress[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_allow() { "allow" } else { "deny" })?;
        let sides = [("egress", &self.egress), ("ingress", &self.ingress)];
        for (side, verdict) in sides {
            match verdict {
                Some(Verdict::Allow(Reason::NotPoliced)) | None => {}
                Some(verdict) => write!(f, ", {side} {}", why(verdict))?,
            }
        }
        Ok(())
    }
}

fn why(verdict: &Verdict<RuleName>) -> String {
    match verdict.reason().rule() {
        Some(rule) => format!("by {rule}"),
        None => verdict.reason().as_str().into(),
    }
}
