//! Real etcds: what happens to their members, and what their followers make of it.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::Bytes;
use mesh_source::{EtcdStore, EtcdTls, Interest, MemoryStore, Mirror, MirrorFrom, RecordPath, Store, StoreError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use cluster::{Etcd, may_run_etcd};
use common::conformance::{Known, claim_soon, conformance, node, put, west};
use common::east;
use common::fleet::{Agent, Publishing};

mod cluster;
#[path = "../common/mod.rs"]
mod common;

/// Puts until it is done: an etcd that elects a leader takes nothing for a moment.
async fn put_in_the_end(store: &dyn Store, path: &RecordPath, text: &str) {
    let deadline = tokio::time::Instant::now() + cluster::DEADLINE;
    while let Err(error) = store.put(path, Bytes::from(text.to_owned()), None).await {
        assert!(tokio::time::Instant::now() < deadline, "{path}: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_conforms_and_knows_its_clients() {
    if !may_run_etcd() {
        return;
    }
    let etcd = Etcd::start(1, &[]);
    conformance(etcd.store()).await;

    let mut config = etcd.config();
    config.prefix = "/another-fleet".into();
    let other = EtcdStore::new(&config).expect("a store");
    assert_eq!(other.list().await.expect("a list"), [], "fleets that share an etcd do not see each other's records");
    let read = |file: &str| std::fs::read(etcd.path(file)).expect("a certificate");
    let (certificate, key) = (read("stranger.pem"), read("stranger.key"));
    config.tls = Some(EtcdTls { ca: read("ca.pem"), certificate, key });
    let stranger = EtcdStore::new(&config).expect("a store");
    let refused = stranger.list().await.expect_err("etcd does not know this client");
    assert!(matches!(refused, StoreError::Service { .. }), "{refused}");
    config.tls = Some(EtcdTls { ca: read("stranger.pem"), certificate: read("client.pem"), key: read("client.key") });
    let error = EtcdStore::new(&config).expect("a store").list().await.expect_err("this is not the etcd that was meant");
    assert!(error.to_string().contains("certificate"), "{error}");
    config.endpoints = vec!["http://127.0.0.1:1".into()];
    assert!(EtcdStore::new(&config).expect_err("certificates without TLS").to_string().starts_with("endpoints: "));
}

/// Members are killed and paused, the leader first: a claim is never held twice, and every follower has everything in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_die_and_pause() {
    if !may_run_etcd() {
        return;
    }
    let mut etcd = Etcd::start(3, &[]);
    let store = etcd.store();
    let first = store.claim(&east(), "first", 1).await.expect("free");
    let mut followers: Vec<_> = (0..3).map(|_| Known::follow(&*etcd.store(), Interest::everything())).collect();
    for follower in &mut followers {
        follower.until("synced", |known| known.synced > 0).await;
    }
    let number = |number: usize| node(&east(), &format!("n{number}"));
    for (round, pause) in [false, true, false].into_iter().enumerate() {
        let leader = etcd.leader();
        match pause {
            true => etcd.pause(leader, true),
            false => etcd.kill(leader),
        }
        for each in 0..20 {
            put_in_the_end(&*store, &number(each), &format!("{round}")).await;
        }
        for follower in &mut followers {
            let all = |known: &Known| (0..20).all(|each| known.text(&number(each)) == Some(&round.to_string()));
            follower.until("all of a round, without the leader that was", all).await;
        }
        if pause {
            // A minute by MESH_LONG=1: the member's clock, leases and peers have all moved on when it goes on.
            let minute = std::env::var("MESH_LONG").is_ok();
            tokio::time::sleep(Duration::from_secs(if minute { 60 } else { 1 })).await;
            etcd.pause(leader, false);
        } else {
            etcd.run(leader);
        }
    }
    // The claim lived through all of it, or was lost and says so.
    if first.is_held() {
        put_in_the_end(&*store, &number(0), "by the first").await;
        store.put(&number(0), Bytes::from_static(b"under the claim"), Some(&first)).await.expect("held");
    }
    let before = first.incarnation();
    drop(first);
    let second = claim_soon(&*store, "second", 0).await;
    assert!(second.incarnation() > before);
}

/// A publisher that was paused for longer than its lease lives puts nothing more: etcd itself compares.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_fences() {
    if !may_run_etcd() {
        return;
    }
    let etcd = Etcd::start(1, &[]);
    let store = etcd.store();
    let claim = store.claim(&east(), "first", 1).await.expect("free");
    assert!(claim.is_held());
    // The lease ends although its holder does not know it yet.
    let leases = etcd.ctl(&["lease", "list"]);
    let lease = leases.lines().last().expect("a lease").trim();
    etcd.ctl(&["lease", "revoke", lease]);
    let path = node(&east(), "n1");
    let late = store.put(&path, Bytes::from_static(b"late"), Some(&claim)).await;
    assert!(matches!(late, Err(StoreError::ClaimLost { .. })), "{late:?}");
    let winner = claim_soon(&*store, "second", 0).await;
    assert!(winner.incarnation() > claim.incarnation());
    store.put(&path, Bytes::from_static(b"new"), Some(&winner)).await.expect("held");
    let late = store.put(&path, Bytes::from_static(b"late"), Some(&claim)).await;
    assert!(matches!(late, Err(StoreError::ClaimLost { .. })), "{late:?}");
    let waited = async {
        while claim.is_held() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(cluster::DEADLINE, waited).await.expect("the holder finds out by itself");
    drop(claim);
    assert!(winner.is_held());
    store.put(&path, Bytes::from_static(b"newer"), Some(&winner)).await.expect("still held");
}

/// The quota is used up: that is said, what is known stays known, and it goes on once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_says_so() {
    if !may_run_etcd() {
        return;
    }
    let etcd = Etcd::start(1, &["--quota-backend-bytes", "4000000"]);
    let store = etcd.store();
    let mut follower = Known::follow(&*store, Interest::everything());
    put(&*store, &node(&west(), "n1"), "small").await;
    let large = Bytes::from(vec![b'x'; 500_000]);
    let mut full = None;
    for _ in 0..100 {
        full = store.put(&node(&west(), "large"), large.clone(), None).await.err();
        if full.is_some() {
            break;
        }
    }
    let full = full.expect("the quota ends").to_string();
    assert!(full.contains("NOSPACE") && full.contains("alarm disarm"), "{full}");
    follower.until("what is there", |known| known.records.len() == 2).await;
    assert_eq!(follower.text(&node(&west(), "n1")), Some("small"));
    assert_eq!(store.get(&node(&west(), "n1")).await.expect("reading goes on").as_deref(), Some(b"small".as_slice()));

    let status = etcd.ctl(&["get", "probe", "-w", "json"]);
    let revision: String =
        status.split_once("\"revision\":").expect("a revision").1.chars().take_while(char::is_ascii_digit).collect();
    etcd.ctl(&["compact", &revision]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    put_in_the_end(&*store, &node(&west(), "n1"), "again").await;
    follower.until("what is put again", |known| known.text(&node(&west(), "n1")) == Some("again")).await;
}

/// A way to an etcd that can be cut.
struct Cable {
    address: String,
    open: watch::Sender<bool>,
}

impl Cable {
    async fn to(address: &str) -> Cable {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (open, is_open) = watch::channel(true);
        let cable = Cable { address: listener.local_addr().expect("an address").to_string(), open };
        let address = address.to_owned();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (address, mut is_open) = (address.clone(), is_open.clone());
                if !*is_open.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(&address).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        cable
    }
}

/// A follower resumes where it was cut off; where history was compacted meanwhile it looks at everything again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_is_cut_off_and_history_compacted() {
    if !may_run_etcd() {
        return;
    }
    let etcd = Etcd::start(1, &[]);
    let store = etcd.store();
    let cable = Cable::to(etcd.address(0)).await;
    let mut config = etcd.config();
    config.endpoints = vec![format!("https://{}", cable.address)];
    let distant = EtcdStore::new(&config).expect("a store");
    let (stays, changes, goes, comes) =
        (node(&east(), "stays"), node(&east(), "changes"), node(&east(), "goes"), node(&east(), "comes"));
    for path in [&stays, &changes, &goes] {
        put(&*store, path, "old").await;
    }
    let mut follower = Known::follow(&distant, Interest::everything());
    follower.until("everything", |known| known.synced == 1 && known.records.len() == 3).await;

    cable.open.send_replace(false);
    follower.until("that it is cut off", |known| !known.problems.is_empty()).await;
    assert_eq!(follower.records.len(), 3, "what was read still stands");
    put(&*store, &changes, "new").await;
    cable.open.send_replace(true);
    follower.until("what changed meanwhile", |known| known.text(&changes) == Some("new") && known.problems.is_empty()).await;
    assert_eq!(follower.synced, 1, "it went on where it was cut off");

    cable.open.send_replace(false);
    follower.until("that it is cut off", |known| !known.problems.is_empty()).await;
    put(&*store, &changes, "newer").await;
    put(&*store, &comes, "new").await;
    store.remove(&goes).await.expect("removed");
    let status = etcd.ctl(&["get", "probe", "-w", "json"]);
    let revision: String =
        status.split_once("\"revision\":").expect("a revision").1.chars().take_while(char::is_ascii_digit).collect();
    etcd.ctl(&["compact", &revision]);
    cable.open.send_replace(true);
    follower.until("a second look at everything", |known| known.synced == 2).await;
    let now: Vec<_> = follower.records.iter().map(|(path, bytes)| (path.clone(), bytes.to_vec())).collect();
    assert_eq!(now, [(changes, b"newer".to_vec()), (comes, b"new".to_vec()), (stays, b"old".to_vec())]);
}

/// An etcd of three members is thrown back to an old backup: what was signed since is put again, what was taken back stays away,
/// no incarnation is used twice, and the agent never believes anything else meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_backup_loses_nothing_and_brings_nothing_back() {
    if !may_run_etcd() {
        return;
    }
    let mut etcd = Etcd::start(3, &[]);
    let store = etcd.store();
    let mut publishing = Publishing::start(&store, "one", 0);
    let mut agent = Agent::start(&*store);
    publishing.set("stays", Some("old"));
    publishing.set("changes", Some("old"));
    publishing.set("goes", Some("old"));
    publishing.until("the claim", |publishing| publishing.incarnation.is_some()).await;
    agent.until(&mut publishing, &["stays=old", "changes=old", "goes=old"]).await;
    let backup = etcd.path("backup.db");
    etcd.ctl(&["snapshot", "save", &backup.display().to_string()]);
    publishing.set("changes", Some("new"));
    publishing.set("goes", None);
    publishing.set("comes", Some("new"));
    let now = ["stays=old", "changes=new", "comes=new"];
    agent.until(&mut publishing, &now).await;

    // A mirror copies from the etcd to another store all the while.
    let copy = MemoryStore::default();
    let to: Arc<dyn Store> = Arc::new(copy.clone());
    let mirror = tokio::spawn(Mirror::new([MirrorFrom { cluster: east(), store: etcd.store() }], &to).run());
    let mut reader = Agent::start(&copy);
    reader.until(&mut publishing, &now).await;

    let restoring = tokio::task::spawn_blocking(move || {
        etcd.restore(&backup);
        etcd
    });
    let wanted = agent.namespaces();
    let watching = async {
        loop {
            tokio::select! {
                () = agent.take() => assert_eq!(agent.namespaces(), wanted, "what is believed does not go back"),
                () = reader.take() => assert_eq!(reader.namespaces(), wanted, "what is believed does not go back"),
                event = publishing.outbox.next() => publishing.take(event.expect("it goes on")),
            }
        }
    };
    let mut watching = Box::pin(watching);
    let etcd = tokio::select! {
        restored = restoring => restored.expect("restored"),
        () = &mut watching => unreachable!("it never ends"),
    };
    // Healed: the restored etcd says to somebody who comes new what was true before, and so does the copy.
    let healed = async {
        for store in [etcd.store(), to] {
            let mut newcomer = Agent::start(&*store);
            while newcomer.namespaces() != wanted {
                newcomer.take().await;
            }
        }
    };
    let healed = tokio::time::timeout(cluster::DEADLINE, healed);
    tokio::select! {
        healed = healed => healed.expect("healed in time"),
        () = &mut watching => unreachable!("it never ends"),
    }
    drop(watching);
    publishing.set("after", Some("new"));
    agent.until(&mut publishing, &["stays=old", "changes=new", "comes=new", "after=new"]).await;
    reader.until(&mut publishing, &["stays=old", "changes=new", "comes=new", "after=new"]).await;
    mirror.abort();
}
