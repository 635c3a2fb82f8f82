//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use std::net::IpAddr;

use super::{Malformed, u16_at, u32_at, v4_at, v6_at};

/// How many extension headers a packet may have: real ones have two at most, and walking them must have an end.
const MAX_EXTENSION_HEADERS: usize = 8;

const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What is read of the IP header and its extensions.
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// The protocol of the payload.
    pub(super) protocol: u8,
    /// Where the payload begins.
    pub(super) payload: usize,
    /// Where the packet ends: inside the bytes, unless it is a quoted one.
    pub(super) end: usize,
    /// `None` for a whole packet.
    pub(super) fragment: Option<FragmentHeader>,
}

#[derive(Clone, Copy)]
pub(super) struct FragmentHeader {
    pub(super) id: u32,
    /// In units of eight bytes.
    pub(super) offset: u16,
}

/// Whether the bytes must hold the whole packet.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Length {
    Exact,
    Quoted,
}

pub(super) fn parse(bytes: &[u8], length: Length) -> Result<Header, Malformed> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes, length),
        Some(6) => parse_v6(bytes, length),
        _ => Err(Malformed),
    }
}

fn parse_v4(bytes: &[u8], length: Length) -> Result<Header, Malformed> {
    let read = || {
        let header_len = usize::from(bytes.first()? & 0x0f) * 4;
        let total = usize::from(u16_at(bytes, 2)?);
        let fits = header_len >= 20 && header_len <= total && bytes.len() >= header_len;
        if !fits || (length == Length::Exact && bytes.len() < total) {
            return None;
        }
        if has_source_route(bytes.get(20..header_len)?) {
            return None;
        }
        let fragment = u16_at(bytes, 6)?;
        let (more, offset) = (fragment & 0x2000 != 0, fragment & 0x1fff);
        let id = u32::from(u16_at(bytes, 4)?);
        Some(Header {
            source: v4_at(bytes, 12)?,
            destination: v4_at(bytes, 16)?,
            protocol: *bytes.get(9)?,
            payload: header_len,
            end: total,
            fragment: (more || offset != 0).then_some(FragmentHeader { id, offset }),
        })
    };
    read().ok_or(Malformed)
}

/// Tells whether the options of an IPv4 header name stations on the way: then the packet is for another than its destination.
fn has_source_route(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        options = match *kind {
            0 => return false,
            1 => rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return true,
            _ => match options.get(1).and_then(|len| options.get(usize::from(*len).max(2)..)) {
                Some(after) => after,
                None => return false,
            },
        };
    }
    false
}

fn parse_v6(bytes: &[u8], length: Length) -> Result<Header, Malformed> {
    let read = || {
        let end = 40 + usize::from(u16_at(bytes, 4)?);
        if bytes.len() < 40 || (length == Length::Exact && bytes.len() < end) {
            return None;
        }
        let limit = end.min(bytes.len());
        let mut next = *bytes.get(6)?;
        let mut at = 40;
        let mut fragment = None;
        for _ in 0..=MAX_EXTENSION_HEADERS {
            match next {
                // Segments are left: the packet is for another than its destination, and policy would be led astray (RFC 5095).
                ROUTING if bytes.get(at + 3) != Some(&0) => return None,
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    next = *bytes.get(at)?;
                    at += 8 * (usize::from(*bytes.get(at + 1)?) + 1);
                }
                FRAGMENT if fragment.is_none() => {
                    next = *bytes.get(at)?;
                    let word = u16_at(bytes, at + 2)?;
                    let (offset, more) = (word >> 3, word & 1 != 0);
                    // An atomic fragment (RFC 6946) is a whole packet.
                    fragment = Some((offset != 0 || more).then_some(FragmentHeader { id: u32_at(bytes, at + 4)?, offset }));
                    at += 8;
                    if offset != 0 {
                        return header_v6(bytes, next, at.min(limit), end, fragment.flatten());
                    }
                }
                FRAGMENT => return None,
                _ if at > limit => return None,
                _ => return header_v6(bytes, next, at, end, fragment.flatten()),
            }
            if at > limit {
                return None;
            }
        }
        None
    };
    read().ok_or(Malformed)
}

fn header_v6(bytes: &[u8], protocol: u8, payload: usize, end: usize, fragment: Option<FragmentHeader>) -> Option<Header> {
    Some(Header { source: v6_at(bytes, 8)?, destination: v6_at(bytes, 24)?, protocol, payload, end, fragment })
}
