//! Links, addresses and routes of one network namespace, by rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The netlink socket or the runtime around it could not be made.
    #[error("could not open a netlink socket")]
    Open(#[source] std::io::Error),
    /// The kernel refused a step.
    #[error("could not {step}")]
    Refused {
        /// What was tried, on which object.
        step: String,
        /// The kernel's answer.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// An interface that must be there is not.
    #[error("interface {0} is missing")]
    NoInterface(String),
    /// The addresses of a route are of different families.
    #[error("route to {destination} via {via:?} mixes IPv4 and IPv6 in a way that Linux does not have")]
    Route {
        /// Where the route leads.
        destination: IpNetwork,
        /// The next hop.
        via: Option<IpAddr>,
    },
}

/// A netlink conversation in the namespace of the thread that [`session`] runs on.
pub(crate) struct Session {
    handle: Handle,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) destination: IpNetwork,
    /// Next hop, taken to be on the link; `None`: the destination itself is.
    pub(crate) via: Option<IpAddr>,
    pub(crate) device: u32,
    /// Source address of what this machine itself sends.
    pub(crate) source: Option<IpAddr>,
}

/// Runs a conversation with the kernel in the calling thread's network namespace.
pub(crate) fn session<T>(talk: impl AsyncFnOnce(&Session) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(NetlinkError::Open)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        let connection = tokio::spawn(connection);
        let result = talk(&Session { handle }).await;
        connection.abort();
        result
    })
}

/// Makes an error of a step that the kernel refused.
fn refused(step: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError::Refused { step: step(), source: Box::new(source) }
}

impl Session {
    /// Creates a veth pair: `name` here, `peer` in the namespace `peer_netns`.
    pub(crate) async fn add_veth(
        &self,
        name: &str,
        peer: &str,
        peer_netns: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let peer_message =
            LinkMessageBuilder::<LinkUnspec>::new().name(peer).mtu(mtu).setns_by_fd(peer_netns.as_raw_fd()).build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_message)))
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(refused(|| format!("create the veth pair {name} and {peer}")))
    }

    /// Returns the index of an interface.
    pub(crate) async fn index(&self, name: &str) -> Result<u32, NetlinkError> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        let link = found.map_err(refused(|| format!("look up interface {name}")))?;
        link.map(|link| link.header.index).ok_or_else(|| NetlinkError::NoInterface(name.to_owned()))
    }

    /// Sets an interface up and returns its index.
    pub(crate) async fn up(&self, name: &str) -> Result<u32, NetlinkError> {
        let index = self.index(name).await?;
        let message = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(refused(|| format!("set interface {name} up")))?;
        Ok(index)
    }

    /// Deletes an interface; one that is not there is no error.
    pub(crate) async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let Ok(index) = self.index(name).await else { return Ok(()) };
        let deleted = self.handle.link().del(index).execute().await;
        deleted.map_err(refused(|| format!("delete interface {name}")))
    }

    /// Writes a remark onto an interface.
    pub(crate) async fn set_alias(&self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(refused(|| format!("mark interface {index}")))
    }

    /// Reads the remark of an interface.
    pub(crate) async fn alias(&self, name: &str) -> Result<Option<String>, NetlinkError> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        let link = found.map_err(refused(|| format!("look up interface {name}")))?;
        Ok(link.into_iter().flat_map(|link| link.attributes).find_map(|attribute| match attribute {
            LinkAttribute::IfAlias(alias) => Some(alias),
            _ => None,
        }))
    }

    /// Adds an address that works at once: no duplicate address detection.
    pub(crate) async fn add_address(&self, device: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(device, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let added = request.execute().await;
        added.map_err(refused(|| format!("add address {address}/{prefix} to interface {device}")))
    }

    /// Adds a route.
    pub(crate) async fn add_route(&self, route: Route) -> Result<(), NetlinkError> {
        let added = self.handle.route().add(route.message()?).execute().await;
        added.map_err(refused(|| format!("add the route to {} via {:?}", route.destination, route.via)))
    }

    /// Deletes a route; one that is not there is no error.
    pub(crate) async fn delete_route(&self, route: Route) -> Result<(), NetlinkError> {
        match self.handle.route().del(route.message()?).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => Ok(()),
            deleted => deleted.map_err(refused(|| format!("delete the route to {}", route.destination))),
        }
    }
}

impl Route {
    fn message(&self) -> Result<netlink_packet_route::route::RouteMessage, NetlinkError> {
        let mixed = |_| NetlinkError::Route { destination: self.destination, via: self.via };
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(self.destination.network(), self.destination.prefix())
            .map_err(mixed)?
            .output_interface(self.device);
        builder = match self.via {
            Some(via) => builder.gateway(via).map_err(mixed)?.onlink(),
            None if self.destination.is_ipv4() => builder.scope(RouteScope::Link),
            None => builder,
        };
        if let Some(source) = self.source {
            builder = builder.pref_source(source).map_err(mixed)?;
        }
        Ok(builder.build())
    }
}

/// Returns the destination of the default route of a family.
pub(crate) fn everything(ipv4: bool) -> IpNetwork {
    let address = if ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    IpNetwork::new(address, 0).expect("0 is a prefix length of both families")
}
