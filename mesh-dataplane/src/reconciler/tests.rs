//! A tunnel gets to its plan from anywhere, and never by an unsafe way.

use proptest::prelude::*;

use super::*;
use crate::conformance::plans::Plans;
use crate::fake::FakeTunnel;

fn seconds(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

/// Runs whenever the reconciler asks for it, until `tunnel` has carried out `want`; returns when that was.
fn converge(reconciler: &mut Reconciler, want: &Plan, tunnel: &mut FakeTunnel, mut now: Time) -> Time {
    for _ in 0..200 {
        if reconciler.run(want, tunnel, now).is_ok() && *tunnel.actual() == want.programmed() {
            return now;
        }
        let next = reconciler.poll_timeout().expect("a run sets the next");
        assert!(next > now, "a failed run waits before the next");
        now = next;
    }
    panic!("not converged: {:?}\nwant {want:?}", tunnel.actual());
}

proptest! {
    #[test]
    fn any_plan_is_reached_from_any_plan(seed in any::<u64>()) {
        let mut plans = Plans::new(seed);
        let mut tunnel = FakeTunnel::new();
        for _ in 0..4 {
            let plan = plans.any();
            let ops = plan.diff(&tunnel.observe().expect("no failure asked for"));
            prop_assert!(tunnel.apply(&ops).is_empty());
            prop_assert_eq!(tunnel.actual(), &plan.programmed());
            prop_assert_eq!(plan.diff(tunnel.actual()), []);
        }
    }

    #[test]
    fn failures_delay_and_never_prevent(seed in any::<u64>(), failures in prop::collection::vec(0u64..60, 0..20), blind in 0u32..3) {
        let mut plans = Plans::new(seed);
        let mut tunnel = FakeTunnel::new();
        let mut reconciler = Reconciler::new();
        let mut now = Time::ZERO;
        failures.iter().for_each(|n| tunnel.fail_nth(*n));
        tunnel.fail_observe(blind);
        for round in 0..4 {
            now = converge(&mut reconciler, &plans.any(), &mut tunnel, now);
            if round == 2 {
                tunnel.forget();
            }
        }
    }
}

#[test]
fn a_converged_tunnel_is_left_alone_and_looked_after() {
    let plan = Plans::new(7).full();
    let (mut tunnel, mut reconciler) = (FakeTunnel::new(), Reconciler::new());
    assert_eq!(reconciler.poll_timeout(), None);
    reconciler.run(&plan, &mut tunnel, seconds(0)).expect("nothing fails");
    let done = tunnel.applied().len();
    assert_eq!(reconciler.poll_timeout(), Some(seconds(60)));
    reconciler.run(&plan, &mut tunnel, seconds(60)).expect("nothing fails");
    assert_eq!(tunnel.applied().len(), done, "nothing to do, nothing done");

    let stolen = *plan.routes.first_key_value().expect("routes").0;
    tunnel.actual_mut().routes.remove(&stolen);
    reconciler.run(&plan, &mut tunnel, seconds(120)).expect("nothing fails");
    assert_eq!(*tunnel.actual(), plan.programmed(), "what somebody else deleted is back");
}

#[test]
fn policy_and_guard_come_first_and_peers_before_their_routes() {
    let plan = Plans::new(8).full();
    let kinds = |ops: &[Op]| ops.iter().map(stage_of).collect::<Vec<_>>();
    let mut tunnel = FakeTunnel::new();
    Reconciler::new().run(&plan, &mut tunnel, seconds(0)).expect("nothing fails");
    assert!(kinds(tunnel.applied()).is_sorted(), "{:?}", tunnel.applied());

    let empty = Plan { peers: Default::default(), routes: Default::default(), guarded: Default::default(), ..plan.clone() };
    let down = empty.diff(tunnel.actual());
    let routes_end = down.iter().rposition(|op| matches!(op, Op::DelRoute(_))).expect("routes go");
    let peers_begin = down.iter().position(|op| matches!(op, Op::DelPeer(_))).expect("peers go");
    assert!(routes_end < peers_begin, "routes go before their peers");
    if !plan.guarded.is_empty() {
        assert!(matches!(down.last(), Some(Op::SetGuarded(_))), "the guard shrinks last");
    }
}

#[test]
fn a_peer_that_fails_holds_back_its_own_routes_only() {
    let plan = Plans::new(9).full();
    let bad = plan.peers.keys().next().expect("peers").clone();
    let (mut tunnel, mut reconciler) = (FakeTunnel::new(), Reconciler::new());
    let failing = bad.clone();
    tunnel.fail_where(move |op| matches!(op, Op::SetPeer(node, _) if *node == failing));
    let errors = reconciler.run(&plan, &mut tunnel, seconds(0)).expect_err("one peer fails");
    assert_eq!(errors.len(), 1, "the held routes were not tried: {errors:?}");
    let expected: Vec<_> = plan.routes.iter().filter(|(_, node)| **node != bad).collect();
    assert_eq!(tunnel.actual().routes.iter().collect::<Vec<_>>(), expected);
    tunnel.fail_where(|_| false);
    converge(&mut reconciler, &plan, &mut tunnel, seconds(1));
}

#[test]
fn waits_double_up_to_ten_seconds_and_begin_anew_after_success() {
    let plan = Plans::new(10).full();
    let (mut tunnel, mut reconciler) = (FakeTunnel::new(), Reconciler::new());
    tunnel.fail_where(|op| matches!(op, Op::SetServices(_)));
    let mut waits = Vec::new();
    for run in 0..10 {
        let now = seconds(run * 100);
        reconciler.run(&plan, &mut tunnel, now).expect_err("services fail");
        waits.push(reconciler.poll_timeout().expect("set").since(now).as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
    tunnel.fail_where(|_| false);
    reconciler.run(&plan, &mut tunnel, seconds(2000)).expect("nothing fails");
    tunnel.forget();
    tunnel.fail_where(|op| matches!(op, Op::SetServices(_)));
    reconciler.run(&plan, &mut tunnel, seconds(3000)).expect_err("services fail");
    assert_eq!(reconciler.poll_timeout(), Some(seconds(3000) + MIN_BACKOFF));
}

#[test]
fn routes_are_withdrawn_when_policy_cannot_be_applied_for_longer_than_the_grace() {
    let mut plans = Plans::new(11);
    let before = plans.full();
    let (mut tunnel, mut reconciler) = (FakeTunnel::new(), Reconciler::new());
    reconciler.run(&before, &mut tunnel, seconds(0)).expect("nothing fails");
    let want = std::iter::repeat_with(|| plans.full())
        .take(100)
        .find(|plan| plan.policy.fingerprint() != before.policy.fingerprint())
        .expect("another policy");

    tunnel.fail_where(|op| matches!(op, Op::SetPolicy(_)));
    let mut now = seconds(100);
    loop {
        reconciler.run(&want, &mut tunnel, now).expect_err("policy fails");
        if now.since(seconds(100)) >= POLICY_GRACE {
            break;
        }
        assert_eq!(tunnel.actual().routes, *before.routes, "within the grace connections live on");
        now = reconciler.poll_timeout().expect("set");
    }
    assert_eq!(now, seconds(130), "the end of the grace is not slept through");
    assert!(tunnel.actual().routes.is_empty(), "after it nothing is forwarded by an old policy");

    tunnel.fail_where(|_| false);
    converge(&mut reconciler, &want, &mut tunnel, now);
}

#[test]
fn nothing_new_is_reachable_before_the_policy_is_in_force() {
    let plan = Plans::new(12).full();
    let (mut tunnel, mut reconciler) = (FakeTunnel::new(), Reconciler::new());
    tunnel.fail_where(|op| matches!(op, Op::SetPolicy(_)));
    reconciler.run(&plan, &mut tunnel, seconds(0)).expect_err("policy fails");
    assert!(tunnel.actual().peers.is_empty() && tunnel.actual().routes.is_empty());
}
