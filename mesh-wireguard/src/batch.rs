//! Batches of packets in one reused buffer each: no allocation once the buffers have grown to their size.

use std::net::SocketAddr;

use crate::ecn;

/// A batch of packets.
#[derive(Debug, Default)]
pub struct Packets {
    /// As long as it ever was, so that no byte is cleared again; `used` says how much of it is this batch's.
    bytes: Vec<u8>,
    used: usize,
    /// Where each packet ends; it begins where the one before ends.
    ends: Vec<usize>,
}

impl Packets {
    /// Makes an empty batch.
    pub fn new() -> Packets {
        Packets::default()
    }

    /// Forgets the packets and keeps the room.
    pub fn clear(&mut self) {
        self.used = 0;
        self.ends.clear();
    }

    /// Returns the number of packets.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the packets in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.bytes[std::mem::replace(&mut start, *end)..*end])
    }

    /// Returns the packet at a place.
    ///
    /// # Panics
    /// Where there is none.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }

    /// Adds a copy of `packet`.
    pub fn push(&mut self, packet: &[u8]) {
        self.spare(packet.len())[..packet.len()].copy_from_slice(packet);
        self.commit(packet.len());
    }

    /// Returns at least `room` bytes after the last packet, to write the next one into; [`commit`](Packets::commit) adds it.
    pub fn spare(&mut self, room: usize) -> &mut [u8] {
        if self.bytes.len() < self.used + room {
            self.bytes.resize((self.used + room).next_power_of_two(), 0);
        }
        &mut self.bytes[self.used..]
    }

    /// Adds the first `len` bytes of what [`spare`](Packets::spare) returned as a packet.
    pub fn commit(&mut self, len: usize) {
        self.used += len;
        assert!(self.used <= self.bytes.len(), "a packet is committed inside the spare room");
        self.ends.push(self.used);
    }
}

/// A batch of datagrams: packets, each with the address that it comes from or goes to.
#[derive(Debug, Default)]
pub struct Datagrams {
    packets: Packets,
    addresses: Vec<SocketAddr>,
    marks: Vec<u8>,
}

impl Datagrams {
    /// Makes an empty batch.
    pub fn new() -> Datagrams {
        Datagrams::default()
    }

    /// Forgets the datagrams and keeps the room.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.addresses.clear();
        self.marks.clear();
    }

    /// Returns the number of datagrams.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Returns the datagrams in order.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.addresses.iter().copied().zip(self.packets.iter())
    }

    /// Returns the datagrams in order, each with the two bits of its ECN field.
    pub fn iter_marked(&self) -> impl Iterator<Item = (SocketAddr, u8, &[u8])> {
        self.iter().zip(&self.marks).map(|((address, datagram), mark)| (address, *mark, datagram))
    }

    /// Adds a copy of `datagram`.
    pub fn push(&mut self, address: SocketAddr, datagram: &[u8]) {
        self.packets.push(datagram);
        self.addresses.push(address);
        self.marks.push(0);
    }

    /// Gives the last datagram its ECN field; without that it is Not-ECT.
    pub fn mark(&mut self, ecn: u8) {
        if let Some(mark) = self.marks.last_mut() {
            *mark = ecn & ecn::MASK;
        }
    }

    /// Returns room for the next datagram, as [`Packets::spare`].
    pub fn spare(&mut self, room: usize) -> &mut [u8] {
        self.packets.spare(room)
    }

    /// Adds what was written into the spare room, as [`Packets::commit`].
    pub fn commit(&mut self, address: SocketAddr, len: usize) {
        self.packets.commit(len);
        self.addresses.push(address);
        self.marks.push(0);
    }
}

/// What an engine gives to the world.
#[derive(Debug, Default)]
pub struct Output {
    /// Datagrams for peers.
    pub datagrams: Datagrams,
    /// Packets for the TUN.
    pub packets: Packets,
}

impl Output {
    /// Makes an empty output.
    pub fn new() -> Output {
        Output::default()
    }

    /// Forgets everything and keeps the room.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.packets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_batch_is_empty_and_a_refused_packet_leaves_no_trace() {
        let mut batch = Packets::new();
        batch.push(b"one");
        batch.push(b"");
        batch.spare(100)[..4].copy_from_slice(b"lost");
        batch.push(b"three");
        assert_eq!(batch.iter().collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        batch.clear();
        assert!(batch.is_empty() && batch.iter().next().is_none());
        batch.push(b"x");
        assert_eq!((batch.len(), batch.iter().next()), (1, Some(&b"x"[..])));
    }
}
