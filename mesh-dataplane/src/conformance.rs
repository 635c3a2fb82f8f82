//! The suite that every [`Tunnel`] passes, whatever it programs.

use std::sync::Arc;

use crate::op::Op;
use crate::plan::Plan;
use crate::tunnel::{Actual, Tunnel, TunnelError};

use self::plans::Plans;

pub mod plans;

/// How many steps from plan to plan the random walks take, and how many walks: seconds for a tunnel in the kernel.
const WALKS: u64 = 4;
const STEPS: usize = 8;

/// Checks that tunnels made by `make` behave as the [`Reconciler`](crate::Reconciler) expects. Each is made with nothing
/// programmed and dropped before the next one is made.
///
/// # Panics
/// Where a tunnel does not conform; the message says in what, and with which seed.
pub fn conformance(make: &mut dyn FnMut() -> Box<dyn Tunnel>) {
    begins_empty(&mut *make());
    observes_what_was_applied(&mut *make());
    deletes_what_is_not_there(&mut *make());
    refuses_a_route_to_nobody(&mut *make());
    keeps_routes_when_keys_change(&mut *make());
    moves_a_route_from_peer_to_peer(&mut *make());
    for seed in 0..WALKS {
        goes_from_any_plan_to_any_plan(&mut *make(), seed);
    }
}

fn begins_empty(tunnel: &mut dyn Tunnel) {
    assert_eq!(observe(tunnel), Actual::default(), "a fresh tunnel has nothing programmed");
    assert!(tunnel.poll_flow().is_none(), "a fresh tunnel has seen no flow");
}

fn observes_what_was_applied(tunnel: &mut dyn Tunnel) {
    let plan = Plans::new(1).full();
    let ops = plan.diff(&observe(tunnel));
    apply_all(tunnel, &ops);
    assert_programmed(tunnel, &plan, "after applying a plan");
    apply_all(tunnel, &ops);
    assert_programmed(tunnel, &plan, "after applying the same ops twice");
}

fn deletes_what_is_not_there(tunnel: &mut dyn Tunnel) {
    let plan = Plans::new(2).full();
    let deletes = plan.routes.keys().copied().map(Op::DelRoute).chain(plan.peers.keys().cloned().map(Op::DelPeer));
    apply_all(tunnel, &deletes.collect::<Vec<_>>());
    assert_eq!(observe(tunnel), Actual::default(), "deleting what is not there changes nothing");
}

fn refuses_a_route_to_nobody(tunnel: &mut dyn Tunnel) {
    let plan = Plans::new(3).full();
    apply_all(tunnel, &[Op::SetPolicy(plan.policy.clone()), Op::SetLocal(plan.local.clone())]);
    let (prefix, node) = plan.routes.first_key_value().expect("a full plan has routes");
    let peer = plan.peers[node].clone();
    let other = plan.routes.keys().nth(1).expect("a full plan has several routes");
    let ops = [Op::SetRoute(*other, node.clone()), Op::SetPeer(node.clone(), peer), Op::SetRoute(*prefix, node.clone())];
    let failed = tunnel.apply(&ops);
    assert!(
        matches!(&failed[..], [(0, TunnelError::UnknownPeer(unknown))] if unknown == node),
        "a route to an unknown peer fails by itself: {failed:?}"
    );
    let actual = observe(tunnel);
    assert_eq!(actual.routes.into_iter().collect::<Vec<_>>(), [(*prefix, node.clone())], "the ops after it were applied");
}

fn keeps_routes_when_keys_change(tunnel: &mut dyn Tunnel) {
    let mut plan = Plans::new(4).full();
    bring(tunnel, &plan);
    let renewed = Plans::new(4).renewed_keys(&plan);
    assert_ne!(renewed, plan);
    plan.peers = renewed.peers;
    let ops = plan.diff(&observe(tunnel));
    assert!(ops.iter().all(|op| matches!(op, Op::SetPeer(..))), "only the peers are different: {ops:?}");
    apply_all(tunnel, &ops);
    assert_programmed(tunnel, &plan, "after a change of keys");
}

fn moves_a_route_from_peer_to_peer(tunnel: &mut dyn Tunnel) {
    let mut plan = Plans::new(5).full();
    bring(tunnel, &plan);
    let (prefix, from) = plan.routes.first_key_value().map(|(p, n)| (*p, n.clone())).expect("a full plan has routes");
    let to = plan.peers.keys().find(|node| **node != from).expect("a full plan has several peers").clone();
    Arc::make_mut(&mut plan.routes).insert(prefix, to);
    bring(tunnel, &plan);
    assert_programmed(tunnel, &plan, "after a prefix moved from one peer to another");
}

fn goes_from_any_plan_to_any_plan(tunnel: &mut dyn Tunnel, seed: u64) {
    let mut plans = Plans::new(seed);
    for step in 0..STEPS {
        let plan = plans.any();
        bring(tunnel, &plan);
        assert_programmed(tunnel, &plan, &format!("walk with seed {seed}, step {step}"));
    }
}

fn bring(tunnel: &mut dyn Tunnel, plan: &Plan) {
    let ops = plan.diff(&observe(tunnel));
    apply_all(tunnel, &ops);
}

fn observe(tunnel: &mut dyn Tunnel) -> Actual {
    tunnel.observe().unwrap_or_else(|error| panic!("observe: {error}"))
}

fn apply_all(tunnel: &mut dyn Tunnel, ops: &[Op]) {
    let failed = tunnel.apply(ops);
    assert!(failed.is_empty(), "{failed:?} of {ops:?}");
}

fn assert_programmed(tunnel: &mut dyn Tunnel, plan: &Plan, when: &str) {
    let actual = observe(tunnel);
    assert_eq!(actual, plan.programmed(), "{when}");
    assert_eq!(plan.diff(&actual), [], "{when}: nothing is left to do");
}
