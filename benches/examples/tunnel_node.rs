//! One end of a user tunnel for `benches/throughput`: one address here, one there, and a policy of 1,000 rules between them.
//!
//!     tunnel_node NUMBER MTU OWN_ADDRESS OTHER_ADDRESS OTHER_ENDPOINT
//!
//! Runs in the calling network namespace until it is ended. NUMBER is 1 or 2.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::manifest::Checked;
use mesh_core::{Change, NodeId, Prefix};
use mesh_dataplane::{Local, Op, Peer, PeerKeys, Scope, Tunnel};
use mesh_policy::{Compiler, PolicySet};
use mesh_wireguard::{NodeKey, UserTunnel, UserTunnelConfig};

const POLICIES: u16 = 100;
const RULES: u16 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [number, mtu, own, other, endpoint] = &arguments[..] else {
        return Err("usage: tunnel_node NUMBER MTU OWN_ADDRESS OTHER_ADDRESS OTHER_ENDPOINT".into());
    };
    let (number, own, other): (u8, IpAddr, IpAddr) = (number.parse()?, own.parse()?, other.parse()?);
    let key = |number: u8| NodeKey::from_bytes([number; 32]);
    let id = |number: u8| -> Result<NodeId, _> { format!("c{number}/node").parse() };
    let addresses = if number == 1 { [own, other] } else { [other, own] };

    let config = UserTunnelConfig { mtu: mtu.parse()?, device: format!("lb{number}"), ..UserTunnelConfig::new(key(number)) };
    let mut tunnel = UserTunnel::start(config)?;
    let local = Local { node: id(number)?, prefixes: [Prefix::host(own)].into(), overlay: vec![own], scope: Scope::Cluster };
    let peer = Peer { keys: PeerKeys { current: key(3 - number).public(), next: None }, endpoints: vec![endpoint.parse()?] };
    let ops = [
        Op::SetPolicy(policy(addresses)?),
        Op::SetGuarded([Prefix::host(other)].into()),
        Op::SetLocal(local),
        Op::SetPeer(id(3 - number)?, peer),
        Op::SetRoute(Prefix::host(other), id(3 - number)?),
    ];
    if let Some((_, error)) = tunnel.apply(&ops).into_iter().next() {
        return Err(error.into());
    }
    println!("ready");
    loop {
        while tunnel.poll_flow().is_some() {}
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The policy of two pods at these addresses: every policy applies to both, and the last rule of the last one lets them in.
fn policy(addresses: [IpAddr; 2]) -> Result<Arc<PolicySet>, Box<dyn std::error::Error>> {
    let pod = |address: IpAddr| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: pod, namespace: bench, labels: {{app: bench}}}},\n\
             spec: {{serviceAccountName: default, nodeName: node}}, status: {{podIP: \"{address}\", podIPs: [{{ip: \"{address}\"}}]}}}}\n"
        )
    };
    let mut policies = String::from("{apiVersion: v1, kind: Namespace, metadata: {name: bench}}\n");
    for policy in 0..POLICIES {
        let rule = |rule: u16| {
            let number = policy * RULES + rule;
            let app = if number + 1 == POLICIES * RULES { "bench".into() } else { format!("other-{number}") };
            format!("{{from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: {app}}}}}}}]}}")
        };
        let rules: Vec<String> = (0..RULES).map(rule).collect();
        policies += &format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p{policy}, namespace: bench}},\n\
             spec: {{podSelector: {{}}, policyTypes: [Ingress], ingress: [{}]}}}}\n",
            rules.join(", ")
        );
    }
    let files = [(1, addresses[0]), (2, addresses[1])]
        .map(|(number, address)| (format!("clusters/c{number}/all.yaml"), format!("{policies}---\n{}", pod(address))));
    let checked = Checked::load(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let checked = checked.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(Compiler::new().update(&checked.state, &Change::default()).clone())
}
