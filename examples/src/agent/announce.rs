//! What the node says of itself in its cluster's inbox: its link, and which fleet policies it has in force.

use std::path::Path;

use mesh_core::{NodeLink, Now, Time, WireGuardKey};
use mesh_source::inbox::ANNOUNCE_EVERY;
use tracing::warn;

/// The node's announcement, and when it was left last.
#[derive(Debug)]
pub struct Announcement {
    link: NodeLink,
    /// The serial of the fleet policies that are programmed.
    policies: Option<u64>,
    said: Option<u64>,
    at: Time,
}

impl Announcement {
    /// Takes the link that was left in the inbox at `at`, before any policy was in force.
    pub fn made(link: NodeLink, at: Time) -> Announcement {
        Announcement { link, policies: None, said: None, at }
    }

    /// Returns the node's public key.
    pub fn key(&self) -> WireGuardKey {
        self.link.key
    }

    /// Takes notice of the fleet policies that are in force from now on.
    pub fn set_policies(&mut self, serial: Option<u64>) {
        self.policies = serial;
    }

    /// Leaves the announcement again, where it says something new or is due.
    pub fn repeat(&mut self, inbox: &Path, now: Now) {
        if self.policies == self.said && now.time.since(self.at) < ANNOUNCE_EVERY {
            return;
        }
        match mesh_source::announce(inbox, &self.link, self.policies, now.wall) {
            Ok(()) => (self.said, self.at) = (self.policies, now.time),
            Err(error) => warn!(%error, "the node could not announce itself, and will try again"),
        }
    }
}
