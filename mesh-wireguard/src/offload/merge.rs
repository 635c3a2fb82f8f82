//! From packets as they travelled to super-packets for the kernel: TCP segments of one flow that follow each other.

use std::io::IoSlice;

use super::checksum::{fold, pseudo_header, set_ipv4, sum};
use super::{HEADER_LEN, Header, Packets, Segments, long, set_word, word};

/// The longest headers that are merged: IPv6 and TCP with all its options.
const MOST_HEADERS: usize = 40 + 60;
/// How many flows may be open at once in a batch: one beyond them closes the first.
const OPEN: usize = 16;
/// The longest super-packet: what an IP header can say.
const LONGEST: usize = 65_535;
/// The most pieces of one: with the headers as many as one call takes, and the kernel's own limit for TCP is no larger.
const MOST_PIECES: usize = 64;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Merges batches; its lists are used again.
///
/// Packets of a flow keep their order, and nothing is held back for a later batch. What is merged is equal in everything but its
/// place in the stream and the `PSH` of the last one, and its checksums are right: a wrong one must not become a right one.
#[derive(Debug, Default)]
pub struct Merger {
    runs: Vec<Run>,
    /// For each packet of the batch the one that follows it in its run.
    next: Vec<Option<u32>>,
    open: Vec<usize>,
}

/// Packets that go to the kernel as one.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    last: u32,
    pieces: usize,
    /// The length of the super-packet.
    len: usize,
    /// What the next segment's sequence number must be.
    sequence: u32,
    shape: Option<Shape>,
    has_push: bool,
}

/// Where things are in a segment that may be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    transport: usize,
    /// Where the data begins.
    data: usize,
    /// How much data the first segment has, and all but the last.
    segment: usize,
}

impl Merger {
    /// Makes an empty one.
    pub fn new() -> Merger {
        Merger::default()
    }

    /// Calls `write` with the slices of every packet or super-packet of a batch, a header first.
    pub fn merge(&mut self, packets: &Packets, mut write: impl FnMut(&[IoSlice<'_>])) {
        self.find_runs(packets);
        for run in &self.runs {
            let first = packets.get(run.first as usize);
            let (Some(shape), 2..) = (run.shape, run.pieces) else {
                write(&[IoSlice::new(&[0; HEADER_LEN]), IoSlice::new(first)]);
                continue;
            };
            let mut headers = [0; HEADER_LEN + MOST_HEADERS];
            let headers = super_headers(&mut headers, first, shape, run);
            let mut slices = [IoSlice::new(&[]); MOST_PIECES + 1];
            slices[0] = IoSlice::new(headers);
            let mut at = Some(run.first);
            let mut count = 1;
            while let Some(number) = at {
                slices[count] = IoSlice::new(&packets.get(number as usize)[shape.data..]);
                (at, count) = (self.next[number as usize], count + 1);
            }
            write(&slices[..count]);
        }
    }

    fn find_runs(&mut self, packets: &Packets) {
        self.runs.clear();
        self.open.clear();
        self.next.clear();
        self.next.resize(packets.len(), None);
        for (number, packet) in (0..).zip(packets.iter()) {
            let shape = shape(packet);
            let same_flow = |run: &usize| {
                self.runs[*run].shape.is_some() && is_same_flow(packets.get(self.runs[*run].first as usize), packet)
            };
            if let Some(place) = self.open.iter().position(same_flow) {
                let run = &mut self.runs[self.open[place]];
                let first = packets.get(run.first as usize);
                if let Some(shape) = shape.filter(|shape| run.takes(first, packet, shape)) {
                    self.next[run.last as usize] = Some(number);
                    run.add(number, packet, &shape);
                    continue;
                }
                // What follows must not overtake: the run is over, whether or not this packet begins another.
                self.open.remove(place);
            }
            let run = Run {
                first: number,
                last: number,
                pieces: 1,
                len: packet.len(),
                sequence: shape.map_or(0, |shape| long(packet, shape.transport + 4).wrapping_add(shape.segment as u32)),
                shape,
                has_push: shape.is_some_and(|shape| packet[shape.transport + 13] & PSH != 0),
            };
            if run.shape.is_some() && !run.has_push {
                if self.open.len() == OPEN {
                    self.open.remove(0);
                }
                self.open.push(self.runs.len());
            }
            self.runs.push(run);
        }
    }
}

impl Run {
    /// Tells whether `packet`, of the same flow, is the segment that comes next.
    fn takes(&self, first: &[u8], packet: &[u8], shape: &Shape) -> bool {
        let Some(own) = self.shape else { return false };
        let data = packet.len() - shape.data;
        let is_full = self.len == own.data + own.segment * self.pieces;
        !self.has_push
            && is_full
            && self.pieces < MOST_PIECES
            && (own.transport, own.data) == (shape.transport, shape.data)
            && data <= own.segment
            && self.len + data <= LONGEST
            && long(packet, shape.transport + 4) == self.sequence
            && is_alike(first, packet, &own)
            && (self.pieces > 1 || has_checksum(first, &own))
            && has_checksum(packet, shape)
    }

    fn add(&mut self, number: u32, packet: &[u8], shape: &Shape) {
        let data = packet.len() - shape.data;
        self.last = number;
        self.pieces += 1;
        self.len += data;
        self.sequence = self.sequence.wrapping_add(data as u32);
        self.has_push = packet[shape.transport + 13] & PSH != 0;
    }
}

/// Returns where things are in a TCP segment with data and nothing special about it; `None` for everything else.
fn shape(packet: &[u8]) -> Option<Shape> {
    let transport = match packet.first()? {
        // No options, and no part of a fragmented packet.
        0x45 if packet.len() >= 40
            && packet[9] == 6
            && word(packet, 6) & 0x3fff == 0
            && usize::from(word(packet, 2)) == packet.len() =>
        {
            20
        }
        version
            if version >> 4 == 6 && packet.len() >= 60 && packet[6] == 6 && usize::from(word(packet, 4)) + 40 == packet.len() =>
        {
            40
        }
        _ => return None,
    };
    let data = transport + usize::from(packet[transport + 12] >> 4) * 4;
    let is_plain = packet[transport + 12] & 15 == 0 && packet[transport + 13] & !PSH == ACK;
    (data >= transport + 20 && data < packet.len() && is_plain).then(|| Shape { transport, data, segment: packet.len() - data })
}

/// Tells whether two packets have the same addresses, protocol and ports, of which the first is one that may be merged.
fn is_same_flow(first: &[u8], packet: &[u8]) -> bool {
    match first[0] >> 4 {
        4 => packet.len() >= 24 && packet[0] == 0x45 && packet[9] == 6 && packet[12..24] == first[12..24],
        _ => packet.len() >= 44 && packet[0] >> 4 == 6 && packet[6] == 6 && packet[8..44] == first[8..44],
    }
}

/// Tells whether two segments of a flow differ in nothing but lengths, identification, checksums, sequence number and `PSH`.
fn is_alike(first: &[u8], packet: &[u8], shape: &Shape) -> bool {
    let ip = match first[0] >> 4 {
        4 => first[..2] == packet[..2] && first[6..9] == packet[6..9],
        _ => first[..4] == packet[..4] && first[7] == packet[7],
    };
    let transport = shape.transport;
    let (own, other) = (&first[transport..shape.data], &packet[transport..shape.data]);
    ip && own[8..13] == other[8..13] && own[14..16] == other[14..16] && own[18..] == other[18..]
}

fn has_checksum(packet: &[u8], shape: &Shape) -> bool {
    let transport = &packet[shape.transport..];
    let header_is_right = packet[0] >> 4 != 4 || fold(sum(&packet[..shape.transport])) == 0xffff;
    header_is_right && fold(pseudo_header(packet, 6, transport.len()) + sum(transport)) == 0xffff
}

/// Writes the headers of the super-packet, with the one for the device in front.
fn super_headers<'a>(room: &'a mut [u8; HEADER_LEN + MOST_HEADERS], first: &[u8], shape: Shape, run: &Run) -> &'a [u8] {
    let is_v4 = first[0] >> 4 == 4;
    let header = Header {
        checksum: Some((shape.transport as u16, 16)),
        segments: if is_v4 { Segments::TcpV4 } else { Segments::TcpV6 },
        ecn: false,
        header_len: shape.data as u16,
        segment_len: shape.segment as u16,
    };
    room[..HEADER_LEN].copy_from_slice(&header.write());
    let headers = &mut room[HEADER_LEN..][..shape.data];
    headers.copy_from_slice(&first[..shape.data]);
    if is_v4 {
        set_word(headers, 2, run.len as u16);
        set_ipv4(headers, shape.transport);
    } else {
        set_word(headers, 4, (run.len - 40) as u16);
    }
    if run.has_push {
        headers[shape.transport + 13] |= PSH;
    }
    let partial = fold(pseudo_header(headers, 6, run.len - shape.transport));
    set_word(headers, shape.transport + 16, partial);
    &room[..HEADER_LEN + shape.data]
}
