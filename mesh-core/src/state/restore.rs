//! The state's part in a snapshot.

use std::cmp::Reverse;

use bytes::Bytes;

use super::ledger::Evidence;
use super::{Origin, State, Trust};
use crate::record::{self, Statement};
use crate::snapshot::{self, Body, Kept, SnapshotError};
use crate::{Change, Now, Record};

impl State {
    /// Returns the last known state for the disk: see [`crate::snapshot`]. Records whose signer never had a say are not in it.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut body = Body::default();
        if let Trust::Signed { root, .. } = &self.config.trust {
            body.fleet = root.as_bytes().to_vec();
        }
        body.root.extend(self.ledger.policies.as_ref().map(|policies| policies.bytes.clone()));
        for cluster in self.ledger.clusters.values() {
            body.root.extend(cluster.revoked.as_ref().map(|(_, bytes)| bytes.clone()));
            body.root.extend(cluster.grants.values().map(|(_, bytes)| bytes.clone()));
            for (_, signer) in cluster.signers.iter().filter(|(key, _)| cluster.names(key)) {
                body.evidence.extend(signer.evidence.iter().map(|evidence| snapshot::Evidence {
                    bytes: evidence.bytes.clone(),
                    digest: evidence.digests[0].to_vec(),
                    epoch: evidence.epoch,
                }));
                let held = signer.records.values();
                body.records.extend(held.map(|held| Kept { bytes: held.bytes.clone(), disputed: held.disputed }));
            }
        }
        snapshot::seal(&body)
    }

    /// Takes a snapshot in, beside what is known already: the state is then as if it had been told all of it.
    ///
    /// Signatures are verified again. What no longer holds (a grant that ended meanwhile) is refused as at any other time.
    pub fn restore(&mut self, bytes: &[u8], now: Now) -> Result<Change, SnapshotError> {
        let Trust::Signed { root, .. } = self.config.trust else { return Err(SnapshotError::NoFleet) };
        let body = snapshot::open(bytes)?;
        if body.fleet != root.as_bytes() {
            return Err(SnapshotError::ForeignFleet);
        }
        let mut change = Change::default();
        self.advance(now, &mut change);
        // Evidence first and grants before records, so that nothing is believed or refused on the way that is not at the end.
        for evidence in &body.evidence {
            self.restore_evidence(evidence)?;
        }
        for bytes in body.root {
            self.take_signed(&bytes, &mut change);
        }
        for kept in body.records {
            self.take_signed(&kept.bytes, &mut change);
            if kept.disputed {
                self.dispute(&kept.bytes, &mut change);
            }
        }
        for cluster in self.ledger.clusters.keys().cloned().collect::<Vec<_>>() {
            self.settle(&cluster, &mut change);
        }
        Ok(change)
    }

    fn restore_evidence(&mut self, kept: &snapshot::Evidence) -> Result<(), SnapshotError> {
        let opened = record::open(&kept.bytes).map_err(|_| SnapshotError::Body)?;
        let Statement::Record(record) = opened.statement else { return Err(SnapshotError::Body) };
        let first = kept.digest.as_slice().try_into().map_err(|_| SnapshotError::Body)?;
        let signer = self.ledger.clusters.entry(record.cluster).or_default().signers.entry(opened.signer).or_default();
        let digests = [first, opened.digest];
        if signer.evidence.iter().all(|known| known.digests != digests) {
            let (key, version, bytes) = (record.key, record.version, kept.bytes.clone());
            signer.evidence.push(Evidence { key, version, digests, bytes, epoch: kept.epoch });
        }
        Ok(())
    }

    /// Marks the held record that has these bytes as one of two with its version.
    fn dispute(&mut self, bytes: &Bytes, change: &mut Change) {
        let Ok(opened) = record::open(bytes) else { return };
        let Statement::Record(Record { cluster, key, version, .. }) = opened.statement else { return };
        let signer = self.ledger.clusters.get_mut(&cluster).and_then(|known| known.signers.get_mut(&opened.signer));
        let Some(held) = signer.and_then(|signer| signer.records.get_mut(&key)).filter(|held| held.version == version) else {
            return;
        };
        held.disputed = true;
        let keys = held.keys.clone();
        if self.active.get(&cluster) == Some(&opened.signer) {
            self.replace(Some((Origin::Record(Reverse(version), key), keys)), None, change);
        }
    }
}
