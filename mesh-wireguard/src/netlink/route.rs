//! Links, addresses, routes and rules.

use std::net::IpAddr;

use mesh_core::Prefix;
use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Netlink, NetlinkError, tolerate};
use crate::PROTOCOL;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    /// What made it, `wireguard` or `tun`; empty for hardware.
    pub(crate) kind: String,
    pub(crate) is_up: bool,
    pub(crate) mtu: u32,
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) prefix: Prefix,
    pub(crate) metric: u32,
    pub(crate) to: Destination,
}

impl Route {
    /// Returns the route as what is to be deleted: whatever source it has.
    pub(crate) fn without_source(self) -> Route {
        let to = match self.to {
            Destination::Device { index, .. } => Destination::Device { index, source: None },
            to => to,
        };
        Route { to, ..self }
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Destination {
    /// Through a device; packets of the node itself get this source.
    Device { index: u32, source: Option<IpAddr> },
    /// Nowhere, silently.
    Blackhole,
    /// On to the next rule.
    Throw,
}

/// A rule of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) ipv4: bool,
    pub(crate) priority: u32,
    pub(crate) table: u32,
    /// Only for packets that came in by the device of this name; `lo` for the node's own.
    pub(crate) input: Option<String>,
    /// Only for packets to this prefix.
    pub(crate) to: Option<Prefix>,
    /// A default route of the table does not count.
    pub(crate) no_default: bool,
    /// The packet is dropped, and no table asked.
    pub(crate) blackhole: bool,
}

/// The kernel's routing, as one network namespace has it.
#[derive(Debug)]
pub(crate) struct Routing(Netlink);

impl Routing {
    /// Opens the calling thread's network namespace.
    pub(crate) fn open() -> Result<Routing, NetlinkError> {
        Netlink::open(NETLINK_ROUTE).map(Routing)
    }

    /// Returns the device `name`.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.0.exchange(|| format!("look up link {name}"), RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST | NLM_F_ACK)
        {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            answers => Ok(answers?.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(read_link(link)),
                _ => None,
            })),
        }
    }

    /// Makes a WireGuard device; it is down.
    pub(crate) fn add_wireguard(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]);
        link.attributes = vec![LinkAttribute::IfName(name.to_owned()), kind];
        let what = || format!("make WireGuard device {name}");
        self.0.request(what, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a device; one that is not there is no error.
    pub(crate) fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        tolerate(self.0.request(|| format!("delete link {index}"), RouteNetlinkMessage::DelLink(link), 0), &[libc::ENODEV])
    }

    /// Sets MTU, and where it has one the length of the queue, of a link and brings it up.
    pub(crate) fn bring_up(&mut self, index: u32, mtu: u32, queue: Option<u32>) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        link.attributes.extend(queue.map(LinkAttribute::TxQueueLen));
        self.0.request(|| format!("bring up link {index}"), RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Returns the addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let answers = self.0.dump(|| "list addresses".into(), RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(address) if address.header.index == index => Some(address),
                _ => None,
            })
            .filter_map(|address| {
                address.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            })
            .collect())
    }

    /// Gives a link an address of its own, usable at once.
    pub(crate) fn add_address(&mut self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
        let result = self.0.request(|| format!("add address {address}"), message, NLM_F_CREATE | NLM_F_EXCL);
        tolerate(result, &[libc::EEXIST])
    }

    /// Takes an address from a link.
    pub(crate) fn delete_address(&mut self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        tolerate(self.0.request(|| format!("delete address {address}"), message, 0), &[libc::EADDRNOTAVAIL])
    }

    /// Adds a route, in the place of one with the same table, prefix and metric.
    pub(crate) fn set_route(&mut self, route: Route) -> Result<(), NetlinkError> {
        let what = || format!("set route {} in table {}", route.prefix, route.table);
        self.0.request(what, RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route; one that is not there is no error.
    pub(crate) fn delete_route(&mut self, route: Route) -> Result<(), NetlinkError> {
        let what = || format!("delete route {} from table {}", route.prefix, route.table);
        tolerate(self.0.request(what, RouteNetlinkMessage::DelRoute(route_message(route)), 0), &[libc::ESRCH, libc::ENOENT])
    }

    /// Returns our routes in `table`.
    pub(crate) fn routes(&mut self, table: u32) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = self.0.dump(|| "list routes".into(), RouteNetlinkMessage::GetRoute(message))?;
            routes.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => read_route(message, table),
                _ => None,
            }));
        }
        routes.sort_unstable();
        Ok(routes)
    }

    /// Adds a rule; one that is there already is no error.
    pub(crate) fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        let result = self.0.request(|| format!("add rule {}", rule.priority), message, NLM_F_CREATE | NLM_F_EXCL);
        tolerate(result, &[libc::EEXIST])
    }

    /// Removes a rule; one that is not there is no error.
    pub(crate) fn delete_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRule(rule_message(rule));
        tolerate(self.0.request(|| format!("delete rule {}", rule.priority), message, 0), &[libc::ENOENT, libc::ESRCH])
    }

    /// Returns our rules.
    pub(crate) fn rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let answers = self.0.dump(|| "list rules".into(), RouteNetlinkMessage::GetRule(message))?;
            rules.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(message) => read_rule(message),
                _ => None,
            }));
        }
        rules.sort_unstable();
        Ok(rules)
    }
}

fn family(ipv4: bool) -> AddressFamily {
    if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn read_link(link: &LinkMessage) -> Link {
    let (mut kind, mut mtu) = (String::new(), 0);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(number) => mtu = *number,
            LinkAttribute::LinkInfo(infos) => {
                let named =
                    infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None });
                kind = named.unwrap_or_default();
            }
            _ => {}
        }
    }
    Link { index: link.header.index, kind, is_up: link.header.flags.contains(LinkFlags::Up), mtu }
}

fn address_message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.is_ipv4());
    message.header.prefix_len = Prefix::host(address).len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    // Duplicate address detection has nobody to ask on a TUN, and would keep an IPv6 address unusable for a second.
    let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
    message.attributes =
        vec![AddressAttribute::Local(address), AddressAttribute::Address(address), AddressAttribute::Flags(flags)];
    message
}

fn route_message(route: Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.prefix.is_ipv4());
    message.header.destination_prefix_length = route.prefix.len();
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(route.prefix.address())),
        RouteAttribute::Table(route.table),
        RouteAttribute::Priority(route.metric),
    ];
    match route.to {
        Destination::Device { index, source } => {
            message.header.kind = RouteType::Unicast;
            message.header.scope = if route.prefix.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
            message.attributes.push(RouteAttribute::Oif(index));
            message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
        }
        Destination::Blackhole => message.header.kind = RouteType::BlackHole,
        Destination::Throw => message.header.kind = RouteType::Throw,
    }
    message
}

fn read_route(message: &RouteMessage, table: u32) -> Option<Route> {
    let header = &message.header;
    let ipv4 = header.address_family == AddressFamily::Inet;
    let (mut in_table, mut metric, mut device, mut source) = (u32::from(header.table), 0, None, None);
    let mut address: IpAddr = if ipv4 { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => in_table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Destination(destination) => address = read_address(destination)?,
            RouteAttribute::PrefSource(preferred) => source = read_address(preferred),
            _ => {}
        }
    }
    let to = match header.kind {
        RouteType::Unicast => Destination::Device { index: device?, source },
        RouteType::BlackHole => Destination::Blackhole,
        RouteType::Throw => Destination::Throw,
        _ => return None,
    };
    let prefix = Prefix::new(address, header.destination_prefix_length)?;
    (in_table == table && u8::from(header.protocol) == PROTOCOL).then_some(Route { table, prefix, metric, to })
}

fn read_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.ipv4);
    message.header.action = if rule.blackhole { RuleAction::Blackhole } else { RuleAction::ToTable };
    // The header's table is one byte; the attribute has the number.
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        // FRA_PROTOCOL, by number: who made the rule.
        RuleAttribute::Other(DefaultNla::new(21, vec![PROTOCOL])),
    ];
    message.attributes.extend((rule.table != 0).then_some(RuleAttribute::Table(rule.table)));
    message.attributes.extend(rule.input.clone().map(RuleAttribute::Iifname));
    if let Some(prefix) = rule.to {
        message.header.dst_len = prefix.len();
        message.attributes.push(RuleAttribute::Destination(prefix.address()));
    }
    if rule.no_default {
        message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
    }
    message
}

fn read_rule(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        ipv4: message.header.family == AddressFamily::Inet,
        priority: 0,
        table: u32::from(message.header.table),
        input: None,
        to: None,
        no_default: false,
        blackhole: message.header.action == RuleAction::Blackhole,
    };
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::Destination(address) => rule.to = Prefix::new(*address, message.header.dst_len),
            RuleAttribute::SuppressPrefixLen(0) => rule.no_default = true,
            RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    ours.then_some(rule)
}
