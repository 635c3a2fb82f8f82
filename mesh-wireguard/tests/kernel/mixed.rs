//! Meshes of kernel WireGuard, set up by `wg` as anybody would, and of others.

use crate::foreign::{Foreign, Kind, V4, V6, interoperates};
use crate::netns::possible_in_kernel;
use crate::node::{Node, echo, reaches};

#[test]
fn user_tunnel_begins_a_handshake_with_the_kernel() {
    if possible_in_kernel(&["ip", "wg"]) {
        interoperates(Kind::Kernel, V4, true);
    }
}

#[test]
fn user_tunnel_answers_a_handshake_of_the_kernel() {
    if possible_in_kernel(&["ip", "wg"]) {
        interoperates(Kind::Kernel, V4, false);
    }
}

#[test]
fn user_tunnel_and_kernel_meet_over_ipv6() {
    if possible_in_kernel(&["ip", "wg"]) {
        interoperates(Kind::Kernel, V6, true);
    }
}

/// Both are others' work: where this fails, the machine is at fault and not the tunnel.
#[test]
fn kernel_and_wireguard_go_meet() {
    if !possible_in_kernel(&["ip", "wg", "wireguard-go"]) {
        return;
    }
    let (one, two) = (Node::new(1), Node::new(2));
    one.connect(&two);
    echo(&one.netns, 7000, "1");
    echo(&two.netns, 7000, "2");
    let _one = Foreign::start(Kind::Kernel, &one, &two, None);
    let _two = Foreign::start(Kind::WireGuardGo, &two, &one, Some("192.0.2.1:51820"));
    reaches(&two.netns, &one.overlay(), 7000);
    reaches(&one.netns, &two.overlay(), 7000);
}
