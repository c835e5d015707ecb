//! Promises P1 to P6 in the simulator: the real core, scan, recovery and segment maker through kills,
//! power cuts, torn, lost and misdirected writes, I/O errors, full and stalling disks, clocks that jump,
//! flipped bits and exchanged files, with one shard and with several; P7 and P8 of stores that follow each other; and
//! planted bugs, each of which it must find. `simulate --seeds A..B` runs more of the same.
//!
//! `FOREBAY_FLIPS` sets the flipped bits in each class of bytes.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay::planted::Mutant;
use forebay::sim::{
    Class, FilesSummary, FlipSummary, Limits, Run, Shards, SitesSummary, Summary, Tracing, Violation, Wall, flips, run,
    run_files, run_sites, shrink,
};

/// Seeds of each world. They are the same on every machine; `simulate` runs more.
const SEEDS_SHARD: u64 = 20_000;
const SEEDS_SHARDS: u64 = 5_000;
const SEEDS_FILES: u64 = 4_000;
const SEEDS_SITES: u64 = 3_000;
/// Seeds within which a planted bug is to be found.
const SEEDS_FOR_A_MUTANT: u64 = 1_000;
/// The same for those that need two damages in one place, or damage between blocks of another store.
const SEEDS_FOR_A_RARE_MUTANT: u64 = 20_000;

#[test]
fn promises_hold_in_every_history() {
    let total = histories(Shards::One, "shard", SEEDS_SHARD);
    // A simulator in which nothing happens proves nothing.
    let happened = [total.blocks, total.lost, total.power_cuts, total.faults, total.salvages, total.cut_recoveries];
    assert!(happened.iter().all(|count| *count > 10), "{total:?}");
    // Rows 7, 12 and 31 of the faults.
    assert!([total.strayed, total.stalls, total.meddled].iter().all(|count| *count > 3), "{total:?}");
}

/// P6: one shard's fault is its own; one epoch for all; an opening that is cut short between two shards.
#[test]
fn shards_side_by_side_keep_their_promises_and_go_on_behind_anothers_fault() {
    let total = histories(Shards::Several, "shards", SEEDS_SHARDS);
    let happened = [total.blocks, total.lost, total.power_cuts, total.faults, total.cut_recoveries, total.went_on];
    assert!(happened.iter().all(|count| *count > 10), "{total:?}");
}

/// P7 and P8, rows 14 to 17 and 33: stores that are killed and lose their power at every level, links that cut, repeat
/// and swap frames, promotions at any time, stores that are put back from a backup.
#[test]
fn stores_that_follow_each_other_become_equal_and_never_accept_against_a_better_promotion() {
    let total: SitesSummary = on_two_threads("sites", SEEDS_SITES, run_sites, SitesSummary::add);
    let happened = [total.blocks, total.lost, total.power_cuts, total.kills, total.cut_openings, total.trimmed];
    assert!(happened.iter().all(|count| *count > 100), "{total:?}");
    assert!([total.troubled, total.changes, total.fenced, total.restored].iter().all(|count| *count > 50), "{total:?}");
}

fn histories(shards: Shards, world: &str, seeds: u64) -> Summary {
    on_two_threads(world, seeds, |of| run(&Run { shards, ..*of }), Summary::add)
}

/// Histories of one world, on two threads.
fn on_two_threads<S: Default + Send + std::fmt::Debug>(
    world: &str,
    seeds: u64,
    run: impl Fn(&Run) -> Result<(S, String), Box<Violation>> + Sync,
    add: fn(&mut S, &S),
) -> S {
    let next = AtomicU64::new(0);
    let job = || {
        let mut sum = S::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return sum;
            }
            match run(&Run { seed, ..Run::default() }) {
                Ok((summary, _)) => add(&mut sum, &summary),
                Err(violation) => panic!(
                    "seed {seed} life {}: {}\nrepeat with: cargo run --release --features sim --bin simulate -- \
                     --seed {seed} --world {world} --trace",
                    violation.life, violation.what
                ),
            }
        }
    };
    let total = std::thread::scope(|scope| {
        let jobs = [scope.spawn(job), scope.spawn(job)];
        let mut total = S::default();
        for job in jobs {
            add(&mut total, &job.join().expect("every promise held"));
        }
        total
    });
    println!("{seeds} histories of {world}: {total:?}");
    total
}

/// Row 13: whatever the wall clock does, seqs, epochs and what is recovered are the same.
#[test]
fn nothing_but_received_at_depends_on_the_wall_clock() {
    for shards in [Shards::One, Shards::Several] {
        for seed in 0..200 {
            let summary = |wall| run(&Run { seed, wall, shards, ..Run::default() }).expect("every promise held").0;
            assert_eq!(summary(Wall::Jumps), summary(Wall::Stands), "seed {seed} {shards:?}");
        }
    }
}

/// Rows 5, 6 and 34: flips in every class of bytes of log and ring are met or do no harm, and every sound
/// block is given back by a salvage.
#[test]
fn no_flipped_bit_loses_anything_silently() {
    let per_class = std::env::var("FOREBAY_FLIPS").map_or(500, |text| text.parse().expect("FOREBAY_FLIPS is a number"));
    let a_history = per_class.min(5);
    let next = AtomicU64::new(0);
    let job = || {
        let mut sum = FlipSummary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= u64::from(per_class / a_history) {
                return sum;
            }
            match flips(&Run { seed, ..Run::default() }, a_history) {
                Ok(summary) => sum.add(&summary),
                Err((_, violation)) => panic!(
                    "seed {seed}: {:?}: {}\nrepeat with: cargo run --release --features sim --bin simulate -- --seed \
                     {seed} --flips {a_history} --trace",
                    violation.kind, violation.what
                ),
            }
        }
    };
    let mut total = FlipSummary::default();
    std::thread::scope(|scope| {
        for job in [scope.spawn(job), scope.spawn(job)] {
            total.add(&job.join().expect("every flip was met"));
        }
    });
    println!("{total}");
    let all = total.total();
    assert_eq!((all.silent, all.false_refusals), (0, 0), "{total}");
    for (class, count) in Class::ALL.iter().zip(total.classes) {
        assert!(count.flips > u64::from(per_class) / 2, "{class:?}: {count:?}");
    }
    // The flips are real: most of those in the log that cost blocks are refused, and of the others it is told.
    let of = |class| total.classes[Class::ALL.iter().position(|known| *known == class).expect("a class")];
    for class in [Class::BatchHeader, Class::EntryHeader, Class::Payload, Class::StreamTable] {
        assert!(of(class).refused > u64::from(per_class) / 4, "{class:?}: {total}");
    }
    for class in [Class::Stamp, Class::Padding] {
        assert!(of(class).told > u64::from(per_class) / 4, "{class:?}: {total}");
    }
}

/// A sync of 0.64 s holds up all marks, and the store takes its time behind it: all that is slow, and
/// nothing stands still.
#[test]
fn a_slow_disk_before_a_slow_store_is_no_standstill() {
    let (summary, _) = run(&Run { seed: 5919, ..Run::default() }).expect("every promise held");
    assert!(summary.blocks > 100, "{summary:?}");
}

#[test]
fn a_flip_that_is_not_noticed_is_counted_as_a_silent_loss() {
    let run = |seed| Run { seed, mutant: Some(Mutant::RingEntryUnchecked), ..Run::default() };
    // The bug shows in a history's own life, too, where no flip is to be counted.
    let counted = |seed| flips(&run(seed), 5).is_err_and(|(summary, _)| summary.total().silent > 0);
    assert!((0..200).any(counted), "no flip in 200 histories is counted");
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    for seed in 0..80 {
        let shards = if seed % 2 == 0 { Shards::One } else { Shards::Several };
        let trace = |trace| run(&Run { seed, trace, shards, ..Run::default() }).expect("every promise held");
        let ((first, one), (second, two)) = (trace(Tracing::On), trace(Tracing::On));
        assert!(one.lines().count() > 20, "seed {seed}: {one}");
        assert_eq!(one, two, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(first, trace(Tracing::Off).0, "seed {seed}: looking changes nothing");
    }
    let digest = |seed| run(&Run { seed, ..Run::default() }).expect("every promise held").0.digest;
    assert_ne!(digest(1), digest(2));
}

#[test]
fn a_shorter_history_is_the_beginning_of_a_longer_one() {
    let trace = |lives_max| {
        let limits = Limits { lives_max, ..Limits::default() };
        let (_, trace) =
            run(&Run { seed: 3, limits, trace: Tracing::On, ..Run::default() }).expect("every promise held");
        trace
    };
    let (short, long) = (trace(1), trace(2));
    // The first line names the plan, the number of lives included.
    let common = short.lines().zip(long.lines()).skip(1).take_while(|(short, long)| short == long).count();
    assert!(common > 20, "{common} lines in common");
}

#[test]
fn data_files_lose_nothing_and_show_nothing_twice() {
    let mut total = FilesSummary::default();
    for seed in 0..SEEDS_FILES {
        match run_files(&Run { seed, ..Run::default() }) {
            Ok((summary, _)) => total.add(&summary),
            Err(violation) => panic!(
                "seed {seed} life {}: {}\nrepeat with: cargo run --release --features sim --bin simulate -- \
                 --seed {seed} --world files --trace",
                violation.life, violation.what
            ),
        }
    }
    println!("{SEEDS_FILES} histories: {total:?}");
    let happened =
        [total.rows, total.merges, total.failed, total.cut_openings, total.by_hand, total.refused, total.salvaged];
    assert!(happened.iter().all(|count| *count > 10), "{total:?}");
}

#[test]
fn a_seed_of_data_files_gives_the_same_trace_byte_for_byte() {
    for seed in 0..40 {
        let trace = |trace| run_files(&Run { seed, trace, ..Run::default() }).expect("every promise held");
        let (one, two) = (trace(Tracing::On), trace(Tracing::On));
        assert!(one.1.lines().count() > 20, "seed {seed}: {}", one.1);
        assert_eq!(one, two, "seed {seed}");
        assert_eq!(one.0, trace(Tracing::Off).0, "seed {seed}: looking changes nothing");
    }
}

#[test]
fn a_seed_of_stores_that_follow_each_other_gives_the_same_trace_byte_for_byte() {
    for seed in 0..40 {
        let trace = |trace| run_sites(&Run { seed, trace, ..Run::default() }).expect("every promise held");
        let (one, two) = (trace(Tracing::On), trace(Tracing::On));
        assert!(one.1.lines().count() > 20, "seed {seed}: {}", one.1);
        assert_eq!(one, two, "seed {seed}");
        assert_eq!(one.0, trace(Tracing::Off).0, "seed {seed}: looking changes nothing");
    }
}

#[test]
fn a_failing_history_of_several_stores_shrinks_to_a_smaller_one() {
    let failing = is_caught(Mutant::AcksUnsynced, run_sites).expect("found");
    let (smaller, violation) = shrink(&failing, run_sites);
    assert!(smaller.limits.lives_max <= 5 && smaller.limits.blocks_max < 256, "{smaller:?}");
    assert_eq!(run_sites(&smaller).expect_err("it fails").what, violation.what);
}

fn run_shards(run_: &Run) -> Result<(Summary, String), Box<Violation>> {
    run(&Run { shards: Shards::Several, ..*run_ })
}

fn is_caught<T>(mutant: Mutant, world: fn(&Run) -> Result<T, Box<Violation>>) -> Option<Run> {
    let is_rare = matches!(mutant, Mutant::AnewUnnoticed | Mutant::CarriedBehindDamage);
    let seeds = if is_rare { SEEDS_FOR_A_RARE_MUTANT } else { SEEDS_FOR_A_MUTANT };
    (0..seeds)
        .map(|seed| Run { seed, mutant: Some(mutant), ..Run::default() })
        .find(|candidate| world(candidate).is_err())
}

macro_rules! controls {
    ($($name:ident: $mutant:ident in $world:ident,)*) => {
        $(#[test]
        fn $name() {
            assert!(is_caught(Mutant::$mutant, $world).is_some(), "no seed finds it");
        })*

        #[test]
        fn every_planted_bug_has_its_control() {
            let named = [$(Mutant::$mutant),*];
            for mutant in Mutant::ALL {
                assert!(named.contains(mutant), "{mutant}");
                assert_eq!(mutant.to_string().parse(), Ok(*mutant));
            }
        }
    };
}

controls! {
    finds_an_ack_before_the_sync_completes: AckBeforeSync in run,
    finds_a_sync_credited_with_what_is_written_when_it_completes: CreditAtCompletion in run,
    finds_a_folder_that_is_never_synced: NoFolderSync in run,
    finds_a_failed_fsync_that_is_tried_again: RetrySync in run,
    finds_a_recovery_that_appends_to_a_recovered_segment: AppendToRecovered in run,
    finds_stamps_without_a_generation: NoGenerationStamp in run,
    finds_ring_entries_trusted_without_their_checksums: RingEntryUnchecked in run,
    finds_a_replay_under_the_new_epoch: ReplayUnderNewEpoch in run,
    finds_a_later_header_taken_as_proof: HeaderIsProof in run,
    finds_a_seal_taken_as_proof: SealIsProof in run,
    finds_segments_used_without_their_locks: RecycleWithoutLock in run,
    finds_a_sequence_published_before_the_copy: SequenceBeforeCopy in run,
    finds_that_a_later_batch_proves_nothing: DurableUptoIgnored in run,
    finds_a_batch_that_is_taken_wherever_it_stands: PlaceUnchecked in run,
    finds_a_missing_segment_that_is_not_noticed: MissingSegmentUnnoticed in run,
    finds_a_foreign_segment_that_is_not_noticed: ForeignSegmentUnnoticed in run,
    finds_whole_blocks_that_a_salvage_gives_up: BatchGivenUp in run,
    finds_damage_in_what_a_salvage_had_kept_that_is_not_noticed: AnewUnnoticed in run,
    finds_carried_blocks_that_follow_damage: CarriedBehindDamage in run,
    finds_an_adopted_end_that_is_hashed_on: AdoptedHashedOn in run,
    finds_an_adopted_end_that_is_not_replayed: AdoptedDropped in run,
    finds_segments_that_forget_what_an_adopted_end_stood_for: AdoptedUnsaid in run,
    finds_a_segment_that_does_not_say_what_is_held_of_each_stream: VectorUnsaid in run,
    finds_an_epoch_from_the_wall_clock: EpochFromWallClock in run,
    finds_an_epoch_above_one_shard_only: EpochOfOneShard in run_shards,
    finds_writes_without_a_bound: WritesWithoutBound in run,
    finds_a_ring_that_stays_closed: NeverReopens in run,
    finds_final_names_given_before_the_record: RenameBeforeRecord in run_files,
    finds_a_data_file_that_is_not_synced: FileNotSynced in run_files,
    finds_temporary_names_that_are_not_synced: TmpFolderNotSynced in run_files,
    finds_final_names_that_are_not_synced: FinalFolderNotSynced in run_files,
    finds_files_removed_before_the_record: RemoveBeforeRecord in run_files,
    finds_progress_recorded_without_its_files: ProgressBeforeFiles in run_files,
    finds_renames_that_settling_does_not_finish: RenamesUnfinished in run_files,
    finds_a_store_that_accepts_before_its_epochs_header_is_synced: AcceptsBeforeHeader in run,
    finds_a_sender_that_resumes_too_far: ResumesTooFar in run_sites,
    finds_acks_of_what_is_not_synced: AcksUnsynced in run_sites,
    finds_a_restored_store_without_a_nonce: NoNonce in run_sites,
    finds_a_replay_under_the_new_epoch_among_several_stores: ReplayUnderNewEpoch in run_sites,
    finds_an_acceptance_before_the_header_among_several_stores: AcceptsBeforeHeader in run_sites,
}

#[test]
fn a_failing_history_shrinks_to_a_smaller_one_that_fails() {
    let failing = is_caught(Mutant::ReplayUnderNewEpoch, run).expect("found");
    let (smaller, violation) = shrink(&failing, run);
    assert_eq!((smaller.seed, smaller.mutant), (failing.seed, failing.mutant));
    assert!(smaller.limits.lives_max <= 5 && smaller.limits.blocks_max < 256, "{smaller:?}");
    assert_eq!(run(&smaller).expect_err("it fails").what, violation.what);
}
