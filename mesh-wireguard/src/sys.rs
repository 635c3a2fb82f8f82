//! The system calls that no crate wraps.
#![allow(unsafe_code, reason = "the kernel is called here")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{SockAddr, SockAddrStorage};

use crate::batch::Datagrams;

/// How many datagrams or packets are handled before the others get their turn.
pub(crate) const BATCH: usize = 64;

/// Sets the send buffer of a socket beyond the system's limit, where that is permitted.
pub(crate) fn force_send_buffer(socket: &impl AsRawFd, len: usize) {
    let len = libc::c_int::try_from(len).unwrap_or(libc::c_int::MAX);
    let value: *const libc::c_int = &len;
    // SAFETY: the option's value is a c_int that lives through the call. A refusal leaves the buffer as it was.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            value.cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Lets the kernel fragment the datagrams of a socket that are too long for the path, instead of refusing them.
pub(crate) fn allow_fragments(socket: &impl AsRawFd, ipv4: bool) -> io::Result<()> {
    let (level, name, value) = if ipv4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    };
    let pointer: *const libc::c_int = &value;
    // SAFETY: the option's value is a c_int that lives through the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer.cast(), size_of::<libc::c_int>() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Wakes a thread that waits in [`wait`].
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: the call takes no pointers; the descriptor that it returns is nobody else's.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above, the descriptor is open and owned by nobody.
        Ok(Waker(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from an array of eight. The counter cannot overflow in the life of a machine.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    pub(crate) fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight bytes are written into an array of eight. An empty counter gives an error, which is as good.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    /// The device behind it is gone.
    pub(crate) broken: bool,
}

/// Waits until one of `fds` is readable or `timeout` is over.
pub(crate) fn wait<const N: usize>(fds: [RawFd; N], timeout: Option<Duration>) -> io::Result<[Ready; N]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `polled` and the time live through the call, and the count is the array's.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), N as libc::nfds_t, timeout, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok([Ready::default(); N]) } else { Err(error) };
    }
    Ok(polled.map(|fd| Ready {
        readable: fd.revents & libc::POLLIN != 0,
        broken: fd.revents & (libc::POLLERR | libc::POLLNVAL | libc::POLLHUP) != 0,
    }))
}

/// Buffers to receive a batch of datagrams into.
#[derive(Debug)]
pub(crate) struct Receiver {
    bytes: Vec<u8>,
    slot: usize,
}

impl Receiver {
    /// Makes room for datagrams of at most `slot` bytes.
    pub(crate) fn new(slot: usize) -> Receiver {
        Receiver { bytes: vec![0; slot * BATCH], slot }
    }

    /// Receives what is there, up to a batch; returns how many were too long and are lost.
    pub(crate) fn receive(&mut self, socket: RawFd, into: &mut Datagrams) -> io::Result<u64> {
        let mut addresses = std::array::from_fn::<_, BATCH, _>(|_| SockAddrStorage::zeroed());
        let mut slots: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
            iov_base: self.bytes[at * self.slot..].as_mut_ptr().cast(),
            iov_len: self.slot,
        });
        // SAFETY: an all-zero message header is a valid one, without address, data or control.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for ((header, slot), address) in headers.iter_mut().zip(&mut slots).zip(&mut addresses) {
            header.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = size_of::<SockAddrStorage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = slot;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points to an address and one slot that live through the call, each `self.slot` bytes of
        // `self.bytes` that no other slot covers.
        let received = unsafe {
            libc::recvmmsg(socket, headers.as_mut_ptr(), BATCH as libc::c_uint, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let mut truncated = 0;
        for (at, (header, address)) in headers.iter().zip(addresses).take(received).enumerate() {
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                truncated += 1;
                continue;
            }
            // SAFETY: the kernel filled in the address and its length.
            let address = unsafe { SockAddr::new(address, header.msg_hdr.msg_namelen) };
            let datagram = &self.bytes[at * self.slot..][..header.msg_len as usize];
            if let Some(address) = address.as_socket() {
                into.push(address, datagram);
            }
        }
        Ok(truncated)
    }
}

/// Sends datagrams, as many as the kernel takes; returns how many it did not.
pub(crate) fn send(socket: RawFd, datagrams: &mut dyn Iterator<Item = (SocketAddr, &[u8])>) -> u64 {
    let mut lost = 0;
    loop {
        let mut addresses = [const { None::<SockAddr> }; BATCH];
        // SAFETY: all-zero headers and slots are valid ones, without address and data.
        let (mut slots, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { (zeroed(), zeroed()) };
        let mut count = 0;
        while count < BATCH
            && let Some((address, datagram)) = datagrams.next()
        {
            slots[count] = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
            let address = addresses[count].insert(SockAddr::from(address));
            headers[count].msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
            headers[count].msg_hdr.msg_namelen = address.len();
            headers[count].msg_hdr.msg_iov = &raw mut slots[count];
            headers[count].msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        if count == 0 {
            return lost;
        }
        let mut done = 0;
        while done < count {
            // SAFETY: the headers from `done` to `count` point to addresses, slots and datagrams that live through the call;
            // the kernel only reads what the slots point to.
            let sent = unsafe {
                libc::sendmmsg(socket, headers[done..].as_mut_ptr(), (count - done) as libc::c_uint, libc::MSG_DONTWAIT as _)
            };
            // The error is the first datagram's: it is given up, and the others get their turn.
            done += usize::try_from(sent).unwrap_or_else(|_| {
                lost += 1;
                1
            });
        }
    }
}
