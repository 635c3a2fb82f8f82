//! The kernel settings of a lab's namespaces.
//!
//! All are written, though most are what the kernel starts with: what a new namespace inherits depends on the host
//! (`net.core.devconf_inherit_init_net`), and many hosts turn on rp_filter.

use std::fs;
use std::path::Path;

use super::NetnsError;

/// What a namespace does with packets for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A workload: drops them.
    Host,
    /// A node or the underlay: forwards them.
    Router,
}

/// Turning forwarding on resets others, so it comes first.
const FORWARDING: &[(&str, &str)] =
    &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/default/forwarding", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// Per interface: loopback exists already, later ones copy `default`, and for some `all` counts as well.
const INTERFACES: [&str; 3] = ["all", "default", "lo"];

const V4: &[(&str, &str)] = &[
    // A reply may leave by another interface than its question came by: a tunnel's do.
    ("rp_filter", "0"),
    // A redirect would teach a workload a way around its node.
    ("send_redirects", "0"),
    ("accept_redirects", "0"),
];

const V6: &[(&str, &str)] = &[
    ("disable_ipv6", "0"),
    // Addresses are unique by construction and must work at once.
    ("accept_dad", "0"),
    ("dad_transmits", "0"),
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
];

/// Writes the settings of the calling thread's namespace.
pub(super) fn write_all(name: &str, role: Role) -> Result<(), NetnsError> {
    let forwarding = if role == Role::Router { FORWARDING } else { &[] };
    for &(key, value) in forwarding {
        write(name, key.to_owned(), value)?;
    }
    for interface in INTERFACES {
        for &(key, value) in V4 {
            write(name, format!("net/ipv4/conf/{interface}/{key}"), value)?;
        }
        for &(key, value) in V6 {
            write(name, format!("net/ipv6/conf/{interface}/{key}"), value)?;
        }
    }
    Ok(())
}

fn write(name: &str, key: String, value: &'static str) -> Result<(), NetnsError> {
    let written = fs::write(Path::new("/proc/sys").join(&key), value);
    written.map_err(|source| NetnsError::Sysctl { name: name.to_owned(), key, value, source })
}
