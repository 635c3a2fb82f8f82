//! Connections of a test's own: servers that echo, and traffic that goes on beside whatever else happens.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use landbridge::lab::fleet::Fleet;
use mesh_core::WorkloadId;
use mesh_lab::Netns;

use super::{eventually, workload};

/// How long a connection that must not be lost may take for one round. TCP sends again what a busy machine was too slow for.
const ROUND: Duration = Duration::from_secs(10);

/// Says `greeting` to whoever connects, and echoes what comes, for as long as the test runs.
pub fn serve(netns: &Netns, port: u16, greeting: &'static str) {
    let listener = netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.write_all(greeting.as_bytes());
                let mut buffer = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..len]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Returns the network of a workload.
pub fn netns(fleet: &Fleet, of: &WorkloadId) -> Netns {
    fleet.lab().workload(of.cluster.as_str(), of.namespace.as_str(), of.name.as_str()).unwrap()
}

/// Opens a connection that waits for `patience` at most, here and for each answer.
pub fn open(client: &Netns, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = client.run(|| TcpStream::connect_timeout(&to, patience)).unwrap()?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// Sends a few bytes and waits for them to come back.
pub fn round(stream: &mut TcpStream) -> io::Result<()> {
    let mut back = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut back)?;
    if &back == b"hello" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// One connection that stays, and new ones without a pause, from one workload to another.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

/// What traffic has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rounds of the connection that stays, and the longest.
    pub rounds: u64,
    pub longest_round: Duration,
    /// New connections, and the one that took longest.
    pub opened: u64,
    pub longest_opening: Duration,
    /// What was lost.
    pub lost: Vec<String>,
}

impl Traffic {
    /// Begins it; the server echoes on `port`, without a greeting.
    pub fn start(fleet: &Fleet, from: &str, to: &str, port: u16) -> Traffic {
        let (client, to) = (netns(fleet, &workload(from)), SocketAddr::new(fleet.addresses(&workload(to))[0], port));
        let mut established = None;
        eventually("openings are allowed", || {
            established = open(&client, to, Duration::from_secs(1)).ok();
            established.is_some()
        });
        let mut established = established.unwrap();
        established.set_read_timeout(Some(ROUND)).unwrap();
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let (stopped, shared) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let mut before = Instant::now();
                let stays = round(&mut established);
                let round_took = before.elapsed();
                before = Instant::now();
                let opens = open(&client, to, ROUND).and_then(|mut stream| round(&mut stream));
                let opening_took = before.elapsed();
                let mut seen = shared.lock().unwrap();
                for (what, result) in [("the connection that stays", &stays), ("a new connection", &opens)] {
                    if let Err(error) = result {
                        seen.lost.push(format!("{what}, {:?} after the beginning: {error}", began.elapsed()));
                    }
                }
                (seen.rounds, seen.opened) = (seen.rounds + 1, seen.opened + 1);
                seen.longest_round = seen.longest_round.max(round_took);
                seen.longest_opening = seen.longest_opening.max(opening_took);
                drop(seen);
                if stays.is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Traffic { stop, seen, thread }
    }

    /// Holds it to going on, and to nothing being lost so far.
    pub fn goes_on(&self) {
        let before = self.seen().rounds;
        eventually("traffic goes on", || {
            let seen = self.seen();
            assert_eq!(seen.lost, [""; 0], "{seen:?}");
            seen.rounds > before + 1
        });
    }

    /// Ends it; nothing was lost.
    pub fn finish(self) -> Seen {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let seen = self.seen.lock().unwrap().clone();
        assert_eq!(seen.lost, [""; 0], "{seen:?}");
        seen
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}
