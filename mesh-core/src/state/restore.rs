//! The state's part in a snapshot.

use std::sync::Arc;

use bytes::Bytes;

use super::ledger::Evidence;
use super::{State, Trust};
use crate::record::{self, Opened, RecordError, Statement};
use crate::snapshot::{self, Body, Kept, SnapshotError};
use crate::{Change, ClusterName, Now, PublicKey, Record};

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
            body.root.extend(cluster.grants.iter().map(|granted| granted.bytes.clone()));
            for (_, signer) in cluster.signers.iter().filter(|(key, _)| cluster.names(key)) {
                body.evidence.extend(signer.evidence.iter().map(|evidence| snapshot::Evidence {
                    bytes: evidence.bytes.clone(),
                    digest: evidence.digests[0].to_vec(),
                    epoch: evidence.epoch,
                }));
                let held = signer.records.values().filter(|held| !held.is_forgotten());
                body.records.extend(held.map(|held| Kept { bytes: held.bytes.clone(), disputed: held.disputed }));
            }
        }
        snapshot::seal(&body)
    }

    /// Takes a snapshot in, beside what is known already: the state is then as if it had been told all of it.
    ///
    /// Signatures are verified again. What no longer holds (a grant that ended meanwhile) is refused as at any other time.
    pub fn restore(&mut self, bytes: &[u8], now: Now) -> Result<Change, SnapshotError> {
        self.restore_with(bytes, now, &mut |bytes| record::open(bytes).map(Arc::new))
    }

    /// Does the same with what `open` says of the records: it may remember what was verified already.
    ///
    /// # Errors
    /// Returns an error where [`State::restore`] does.
    pub fn restore_with(
        &mut self,
        bytes: &[u8],
        now: Now,
        open: &mut dyn FnMut(&Bytes) -> Result<Arc<Opened>, RecordError>,
    ) -> Result<Change, SnapshotError> {
        let Trust::Signed { root, .. } = self.config.trust else { return Err(SnapshotError::NoFleet) };
        let body = snapshot::open(bytes)?;
        if body.fleet != root.as_bytes() {
            return Err(SnapshotError::ForeignFleet);
        }
        // All of it is read before any of it is taken in: a broken snapshot leaves nothing behind.
        let evidence = body.evidence.iter().map(|kept| read_evidence(kept, open)).collect::<Result<Vec<_>, _>>()?;
        let mut change = Change::default();
        self.advance(now, &mut change);
        // Evidence first and grants before records, so that nothing is believed or refused on the way that is not at the end.
        for (cluster, signer, evidence) in evidence {
            let known = &mut self.ledger.clusters.entry(cluster).or_default().signers.entry(signer).or_default().evidence;
            if known.iter().all(|known| known.digests != evidence.digests) {
                known.push(evidence);
            }
        }
        for bytes in body.root {
            self.take_read(open(&bytes).as_deref(), &mut change);
        }
        for kept in body.records {
            let read = open(&kept.bytes);
            self.take_read(read.as_deref(), &mut change);
            if let Some(opened) = read.ok().filter(|_| kept.disputed) {
                self.dispute(&opened, &mut change);
            }
        }
        for cluster in self.ledger.clusters.keys().cloned().collect::<Vec<_>>() {
            self.settle(&cluster, &mut change);
            self.watch(&cluster, &mut change);
        }
        Ok(change)
    }

    /// Marks the held record that says the same as one of two with its version.
    fn dispute(&mut self, opened: &Opened, change: &mut Change) {
        let Statement::Record(Record { cluster, key, version, .. }) = &opened.statement else { return };
        let signer = self.ledger.clusters.get_mut(cluster).and_then(|known| known.signers.get_mut(&opened.signer));
        let Some(held) = signer.and_then(|signer| signer.records.get_mut(key)).filter(|held| held.version == *version) else {
            return;
        };
        held.disputed = true;
        let speaking = self.active.get(cluster).map(Vec::as_slice).unwrap_or_default();
        let counting = self.ledger.clusters.get(cluster).and_then(|known| known.counting(speaking, key));
        if let Some((_, held)) = counting.filter(|(signer, _)| *signer == opened.signer) {
            let said = held.offered(key);
            self.replace(Some(said), None, change);
        }
    }
}

fn read_evidence(
    kept: &snapshot::Evidence,
    open: &mut dyn FnMut(&Bytes) -> Result<Arc<Opened>, RecordError>,
) -> Result<(ClusterName, PublicKey, Evidence), SnapshotError> {
    let opened = open(&kept.bytes).map_err(|_| SnapshotError::Body)?;
    let Statement::Record(Record { cluster, key, version, .. }) = &opened.statement else { return Err(SnapshotError::Body) };
    let first = kept.digest.as_slice().try_into().map_err(|_| SnapshotError::Body)?;
    let (digests, bytes) = ([first, opened.digest], kept.bytes.clone());
    let evidence = Evidence { key: key.clone(), version: *version, digests, bytes, epoch: kept.epoch };
    Ok((cluster.clone(), opened.signer, evidence))
}
