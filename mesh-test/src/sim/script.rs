//! Scripts: what happens in a run, as plain data that can be written, kept, read and shortened.

use std::fmt;
use std::str::FromStr;

/// A run: the fleet, what happens to it, and the seed of everything else (delays, losses, orders).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The seed of the network's choices.
    pub seed: u64,
    /// The fleet to begin with.
    pub fleet: FleetSpec,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// The fleet to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSpec {
    /// The number of nodes of each cluster; the first one of each publishes.
    pub nodes: Vec<usize>,
    /// The number of workloads that each cluster begins with; it has room for twice as many.
    pub workloads: usize,
    /// Between clusters: 0 `exports`, 1 `allow`, 2 `deny`.
    pub default: u32,
    /// The nodes (by number in the fleet, a bit each) that are behind a NAT and have no endpoint.
    pub nat: u32,
}

/// Something that happens, so many milliseconds after the step before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds after the step before.
    pub after: u64,
    /// What happens.
    pub action: Action,
    /// Its arguments: a missing one is 0, and one that is out of range is taken modulo what there is.
    pub args: [u32; 3],
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $word:literal $fault:expr;)*) => {
        /// What can happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            /// Every action.
            pub const ALL: &[Action] = &[$(Action::$name),*];

            /// Returns its word in a script.
            pub fn word(self) -> &'static str {
                match self { $(Action::$name => $word),* }
            }

            /// Returns the row of the fault matrix that it belongs to; `None` for what is no fault.
            pub fn fault(self) -> Option<&'static str> {
                match self { $(Action::$name => $fault),* }
            }
        }
    };
}

actions! {
    /// A workload appears: cluster, slot, label.
    Add "add" None;
    /// A workload goes: cluster, slot.
    Remove "remove" None;
    /// A workload moves to another node, and so to another address: cluster, slot, node.
    Move "move" None;
    /// A workload's labels change: cluster, slot, label.
    Relabel "relabel" None;
    /// A workload goes and another takes its address at once: cluster, slot, other slot.
    Reuse "reuse" Some("address given to another workload at once");
    /// The NetworkPolicy of a namespace changes: cluster, namespace, variant (0: none).
    Policy "policy" None;
    /// The fleet policies change: variant (0: none).
    FleetPolicy "fleet-policy" None;
    /// A namespace's labels change: cluster, namespace, value.
    NsLabel "ns-label" None;
    /// A service is exported or not: cluster, whether.
    Export "export" None;
    /// Datagrams from a node to another are lost, one way: node, node.
    Cut "cut" Some("one-way partition between nodes");
    /// A cluster is alone, both ways, stores included: cluster.
    Part "part" Some("two-way partition of a cluster");
    /// A cluster hears everybody and nobody hears it: cluster.
    Mute "mute" Some("one-way partition of a cluster");
    /// Every cut and partition is over.
    Mend "mend" None;
    /// Datagrams are lost: percent.
    Loss "loss" Some("packet loss");
    /// Datagrams come twice: percent.
    Dup "dup" Some("duplication");
    /// Datagrams are delayed and overtake each other: up to so many milliseconds.
    Jitter "jitter" Some("delay and reordering");
    /// Datagrams above a size are lost: bytes.
    Mtu "mtu" Some("small MTU without ICMP");
    /// The NATs forget their mappings.
    Rebind "rebind" Some("NAT mappings lost");
    /// Datagrams of nobody, and old ones again, reach a node: node, how many.
    Forge "forge" Some("forged and replayed datagrams");
    /// A store fails: cluster.
    StoreDown "store-down" Some("store fails");
    /// A store is back: cluster.
    StoreUp "store-up" None;
    /// A store loses everything: cluster.
    Wipe "wipe" Some("store wiped");
    /// A store is backed up: cluster.
    Backup "backup" None;
    /// A store is restored from its last backup: cluster.
    Restore "restore" Some("store restored from an old backup");
    /// A mirror changes its ways: from, to, 0 honest, 1 drops, 2 tells old records, 3 edits.
    Mirror "mirror" Some("mirror drops, reorders or edits");
    /// A node crashes: node.
    Crash "crash" Some("node crash");
    /// A crashed node starts: node, 0 with its last state, 1 with an old one, 2 with none, 3 with a damaged one.
    Start "start" None;
    /// A node crashes and starts with an old state, or none: node, 1 old, 2 none, 3 damaged.
    Amnesia "amnesia" Some("restart from an old, lost or damaged snapshot");
    /// A node's clock is off: node, seconds plus 10,000.
    Skew "skew" Some("clocks disagree by minutes");
    /// A cluster lies with its own key: cluster, how, about which cluster.
    Lie "lie" Some("cluster lies with its own key");
    /// Somebody without a grant signs for a cluster: cluster, how.
    Stranger "stranger" Some("stranger signs records");
    /// An old record of a cluster lies in a store again: cluster, store, which.
    Replay "replay" Some("old records replayed");
    /// The root revokes a cluster's grants: cluster.
    Revoke "revoke" Some("revocation");
    /// The root grants anew, with a new key and epoch: cluster.
    Regrant "regrant" Some("new grant with another key");
    /// The key of a cluster changes with an overlap: a first time names the next key, a second time lets go of the old one: cluster.
    Rotate "rotate" Some("cluster key rotated");
    /// The root replaces a cluster's grant by one that ends soon: cluster, seconds.
    End "end" Some("grant ends");
    /// Nothing is asked for a while: seconds.
    Warp "warp" None;
    /// A packet from a workload to another: workload, workload, port.
    Probe "probe" None;
    /// So many packets between random workloads: how many.
    Burst "burst" None;
    /// Something no node may do, for the simulator's own tests: node, 0 it stops to read its API, 1 it believes what nobody told.
    Break "break" None;
    /// Everything heals; two seconds later everything that is allowed, and nothing else, is delivered.
    Quiet "quiet" None;
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{} {}", self.after, self.action.word())?;
        let len = self.args.iter().rposition(|arg| *arg != 0).map_or(0, |last| last + 1);
        self.args[..len].iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

impl FromStr for Step {
    type Err = String;
    fn from_str(text: &str) -> Result<Step, String> {
        let mut words = text.split_whitespace();
        let after = words.next().and_then(|word| word.strip_prefix('+')?.parse().ok());
        let action = words.next().and_then(|word| Action::ALL.iter().find(|action| action.word() == word));
        let (Some(after), Some(action)) = (after, action) else { return Err(format!("no step: {text}")) };
        let mut args = [0; 3];
        for (place, word) in words.enumerate() {
            let arg = args.get_mut(place).ok_or_else(|| format!("too many arguments: {text}"))?;
            *arg = word.parse().map_err(|_| format!("'{word}' is no number: {text}"))?;
        }
        Ok(Step { after, action: *action, args })
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.fleet.nodes.iter().map(ToString::to_string).collect();
        writeln!(f, "seed {}", self.seed)?;
        let FleetSpec { workloads, default, nat, .. } = self.fleet;
        writeln!(f, "fleet {} workloads {workloads} default {default} nat {nat}", nodes.join(","))?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl FromStr for Script {
    type Err = String;
    fn from_str(text: &str) -> Result<Script, String> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let seed = lines.next().and_then(|line| line.strip_prefix("seed ")?.parse().ok()).ok_or("no seed")?;
        let fleet = lines.next().and_then(read_fleet).ok_or("no fleet")?;
        let steps = lines.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Script { seed, fleet, steps })
    }
}

fn read_fleet(line: &str) -> Option<FleetSpec> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["fleet", nodes, "workloads", workloads, "default", default, "nat", nat] = words[..] else { return None };
    let nodes: Vec<usize> = nodes.split(',').map(|count| count.parse().ok()).collect::<Option<_>>()?;
    let sound = !nodes.is_empty() && nodes.iter().all(|count| (1..=8).contains(count)) && nodes.len() <= 8;
    sound.then_some(())?;
    Some(FleetSpec { nodes, workloads: workloads.parse().ok()?, default: default.parse().ok()?, nat: nat.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_back() {
        let text = "seed 7\nfleet 2,1 workloads 3 default 1 nat 2\n+10 cut 0 2\n+0 quiet\n+5 probe 0 3 1\n";
        let script: Script = text.parse().expect("a script");
        assert_eq!(script.to_string(), text);
        assert!("seed 7\nfleet 2 workloads 3 default 1 nat 2\n+10 fly".parse::<Script>().is_err());
    }
}
