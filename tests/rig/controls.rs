//! Bugs that are planted into the engine, each of which the rig must find: one that misses any is broken. A failed
//! sync that is tried again is in `disk_faults.rs`, by whose failing flushes it is found.
//!
//! All of them, and those that the rig cannot see, are found by the simulator (`tests/simulator.rs`):
//! - a sync credited with what is written when it completes: below the loop device the kernel lets no write through
//!   to the FUSE file while that is being flushed, so none completes in between;
//! - a segment recycled without its lock: a killed process's write would have to land seconds later in a file that
//!   is in use again, just where the new log stands;
//! - a sequence published before the copy, which is a matter between threads; the manifest's other orders, the
//!   epoch's, and what only rot shows.

use std::time::Instant;

use forebay::planted::{Mutant, plant_everywhere};

use crate::check::Said;
use crate::device::{Fs, Rig};
use crate::enclosure::enclosed;
use crate::load::{Load, Setting, Sink};
use crate::power_cut::random;
use crate::recorded::Recorded;
use crate::server::Trouble;
use crate::states::{Kind, state, without_each_record};

/// Recordings, and states of each, in which a planted bug must show.
const RECORDINGS_MAX: usize = 8;
const STATES_MAX: usize = 60;

fn caught(name: &str, mutant: Mutant, setting: Setting, sink: Sink, blocks: u64) {
    enclosed(name, Fs::Ext4, |dir| {
        let rig = Rig::start(dir, Fs::Ext4);
        let mut random = random();
        let began = Instant::now();
        let mut tried = 0;
        for _ in 0..RECORDINGS_MAX {
            rig.renew();
            let commits = sink == Sink::Parquet;
            let load = Load { commits, mutant: Some(mutant.to_string()), ..Load::new(&rig, setting, sink, blocks) };
            // So slow that the next batch is begun beside it.
            rig.trouble(Trouble { delay_ms: u64::from(mutant == Mutant::HeaderIsProof), ..Trouble::default() });
            let recorded = Recorded::run(&rig, load, Said::default());
            rig.trouble(Trouble::default());
            let states = match sink {
                Sink::Parquet => without_each_record(&recorded.steps),
                Sink::Hold | Sink::Null => (0..STATES_MAX)
                    .filter_map(|number| state(recorded.rig.fs, &recorded.steps, Kind::CUTS[number % 3], &mut random))
                    .collect(),
            };
            for state in states {
                plant_everywhere(Some(mutant));
                let checked = recorded.check(&state, &recorded.said(state.cut));
                plant_everywhere(None);
                tried += 1;
                if let Err(why) = checked {
                    println!("{mutant}: found in state {tried}, after {:?}: {why}", began.elapsed());
                    return;
                }
            }
        }
        panic!("{mutant} is not found in {tried} states");
    });
}

#[test]
fn an_ack_before_the_sync() {
    caught("controls::an_ack_before_the_sync", Mutant::AckBeforeSync, Setting::Each, Sink::Hold, 100);
}

#[test]
fn a_folder_that_is_not_synced() {
    caught("controls::a_folder_that_is_not_synced", Mutant::NoFolderSync, Setting::Each, Sink::Null, 1200);
}

#[test]
fn stamps_without_a_generation() {
    caught("controls::stamps_without_a_generation", Mutant::NoGenerationStamp, Setting::Each, Sink::Null, 1200);
}

#[test]
fn a_rename_before_its_record() {
    caught("controls::a_rename_before_its_record", Mutant::RenameBeforeRecord, Setting::Each, Sink::Parquet, 200);
}

#[test]
fn a_recovered_segment_that_is_appended_to() {
    let name = "controls::a_recovered_segment_that_is_appended_to";
    caught(name, Mutant::AppendToRecovered, Setting::Each, Sink::Hold, 100);
}

#[test]
fn a_replay_under_the_new_epoch() {
    caught("controls::a_replay_under_the_new_epoch", Mutant::ReplayUnderNewEpoch, Setting::Level1, Sink::Hold, 300);
}

#[test]
fn a_header_taken_for_proof() {
    caught("controls::a_header_taken_for_proof", Mutant::HeaderIsProof, Setting::Each, Sink::Hold, 100);
}
