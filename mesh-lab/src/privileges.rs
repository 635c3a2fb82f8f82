//! What a lab needs of the machine, and what to do when it is not there.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use crate::netns::NETNS_DIR;
use crate::sys;

/// Something that a lab needs and this process has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPrivilege {
    /// What is missing.
    pub privilege: Privilege,
    /// How that was found out.
    pub found: String,
}

/// A requirement of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Privilege {
    /// CAP_NET_ADMIN: links, addresses, routes.
    NetAdmin,
    /// CAP_SYS_ADMIN: namespaces and mounts.
    SysAdmin,
    /// CAP_NET_RAW: captures.
    NetRaw,
    /// Creating network namespaces, which a sandbox may forbid even to root.
    NetworkNamespaces,
    /// A directory for named namespaces.
    NetnsDirectory,
    /// Kernel settings under `/proc/sys/net`.
    Sysctl,
    /// IPv6 in the kernel.
    Ipv6,
    /// `/dev/net/tun`, for agents with a tunnel in user space.
    Tun,
}

impl Privilege {
    /// Returns what to do to have it.
    pub fn remedy(self) -> &'static str {
        match self {
            Privilege::NetAdmin | Privilege::SysAdmin | Privilege::NetRaw => {
                "run as root (sudo), or in a container with --privileged; a user namespace (unshare -Urnm) gives \
                 namespaces too, but usually no /dev/net/tun"
            }
            Privilege::NetworkNamespaces => {
                "the kernel or a sandbox (seccomp) forbids unshare(CLONE_NEWNET): run outside of it, or in a \
                 container with --privileged"
            }
            Privilege::NetnsDirectory => "make /run/netns writable for this user: run as root, with /run not read-only",
            Privilege::Sysctl => "mount /proc/sys writable: in a container, use --privileged",
            Privilege::Ipv6 => "boot without ipv6.disable=1: labs are dual-stack",
            Privilege::Tun => {
                "load the tun module (modprobe tun) and let this user open /dev/net/tun; in a container, add \
                 --device /dev/net/tun"
            }
        }
    }
}

impl fmt::Display for MissingPrivilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.privilege {
            Privilege::NetAdmin => "CAP_NET_ADMIN",
            Privilege::SysAdmin => "CAP_SYS_ADMIN",
            Privilege::NetRaw => "CAP_NET_RAW",
            Privilege::NetworkNamespaces => "the right to create network namespaces",
            Privilege::NetnsDirectory => NETNS_DIR,
            Privilege::Sysctl => "a writable /proc/sys",
            Privilege::Ipv6 => "IPv6",
            Privilege::Tun => "/dev/net/tun",
        };
        write!(f, "{what} is missing ({}): {}", self.found, self.privilege.remedy())
    }
}

/// Checks everything a lab needs, and returns all that is missing.
pub(crate) fn check() -> Result<(), Vec<MissingPrivilege>> {
    let mut missing = check_capabilities(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default());
    // Without the capability the answer is known, and its remedy is the capability's.
    let has_admin = !missing.iter().any(|missing| missing.privilege == Privilege::SysAdmin);
    let mut probe = |privilege, result: io::Result<()>| {
        if let Err(error) = result {
            missing.push(MissingPrivilege { privilege, found: error.to_string() });
        }
    };
    if has_admin {
        probe(Privilege::NetworkNamespaces, unshare_in_thread());
    }
    probe(Privilege::NetnsDirectory, fs::create_dir_all(NETNS_DIR).and_then(|()| sys::writable(Path::new(NETNS_DIR))));
    probe(Privilege::Sysctl, sys::writable(Path::new("/proc/sys/net/ipv4/ip_forward")));
    probe(Privilege::Ipv6, fs::metadata("/proc/sys/net/ipv6").map(drop));
    probe(Privilege::Tun, OpenOptions::new().read(true).write(true).open("/dev/net/tun").map(drop));
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

fn unshare_in_thread() -> io::Result<()> {
    let thread = std::thread::Builder::new().spawn(sys::unshare_net)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked")))
}

/// Reads effective capabilities from the text of `/proc/PID/status`.
fn check_capabilities(status: &str) -> Vec<MissingPrivilege> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0").trim();
    let effective = u64::from_str_radix(line, 16).unwrap_or(0);
    // Bit numbers of linux/capability.h.
    let needed = [(Privilege::NetAdmin, 12), (Privilege::NetRaw, 13), (Privilege::SysAdmin, 21)];
    let missing = needed.into_iter().filter(|(_, bit)| effective & (1 << bit) == 0);
    missing.map(|(privilege, _)| MissingPrivilege { privilege, found: format!("CapEff is {line}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(check_capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n"), []);
        let ordinary: Vec<_> = check_capabilities("CapEff:\t0000000000000000\n").into_iter().collect();
        assert_eq!(ordinary.len(), 3);
        let only_admin = check_capabilities("CapEff:\t0000000000201000\n");
        assert_eq!(only_admin.iter().map(|missing| missing.privilege).collect::<Vec<_>>(), [Privilege::NetRaw]);
        assert!(only_admin[0].to_string().contains("run as root"), "{}", only_admin[0]);
    }
}
