//! The thread that moves packets between the TUN, the engine and the sockets.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh_core::{FlowRecord, NodeId, Now, Time, WallTime};
use mesh_dataplane::{Op, Opening, Peer, Want};

use crate::batch::{Datagrams, Output, Packets};
use crate::engine::{Engine, UnknownPeer};
use crate::session::Session;
use crate::stats::{IoCounters, TunnelStats};
use crate::sys::{BATCH, Waker, wait};
use crate::tun::Tun;
use crate::udp::Udp;

/// Flow records that wait to be fetched.
const RECORDS: usize = 8192;
/// Openings that wait to be fetched.
const OPENINGS: usize = 1024;
/// Wants that wait to be fetched.
const WANTS: usize = 1024;

/// The thread ended: its device was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tunnel's thread has ended: its device is gone")]
pub struct Ended;

enum Command {
    Apply(Vec<Op>, SyncSender<Vec<(usize, UnknownPeer)>>),
    Peers(SyncSender<BTreeMap<NodeId, Peer>>),
    Stats(SyncSender<TunnelStats>),
    Stop,
}

/// Asks a tunnel's thread for its counters, from any thread.
#[derive(Clone, Debug)]
pub struct StatsHandle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl StatsHandle {
    /// Returns one reading of all counters.
    pub fn stats(&self) -> Result<TunnelStats, Ended> {
        self.ask(Command::Stats)
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, Ended> {
        let (reply, answer) = sync_channel(1);
        self.commands.send(command(reply)).map_err(|_| Ended)?;
        self.waker.wake();
        answer.recv().map_err(|_| Ended)
    }
}

/// The thread; it ends, and the device with it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) handle: StatsHandle,
    pub(crate) flows: Receiver<FlowRecord>,
    pub(crate) openings: Receiver<Opening>,
    pub(crate) wants: Receiver<Want>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts the thread in the calling thread's network namespace.
    pub(crate) fn start<S: Session + 'static>(engine: Engine<S>, tun: Tun, udp: Udp, mtu: u16) -> io::Result<Driver>
    where
        S::Local: 'static,
    {
        let (commands, inbox) = channel();
        let (records, flows) = sync_channel(RECORDS);
        let (told, openings) = sync_channel(OPENINGS);
        let (wanted, wants) = sync_channel(WANTS);
        let waker = Arc::new(Waker::new()?);
        let worker = Worker {
            engine,
            tun,
            udp,
            mtu: usize::from(mtu),
            inbox,
            waker: waker.clone(),
            records,
            openings: told,
            wants: wanted,
            started: Instant::now(),
            packets: Packets::new(),
            datagrams: Datagrams::new(),
            out: Output::new(),
            io: IoCounters::default(),
        };
        let thread = std::thread::Builder::new().name("landbridge-tun".into()).spawn(move || worker.run())?;
        Ok(Driver { handle: StatsHandle { commands, waker }, flows, openings, wants, thread: Some(thread) })
    }

    /// Has the engine apply `ops`; returns those that failed.
    pub(crate) fn apply(&self, ops: Vec<Op>) -> Result<Vec<(usize, UnknownPeer)>, Ended> {
        self.handle.ask(|reply| Command::Apply(ops, reply))
    }

    /// Returns the peers that the engine has.
    pub(crate) fn peers(&self) -> Result<BTreeMap<NodeId, Peer>, Ended> {
        self.handle.ask(Command::Peers)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Where the thread has ended already, there is nobody to tell.
        let _ = self.handle.commands.send(Command::Stop);
        self.handle.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker<S: Session> {
    engine: Engine<S>,
    tun: Tun,
    udp: Udp,
    mtu: usize,
    inbox: Receiver<Command>,
    waker: Arc<Waker>,
    records: SyncSender<FlowRecord>,
    openings: SyncSender<Opening>,
    wants: SyncSender<Want>,
    started: Instant,
    packets: Packets,
    datagrams: Datagrams,
    out: Output,
    io: IoCounters,
}

impl<S: Session> Worker<S> {
    fn run(mut self) {
        loop {
            let [v4, v6] = self.udp.descriptors();
            let due = self.engine.poll_timeout().map(|due| due.since(self.now().time));
            let ready = match wait([self.tun.as_raw_fd(), v4, v6, self.waker.as_raw_fd()], due) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::warn!(%error, "the tunnel's thread cannot wait for packets, and ends");
                    return;
                }
            };
            if ready[3].readable {
                self.waker.drain();
                if !self.obey() {
                    return;
                }
            }
            if ready[0].readable && !self.handle_tun() || ready[0].broken {
                tracing::warn!(device = self.tun.name(), "the tunnel's device was taken away, its thread ends");
                return;
            }
            for (socket, ready) in [(v4, ready[1]), (v6, ready[2])] {
                // An error is readable too: an ICMP error about an earlier datagram, which the read clears.
                if socket >= 0 && (ready.readable || ready.broken) {
                    self.handle_udp(socket);
                }
            }
            let now = self.now();
            if self.engine.poll_timeout().is_some_and(|due| due <= now.time) {
                self.engine.handle_timeout(now, &mut self.out);
                self.flush();
            }
            while let Some(opening) = self.engine.poll_opening() {
                // Health is about what refuses again and again: one that is lost is told by the next.
                let _ = self.openings.try_send(opening);
            }
            while let Some(want) = self.engine.poll_want() {
                // One that is lost is told again while packets wait for it.
                let _ = self.wants.try_send(want);
            }
            while let Some(record) = self.engine.poll_flow() {
                if self.records.try_send(record).is_err() {
                    self.io.records_lost += 1;
                }
            }
        }
    }

    /// Carries out the commands that wait; `false` when one was to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.inbox.try_recv() {
            // Who does not wait for the answer any more does not get one.
            match command {
                Command::Apply(ops, reply) => {
                    let now = self.now();
                    let apply = |(index, op)| self.engine.apply(op, now, &mut self.out).err().map(|error| (index, error));
                    let failed = ops.iter().enumerate().filter_map(apply).collect();
                    self.flush();
                    let _ = reply.send(failed);
                }
                Command::Peers(reply) => drop(reply.send(self.engine.peers())),
                Command::Stats(reply) => drop(reply.send(TunnelStats { io: self.io, ..self.engine.stats() })),
                Command::Stop => return false,
            }
        }
        true
    }

    /// Handles a batch from the TUN; `false` when the device is gone.
    fn handle_tun(&mut self) -> bool {
        self.packets.clear();
        let received = self.tun.receive(&mut self.packets, BATCH, self.mtu);
        self.io.tun_errors += received.errors;
        self.engine.handle_tun(&self.packets, self.now(), &mut self.out);
        self.flush();
        !received.gone
    }

    fn handle_udp(&mut self, socket: std::os::fd::RawFd) {
        self.datagrams.clear();
        // Errors of reading are errors of earlier sends, or nothing to read.
        self.io.truncated += self.udp.receive(socket, &mut self.datagrams).unwrap_or(0);
        self.engine.handle_udp(&self.datagrams, self.now(), &mut self.out);
        self.flush();
    }

    /// Carries out what the engine wants.
    fn flush(&mut self) {
        self.io.send_errors += self.udp.send(&self.out.datagrams);
        self.io.tun_errors += self.tun.send(&self.out.packets);
        self.out.clear();
    }

    fn now(&self) -> Now {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { time: Time::from_nanos(nanos(self.started.elapsed())), wall: WallTime::from_unix_nanos(nanos(wall)) }
    }
}
