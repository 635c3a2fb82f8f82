//! What a publisher makes of records of its cluster that it finds in a store.

use bytes::Bytes;

use super::Publisher;
use crate::{Opened, Record, RecordKey, Resource, Statement, record};

impl Publisher {
    /// Takes notice of a record of the cluster that somebody else put: the next update signs what is so, or a tombstone where
    /// the publisher does not stand behind it.
    ///
    /// What an earlier publisher signed with its keys tells the age of exports and the addresses of services, where nothing
    /// newer is remembered. Bytes that are no record of this cluster for this fleet mean nothing, here as everywhere.
    pub fn adopt(&mut self, bytes: &Bytes) {
        let Ok(opened) = record::open(bytes).map(Opened::into_contents) else { return };
        let Statement::Record(record) = opened.statement else { return };
        if opened.fleet != self.root || record.cluster != self.cluster {
            return;
        }
        let keys = [Some(&self.key), self.next_key.as_ref()];
        let own = keys.into_iter().flatten().any(|key| key.public() == opened.signer);
        if own {
            self.remember(&record);
        }
        // A tombstone of an earlier life is one still, and a lease ends by itself.
        if (own && record.resources.is_empty()) || record.key == RecordKey::Lease {
            return;
        }
        self.published.entry(record.key).or_insert(None);
        self.look_again();
    }

    fn remember(&mut self, record: &Record) {
        let newer = self.counter == 0 && record.version.incarnation > self.restored;
        for resource in &record.resources {
            match resource {
                Resource::Export(export) => {
                    let Some(created) = export.created else { continue };
                    let first = self.first_signed.entry(export.id.clone()).or_insert(created);
                    *first = created.min(*first);
                }
                Resource::ServiceImport(import) => {
                    let given = &mut self.addresses.given;
                    if !newer && given.contains_key(&import.id) {
                        continue;
                    }
                    // No address is ever two services'.
                    let mut addresses = import.addresses.clone();
                    for (_, others) in given.iter_mut().filter(|(id, _)| **id != import.id) {
                        match newer {
                            true => others.retain(|address| !addresses.contains(address)),
                            false => addresses.retain(|address| !others.contains(address)),
                        }
                    }
                    given.insert(import.id.clone(), addresses);
                }
                _ => {}
            }
        }
    }
}
