//! Blocking netlink: requests with an acknowledgement, dumps, and raw transactions.
//!
//! A socket belongs to the network namespace of the thread that opens it, whatever thread uses it later.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

pub(crate) mod attributes;
pub(crate) mod route;
pub(crate) mod wireguard;

/// Why the kernel did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("{what}: the kernel's answer is malformed: {detail}")]
    Malformed {
        /// What was asked for.
        what: String,
        /// What about it.
        detail: String,
    },
}

impl NetlinkError {
    /// Returns the kernel's error number, where it answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Socket(source) | NetlinkError::Refused { source, .. } => source.raw_os_error(),
            NetlinkError::Malformed { .. } => None,
        }
    }
}

/// Returns success also where the kernel said that it is so already (`errno` is its way to say it).
pub(crate) fn tolerate(result: Result<(), NetlinkError>, errno: &[i32]) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|number| errno.contains(&number)) => Ok(()),
        other => other,
    }
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    refused: Option<u32>,
}

impl Netlink {
    /// Opens a socket of `protocol` in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Netlink, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(NetlinkError::Socket)?;
        socket.bind_auto().map_err(NetlinkError::Socket)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Socket)?;
        Ok(Netlink { socket, sequence: 0, refused: None })
    }

    /// Asks for something and waits for the kernel's word that it is done; `what` is for the error.
    pub(crate) fn request<M>(&mut self, what: impl Fn() -> String, message: M, flags: u16) -> Result<(), NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.exchange(what, message, flags | NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Asks for everything of a kind.
    pub(crate) fn dump<M>(&mut self, what: impl Fn() -> String, message: M) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.exchange(what, message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn exchange<M>(&mut self, what: impl Fn() -> String, message: M, flags: u16) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (flags, self.sequence);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(NetlinkError::Socket)?;

        let malformed = |detail: String| NetlinkError::Malformed { what: what(), detail };
        let mut answers = Vec::new();
        loop {
            let (received, _) = self.socket.recv_from_full().map_err(NetlinkError::Socket)?;
            let mut rest = &received[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<M>::deserialize(rest).map_err(|error| malformed(error.to_string()))?;
                let len = (answer.header.length as usize).next_multiple_of(4).clamp(16, rest.len());
                rest = &rest[len..];
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(NetlinkError::Refused { what: what(), source: error.to_io() }),
                    _ => {}
                }
            }
        }
    }

    /// Sends a prepared datagram of messages, of which the one numbered `last` asks for an acknowledgement or a dump, and waits for
    /// the end of that; returns the messages that came, without their headers, or the first error.
    pub(crate) fn transact(&mut self, what: &str, bytes: &[u8], last: u32) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.socket.send(bytes, 0).map_err(NetlinkError::Socket)?;
        let mut answers = Vec::new();
        let mut failure = None;
        self.refused = None;
        loop {
            let (received, _) = self.socket.recv_from_full().map_err(NetlinkError::Socket)?;
            let mut rest = &received[..];
            while let Some((kind, sequence, message)) = attributes::next_message(&mut rest) {
                if kind == libc::NLMSG_DONE as u16 {
                    return Ok(answers);
                }
                if kind != libc::NLMSG_ERROR as u16 {
                    answers.push(message.to_vec());
                    continue;
                }
                let errno = attributes::errno(message);
                if errno != 0 && failure.is_none() {
                    failure = Some(io::Error::from_raw_os_error(errno));
                    self.refused = Some(sequence);
                }
                // The kernel refuses a whole batch (sequence 0 here) before it looks at the messages, or answers the last one.
                if sequence == last || (sequence == 0 && errno != 0) {
                    return match failure {
                        Some(source) => Err(NetlinkError::Refused { what: what.into(), source }),
                        None => Ok(answers),
                    };
                }
            }
        }
    }

    /// Returns the number of the first message that was refused of the last transaction.
    pub(crate) fn refused(&self) -> Option<u32> {
        self.refused
    }

    /// Makes room for a datagram of `len` bytes.
    pub(crate) fn reserve(&self, len: usize) {
        crate::sys::force_send_buffer(&self.socket, len);
    }
}
