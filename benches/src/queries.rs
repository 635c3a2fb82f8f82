//! The connections that benchmarks ask about: the same for every number of policies.

use std::net::IpAddr;

use mesh_core::{FiveTuple, Protocol};

use crate::fleet::{Fleet, PORTS};
use crate::random::{Random, Ranks};

/// Returns `count` connections between workloads of `fleet`, all different.
///
/// Both ends are drawn from all workloads, each as likely as any other; in half of the cases until both are of one namespace
/// name, as most traffic is. One in twelve has an external address at one end. Ports follow Zipf's law over those that rules name,
/// one in eight asks for another port, one in ten is UDP.
pub fn connections(fleet: &Fleet, count: u32) -> Vec<FiveTuple> {
    let ports = Ranks::zipf(PORTS.len() as u32);
    let workloads = fleet.size().workloads;
    let one = |number: u32| {
        let random = &mut Random::of("query", number.into());
        let source = random.below(workloads);
        let mut destination = random.below(workloads);
        if random.percent(50) {
            for _ in 0..1000 {
                if fleet.are_neighbours(source, destination) {
                    break;
                }
                destination = random.below(workloads);
            }
        }
        let (mut source, mut destination) = (fleet.address(source), fleet.address(destination));
        match random.below(24) {
            0 => source = external(random),
            1 => destination = external(random),
            _ => {}
        }
        let known = PORTS[ports.draw(random) as usize];
        FiveTuple {
            source,
            destination,
            protocol: if random.percent(10) { Protocol::Udp } else { Protocol::Tcp },
            // Distinct, so that no two connections are one.
            source_port: u16::try_from(number % 32_768).expect("less than 2^15") + 32_768,
            destination_port: if random.below(8) == 0 { random.below(65_535) as u16 + 1 } else { known },
        }
    };
    (0..count).map(one).collect()
}

/// Draws an IPv4 address that is no workload's: half of them inside a network that rules name.
fn external(random: &mut Random) -> IpAddr {
    let bits = random.bits();
    let network = [0xc000_0200, 0x3410_0000, 0x6810_0000][random.below(3) as usize];
    let bits = if random.percent(50) { network | bits & 0xff } else { 0x5000_0000 | bits & 0x0fff_ffff };
    std::net::Ipv4Addr::from_bits(bits).into()
}
