//! A packet socket: sees every frame of a network namespace, and counts the ones it had to drop.
#![allow(unsafe_code, reason = "AF_PACKET sockets have no safe form in std")]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// The length of `struct virtio_net_hdr`, which precedes every frame.
pub(crate) const VNET_HEADER: usize = 10;
/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// A packet socket bound to one interface or all of them.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

/// What the kernel says about a frame, beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameInfo {
    /// Bytes in the buffer, the virtio header included.
    pub(crate) length: usize,
    /// EtherType, in host order.
    pub(crate) protocol: u16,
    /// Interface index.
    pub(crate) interface: u32,
    /// Link type (`ARPHRD_*`).
    pub(crate) link_type: u16,
    /// To us, broadcast, multicast, to another, outgoing (`PACKET_*`).
    pub(crate) packet_type: u8,
    /// Length and bytes of the sender's link-layer address.
    pub(crate) address: (u8, [u8; 8]),
}

impl PacketSocket {
    /// Opens a socket in the calling thread's network namespace; `interface` 0 means all, now and later.
    pub(crate) fn open(interface: u32, incoming_only: bool, receive_buffer: c_int) -> io::Result<PacketSocket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket takes integers. Protocol 0 receives nothing before bind, so no frame misses the options.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
        let socket = PacketSocket(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, receive_buffer)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        if incoming_only {
            socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        }
        // SAFETY: sockaddr_ll is made of integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = c_int::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address is a filled sockaddr_ll of the given length.
        check(unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(socket)
    }

    /// Receives one frame, a [`VNET_HEADER`] before it; `WouldBlock` when there is none.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<FrameInfo> {
        // SAFETY: sockaddr_ll is made of integers, for which zero is a value.
        let mut from: libc::sockaddr_ll = unsafe { zeroed() };
        let mut from_length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: pointers and lengths describe the buffer and the address, both writable and alive.
        let received = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast::<c_void>(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut from_length,
            )
        };
        let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(FrameInfo {
            length,
            protocol: u16::from_be(from.sll_protocol),
            interface: from.sll_ifindex.cast_unsigned(),
            link_type: from.sll_hatype,
            packet_type: from.sll_pkttype,
            address: (from.sll_halen.min(8), from.sll_addr),
        })
    }

    /// Returns how many frames were dropped for want of room since the last call.
    pub(crate) fn take_drops(&self) -> io::Result<u64> {
        let mut statistics = MaybeUninit::<libc::tpacket_stats>::uninit();
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: pointer and length describe the structure the kernel fills.
        check(unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        })?;
        // SAFETY: the call succeeded, so the kernel has filled the structure.
        Ok(u64::from(unsafe { statistics.assume_init() }.tp_drops))
    }

    fn set(&self, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
        let length = size_of::<c_int>() as libc::socklen_t;
        let fd = self.0.as_raw_fd();
        // SAFETY: pointer and length describe an integer that outlives the call.
        check(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) }).map(drop)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
