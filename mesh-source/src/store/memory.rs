//! A store in memory, for tests and simulations: it can be thrown back to an earlier state, and take claims away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mesh_core::{Bytes, ClusterName};
use tokio::sync::watch;

use super::follow::changed;
use super::{Claim, ClaimError, Following, Hold, Interest, RecordPath, Store, StoreError, Told, check_size};

/// A store in memory; its clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inside: Mutex<Inside>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inside {
    records: BTreeMap<RecordPath, Bytes>,
    /// Who holds the claim on a cluster, and its fence.
    claims: BTreeMap<ClusterName, (String, i64)>,
    incarnations: BTreeMap<ClusterName, u64>,
    fence: i64,
}

#[derive(Debug)]
struct Held {
    store: MemoryStore,
    cluster: ClusterName,
    fence: i64,
}

impl MemoryStore {
    /// Returns everything in the store.
    pub fn records(&self) -> BTreeMap<RecordPath, Bytes> {
        self.inside().records.clone()
    }

    /// Replaces everything in the store, as a restored backup does.
    pub fn restore(&self, records: BTreeMap<RecordPath, Bytes>) {
        self.inside().records = records;
        self.tell();
    }

    /// Takes the claim on a cluster away from whoever holds it, as a lease that runs out does.
    pub fn expire(&self, cluster: &ClusterName) {
        self.inside().claims.remove(cluster);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, path: &RecordPath, bytes: Bytes, claim: Option<&Claim>) -> Result<(), StoreError> {
        check_size(path, &bytes)?;
        let mut inside = self.inside();
        if let Some(claim) = claim {
            let holds = inside.claims.get(claim.cluster()).is_some_and(|(_, fence)| *fence == claim.fence());
            if !holds {
                return Err(claim.lost());
            }
        }
        inside.records.insert(path.clone(), bytes);
        drop(inside);
        self.tell();
        Ok(())
    }

    async fn get(&self, path: &RecordPath) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inside().records.get(path).cloned())
    }

    async fn list(&self) -> Result<Vec<RecordPath>, StoreError> {
        Ok(self.inside().records.keys().cloned().collect())
    }

    async fn remove(&self, path: &RecordPath) -> Result<(), StoreError> {
        self.inside().records.remove(path);
        self.tell();
        Ok(())
    }

    fn follow(&self, mut interest: watch::Receiver<Interest>) -> Following {
        let (store, mut counter) = (self.clone(), self.0.changed.subscribe());
        Following::start(async move |teller| {
            let mut told = BTreeMap::<RecordPath, Bytes>::new();
            let mut whole = true;
            loop {
                let wanted = interest.borrow_and_update().clone();
                counter.borrow_and_update();
                let mut now = store.records();
                now.retain(|path, _| wanted.covers(path));
                if whole {
                    teller.tell(Told::Begin).await?;
                }
                for path in told.keys().filter(|path| !now.contains_key(*path)) {
                    teller.tell(Told::Gone(path.clone())).await?;
                }
                let mut differs: Vec<_> = now.iter().filter(|(path, bytes)| told.get(*path) != Some(bytes)).collect();
                differs.sort_by_key(|(path, _)| !path.is_root());
                for (path, bytes) in differs {
                    teller.tell(Told::Record(path.clone(), bytes.clone())).await?;
                }
                if whole {
                    teller.tell(Told::Synced).await?;
                }
                told = now;
                whole = tokio::select! {
                    heard = counter.changed() => {
                        if heard.is_err() { std::future::pending::<()>().await; }
                        false
                    }
                    () = changed(&mut interest) => true,
                };
            }
        })
    }

    async fn claim(&self, cluster: &ClusterName, holder: &str, floor: u64) -> Result<Claim, ClaimError> {
        let mut inside = self.inside();
        if let Some((holder, _)) = inside.claims.get(cluster) {
            return Err(ClaimError::Held { cluster: cluster.clone(), holder: holder.clone() });
        }
        inside.fence += 1;
        let fence = inside.fence;
        let last = inside.incarnations.entry(cluster.clone()).or_default();
        *last = floor.max(last.saturating_add(1));
        let incarnation = *last;
        inside.claims.insert(cluster.clone(), (holder.to_owned(), fence));
        let held = Held { store: self.clone(), cluster: cluster.clone(), fence };
        Ok(Claim::new(cluster.clone(), incarnation, fence, held))
    }
}

impl Hold for Held {
    fn is_held(&self) -> bool {
        self.store.inside().claims.get(&self.cluster).is_some_and(|(_, fence)| *fence == self.fence)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inside = self.store.inside();
        if inside.claims.get(&self.cluster).is_some_and(|(_, fence)| *fence == self.fence) {
            inside.claims.remove(&self.cluster);
        }
    }
}
