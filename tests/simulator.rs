//! Promises P1 to P6 in the simulator: the real core, scan, recovery and segment maker through kills,
//! power cuts, torn and lost writes, I/O errors, full disks and flipped bits; and planted bugs, each
//! of which it must find. `simulate --seeds A..B` runs more of the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::planted::Mutant;
use forebay::sim::{FilesSummary, Limits, Run, Summary, Tracing, Violation, run, run_files, shrink};

/// Seeds that are always run, and how long more of them are.
const SEEDS_MIN: u64 = 500;
const TIME: Duration = Duration::from_secs(20);
/// Seeds within which a planted bug is to be found.
const SEEDS_FOR_A_MUTANT: u64 = 1_000;

#[test]
fn promises_hold_in_every_history() {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let job = || {
        let mut sum = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS_MIN && began.elapsed() > TIME {
                return sum;
            }
            match run(&Run { seed, ..Run::default() }) {
                Ok((summary, _)) => sum.add(&summary),
                Err(violation) => panic!(
                    "seed {seed} life {}: {}\nrepeat with: cargo run --release --features sim --bin simulate -- \
                     --seed {seed} --trace",
                    violation.life, violation.what
                ),
            }
        }
    };
    let total = std::thread::scope(|scope| {
        let jobs = [scope.spawn(job), scope.spawn(job)];
        let mut total = Summary::default();
        for job in jobs {
            total.add(&job.join().expect("every promise held"));
        }
        total
    });
    println!("{} histories: {total:?}", next.into_inner());
    // A simulator in which nothing happens proves nothing.
    let happened = [total.blocks, total.lost, total.power_cuts, total.faults, total.salvages, total.cut_recoveries];
    assert!(happened.iter().all(|count| *count > 10), "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    for seed in 0..40 {
        let trace = |tracing| run(&Run { seed, trace: tracing, ..Run::default() }).expect("every promise held");
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
    let began = Instant::now();
    let mut total = FilesSummary::default();
    let mut seed = 0;
    while seed < SEEDS_MIN || began.elapsed() < TIME {
        match run_files(&Run { seed, ..Run::default() }) {
            Ok((summary, _)) => total.add(&summary),
            Err(violation) => panic!(
                "seed {seed} life {}: {}\nrepeat with: cargo run --release --features sim --bin simulate -- \
                 --seed {seed} --world files --trace",
                violation.life, violation.what
            ),
        }
        seed += 1;
    }
    println!("{seed} histories: {total:?}");
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

fn is_caught<T>(mutant: Mutant, world: fn(&Run) -> Result<T, Box<Violation>>) -> Option<Run> {
    (0..SEEDS_FOR_A_MUTANT)
        .map(|seed| Run { seed, mutant: Some(mutant), ..Run::default() })
        .find(|candidate| world(candidate).is_err())
}

macro_rules! controls {
    ($($name:ident: $mutant:ident in $world:ident,)*) => {
        $(#[test]
        fn $name() {
            assert!(is_caught(Mutant::$mutant, $world).is_some(), "{SEEDS_FOR_A_MUTANT} seeds do not find it");
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
    finds_final_names_given_before_the_record: RenameBeforeRecord in run_files,
    finds_a_data_file_that_is_not_synced: FileNotSynced in run_files,
    finds_temporary_names_that_are_not_synced: TmpFolderNotSynced in run_files,
    finds_final_names_that_are_not_synced: FinalFolderNotSynced in run_files,
    finds_files_removed_before_the_record: RemoveBeforeRecord in run_files,
    finds_progress_recorded_without_its_files: ProgressBeforeFiles in run_files,
    finds_renames_that_settling_does_not_finish: RenamesUnfinished in run_files,
}

#[test]
fn a_failing_history_shrinks_to_a_smaller_one_that_fails() {
    let failing = is_caught(Mutant::ReplayUnderNewEpoch, run).expect("found");
    let (smaller, violation) = shrink(&failing, run);
    assert_eq!((smaller.seed, smaller.mutant), (failing.seed, failing.mutant));
    assert!(smaller.limits.lives_max <= 5 && smaller.limits.blocks_max < 256, "{smaller:?}");
    assert_eq!(run(&smaller).expect_err("it fails").what, violation.what);
}
