//! Against wireguard-go, another implementation. `kernel.rs` has the kernel's.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/foreign.rs"]
mod foreign;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/node.rs"]
mod node;

use foreign::{Kind, V4, V6, interoperates};
use netns::possible;

#[test]
fn begins_a_handshake_with_wireguard_go() {
    if possible(&["ip", "wireguard-go", "wg"]) {
        interoperates(Kind::WireGuardGo, V4, true);
    }
}

#[test]
fn answers_a_handshake_of_wireguard_go() {
    if possible(&["ip", "wireguard-go", "wg"]) {
        interoperates(Kind::WireGuardGo, V6, false);
    }
}
