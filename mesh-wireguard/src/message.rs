//! The four messages of WireGuard, as far as they must be told apart before a key is known (whitepaper, section 5.4).

/// The length of a handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// The length of a handshake response.
pub const RESPONSE_LEN: usize = 92;
/// The length of a cookie reply.
pub const COOKIE_LEN: usize = 64;
/// What a data message has around its packet: 16 bytes of header and the 16 of the authentication tag.
pub const DATA_OVERHEAD: usize = 32;

/// A message by its kind, with the session that it says it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A peer begins a handshake; whose it is stands inside, encrypted.
    Initiation {
        /// The index that the peer chose, which its answer is for.
        sender: u32,
    },
    /// The answer to an initiation of the session `receiver`.
    Response {
        /// The index that this side chose.
        receiver: u32,
    },
    /// A busy peer asks for proof of the address.
    Cookie {
        /// The index that this side chose.
        receiver: u32,
    },
    /// A packet, or a keepalive.
    Data {
        /// The index that this side chose.
        receiver: u32,
    },
}

impl Message {
    /// Reads the kind; `None` for what is no WireGuard message.
    pub fn parse(datagram: &[u8]) -> Option<Message> {
        let word = |at: usize| Some(u32::from_le_bytes(datagram.get(at..at + 4)?.try_into().ok()?));
        // The first byte is the kind, the three after it are reserved and zero.
        match (word(0)?, datagram.len()) {
            (1, INITIATION_LEN) => Some(Message::Initiation { sender: word(4)? }),
            (2, RESPONSE_LEN) => Some(Message::Response { receiver: word(8)? }),
            (3, COOKIE_LEN) => Some(Message::Cookie { receiver: word(4)? }),
            (4, DATA_OVERHEAD..) => Some(Message::Data { receiver: word(4)? }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_need_their_exact_length_and_zero_reserved_bytes() {
        let message = |kind: u8, len: usize| [&[kind, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0][..], &vec![0; len - 12]].concat();
        assert_eq!(Message::parse(&message(1, 148)), Some(Message::Initiation { sender: 0x201 }));
        assert_eq!(Message::parse(&message(2, 92)), Some(Message::Response { receiver: 0x403 }));
        assert_eq!(Message::parse(&message(3, 64)), Some(Message::Cookie { receiver: 0x201 }));
        assert_eq!(Message::parse(&message(4, 32)), Some(Message::Data { receiver: 0x201 }));
        for (kind, len) in [(1, 147), (1, 149), (2, 93), (3, 63), (4, 31), (0, 148), (5, 148)] {
            assert_eq!(Message::parse(&message(kind, len)), None, "{kind} {len}");
        }
        assert_eq!(Message::parse(&[4, 0, 1, 0]), None);
        assert_eq!(Message::parse(&[]), None);
    }
}
