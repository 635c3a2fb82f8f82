//! A claim is a key that lives as long as its holder's lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_core::{Bytes, ClusterName};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Client, Error};
use super::messages::{Compare, KeyValue, LeaseGrantRequest, RequestOp, ResponseOp, TxnRequest};
use super::{Claim, ClaimError, EtcdStore};
use crate::store::Hold;

/// How long a claim outlives its holder, in seconds.
const TTL: i64 = 6;
/// How often a lease is kept alive, and how soon a failed try is followed by another one.
const KEEP: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(200);
/// A few rounds are enough: each is lost to somebody else who got the claim or gave it back meanwhile.
const ROUNDS: usize = 4;

/// A claim on the holder's side: a task keeps its lease alive, and gives it back once this is dropped.
#[derive(Debug)]
struct Leased {
    over: Arc<AtomicBool>,
    _dropped: oneshot::Sender<()>,
}

impl Hold for Leased {
    fn is_held(&self) -> bool {
        !self.over.load(Ordering::Acquire)
    }
}

pub(super) async fn claim(store: &EtcdStore, cluster: &ClusterName, holder: &str, floor: u64) -> Result<Claim, ClaimError> {
    let (key, counter) = (store.keys.claim(cluster), store.keys.incarnation(cluster));
    let failed = |error: Error| ClaimError::Store(store.service(&error));
    for _ in 0..ROUNDS {
        let look =
            TxnRequest { success: vec![RequestOp::get(key.clone()), RequestOp::get(counter.clone())], ..TxnRequest::default() };
        let mut found = store.client.txn(look).await.map_err(failed)?.responses.into_iter();
        let (held, last) = (one(found.next()), one(found.next()));
        if let Some(held) = held {
            let holder = String::from_utf8_lossy(&held.value).into_owned();
            return Err(ClaimError::Held { cluster: cluster.clone(), holder });
        }
        let number = last.as_ref().and_then(|last| std::str::from_utf8(&last.value).ok()?.parse::<u64>().ok()).unwrap_or(0);
        let incarnation = floor.max(number.saturating_add(1));
        let granted = Instant::now();
        let lease = store.client.grant(LeaseGrantRequest { ttl: TTL }).await.map_err(failed)?.id;
        let take = TxnRequest {
            compare: vec![
                Compare::absent(key.clone()),
                Compare::changed_at(counter.clone(), last.map_or(0, |last| last.mod_revision)),
            ],
            success: vec![
                RequestOp::put(key.clone(), Bytes::from(holder.to_owned()), lease),
                RequestOp::put(counter.clone(), Bytes::from(incarnation.to_string()), 0),
            ],
            failure: Vec::new(),
        };
        let taken = store.client.txn(take).await;
        // From here on the lease is given back whatever happens, unless the claim is won.
        let hold = keep(store.client.clone(), lease, granted);
        let taken = taken.map_err(failed)?;
        if taken.succeeded {
            return Ok(Claim::new(cluster.clone(), incarnation, lease, hold));
        }
    }
    Err(ClaimError::Held { cluster: cluster.clone(), holder: "others who want it too".to_owned() })
}

fn one(response: Option<ResponseOp>) -> Option<KeyValue> {
    response?.range?.kvs.into_iter().next()
}

/// Keeps a lease alive until the returned value is dropped; it is over when nothing was heard of it for as long as it lives.
fn keep(client: Arc<Client>, lease: i64, granted: Instant) -> Leased {
    let over = Arc::new(AtomicBool::new(false));
    let (sender, mut dropped) = oneshot::channel();
    let ends = over.clone();
    tokio::spawn(async move {
        let life = Duration::from_secs(TTL.unsigned_abs());
        let mut end = granted + life;
        let mut next = granted + KEEP;
        let held = async {
            loop {
                tokio::select! {
                    () = sleep_until(end) => return,
                    () = sleep_until(next) => {}
                }
                let asked = Instant::now();
                // An answer that comes after the end comes too late.
                let answer = tokio::select! {
                    () = sleep_until(end) => return,
                    answer = client.keep_alive(lease) => answer,
                };
                match answer {
                    Ok(0) => return,
                    Ok(_) => (end, next) = (asked + life, asked + KEEP),
                    Err(error) => {
                        tracing::debug!(%error, "a claim's lease was not kept alive, and will be tried again");
                        next = Instant::now() + AGAIN;
                    }
                }
            }
        };
        tokio::select! {
            () = held => ends.store(true, Ordering::Release),
            _ = &mut dropped => {
                // Without this the lease ends by itself, later.
                for _ in 0..3 {
                    if client.revoke(lease).await.is_ok() {
                        return;
                    }
                    sleep(AGAIN).await;
                }
            }
        }
    });
    Leased { over, _dropped: sender }
}
