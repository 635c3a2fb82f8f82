//! The UDP sockets: one for each family on the same port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::batch::Datagrams;
use crate::sys;

/// Room for bursts: 4 MiB is 20 ms of a 1.6 Gbit/s peer. The kernel gives less where `net.core.*mem_max` says so.
const BUFFER: usize = 4 << 20;

/// Both sockets. A machine without IPv6 has the first only.
#[derive(Debug)]
pub(crate) struct Udp {
    v4: Socket,
    v6: Option<Socket>,
    receiver: sys::Receiver,
    /// Datagrams of one length to one peer are sent together.
    in_runs: bool,
}

impl Udp {
    /// Binds `port` (0: one that is free) of all addresses, in the calling thread's network namespace. `mark` is for the node's
    /// own routing rules.
    pub(crate) fn bind(port: u16, mark: Option<u32>) -> io::Result<Udp> {
        let v4 = socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), mark)?;
        let port = v4.local_addr()?.as_socket().map_or(port, |address| address.port());
        let v6 = match socket(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), mark) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(Udp { v4, v6, receiver: sys::Receiver::new(), in_runs: true })
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.v4.local_addr()?.as_socket().map_or(0, |address| address.port()))
    }

    /// Returns the descriptors to wait for; -1 for a family that is not there.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.v4.as_raw_fd(), self.v6.as_ref().map_or(-1, AsRawFd::as_raw_fd)]
    }

    /// Receives what is there on one descriptor, up to a batch; returns how many were too long and are lost.
    pub(crate) fn receive(&mut self, descriptor: RawFd, into: &mut Datagrams) -> io::Result<u64> {
        self.receiver.receive(descriptor, into)
    }

    /// Sends datagrams; returns how many the kernel did not take. One that fails does not stop the others.
    pub(crate) fn send(&mut self, datagrams: &Datagrams) -> u64 {
        let of = |ipv4: bool| datagrams.iter_marked().filter(move |(address, ..)| address.is_ipv4() == ipv4);
        let mut lost = sys::send(self.v4.as_raw_fd(), of(true), &mut self.in_runs);
        match &self.v6 {
            Some(v6) => lost += sys::send(v6.as_raw_fd(), of(false), &mut self.in_runs),
            None => lost += of(false).count() as u64,
        }
        lost
    }
}

fn socket(address: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Smaller buffers than wished are no failure.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    sys::allow_fragments(&socket, address.is_ipv4())?;
    // Without it congestion is seen by loss alone.
    let _ = sys::tell_marks(&socket, address.is_ipv4());
    // Without it they come one by one.
    let _ = sys::collect_datagrams(&socket);
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
