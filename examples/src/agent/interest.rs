//! What the agent subscribes to: what can matter to its node, or could until a while ago.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::interest::{Topic, Topics, Tracker};
use mesh_core::{Change, Key, State, Time};
use mesh_source::Interest;
use tokio::sync::watch;

use crate::config::{AgentConfig, InterestConfig};

/// How long a topic is followed that has ceased to matter: a rollout, or a policy that is taken back and put again.
const LINGER: Duration = Duration::from_secs(600);
/// How long a node that knows nothing yet waits for what it has asked for, before it programs what it has.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keeps the subscription of a store's source in line with the state.
pub struct InterestRole {
    /// `None`: everything is followed.
    tracker: Option<Tracker>,
    /// What is followed, and since when it has not mattered any more.
    topics: BTreeMap<Topic, Option<Time>>,
    unseen: Change,
    /// When topics are next given up.
    sweep: Time,
    wanted: watch::Sender<Interest>,
    /// What was asked for when everything had been told the last time, and when that was the first time.
    told: Option<(BTreeSet<Topic>, Time)>,
    is_told: bool,
    settled: bool,
}

impl InterestRole {
    /// Makes the role, and the channel of what is wanted.
    pub fn start(config: &AgentConfig) -> (InterestRole, watch::Receiver<Interest>) {
        let (tracker, interest) = match config.interest {
            InterestConfig::Wide => (None, Interest::everything()),
            InterestConfig::Narrow => {
                let own: Topics = [Topic::Cluster(config.node.cluster.clone())].into_iter().collect();
                (Some(Tracker::new(config.node.clone())), Interest::from(&own))
            }
        };
        let (wanted, receiver) = watch::channel(interest);
        let role = InterestRole {
            settled: tracker.is_none(),
            tracker,
            topics: BTreeMap::new(),
            unseen: Change::default(),
            sweep: Time::ZERO,
            wanted,
            told: None,
            is_told: false,
        };
        (role, receiver)
    }

    /// Takes notice of a change of the state.
    pub fn note(&mut self, change: &Change) {
        if self.tracker.is_some() {
            self.unseen.dirty.extend(change.dirty.iter().cloned());
        }
    }

    /// Takes notice that the store has told everything that was wanted.
    pub fn synced(&mut self) {
        self.is_told = true;
    }

    /// Tells whether what is known asks for nothing that was not told, or it was waited for long enough.
    pub fn is_settled(&self, now: Time) -> bool {
        self.settled || self.told.as_ref().is_some_and(|(_, first)| now.since(*first) >= PATIENCE)
    }

    /// Wants what can matter now; forgets what has not mattered for a while, and returns what that changed.
    pub fn turn(&mut self, state: &mut State, now: Time) -> Change {
        let Some(tracker) = &mut self.tracker else { return Change::default() };
        let change = std::mem::take(&mut self.unseen);
        let first = self.topics.is_empty();
        if tracker.update(state, &change) || first {
            let wanted = tracker.topics();
            let wanted: BTreeSet<&Topic> = wanted.iter().collect();
            for (topic, since) in &mut self.topics {
                if !wanted.contains(topic) {
                    since.get_or_insert(now);
                }
            }
            self.topics.extend(wanted.into_iter().map(|topic| (topic.clone(), None)));
        }
        if !first {
            self.follow_pulled(state, &change, now);
        }
        // What was restored from the disk and does not matter would go stale, because nobody tells it any more.
        let sweeps = now >= self.sweep;
        if sweeps {
            self.sweep = now + LINGER;
            self.topics.retain(|_, since| since.is_none_or(|since| now.since(since) < LINGER));
        }
        if change.dirty.is_empty() && !first && !sweeps && !self.is_told {
            return Change::default();
        }
        let topics: Topics = self.topics.keys().cloned().collect();
        let interest = Interest::from(&topics);
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != interest;
            *wanted = interest;
            differs
        });
        if std::mem::take(&mut self.is_told) && !self.settled {
            let asked: BTreeSet<Topic> = topics.iter().cloned().collect();
            self.settled = self.told.as_ref().is_some_and(|(before, _)| *before == asked);
            let since = self.told.as_ref().map_or(now, |(_, since)| *since);
            self.told = Some((asked, since));
        }
        if sweeps { state.forget(&topics) } else { Change::default() }
    }

    /// What was pulled for a first packet is followed for a while: it must not go stale.
    fn follow_pulled(&mut self, state: &State, change: &Change, now: Time) {
        let known = change.dirty.iter().filter_map(|key| match key {
            Key::Workload(id) => state.facts().workloads.get(id),
            _ => None,
        });
        for workload in known {
            let (cluster, namespace) = (&workload.id.cluster, &workload.id.namespace);
            let Some(node) = &workload.node else { continue };
            let followed = [
                Topic::Fleet,
                Topic::Cluster(cluster.clone()),
                Topic::AllSlices(cluster.clone()),
                Topic::Slices(cluster.clone(), namespace.clone()),
            ];
            if !followed.iter().any(|topic| self.topics.contains_key(topic)) {
                self.topics.insert(Topic::Slice(cluster.clone(), namespace.clone(), node.clone()), Some(now));
            }
        }
    }
}
