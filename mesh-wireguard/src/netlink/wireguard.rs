//! Kernel WireGuard over generic netlink: a device's key and port, its peers, and which prefix is whose.
//!
//! A prefix has one owner in the kernel, so it has one here. To take it from its owner, it is given to a peer that nobody holds
//! the key of, which is removed by the same message: kernels before 6.16 know no other way that leaves the owner's other
//! prefixes alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use mesh_core::{Prefix, WallTime, WireGuardKey};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, Nla};
use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd, WireguardMessage,
    WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::{Netlink, NetlinkError};
use crate::NodeKey;

/// The kind of a WireGuard link.
pub(crate) const KIND: &str = "wireguard";

/// The longest list of peers in one message: a page, with the headers. The kernel's own answers are as long.
const MAX_PEERS_LEN: usize = 3900;
/// The most prefixes of a peer in one message: 2.5 KiB of IPv6.
const MAX_ALLOWED: usize = 64;

/// A key that nobody holds: the owner of prefixes that are about to have none.
const NOBODY: WireGuardKey = WireGuardKey(*b"landbridge: nobody has this key.");

/// A device, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// The public half of its key, once it has one.
    pub(crate) key: Option<WireGuardKey>,
    pub(crate) port: u16,
    /// The mark of its datagrams; zero for none.
    pub(crate) mark: u32,
    pub(crate) peers: BTreeMap<WireGuardKey, PeerState>,
    /// Where a prefix is sent to and believed from.
    pub(crate) allowed: BTreeMap<Prefix, WireGuardKey>,
}

/// A peer, as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerState {
    /// Where it was heard last, or else was said to be.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Seconds; zero for none.
    pub(crate) keepalive: u16,
    pub(crate) last_handshake: Option<WallTime>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

/// What of a device is to be set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings<'a> {
    pub(crate) key: Option<&'a NodeKey>,
    pub(crate) port: Option<u16>,
    pub(crate) mark: Option<u32>,
}

/// A change of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerChange {
    pub(crate) key: WireGuardKey,
    pub(crate) verb: Verb,
    /// Set where it is some.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Set where it is some; a peer that gets its first one is called at once.
    pub(crate) keepalive: Option<u16>,
    /// Prefixes that become the peer's, whoever had them.
    pub(crate) allow: Vec<Prefix>,
}

/// What becomes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// It is made where it is not there; else it stays, with its session.
    Make,
    /// It is changed where it is there.
    Update,
    /// It goes, with its prefixes.
    Remove,
}

impl PeerChange {
    pub(crate) fn new(verb: Verb, key: WireGuardKey) -> PeerChange {
        PeerChange { key, verb, endpoint: None, keepalive: None, allow: Vec::new() }
    }

    /// Takes prefixes from whoever has them.
    pub(crate) fn evict(prefixes: Vec<Prefix>) -> [PeerChange; 2] {
        let nobody = PeerChange::new(Verb::Make, NOBODY);
        [PeerChange { allow: prefixes, ..nobody }, PeerChange::new(Verb::Remove, NOBODY)]
    }

    /// Returns changes that come to the same, each of which fits into a message.
    fn pieces(&self) -> Vec<PeerChange> {
        let mut chunks = self.allow.chunks(MAX_ALLOWED);
        let first = PeerChange { allow: chunks.next().unwrap_or_default().to_vec(), ..self.clone() };
        let rest = chunks.map(|chunk| PeerChange { allow: chunk.to_vec(), ..PeerChange::new(Verb::Update, self.key) });
        std::iter::once(first).chain(rest).collect()
    }

    fn message(&self) -> WireguardPeer {
        let mut attributes = vec![WireguardPeerAttribute::PublicKey(self.key.0)];
        match self.verb {
            Verb::Make => {}
            Verb::Update => attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly)),
            Verb::Remove => attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe)),
        }
        attributes.extend(self.endpoint.map(WireguardPeerAttribute::Endpoint));
        attributes.extend(self.keepalive.map(WireguardPeerAttribute::PersistentKeepalive));
        if !self.allow.is_empty() {
            attributes.push(WireguardPeerAttribute::AllowedIps(self.allow.iter().copied().map(allowed_ip).collect()));
        }
        WireguardPeer(attributes)
    }
}

impl Device {
    /// Notes a change that the kernel has made.
    pub(crate) fn note(&mut self, change: &PeerChange) {
        if change.verb == Verb::Remove {
            self.peers.remove(&change.key);
            self.allowed.retain(|_, owner| *owner != change.key);
            return;
        }
        if change.verb == Verb::Update && !self.peers.contains_key(&change.key) {
            return;
        }
        let peer = self.peers.entry(change.key).or_default();
        peer.endpoint = change.endpoint.or(peer.endpoint);
        peer.keepalive = change.keepalive.unwrap_or(peer.keepalive);
        self.allowed.extend(change.allow.iter().map(|prefix| (*prefix, change.key)));
    }

    /// Adds what a part of a dump says: a long list of peers comes in several, and a peer with many prefixes in several peers.
    fn read(&mut self, message: &WireguardMessage) {
        for attribute in &message.attributes {
            match attribute {
                WireguardAttribute::PublicKey(key) => self.key = Some(WireGuardKey(*key)),
                WireguardAttribute::ListenPort(port) => self.port = *port,
                WireguardAttribute::Fwmark(mark) => self.mark = *mark,
                WireguardAttribute::Peers(peers) => peers.iter().for_each(|peer| self.read_peer(peer)),
                _ => {}
            }
        }
    }

    fn read_peer(&mut self, peer: &WireguardPeer) {
        let key = peer.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::PublicKey(key) => Some(WireGuardKey(*key)),
            _ => None,
        });
        let Some(key) = key else { return };
        let state = self.peers.entry(key).or_default();
        for attribute in peer.iter() {
            match attribute {
                WireguardPeerAttribute::Endpoint(endpoint) => state.endpoint = Some(*endpoint),
                WireguardPeerAttribute::PersistentKeepalive(seconds) => state.keepalive = *seconds,
                WireguardPeerAttribute::LastHandshake(time) => {
                    let nanos = time.seconds.saturating_mul(1_000_000_000).saturating_add(time.nano_seconds);
                    state.last_handshake = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(WallTime::from_unix_nanos);
                }
                WireguardPeerAttribute::RxBytes(bytes) => state.rx_bytes = *bytes,
                WireguardPeerAttribute::TxBytes(bytes) => state.tx_bytes = *bytes,
                WireguardPeerAttribute::AllowedIps(allowed) => {
                    self.allowed.extend(allowed.iter().filter_map(read_allowed_ip).map(|prefix| (prefix, key)));
                }
                _ => {}
            }
        }
    }
}

/// The kernel's WireGuard, as one network namespace has it.
#[derive(Debug)]
pub(crate) struct WireGuard {
    netlink: Netlink,
    family: u16,
}

impl WireGuard {
    /// Opens the calling thread's network namespace; `None` where the kernel has no WireGuard. Asking loads the module, where
    /// there is one.
    pub(crate) fn open() -> Result<Option<WireGuard>, NetlinkError> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let ask = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(KIND.into())] };
        let what = || "look up the netlink family of WireGuard".into();
        let answers = match netlink.exchange(what, GenlMessage::from_payload(ask), NLM_F_REQUEST | NLM_F_ACK) {
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
            answers => answers?,
        };
        let family = answers.iter().flat_map(|answer| &answer.payload.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(family) => Some(*family),
            _ => None,
        });
        Ok(family.map(|family| WireGuard { netlink, family }))
    }

    /// Returns the device with this index; `None` where there is none, or one of another kind.
    pub(crate) fn device(&mut self, index: u32) -> Result<Option<Device>, NetlinkError> {
        let message = self.message(WireguardCmd::GetDevice, vec![WireguardAttribute::IfIndex(index)]);
        match self.netlink.dump(|| format!("read WireGuard device {index}"), message) {
            Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => Ok(None),
            answers => {
                let mut device = Device::default();
                answers?.iter().for_each(|answer| device.read(&answer.payload));
                Ok(Some(device))
            }
        }
    }

    /// Sets what is some; another key than before ends all sessions.
    pub(crate) fn set_device(&mut self, index: u32, settings: &Settings<'_>) -> Result<(), NetlinkError> {
        let mut attributes = vec![WireguardAttribute::IfIndex(index)];
        attributes.extend(settings.key.map(|key| WireguardAttribute::PrivateKey(key.secret().to_bytes())));
        attributes.extend(settings.port.map(WireguardAttribute::ListenPort));
        attributes.extend(settings.mark.map(WireguardAttribute::Fwmark));
        let message = self.message(WireguardCmd::SetDevice, attributes);
        self.netlink.request(|| format!("set up WireGuard device {index}"), message, 0)
    }

    /// Changes peers, in order; what does not fit into one message goes in several.
    pub(crate) fn change(&mut self, index: u32, changes: &[PeerChange]) -> Result<(), NetlinkError> {
        for peers in messages(changes) {
            let attributes = vec![WireguardAttribute::IfIndex(index), WireguardAttribute::Peers(peers)];
            let message = self.message(WireguardCmd::SetDevice, attributes);
            self.netlink.request(|| format!("set peers of WireGuard device {index}"), message, 0)?;
        }
        Ok(())
    }

    fn message(&self, cmd: WireguardCmd, attributes: Vec<WireguardAttribute>) -> GenlMessage<WireguardMessage> {
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.family);
        message
    }
}

/// Returns the lists of peers that changes are sent as.
fn messages(changes: &[PeerChange]) -> Vec<Vec<WireguardPeer>> {
    let mut messages: Vec<Vec<WireguardPeer>> = Vec::new();
    let mut room = 0;
    for peer in changes.iter().flat_map(PeerChange::pieces).map(|piece| piece.message()) {
        // With the header of the nested attribute.
        let len = peer.value_len() + 4;
        match messages.last_mut() {
            Some(last) if len <= room => last.push(peer),
            _ => {
                room = MAX_PEERS_LEN;
                messages.push(vec![peer]);
            }
        }
        room -= len.min(room);
    }
    messages
}

fn allowed_ip(prefix: Prefix) -> WireguardAllowedIp {
    let family = if prefix.is_ipv4() { WireguardAddressFamily::Ipv4 } else { WireguardAddressFamily::Ipv6 };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(prefix.address()),
        WireguardAllowedIpAttr::Cidr(prefix.len()),
    ])
}

fn read_allowed_ip(allowed: &WireguardAllowedIp) -> Option<Prefix> {
    let (mut address, mut len) = (None::<IpAddr>, None);
    for attribute in allowed.iter() {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some(*ip),
            WireguardAllowedIpAttr::Cidr(bits) => len = Some(*bits),
            _ => {}
        }
    }
    Prefix::new(address?, len?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> WireGuardKey {
        WireGuardKey([number; 32])
    }

    fn prefix(number: u16) -> Prefix {
        format!("fd00:{number:x}::/64").parse().unwrap()
    }

    fn change(number: u8, prefixes: u16) -> PeerChange {
        let endpoint = Some("[2001:db8::1]:51820".parse().unwrap());
        let allow = (0..prefixes).map(|at| prefix(at + 1000 * u16::from(number))).collect();
        PeerChange { endpoint, keepalive: Some(25), allow, ..PeerChange::new(Verb::Make, key(number)) }
    }

    /// What a kernel has that is sent these messages.
    fn after(messages: &[Vec<WireguardPeer>]) -> Device {
        let mut device = Device::default();
        for peers in messages {
            device.read(&WireguardMessage {
                cmd: WireguardCmd::SetDevice,
                attributes: vec![WireguardAttribute::Peers(peers.clone())],
            });
        }
        device
    }

    #[test]
    fn long_lists_are_split_and_nothing_is_lost() {
        let changes: Vec<PeerChange> = (0..60).map(|number| change(number, u16::from(number) * 5)).collect();
        let messages = messages(&changes);
        assert!(messages.len() > 60, "{} messages", messages.len());
        for peers in &messages {
            assert!(WireguardAttribute::Peers(peers.clone()).value_len() <= MAX_PEERS_LEN);
        }
        let mut expected = Device::default();
        changes.iter().for_each(|change| expected.note(change));
        assert_eq!((expected.peers.len(), expected.allowed.len()), (60, (0..60).sum::<usize>() * 5));
        assert_eq!(after(&messages), expected);
    }

    #[test]
    fn a_prefix_that_is_evicted_is_nobodys_and_its_neighbours_stay() {
        let mut device = Device::default();
        device.note(&change(1, 3));
        PeerChange::evict(vec![prefix(1001)]).iter().for_each(|change| device.note(change));
        assert_eq!(device.peers.len(), 1);
        assert_eq!(device.allowed, BTreeMap::from([(prefix(1000), key(1)), (prefix(1002), key(1))]));
    }

    #[test]
    fn an_update_makes_no_peer() {
        let mut device = Device::default();
        device.note(&PeerChange { allow: vec![prefix(1)], ..PeerChange::new(Verb::Update, key(1)) });
        assert_eq!(device, Device::default());
    }
}
