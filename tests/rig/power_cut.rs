//! Faults 2, 3 and 30: a power cut at any moment.

use std::path::Path;
use std::time::Instant;

use crate::check::{Said, open_and_check};
use crate::device::{Fs, Rig};
use crate::enclosure::{enclosed, set_boot};
use crate::image::{Step, What};
use crate::load::{Load, Setting, Sink};
use crate::states::{Kind, Random, state};

#[test]
fn ext4_at_level_2_with_fsync() {
    enclosed("power_cut::ext4_at_level_2_with_fsync", Fs::Ext4, |dir| cuts(dir, Fs::Ext4, Setting::Each, 10));
}

fn cuts(dir: &Path, fs: Fs, setting: Setting, count: usize) {
    let rig = Rig::start(dir, fs);
    let began = Instant::now();
    let recording = rig.record();
    let mounted = rig.mount();
    let load = Load::new(dir, mounted.store(), setting, Sink::Hold, 200);
    let (text, code) = load.run();
    assert_eq!(code, 0, "{text}");
    drop(mounted);
    let steps = rig.steps(recording);
    println!("{fs:?} {setting:?}: recorded in {:?}: {}", began.elapsed(), summary(&steps));
    let mut random = Random::new(1);
    for kind in Kind::CUTS {
        let began = Instant::now();
        for number in 0..count {
            let state = state(&steps, kind, &mut random).expect("a state");
            let said = Said::before(&steps, state.cut, setting, &Said::default());
            rig.become_state(recording, &state);
            let mounted = rig.mount();
            set_boot(dir, 2 + number as u64);
            let checked = open_and_check(&load, &said);
            drop(mounted);
            if let Err(why) = checked {
                panic!("{kind:?} {number}: cut {} of {}: {why}", state.cut, steps.len());
            }
        }
        println!("{fs:?} {setting:?} {kind:?}: {count} states, {:?} each", began.elapsed() / count as u32);
    }
}

fn summary(steps: &[Step]) -> String {
    let count = |of: fn(&What) -> bool| steps.iter().filter(|step| of(&step.what)).count();
    format!(
        "{} writes, {} of them batches, {} flushes, {} marks",
        count(|what| matches!(what, What::Write { .. })),
        count(|what| matches!(what, What::Write { batch: Some(_), .. })),
        count(|what| matches!(what, What::Flush)),
        count(|what| matches!(what, What::Mark(_))),
    )
}
