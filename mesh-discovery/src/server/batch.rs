//! Many datagrams with one call to the kernel, each reply from the address that its query was sent to.
#![allow(unsafe_code, reason = "the kernel reads and writes through pointers in its message headers")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;

/// How many datagrams are taken at most with one call: enough to make the call cheap, few enough to answer the first one soon.
pub(super) const BATCH: usize = 32;
/// How long a query may be. Queries with all the options that clients send are below 512 bytes, padded ones too (RFC 8467).
pub(super) const MAX_QUERY: usize = 4096;
/// Room for one packet information message of either family.
const CONTROL: usize = 64;

/// A client's address, and the own one that it sent to where the socket has several.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    /// The address of either family: that of IPv6 is the longer one.
    name: libc::sockaddr_in6,
    name_len: libc::socklen_t,
    control: Control,
    control_len: usize,
}

/// A buffer for control messages.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// The buffers of one worker, used again and again.
pub(super) struct Batch {
    queries: Box<[[u8; MAX_QUERY]]>,
    peers: Box<[Peer]>,
    /// Length and flags of each query.
    received: Vec<(usize, libc::c_int)>,
    /// The replies; an empty one is not sent.
    replies: Vec<Vec<u8>>,
}

impl Batch {
    pub(super) fn new() -> Batch {
        Batch {
            queries: vec![[0; MAX_QUERY]; BATCH].into(),
            peers: vec![Peer::empty(); BATCH].into(),
            received: Vec::with_capacity(BATCH),
            replies: (0..BATCH).map(|_| Vec::with_capacity(MAX_QUERY / 2)).collect(),
        }
    }

    /// Waits for a datagram and takes what is there; returns how many.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut iovecs = [NO_IOVEC; BATCH];
        let mut headers: [libc::mmsghdr; BATCH] = no_headers();
        let slots = self.queries.iter_mut().zip(self.peers.iter_mut());
        for ((iovec, header), (query, peer)) in iovecs.iter_mut().zip(&mut headers).zip(slots) {
            *iovec = libc::iovec { iov_base: query.as_mut_ptr().cast(), iov_len: query.len() };
            let header = &mut header.msg_hdr;
            header.msg_name = ptr::from_mut(&mut peer.name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_iov = iovec;
            header.msg_iovlen = 1;
            header.msg_control = peer.control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
        }
        // SAFETY: every header points to an own iovec, name, control and data buffer with its length, all of which live here
        // or in `self`, which is borrowed for the whole call; no timeout is given.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        self.received.clear();
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, peer) in headers[..count].iter().zip(self.peers.iter_mut()) {
            peer.name_len = header.msg_hdr.msg_namelen;
            peer.control_len = header.msg_hdr.msg_controllen as _;
            peer.answer_by_route();
            self.received.push((header.msg_len as usize, header.msg_hdr.msg_flags));
        }
        self.replies.iter_mut().take(count).for_each(Vec::clear);
        Ok(count)
    }

    /// Returns a datagram, who sent it and the buffer for its reply; `None` where it was too long for a query.
    pub(super) fn query(&mut self, index: usize) -> Option<(&[u8], &Peer, &mut Vec<u8>)> {
        let (len, flags) = *self.received.get(index)?;
        let whole = flags & libc::MSG_TRUNC == 0;
        whole.then(|| (&self.queries[index][..len.min(MAX_QUERY)], &self.peers[index], &mut self.replies[index]))
    }

    /// Sends the replies to the queries of the last [`Batch::receive`]; returns how many could not be sent.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> usize {
        let mut iovecs = [NO_IOVEC; BATCH];
        let mut headers: [libc::mmsghdr; BATCH] = no_headers();
        let mut count = 0;
        for (reply, peer) in self.replies.iter_mut().zip(self.peers.iter_mut()).take(self.received.len()) {
            if !reply.is_empty() {
                iovecs[count] = libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
                fill(&mut headers[count].msg_hdr, &mut iovecs[count], peer);
                count += 1;
            }
        }
        let (mut sent, mut unsent) = (0, 0);
        while sent + unsent < count {
            let rest = &mut headers[sent + unsent..count];
            // SAFETY: every header points to an own iovec, name, control and data buffer with its length, all of which live
            // here or in `self`, which is borrowed for the whole call; the kernel only reads them.
            // Without waiting: queries must not pile up behind a neighbour that does not answer ARP.
            let done = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, libc::MSG_DONTWAIT as _)
            };
            match usize::try_from(done) {
                Ok(done @ 1..) => sent += done,
                // The first one of the rest cannot be sent.
                Ok(0) | Err(_) => unsent += 1,
            }
        }
        unsent
    }
}

impl Peer {
    fn empty() -> Peer {
        // SAFETY: a socket address is plain numbers, for which zero is a value.
        let name = unsafe { mem::zeroed() };
        Peer { name, name_len: 0, control: Control([0; CONTROL]), control_len: 0 }
    }

    /// Sends one message to this client.
    pub(super) fn send(&self, socket: &UdpSocket, message: &[u8]) -> io::Result<()> {
        let (mut peer, mut iovec) = (*self, libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() });
        let mut header = no_headers::<1>()[0].msg_hdr;
        fill(&mut header, &mut iovec, &mut peer);
        // SAFETY: the header points to `iovec`, `peer` and `message`, which live until the call returns; the kernel only reads.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Makes the packet information that came say only which address the reply comes from: the way back is for the routes to
    /// tell, unless the address means something on one link alone.
    fn answer_by_route(&mut self) {
        let header_len = size_of::<libc::cmsghdr>();
        let len = self.control_len.min(CONTROL);
        if len < header_len {
            self.control_len = 0;
            return;
        }
        let bytes = &mut self.control.0;
        let number = |at: usize| libc::c_int::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        // The length is followed by level and type, both an int; the data by alignment right behind.
        let level_at = mem::offset_of!(libc::cmsghdr, cmsg_level);
        let index_at = match (number(level_at), number(level_at + 4)) {
            // The interface is the first field of in_pktinfo, and the last of in6_pktinfo.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => header_len,
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if bytes[header_len] == 0xfe && bytes[header_len + 1] & 0xc0 == 0x80 => {
                return;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => header_len + 16,
            _ => {
                self.control_len = 0;
                return;
            }
        };
        bytes[index_at..index_at + 4].fill(0);
    }
}

/// Points `header` at a message for `peer`.
fn fill(header: &mut libc::msghdr, iovec: &mut libc::iovec, peer: &mut Peer) {
    header.msg_name = ptr::from_mut(&mut peer.name).cast();
    header.msg_namelen = peer.name_len;
    header.msg_iov = iovec;
    header.msg_iovlen = 1;
    if peer.control_len > 0 {
        header.msg_control = peer.control.0.as_mut_ptr().cast();
        header.msg_controllen = peer.control_len as _;
    }
}

const NO_IOVEC: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

fn no_headers<const N: usize>() -> [libc::mmsghdr; N] {
    // SAFETY: a message header is numbers and pointers, for which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}
