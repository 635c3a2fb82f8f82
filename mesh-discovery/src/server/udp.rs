//! Clients on UDP: workers on threads of their own, each with its socket.

use std::io;
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::batch::Batch;
use super::{Client, Local, Shared};
use crate::resolver::Handled;
use crate::wire::Transport;

/// What a worker's thread needs: its buffers are elsewhere.
const STACK: usize = 512 << 10;

/// The threads that answer on UDP; they end when this is dropped.
pub(super) struct Workers {
    stop: Arc<AtomicBool>,
    sockets: Vec<Arc<UdpSocket>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts a thread for each socket.
    pub(super) fn start(sockets: Vec<UdpSocket>, shared: &Arc<Shared>, local: &Local) -> io::Result<Workers> {
        let sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
        let mut workers = Workers { stop: Arc::default(), sockets, threads: Vec::new() };
        for (index, socket) in workers.sockets.iter().enumerate() {
            let mut worker = Worker {
                socket: socket.clone(),
                shared: shared.clone(),
                local: Local { responder: shared.resolver().responder(), zone: local.zone.clone() },
                stop: workers.stop.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("dns-udp-{index}")).stack_size(STACK);
            workers.threads.push(thread.spawn(move || worker.run())?);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for socket in &self.sockets {
            // It is not connected, which is an error, and wakes who waits for it all the same.
            let _ = socket2::SockRef::from(&**socket).shutdown(std::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Worker {
    socket: Arc<UdpSocket>,
    shared: Arc<Shared>,
    local: Local,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            // A packet that breaks an assumption costs the batch it came in, not the worker.
            if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
                self.shared.udp_panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!("answering a DNS query failed; going on with the next one");
            }
        }
    }

    fn serve(&mut self) {
        let mut batch = Batch::new();
        let socket = Arc::downgrade(&self.socket);
        loop {
            let received = batch.receive(&self.socket);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            match received {
                Ok(count) => {
                    self.local.refresh();
                    (0..count).for_each(|index| self.answer(&mut batch, index, &socket));
                    let unsent = batch.send(&self.socket);
                    if unsent > 0 {
                        self.shared.udp_unsent.fetch_add(unsent as u64, Ordering::Relaxed);
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => {
                    tracing::debug!(%error, "receiving a DNS query failed");
                    // An error that stays must not take the processor.
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    fn answer(&self, batch: &mut Batch, index: usize, socket: &Weak<UdpSocket>) {
        let Some((packet, peer, reply)) = batch.query(index) else {
            self.shared.oversized.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match self.local.responder.answer(packet, Transport::Udp, reply) {
            Handled::Answer => {}
            Handled::Drop => reply.clear(),
            Handled::Forward => {
                reply.clear();
                let client = || Client::Udp(socket.clone(), Box::new(*peer));
                if let Some(ready) = self.shared.handle(packet, Transport::Udp, client) {
                    reply.extend_from_slice(&ready);
                }
            }
        }
    }
}
