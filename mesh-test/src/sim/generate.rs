//! From a seed to a script.

use super::lies::LIES;
use super::rng::Rng;
use super::script::{Action, FleetSpec, Script, Step};

/// What a seed is mostly about, so that each kind of fault meets quiet company as well as bad company.
const THEMES: &[&[Action]] = &[
    &[Action::Cut, Action::Part, Action::Mute, Action::Mend],
    &[Action::Loss, Action::Dup, Action::Jitter, Action::Mtu, Action::Rebind, Action::Forge],
    &[Action::StoreDown, Action::StoreUp, Action::Wipe, Action::Backup, Action::Restore, Action::Mirror, Action::Replay],
    &[Action::Crash, Action::Start, Action::Amnesia, Action::Skew],
    &[Action::Lie, Action::Stranger, Action::Replay, Action::Forge],
    &[Action::Revoke, Action::Regrant, Action::End, Action::Rotate, Action::Rotate, Action::Part],
    &[Action::Reuse, Action::Part, Action::Crash, Action::Wipe, Action::Backup, Action::Restore],
];
/// Life goes on in every seed.
const LIFE: &[Action] = &[
    Action::Add,
    Action::Remove,
    Action::Move,
    Action::Relabel,
    Action::Policy,
    Action::Policy,
    Action::FleetPolicy,
    Action::NsLabel,
    Action::Export,
];
/// How long partitions and other troubles last, in seconds: one second to one week.
const SPANS: &[u32] = &[1, 5, 20, 40, 100, 200, 400, 3_600, 30_000, 100_000, 604_800];

/// Returns the script of a seed.
pub fn script(seed: u64) -> Script {
    let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let clusters = rng.between(2, 4) as usize;
    let nodes: Vec<usize> = (0..clusters).map(|_| if clusters == 4 { 1 } else { [1, 1, 2, 2, 3][rng.place(5)] }).collect();
    let count: usize = nodes.iter().sum();
    let nat = if rng.chance(25) { (rng.number() as u32) & ((1 << count) - 1) } else { 0 };
    let default = [1, 1, 1, 0, 0, 2][rng.place(6)];
    let fleet = FleetSpec { nodes, workloads: rng.between(1, 4) as usize, default, nat };
    let mut steps = vec![Step { after: 500, action: Action::Burst, args: [2, 0, 0] }];
    let theme = THEMES[rng.place(THEMES.len())];
    let other = THEMES[rng.place(THEMES.len())];
    let chapters = rng.between(1, 3);
    for _ in 0..chapters {
        for _ in 0..rng.between(4, 12) {
            let step = step(&mut rng, theme, other);
            let is_trouble = matches!(step.action, Action::Cut | Action::Part | Action::Mute | Action::Crash | Action::StoreDown);
            steps.push(step);
            if rng.chance(40) {
                steps.push(Step { after: rng.between(0, 300), action: Action::Burst, args: [rng.between(1, 4) as u32, 0, 0] });
            }
            if is_trouble && rng.chance(30) {
                steps.push(Step { after: 0, action: Action::Warp, args: [SPANS[rng.place(SPANS.len())], 0, 0] });
            }
        }
        steps.push(Step { after: rng.between(0, 1_500), action: Action::Quiet, args: [0; 3] });
    }
    Script { seed, fleet, steps }
}

fn step(rng: &mut Rng, theme: &[Action], other: &[Action]) -> Step {
    let from = match rng.below(10) {
        0..4 => LIFE,
        4..8 => theme,
        _ => other,
    };
    let action = from[rng.place(from.len())];
    let any = |rng: &mut Rng| rng.below(16) as u32;
    let args = match action {
        Action::Loss | Action::Dup => [[0, 5, 20, 50, 80][rng.place(5)], 0, 0],
        Action::Jitter => [[0, 30, 300, 2_000][rng.place(4)], 0, 0],
        Action::Mtu => [[0, 576, 1_280, 1_400][rng.place(4)], 0, 0],
        Action::Skew => [any(rng), 10_000 + rng.between(0, 560) as u32 - 280, 0],
        Action::Lie => [any(rng), rng.below(u64::from(LIES)) as u32, any(rng)],
        Action::Stranger => [any(rng), rng.below(u64::from(LIES)) as u32, 0],
        Action::End => [any(rng), [0, 2, 10, 60, 400][rng.place(5)], 0],
        Action::FleetPolicy => [rng.below(3) as u32, 0, 0],
        Action::Policy => [any(rng), rng.below(2) as u32, rng.below(7) as u32],
        _ => [any(rng), any(rng), any(rng)],
    };
    let after = match rng.below(10) {
        0..3 => 0,
        3..8 => rng.between(1, 200),
        _ => rng.between(200, 3_000),
    };
    Step { after, action, args }
}
