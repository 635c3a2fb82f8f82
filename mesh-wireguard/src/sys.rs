//! The system calls that no crate wraps.
#![allow(unsafe_code, reason = "the kernel is called here")]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
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

/// Opens a TUN device that gives and takes packets with a header in front, super-packets and unfinished checksums among them.
pub(crate) fn open_offloading_tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/net/tun")?;
    // SAFETY: an all-zero request is a valid one.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let request: *mut libc::ifreq = &raw mut request;
    // SAFETY: the request lives through the call, which reads and writes no more than it.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // UDP in pieces is younger than TCP in pieces, and has both families or none.
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let ladder =
        [tcp | libc::TUN_F_TSO_ECN | libc::TUN_F_USO4 | libc::TUN_F_USO6, tcp | libc::TUN_F_TSO_ECN, tcp, libc::TUN_F_CSUM];
    // SAFETY: the argument is a number, not a pointer.
    let set =
        |flags: &libc::c_uint| unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(*flags)) };
    if ladder.iter().any(|flags| set(flags) == 0) { Ok(file) } else { Err(io::Error::last_os_error()) }
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

/// What one call receives at most: datagrams of one sender and one length come together where the kernel collects them (GRO).
const RECEIVED: usize = 16;
/// The longest that such a collection is, and any datagram.
const COLLECTION: usize = 65_536;
/// What one message sends at most: one run of datagrams of one length (GSO), as long as a datagram of the kernel's may be.
const RUN: usize = 64;
const RUN_BYTES: usize = 65_000;
/// `SOL_UDP`, at which the two options are.
const SOL_UDP: libc::c_int = libc::IPPROTO_UDP;

/// Room for one control message, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Has the kernel collect datagrams of one sender and one length before it hands them over; tells whether it does.
pub(crate) fn collect_datagrams(socket: &impl AsRawFd) -> bool {
    let on: libc::c_int = 1;
    let pointer: *const libc::c_int = &on;
    // SAFETY: the option's value is a c_int that lives through the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), SOL_UDP, libc::UDP_GRO, pointer.cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    result == 0
}

/// Buffers to receive a batch of datagrams into.
#[derive(Debug)]
pub(crate) struct Receiver {
    bytes: Vec<u8>,
}

impl Receiver {
    /// Makes room for a batch.
    pub(crate) fn new() -> Receiver {
        Receiver { bytes: vec![0; COLLECTION * RECEIVED] }
    }

    /// Receives what is there, up to a batch; returns how many were too long and are lost.
    pub(crate) fn receive(&mut self, socket: RawFd, into: &mut Datagrams) -> io::Result<u64> {
        let mut addresses = std::array::from_fn::<_, RECEIVED, _>(|_| SockAddrStorage::zeroed());
        let mut controls = [Control([0; 64]); RECEIVED];
        let mut slots: [libc::iovec; RECEIVED] = std::array::from_fn(|at| libc::iovec {
            iov_base: self.bytes[at * COLLECTION..].as_mut_ptr().cast(),
            iov_len: COLLECTION,
        });
        // SAFETY: an all-zero message header is a valid one, without address, data or control.
        let mut headers: [libc::mmsghdr; RECEIVED] = unsafe { zeroed() };
        for (((header, slot), address), control) in headers.iter_mut().zip(&mut slots).zip(&mut addresses).zip(&mut controls) {
            header.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = size_of::<SockAddrStorage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = slot;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = std::ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: every header points to an address, a control buffer and one slot that live through the call, each slot
        // `COLLECTION` bytes of `self.bytes` that no other slot covers.
        let received = unsafe {
            libc::recvmmsg(socket, headers.as_mut_ptr(), RECEIVED as libc::c_uint, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
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
            let bytes = &self.bytes[at * COLLECTION..][..header.msg_len as usize];
            let Some(address) = address.as_socket() else { continue };
            match collected(&header.msg_hdr) {
                Some(len) if len > 0 => bytes.chunks(len).for_each(|datagram| into.push(address, datagram)),
                _ => into.push(address, bytes),
            }
        }
        Ok(truncated)
    }
}

/// Returns the length of the datagrams that a received message is made of, where it is several.
fn collected(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the header is as the kernel filled it in, and its control buffer lives.
    let message = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    if (message.cmsg_level, message.cmsg_type) != (SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: this message's data is a c_int.
    let len = unsafe { libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned() };
    usize::try_from(len).ok()
}

/// Sends datagrams, as many as the kernel takes; returns how many it did not. With `in_runs` datagrams of one length to one
/// address that follow each other go as one message, until the kernel refuses that and sets it to `false`.
pub(crate) fn send<'a>(socket: RawFd, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>, in_runs: &mut bool) -> u64 {
    let mut datagrams = datagrams.peekable();
    let mut lost = 0;
    // SAFETY: all-zero slots are valid ones, without data.
    let mut slots: [libc::iovec; BATCH] = unsafe { zeroed() };
    while datagrams.peek().is_some() {
        let mut addresses = [const { None::<SockAddr> }; BATCH];
        let mut controls = [Control([0; 64]); BATCH];
        // SAFETY: all-zero headers are valid ones, without address and data.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let (mut count, mut used) = (0, 0);
        while used < BATCH
            && let Some((address, first)) = datagrams.next()
        {
            let (begin, mut bytes) = (used, first.len());
            slots[used] = slot(first);
            used += 1;
            let mut last = first.len();
            while *in_runs
                && used < BATCH
                && used - begin < RUN
                && last == first.len()
                && let Some((_, next)) = datagrams.next_if(|(to, next)| {
                    *to == address && next.len() <= first.len() && !next.is_empty() && bytes + next.len() <= RUN_BYTES
                })
            {
                slots[used] = slot(next);
                (used, bytes, last) = (used + 1, bytes + next.len(), next.len());
            }
            let header = &mut headers[count].msg_hdr;
            let address = addresses[count].insert(SockAddr::from(address));
            header.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_namelen = address.len();
            header.msg_iov = &raw mut slots[begin];
            header.msg_iovlen = (used - begin) as _;
            if used - begin > 1 {
                ask_for_run(header, &mut controls[count], first.len() as u16);
            }
            count += 1;
        }
        let mut done = 0;
        while done < count {
            // SAFETY: the headers from `done` to `count` point to addresses, controls, slots and datagrams that live through the
            // call; the kernel only reads what the slots point to.
            let sent = unsafe {
                libc::sendmmsg(socket, headers[done..].as_mut_ptr(), (count - done) as libc::c_uint, libc::MSG_DONTWAIT as _)
            };
            if let Ok(sent) = usize::try_from(sent) {
                done += sent;
                continue;
            }
            // The error is the first message's: it is given up, and the others get their turn. A run is tried piece by piece:
            // the path may be narrower than its datagrams, or the device may know nothing of runs.
            let (failed, error) = (&headers[done].msg_hdr, io::Error::last_os_error());
            if failed.msg_iovlen > 1 && error.kind() != io::ErrorKind::WouldBlock {
                *in_runs &= error.raw_os_error() != Some(libc::EIO);
                lost += send_pieces(socket, failed);
            } else {
                lost += failed.msg_iovlen as u64;
            }
            done += 1;
        }
    }
    lost
}

fn slot(datagram: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() }
}

/// Has a message sent as a run of datagrams of `len` bytes, the last of which may be shorter.
fn ask_for_run(header: &mut libc::msghdr, control: &mut Control, len: u16) {
    header.msg_control = std::ptr::from_mut(control).cast();
    // SAFETY: the sizes are computed, nothing is read.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<u16>() as libc::c_uint) } as _;
    // SAFETY: the control buffer is zeroed, aligned, and has room for one message with a u16.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as libc::c_uint) as _;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(len);
    }
}

/// Sends the slots of a message one by one; returns how many the kernel did not take.
fn send_pieces(socket: RawFd, message: &libc::msghdr) -> u64 {
    let mut lost = 0;
    for at in 0..message.msg_iovlen {
        let mut piece = *message;
        (piece.msg_iovlen, piece.msg_control, piece.msg_controllen) = (1, std::ptr::null_mut(), 0);
        // SAFETY: the message has that many slots; they and its address live through the call.
        let sent = unsafe {
            piece.msg_iov = message.msg_iov.add(at);
            libc::sendmsg(socket, &raw const piece, libc::MSG_DONTWAIT)
        };
        lost += u64::from(sent < 0);
    }
    lost
}
