//! The device's settings under `/proc/sys/net`, which is that of the calling thread's network namespace.

use std::fs;

/// Sets what the device needs, and warns of what others have set in its way. A read-only `/proc/sys` is such a case.
pub(crate) fn prepare(device: &str) {
    let settings = [
        // Replies may take another way than requests: the guard's rules send them by table.
        (format!("ipv4/conf/{device}/rp_filter"), "0"),
        // With scope node, packets of the node itself come back in by the device, with the node's own source.
        (format!("ipv4/conf/{device}/accept_local"), "1"),
        // What comes out of the tunnel for a workload is forwarded to it.
        (format!("ipv4/conf/{device}/forwarding"), "1"),
        (format!("ipv6/conf/{device}/forwarding"), "1"),
        // No link-local address, no router solicitations: the TUN has no neighbours.
        (format!("ipv6/conf/{device}/addr_gen_mode"), "1"),
        (format!("ipv6/conf/{device}/accept_ra"), "0"),
    ];
    for (name, value) in &settings {
        let path = format!("/proc/sys/net/{name}");
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() == *value) {
            continue;
        }
        if let Err(error) = fs::write(&path, value) {
            tracing::warn!(setting = name, value, %error, "cannot set; packets may be dropped by the kernel");
        }
    }
    let is = |name: &str, value: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).is_ok_and(|now| now.trim() == value);
    if is("ipv4/conf/all/rp_filter", "1") {
        tracing::warn!("net.ipv4.conf.all.rp_filter is 1 (strict): the kernel drops what comes out of the tunnel; set 0 or 2");
    }
    if is("ipv6/conf/all/forwarding", "0") {
        tracing::warn!("net.ipv6.conf.all.forwarding is 0: workloads get no IPv6 packets from the tunnel");
    }
}
