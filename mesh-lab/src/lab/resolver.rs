//! Makes `getaddrinfo` in a workload ask the mesh's DNS, for programs the lab starts and for `ip netns exec` alike.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::run_dir::RunDir;
use crate::topology::WorkloadSpec;

/// The DNS domain of a cluster, by Kubernetes' custom.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Where `ip netns exec NAME` looks for files to mount over those of `/etc`.
const IPROUTE_DIR: &str = "/etc/netns";
/// Files of `/etc` that a workload sees its own of, where the host has them.
const FILES: [&str; 2] = ["resolv.conf", "nsswitch.conf"];
/// The name service cache: its socket would answer for the host's names, so a workload sees an empty directory.
const CACHE: &str = "/run/nscd";

/// Writes the files of a workload.
pub(super) fn install(run_dir: &RunDir, netns: &str, workload: &WorkloadSpec, dns: &[IpAddr]) -> io::Result<()> {
    let dir = run_dir.resolver_dir(netns);
    fs::create_dir_all(&dir)?;
    fs::create_dir_all(run_dir.resolver_dir(".empty"))?;
    for file in FILES.iter().filter(|file| Path::new("/etc").join(file).exists()) {
        let text = match *file {
            "resolv.conf" => resolv_conf(&workload.namespace, dns),
            // Other services (systemd's, for one) would ask the host's resolver by another way.
            _ => "hosts: files dns\n".to_owned(),
        };
        fs::write(dir.join(file), text)?;
    }
    // A convenience for people at a shell: a host with a read-only /etc goes without.
    let link = Path::new(IPROUTE_DIR).join(netns);
    if let Err(error) = fs::create_dir_all(IPROUTE_DIR).and_then(|()| std::os::unix::fs::symlink(&dir, &link)) {
        tracing::debug!(%error, link = %link.display(), "`ip netns exec` will use the host's DNS in this workload");
    }
    Ok(())
}

/// Removes the files of a workload.
pub(super) fn uninstall(run_dir: &RunDir, netns: &str) -> io::Result<()> {
    let dir = run_dir.resolver_dir(netns);
    let link = Path::new(IPROUTE_DIR).join(netns);
    // Ours only if it leads to our directory.
    if fs::read_link(&link).is_ok_and(|target| target == dir) {
        fs::remove_file(&link)?;
        // Succeeds for the last one, and only then.
        let _ = fs::remove_dir(IPROUTE_DIR);
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files of all workloads of a lab.
pub(super) fn uninstall_all(run_dir: &RunDir) -> io::Result<()> {
    let entries = match fs::read_dir(run_dir.path().join("resolver")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        if let Ok(netns) = entry?.file_name().into_string() {
            uninstall(run_dir, &netns)?;
        }
    }
    Ok(())
}

/// Returns what programs in a workload see in place of what: source and target.
pub(super) fn binds(run_dir: &RunDir, netns: &str) -> Vec<(PathBuf, PathBuf)> {
    let dir = run_dir.resolver_dir(netns);
    let files = FILES.iter().map(|file| (dir.join(file), Path::new("/etc").join(file)));
    let cache = (run_dir.resolver_dir(".empty"), PathBuf::from(CACHE));
    files.chain([cache]).filter(|(source, target)| source.exists() && target.exists()).collect()
}

fn resolv_conf(namespace: &str, dns: &[IpAddr]) -> String {
    let mut text = String::new();
    for server in dns {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    let _ = writeln!(text, "search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}");
    text + "options ndots:5\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_the_one_kubernetes_writes() {
        let text = resolv_conf("shop", &[IpAddr::from([169, 254, 20, 10])]);
        let expected = "nameserver 169.254.20.10\n\
                        search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        assert_eq!(text, expected);
    }
}
