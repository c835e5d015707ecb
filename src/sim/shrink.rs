//! Making a failing history smaller: fewer lives, blocks and writers, as long as it still fails.

use crate::sim::world::{Run, Violation};

/// Runs tried at most.
const TRIES_MAX: u32 = 400;

/// The smallest history of the same seed that is found to fail in `world`, and how it fails; the
/// failure may be another one.
///
/// # Panics
/// Where the history that is given does not fail.
#[must_use]
pub fn shrink<T>(failing: &Run, world: impl Fn(&Run) -> Result<T, Box<Violation>>) -> (Run, Box<Violation>) {
    let run = |run: &Run| world(run).err();
    let mut best = *failing;
    let mut violation = run(&best).expect("a failing history");
    best.limits.lives_max = best.limits.lives_max.min(violation.life + 1);
    best.limits.blocks_max = best.limits.blocks_max.min(256);
    best.limits.writers_max = best.limits.writers_max.min(8);
    let mut tries = 0;
    loop {
        let mut smaller = false;
        for step in STEPS {
            let mut candidate = best;
            step(&mut candidate);
            if candidate.limits == best.limits || tries >= TRIES_MAX {
                continue;
            }
            tries += 1;
            if let Some(found) = run(&candidate) {
                (best, violation, smaller) = (candidate, found, true);
            }
        }
        if !smaller {
            return (best, violation);
        }
    }
}

const STEPS: [fn(&mut Run); 5] = [
    |run| run.limits.lives_max = (run.limits.lives_max - 1).max(1),
    |run| run.limits.blocks_max /= 2,
    |run| run.limits.blocks_max = run.limits.blocks_max.saturating_sub(1),
    |run| run.limits.writers_max = (run.limits.writers_max / 2).max(1),
    |run| run.limits.writers_max = (run.limits.writers_max - 1).max(1),
];
