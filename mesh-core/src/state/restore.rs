//! The state's part in a snapshot.

use bytes::Bytes;

use super::ledger::Evidence;
use super::{State, Trust};
use crate::record::{self, Opened, Statement};
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
        let Trust::Signed { root, .. } = self.config.trust else { return Err(SnapshotError::NoFleet) };
        let body = snapshot::open(bytes)?;
        if body.fleet != root.as_bytes() {
            return Err(SnapshotError::ForeignFleet);
        }
        // All of it is read before any of it is taken in: a broken snapshot leaves nothing behind.
        let evidence = body.evidence.iter().map(read_evidence).collect::<Result<Vec<_>, _>>()?;
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
            self.watch(&cluster, &mut change);
        }
        Ok(change)
    }

    /// Marks the held record that has these bytes as one of two with its version.
    fn dispute(&mut self, bytes: &Bytes, change: &mut Change) {
        let Ok(opened) = record::open(bytes).map(Opened::into_contents) else { return };
        let Statement::Record(Record { cluster, key, version, .. }) = opened.statement else { return };
        let signer = self.ledger.clusters.get_mut(&cluster).and_then(|known| known.signers.get_mut(&opened.signer));
        let Some(held) = signer.and_then(|signer| signer.records.get_mut(&key)).filter(|held| held.version == version) else {
            return;
        };
        held.disputed = true;
        let speaking = self.active.get(&cluster).map(Vec::as_slice).unwrap_or_default();
        let counting = self.ledger.clusters.get(&cluster).and_then(|known| known.counting(speaking, &key));
        if let Some((_, held)) = counting.filter(|(signer, _)| *signer == opened.signer) {
            let said = held.offered(&key);
            self.replace(Some(said), None, change);
        }
    }
}

fn read_evidence(kept: &snapshot::Evidence) -> Result<(ClusterName, PublicKey, Evidence), SnapshotError> {
    let opened = record::open(&kept.bytes).map_err(|_| SnapshotError::Body)?.into_contents();
    let Statement::Record(Record { cluster, key, version, .. }) = opened.statement else { return Err(SnapshotError::Body) };
    let first = kept.digest.as_slice().try_into().map_err(|_| SnapshotError::Body)?;
    let (digests, bytes) = ([first, opened.digest], kept.bytes.clone());
    Ok((cluster, opened.signer, Evidence { key, version, digests, bytes, epoch: kept.epoch }))
}
