//! Faults 2, 3, 4, 7, 30 and 36: a power cut at any moment, and writes that a disk loses or misplaces.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use forebay::report::Damage;
use forebay::{Error, OnDamage};

use crate::check::{Found, Place, Said, nothing};
use crate::device::{Fs, Rig};
use crate::enclosure::enclosed;
use crate::image::{BatchAt, How, State, What};
use crate::load::{Load, Setting, Sink};
use crate::recorded::{Recorded, caught};
use crate::server::Trouble;
use crate::states::{Kind, Random, durable, state, without_each_record};

/// States of one recording; then another is made.
const STATES_OF_A_RECORDING: usize = 40;
/// The same, where the recording is of a recovery after two that were cut.
const STATES_OF_A_THIRD_RECOVERY: usize = 2;

/// States of each kind, by file system: `FOREBAY_RIG_STATES` sets those of ext4.
pub fn count(fs: Fs) -> usize {
    let count = std::env::var("FOREBAY_RIG_STATES").map_or(200, |text| text.parse().expect("a number"));
    match fs {
        Fs::Ext4 => count,
        Fs::Xfs => (count / 10).max(1),
        Fs::Btrfs => (count / 50).max(1),
    }
}

/// States of the kinds that take several recordings each, or damage: a fifth of the others.
fn few(fs: Fs) -> usize {
    count(fs).div_ceil(5)
}

/// Of the test's choices: `FOREBAY_RIG_SEED`, or the clock.
pub fn random() -> Random {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed =
        std::env::var("FOREBAY_RIG_SEED").map_or(clock.as_nanos() as u64, |text| text.parse().expect("a number"));
    println!("FOREBAY_RIG_SEED={seed}");
    Random::new(seed)
}

#[test]
fn ext4_at_level_1() {
    enclosed("power_cut::ext4_at_level_1", Fs::Ext4, |dir| cuts(dir, Fs::Ext4, &[Setting::Level1]));
}

#[test]
fn ext4_at_level_2_with_a_period() {
    enclosed("power_cut::ext4_at_level_2_with_a_period", Fs::Ext4, |dir| cuts(dir, Fs::Ext4, &[Setting::Period]));
}

#[test]
fn ext4_at_level_2_with_fsync() {
    enclosed("power_cut::ext4_at_level_2_with_fsync", Fs::Ext4, |dir| cuts(dir, Fs::Ext4, &[Setting::Each]));
}

#[test]
fn xfs_at_every_setting() {
    enclosed("power_cut::xfs_at_every_setting", Fs::Xfs, |dir| cuts(dir, Fs::Xfs, &Setting::ALL));
}

#[test]
fn btrfs_at_every_setting() {
    enclosed("power_cut::btrfs_at_every_setting", Fs::Btrfs, |dir| cuts(dir, Fs::Btrfs, &Setting::ALL));
}

/// States of each kind, the settings' share of them; two thirds where all blocks stay in the log, and the rest
/// where its files are recycled.
fn cuts(dir: &Path, fs: Fs, settings: &[Setting]) {
    let rig = Rig::start(dir, fs);
    let mut random = random();
    for &setting in settings {
        let count = count(fs).div_ceil(3);
        // At (2, 0) nearly each block is a batch of its own. A log on btrfs costs it many writes.
        let held = match (fs, setting) {
            (Fs::Btrfs, _) => 60,
            (_, Setting::Each) => 120,
            _ => 300,
        };
        let recycled = if fs == Fs::Btrfs { 300 } else { 1200 };
        for (sink, count, blocks) in [(Sink::Hold, count - count / 3, held), (Sink::Null, count / 3, recycled)] {
            let mut done = 0;
            while done < count {
                let here = (count - done).min(STATES_OF_A_RECORDING);
                rig.renew();
                // What nothing holds may all be given back by a second opening, before it can say so.
                let lives = if sink == Sink::Null { 1 } else { 2 };
                let load = Load { lives, ..Load::new(&rig, setting, sink, blocks) };
                // Behind a slow write the next batch is begun: then two are in flight.
                rig.trouble(Trouble {
                    delay_ms: u64::from(sink == Sink::Hold && random.percent(50)),
                    ..Trouble::default()
                });
                let recorded = Recorded::run(&rig, load, Said::default());
                rig.trouble(Trouble::default());
                println!("{}", recorded.summary());
                cuts_of(&recorded, here, &mut random);
                done += here;
            }
        }
    }
}

fn cuts_of(recorded: &Recorded<'_>, count: usize, random: &mut Random) {
    let began = Instant::now();
    for _ in 0..count {
        for kind in Kind::CUTS {
            let state = state(recorded.rig.fs, &recorded.steps, kind, random).expect("there is always one");
            let said = recorded.said(state.cut);
            if let Err(why) = recorded.check(&state, &said) {
                recorded.fail(&state, &said, &format!("{kind:?}: {why}"));
            }
        }
    }
    let states = (count * Kind::CUTS.len()) as u32;
    println!("{states} states, {:?} each", began.elapsed() / states);
}

#[test]
fn a_cut_during_recovery_twice_deep() {
    cuts_during_recovery("power_cut::a_cut_during_recovery_twice_deep", Fs::Ext4);
}

#[test]
fn a_cut_during_recovery_twice_deep_on_xfs() {
    cuts_during_recovery("power_cut::a_cut_during_recovery_twice_deep_on_xfs", Fs::Xfs);
}

#[test]
fn a_cut_during_recovery_twice_deep_on_btrfs() {
    cuts_during_recovery("power_cut::a_cut_during_recovery_twice_deep_on_btrfs", Fs::Btrfs);
}

/// Two recoveries are cut, one after the other; of the third all must be there, in several states.
fn cuts_during_recovery(name: &str, fs: Fs) {
    enclosed(name, fs, |dir| {
        let rig = Rig::start(dir, fs);
        let mut random = random();
        let (count, first) = (few(fs), random.below(3));
        let began = Instant::now();
        for number in 0..count.div_ceil(STATES_OF_A_THIRD_RECOVERY) {
            rig.renew();
            let setting = Setting::ALL[(first + number) % 3];
            let load = Load::new(&rig, setting, Sink::Hold, blocks(fs, 100));
            let mut recorded = Recorded::run(&rig, load, Said::default());
            let mut state = state(recorded.rig.fs, &recorded.steps, Kind::CUTS[random.below(3)], &mut random)
                .expect("there is one");
            for depth in 1..=2 {
                let said = recorded.said(state.cut);
                if let Err(why) = caught(|| Ok(recorded.enter(&state))).map(drop) {
                    recorded.fail(&state, &said, &format!("{depth} recoveries deep: {why}"));
                }
                rig.become_state(recorded.number, &state);
                let load = Load { blocks: recorded.load.blocks + 5, ..recorded.load.clone() };
                recorded = Recorded::run(&rig, load, said);
                state = during_recovery(&recorded, &mut random);
            }
            for _ in 0..STATES_OF_A_THIRD_RECOVERY {
                let said = recorded.said(state.cut);
                if let Err(why) = recorded.check(&state, &said) {
                    recorded.fail(&state, &said, &format!("two recoveries were cut: {why}"));
                }
                state = during_recovery(&recorded, &mut random);
            }
        }
        println!("{fs:?}: {count} states two recoveries deep, {:?} each", began.elapsed() / count as u32);
    });
}

/// Blocks of each writer: a log on btrfs costs it many writes.
fn blocks(fs: Fs, elsewhere: u64) -> u64 {
    if fs == Fs::Btrfs { elsewhere / 2 } else { elsewhere }
}

/// Three in four cuts fall before the recovery has ended.
fn during_recovery(recorded: &Recorded<'_>, random: &mut Random) -> State {
    let kind = Kind::CUTS[random.below(3)];
    let opened = recorded.steps.iter().position(|step| matches!(step.what, What::Mark(_)));
    let early = opened
        .filter(|_| random.percent(75))
        .and_then(|opened| state(recorded.rig.fs, &recorded.steps[..opened], kind, random));
    early.unwrap_or_else(|| state(recorded.rig.fs, &recorded.steps, kind, random).expect("there is always one"))
}

#[test]
fn lost_and_misdirected_writes_are_named_and_never_silent() {
    lost_and_misdirected("power_cut::lost_and_misdirected_writes_are_named_and_never_silent", Fs::Ext4);
}

#[test]
fn lost_and_misdirected_writes_are_named_and_never_silent_on_xfs() {
    lost_and_misdirected("power_cut::lost_and_misdirected_writes_are_named_and_never_silent_on_xfs", Fs::Xfs);
}

#[test]
fn lost_and_misdirected_writes_are_named_and_never_silent_on_btrfs() {
    lost_and_misdirected("power_cut::lost_and_misdirected_writes_are_named_and_never_silent_on_btrfs", Fs::Btrfs);
}

fn lost_and_misdirected(name: &str, fs: Fs) {
    enclosed(name, fs, |dir| {
        let rig = Rig::start(dir, fs);
        let mut random = random();
        let (count, first) = (few(fs), random.below(3));
        let began = Instant::now();
        let (mut refused, mut done) = (0, 0);
        while done < count {
            rig.renew();
            let setting = Setting::ALL[(first + done) % 3];
            let load = Load::new(&rig, setting, Sink::Hold, blocks(fs, 200));
            let recorded = Recorded::run(&rig, load, Said::default());
            let here = (count - done).min(10);
            done += here;
            for _ in 0..here {
                for kind in [Kind::Lost, Kind::Misdirected] {
                    let Some(state) = (0..50).find_map(|_| state(recorded.rig.fs, &recorded.steps, kind, &mut random))
                    else {
                        panic!("no state: {}", recorded.summary())
                    };
                    let victims = victims(&recorded, &state);
                    let said = promised_up_to(recorded.said(state.cut), &victims[0]);
                    match lost_or_named(&recorded, &state, &said, &victims) {
                        Ok(was_refused) => refused += usize::from(was_refused),
                        Err(why) => recorded.fail(&state, &said, &format!("{kind:?} {victims:?}: {why}")),
                    }
                }
            }
        }
        let states = 2 * count;
        let each = began.elapsed() / states as u32;
        println!("{fs:?}: {states} states, {refused} refused, and then salvaged, {each:?} each");
        assert!(refused >= count / 2, "{refused} of {}: nothing was damaged", 2 * count);
    });
}

/// The batches that a state spoils: the one that is not there, then those that it was written over.
fn victims(recorded: &Recorded<'_>, state: &State) -> Vec<BatchAt> {
    let batch_of = |write: usize| match recorded.steps[write].what {
        What::Write { batch, .. } => batch,
        _ => None,
    };
    let mut victims = Vec::new();
    for change in &state.changes {
        let (How::Moved(to), What::Write { bytes, .. }) = (&change.how, &recorded.steps[change.write].what) else {
            continue;
        };
        victims.extend(batch_of(change.write));
        victims.extend(recorded.steps.iter().filter_map(|step| match step.what {
            What::Write { offset, bytes: there, batch } if offset < to + bytes && *to < offset + there => batch,
            _ => None,
        }));
    }
    if victims.is_empty() {
        let durable = durable(&recorded.steps, state.cut);
        let lost = state.changes.iter().filter(|change| durable.contains(&change.write));
        victims.extend(lost.filter_map(|change| batch_of(change.write)));
    }
    victims
}

/// The disk holds a witness of the victim: so all up to it must be there, or be missed.
fn promised_up_to(mut said: Said, victim: &BatchAt) -> Said {
    let upto = victim.first_seq + u64::from(victim.count);
    let promised = said.acked.iter().filter(|(_, (shard, _, seq))| *shard == victim.shard && *seq < upto);
    said.must.extend(promised.map(|(name, _)| *name));
    said
}

/// Whether it was refused, with the right place named; then salvage must give all the rest back.
fn lost_or_named(recorded: &Recorded<'_>, state: &State, said: &Said, victims: &[BatchAt]) -> Result<bool, String> {
    let mounted = recorded.enter(state);
    let mut refused = false;
    let checked = caught(|| {
        let load = &recorded.load;
        match load.open() {
            Ok(engine) => Found::read(&engine)?.check(said, load.sink, &nothing),
            Err(Error::Damaged(damaged)) => {
                refused = true;
                let named = damaged.log.iter().all(|damage| {
                    victims.iter().any(|batch| (batch.shard, batch.segment) == (damage.shard, damage.segment))
                });
                if !named || damaged.log.is_empty() {
                    return Err(format!("another place is named: {damaged}"));
                }
                let engine = load.open_with(OnDamage::Salvage).map_err(|error| format!("not salvaged: {error}"))?;
                // What was lost unsynced right behind the damage cannot be told from it: the range that is named has it.
                let promised = said.acked.iter().filter(|(name, _)| said.must.contains(name));
                let promised: BTreeSet<Place> = promised.map(|(_, place)| *place).collect();
                let is_lost = |place: Place| {
                    let (shard, _, seq) = place;
                    let is_in = |damage: &Damage| {
                        damage.shard == shard
                            && damage.from_seq.is_none_or(|from| from <= seq)
                            && damage.to_seq.is_none_or(|to| seq <= to)
                    };
                    let of = |batch: &&BatchAt| {
                        batch.shard == shard
                            && (batch.first_seq..batch.first_seq + u64::from(batch.count)).contains(&seq)
                    };
                    let is_unsynced = || !promised.contains(&place) && damaged.log.iter().any(is_in);
                    victims.iter().any(|batch| of(&batch)) || is_unsynced()
                };
                Found::read(&engine)?.check(said, load.sink, &is_lost)?;
                engine.close().map_err(|error| format!("closing: {error}"))?;
                load.open().map(drop).map_err(|error| format!("not opened after the salvage: {error}"))
            }
            Err(other) => Err(format!("not opened, without a place: {other}")),
        }
    });
    drop(mounted);
    checked.map(|()| refused)
}

#[test]
fn within_one_boot_a_missing_entry_is_damage() {
    enclosed("power_cut::within_one_boot_a_missing_entry_is_damage", Fs::Ext4, |dir| {
        let rig = Rig::start(dir, Fs::Ext4);
        let mut random = random();
        let record = || {
            rig.renew();
            rig.set_boot(1);
            Recorded::run(&rig, Load::new(&rig, Setting::Level1, Sink::Hold, 200), Said::default())
        };
        let mut recorded = record();
        let (mut different, mut number) = (0, 0);
        // Few states are a mix of pages that shows, and of some recordings hardly any; a rig that looks at the boot id
        // finds some.
        while different < 2 {
            number += 1;
            assert!(number < 1600, "the boot id is not looked at: {different} of {number} states differ");
            if number % STATES_OF_A_RECORDING == 0 {
                recorded = record();
            }
            let state = state(recorded.rig.fs, &recorded.steps, Kind::CUTS[number % 3], &mut random)
                .expect("there is always one");
            let said = recorded.said(state.cut);
            let mounted = recorded.enter(&state);
            // As if the disk had been taken away and had come back.
            rig.set_boot(1);
            let within = match recorded.load.open() {
                Ok(engine) => {
                    Some(Found::read(&engine).unwrap_or_else(|why| recorded.fail(&state, &said, &why)).blocks)
                }
                Err(Error::Damaged(damaged)) => {
                    assert!(damaged.ring.is_some() || !damaged.log.is_empty(), "{damaged}");
                    None
                }
                Err(other) => recorded.fail(&state, &said, &format!("the boot of the run: {other}")),
            };
            drop(mounted);
            let mounted = recorded.enter(&state);
            let after = caught(|| {
                let engine = recorded.load.open().map_err(|error| format!("not opened: {error}"))?;
                let found = Found::read(&engine)?;
                found.check(&said, Sink::Hold, &nothing).map(|()| found.blocks)
            });
            drop(mounted);
            let after = after.unwrap_or_else(|why| recorded.fail(&state, &said, &format!("another boot: {why}")));
            different += usize::from(within != Some(after));
        }
        println!("{different} of {number} states are refused, or give back something else, within the boot of the run");
    });
}

#[test]
fn every_row_is_in_the_data_files_once() {
    rows_once("power_cut::every_row_is_in_the_data_files_once", Fs::Ext4);
}

#[test]
fn every_row_is_in_the_data_files_once_on_xfs() {
    rows_once("power_cut::every_row_is_in_the_data_files_once_on_xfs", Fs::Xfs);
}

#[test]
fn every_row_is_in_the_data_files_once_on_btrfs() {
    rows_once("power_cut::every_row_is_in_the_data_files_once_on_btrfs", Fs::Btrfs);
}

fn rows_once(name: &str, fs: Fs) {
    enclosed(name, fs, |dir| {
        let rig = Rig::start(dir, fs);
        let mut random = random();
        let count = (count(fs) / 10).max(1);
        for setting in Setting::ALL {
            rig.renew();
            let load = Load { lives: 2, commits: true, ..Load::new(&rig, setting, Sink::Parquet, blocks(fs, 60)) };
            let recorded = Recorded::run(&rig, load, Said::default());
            println!("{}", recorded.summary());
            cuts_of(&recorded, count.div_ceil(3), &mut random);
            for state in without_each_record(&recorded.steps).into_iter().take(count) {
                let said = recorded.said(state.cut);
                if let Err(why) = recorded.check(&state, &said) {
                    recorded.fail(&state, &said, &format!("without a record of the manifest: {why}"));
                }
            }
        }
    });
}
