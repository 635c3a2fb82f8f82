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

/// Sets an option that is a number.
fn set_option(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let pointer: *const libc::c_int = &value;
    // SAFETY: the option's value is a c_int that lives through the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer.cast(), size_of::<libc::c_int>() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the send buffer of a socket beyond the system's limit, where that is permitted. A refusal leaves it as it was.
pub(crate) fn force_send_buffer(socket: &impl AsRawFd, len: usize) {
    let len = libc::c_int::try_from(len).unwrap_or(libc::c_int::MAX);
    let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, len);
}

/// Lets the kernel fragment the datagrams of a socket that are too long for the path, instead of refusing them.
pub(crate) fn allow_fragments(socket: &impl AsRawFd, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    }
}

/// Has the kernel tell the ECN field of what a socket receives.
pub(crate) fn tell_marks(socket: &impl AsRawFd, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
    }
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

/// Has the kernel collect datagrams of one sender and one length before it hands them over.
pub(crate) fn collect_datagrams(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, SOL_UDP, libc::UDP_GRO, 1)
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
            let told = told(&header.msg_hdr);
            // The kernel collects what has one mark only.
            for datagram in bytes.chunks(told.len.filter(|len| *len > 0).unwrap_or(COLLECTION)) {
                into.push(address, datagram);
                into.mark(told.mark);
            }
        }
        Ok(truncated)
    }
}

/// What the kernel tells of a received message.
#[derive(Default)]
struct Told {
    /// The length of the datagrams that it is made of, where it is several.
    len: Option<usize>,
    /// Its traffic class, of which the lower two bits are the ECN field.
    mark: u8,
}

fn told(header: &libc::msghdr) -> Told {
    let mut told = Told::default();
    // SAFETY: the header is as the kernel filled it in, and its control buffer lives.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: as above; what the kernel wrote ends with a null pointer.
    while let Some(message) = unsafe { next.as_ref() } {
        // SAFETY: the data of these messages is a c_int, but for the one that is a byte.
        unsafe {
            let data = libc::CMSG_DATA(message);
            let number = || data.cast::<libc::c_int>().read_unaligned();
            match (message.cmsg_level, message.cmsg_type) {
                (SOL_UDP, libc::UDP_GRO) => told.len = usize::try_from(number()).ok(),
                (libc::IPPROTO_IP, libc::IP_TOS) => told.mark = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => told.mark = number() as u8,
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, message);
        }
    }
    told
}

/// Sends datagrams, each with the ECN field that it is to have, as many as the kernel takes; returns how many it did not. With
/// `in_runs` datagrams of one length and field to one address that follow each other go as one message, until the kernel refuses
/// that and sets it to `false`.
pub(crate) fn send<'a>(socket: RawFd, datagrams: impl Iterator<Item = (SocketAddr, u8, &'a [u8])>, in_runs: &mut bool) -> u64 {
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
            && let Some((address, mark, first)) = datagrams.next()
        {
            let (begin, mut bytes) = (used, first.len());
            slots[used] = slot(first);
            used += 1;
            let mut last = first.len();
            while *in_runs
                && used < BATCH
                && used - begin < RUN
                && last == first.len()
                && let Some((.., next)) = datagrams.next_if(|(to, like, next)| {
                    (*to, *like) == (address, mark)
                        && next.len() <= first.len()
                        && !next.is_empty()
                        && bytes + next.len() <= RUN_BYTES
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
            let ipv4 = address.is_ipv4();
            let run = (used - begin > 1).then_some(first.len() as u16);
            ask_for(header, &mut controls[count], (mark != 0).then_some((ipv4, mark)), run);
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

/// Has a message sent with an ECN field, and as a run of datagrams of some length, the last of which may be shorter.
fn ask_for(header: &mut libc::msghdr, control: &mut Control, mark: Option<(bool, u8)>, run: Option<u16>) {
    let number = size_of::<libc::c_int>() as libc::c_uint;
    let length = size_of::<u16>() as libc::c_uint;
    // SAFETY: the sizes are computed, nothing is read.
    let [mark_space, run_space] = unsafe { [libc::CMSG_SPACE(number), libc::CMSG_SPACE(length)] };
    let space = mark.map_or(0, |_| mark_space) + run.map_or(0, |_| run_space);
    if space == 0 {
        return;
    }
    header.msg_control = std::ptr::from_mut(control).cast();
    header.msg_controllen = space as _;
    // SAFETY: the control buffer is zeroed, aligned, and has room for both messages.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        if let Some((ipv4, mark)) = mark {
            ((*message).cmsg_level, (*message).cmsg_type) =
                if ipv4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
            (*message).cmsg_len = libc::CMSG_LEN(number) as _;
            libc::CMSG_DATA(message).cast::<libc::c_int>().write_unaligned(mark.into());
            message = message.cast::<u8>().add(mark_space as usize).cast();
        }
        if let Some(len) = run {
            (*message).cmsg_level = SOL_UDP;
            (*message).cmsg_type = libc::UDP_SEGMENT;
            (*message).cmsg_len = libc::CMSG_LEN(length) as _;
            libc::CMSG_DATA(message).cast::<u16>().write_unaligned(len);
        }
    }
}

/// Sends the slots of a run one by one; returns how many the kernel did not take.
fn send_pieces(socket: RawFd, message: &libc::msghdr) -> u64 {
    let mut lost = 0;
    for at in 0..message.msg_iovlen {
        let mut piece = *message;
        piece.msg_iovlen = 1;
        // The run's own message is the last one.
        // SAFETY: the size is computed, nothing is read.
        piece.msg_controllen -= unsafe { libc::CMSG_SPACE(size_of::<u16>() as libc::c_uint) } as usize;
        // SAFETY: the message has that many slots; they and its address live through the call.
        let sent = unsafe {
            piece.msg_iov = message.msg_iov.add(at);
            libc::sendmsg(socket, &raw const piece, libc::MSG_DONTWAIT)
        };
        lost += u64::from(sent < 0);
    }
    lost
}
