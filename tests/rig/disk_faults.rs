//! Faults 8, 9 and 12: a disk that fails a write or a flush, or stalls. The engine latches at the first error:
//! nothing more is acknowledged, the fault is named, and what was promised is there after a restart.

use std::time::{Duration, Instant};

use forebay::planted::Mutant;

use crate::check::{Said, open_and_check};
use crate::device::{Fs, Rig};
use crate::enclosure::enclosed;
use crate::image::{Mark, MarkKind, State, Step, What};
use crate::load::{Load, Setting, Sink};
use crate::recorded::{Recorded, caught};
use crate::server::{Failing, Failure, Trouble};

/// Every so-manieth write or flush fails, up to this: `FOREBAY_RIG_FAULTS` sets it.
fn nth_max() -> u64 {
    std::env::var("FOREBAY_RIG_FAULTS").map_or(20, |text| text.parse().expect("a number"))
}

#[test]
fn every_nth_write_that_fails() {
    enclosed("disk_faults::every_nth_write_that_fails", Fs::Ext4, |dir| {
        let rig = Rig::start(dir, Fs::Ext4);
        let mut faults = 0;
        for setting in Setting::ALL {
            for nth in 1..=nth_max() {
                let errno = if nth % 5 == 0 { Failure::NoSpace } else { Failure::Io };
                let write = Some(Failing { nth, times: 1, errno });
                latches(&rig, setting, Trouble { write, ..Trouble::default() }, None);
                faults += 1;
            }
        }
        println!("{faults} faults");
    });
}

#[test]
fn every_nth_flush_that_fails() {
    enclosed("disk_faults::every_nth_flush_that_fails", Fs::Ext4, |dir| {
        let rig = Rig::start(dir, Fs::Ext4);
        let mut faults = 0;
        for setting in Setting::ALL {
            for nth in 1..=nth_max() {
                latches(&rig, setting, failed_flush(nth), None);
                faults += 1;
            }
        }
        println!("{faults} faults");
    });
}

/// At times what was not flushed is gone with it. A disk that said after that that a flush went well would lie to
/// whoever wrote before: it fails them all.
fn failed_flush(nth: u64) -> Trouble {
    let flush_drops = nth.is_multiple_of(2);
    let times = if flush_drops { u64::MAX } else { 1 };
    Trouble { flush: Some(Failing { nth, times, errno: Failure::Io }), flush_drops, ..Trouble::default() }
}

/// Control: the engine tries a failed sync again and believes it; one of the failing flushes must show it.
#[test]
fn a_failed_sync_that_is_tried_again() {
    enclosed("disk_faults::a_failed_sync_that_is_tried_again", Fs::Ext4, |dir| {
        let rig = Rig::start(dir, Fs::Ext4);
        let run = |nth| {
            caught(|| {
                latches(&rig, Setting::Period, failed_flush(nth), Some(Mutant::RetrySync));
                Ok(())
            })
        };
        let found = (1..=20).find_map(|nth| run(nth).err().map(|why| (nth, why)));
        let (nth, why) = found.expect("retry-sync is not found by any of 20 failing flushes");
        println!("{}: found at flush {nth}: {why}", Mutant::RetrySync);
        assert!(why.contains("goes on"), "it is found by what it does");
    });
}

impl Trouble {
    fn is_early(&self) -> bool {
        let failing = self.write.as_ref().or(self.flush.as_ref());
        failing.is_some_and(|failing| failing.nth % 4 == 1 && failing.errno == Failure::Io)
    }
}

/// One run with this trouble, from the moment at which the store is open.
fn latches(rig: &Rig, setting: Setting, trouble: Trouble, mutant: Option<Mutant>) {
    let context = format!("{setting:?} {trouble:?}");
    rig.renew();
    // Now and then while segments are made ahead of need, otherwise under load only.
    let settle_ms = if trouble.is_early() { 0 } else { 100 };
    let mutant = mutant.map(|mutant| mutant.to_string());
    let load = Load::new(rig, setting, Sink::Hold, 150);
    let load = Load { synced_every: 4, writeback: false, settle_ms, mutant, ..load };
    rig.trouble(trouble);
    let recording = rig.record();
    let mounted = rig.mount();
    let (text, code) = load.run();
    let troubled = rig.troubled();
    rig.trouble(Trouble::default());
    let steps = rig.steps(recording);
    assert!(troubled > 0, "{context}: the fault did not come: {text}");
    assert!(code != 0, "{context}: it goes on behind the fault");
    assert_eq!(code, 74, "{context}: {text}");
    let fault = text.lines().find(|line| line.contains("fatal: ")).unwrap_or_else(|| panic!("{context}: {text}"));
    // Where the journal was hit, the file system refuses what comes after.
    let causes = ["Input/output error (os error 5)", "No space left on device (os error 28)", "Read-only file system"];
    assert!(causes.iter().any(|cause| fault.contains(cause)), "{context}: {fault}");
    let named = ["write(shard ", "fdatasync(shard ", "prepare(shard "].iter().any(|name| fault.contains(name));
    assert!(
        named && fault.contains(", segment ") && fault.contains("Nothing more is acknowledged"),
        "{context}: {fault}"
    );
    assert!(fault.contains("have an unknown outcome. Restart to recover"), "{context}: {fault}");
    let shard = shard_of(fault);
    nothing_acked_after(&steps, shard, &context);
    // Restart, first as a process does: on what is mounted, within one boot. Then with the machine.
    let said = Said::before(&steps, steps.len(), setting, &Said::default());
    let writable = std::fs::write(mounted.at.join("probe"), "x").is_ok();
    if writable {
        caught(|| open_and_check(&load, &said)).unwrap_or_else(|why| panic!("{context}: restarted: {why}; {text}"));
    }
    drop(mounted);
    rig.reboot();
    let mounted = rig.mount();
    caught(|| open_and_check(&load, &said)).unwrap_or_else(|why| panic!("{context}: after a reboot: {why}; {text}"));
    drop(mounted);
}

fn shard_of(fault: &str) -> u16 {
    let digits = fault.split("(shard ").nth(1).and_then(|rest| rest.split(',').next());
    digits.and_then(|digits| digits.parse().ok()).expect("a shard")
}

/// P6. What was on its way when the disk failed may still be said, by each writer once; no claim after that
/// succeeds, for which the engine is given a while to be told.
fn nothing_acked_after(steps: &[Step], shard: u16, context: &str) {
    let failed =
        |step: &Step| matches!(step.what, What::Written { failed: true, .. } | What::Flushed { failed: true, .. });
    let at = steps.iter().find(|step| failed(step)).expect("it failed").at_ns;
    let stall: u64 = steps
        .iter()
        .map(|step| match step.what {
            What::Mark(Mark { kind: MarkKind::Stalled, counter, .. }) => counter,
            _ => 0,
        })
        .sum();
    let told = at + 300_000_000 + stall;
    let acked = |step: &&Step| match step.what {
        What::Mark(Mark { kind: MarkKind::Acked | MarkKind::Synced, shard: of, .. }) => of == shard,
        _ => false,
    };
    let late = steps.iter().filter(acked).find(|step| step.at_ns > told);
    assert!(late.is_none(), "{context}: acknowledged after the fault: {late:?}");
}

#[test]
fn a_slow_disk_makes_no_false_acks() {
    enclosed("disk_faults::a_slow_disk_makes_no_false_acks", Fs::Ext4, |dir| {
        let rig = Rig::start(dir, Fs::Ext4);
        for setting in Setting::ALL {
            rig.renew();
            let blocks = if setting == Setting::Period { 60 } else { 12 };
            let load = Load { writeback: false, ..Load::new(&rig, setting, Sink::Hold, blocks) };
            rig.trouble(Trouble { delay_ms: 100, ..Trouble::default() });
            let recorded = Recorded::run(&rig, load, Said::default());
            rig.trouble(Trouble::default());
            println!("{}", recorded.summary());
            let mut random = crate::power_cut::random();
            for _ in 0..10 {
                let kind = crate::states::Kind::Subset;
                let state = crate::states::state(recorded.rig.fs, &recorded.steps, kind, &mut random)
                    .expect("there is always one");
                let said = recorded.said(state.cut);
                if let Err(why) = recorded.check(&state, &said) {
                    recorded.fail(&state, &said, &format!("100 ms for each write and flush: {why}"));
                }
            }
        }
    });
}

#[test]
fn a_write_that_takes_5_s_holds_up_its_own_shard_only() {
    enclosed("disk_faults::a_write_that_takes_5_s_holds_up_its_own_shard_only", Fs::Ext4, |dir| {
        let rig = Rig::start(dir, Fs::Ext4);
        let load = Load { writeback: false, settle_ms: 300, ..Load::new(&rig, Setting::Each, Sink::Hold, 150) };
        rig.trouble(Trouble { delay_ms: 5000, delayed_batches: Some(1), ..Trouble::default() });
        let began = Instant::now();
        let recorded = Recorded::run(&rig, load, Said::default());
        rig.trouble(Trouble::default());
        assert!(began.elapsed() > Duration::from_secs(5), "nothing was delayed");
        let (began, ended, shard) = longest_write(&recorded.steps);
        let said = |of_stalled: bool| {
            let within = |step: &&Step| (began..ended).contains(&step.at_ns);
            let acked = |step: &&Step| match step.what {
                What::Mark(Mark { kind: MarkKind::Acked | MarkKind::Synced, shard: of, .. }) => {
                    (of == shard) == of_stalled
                }
                _ => false,
            };
            recorded.steps.iter().filter(within).filter(acked).count()
        };
        let (own, others) = (said(true), said(false));
        println!("in the 5 s: {own} acks of the shard, {others} of the other");
        // Before it, batches were on their way whose blocks are said meanwhile.
        assert!(own <= 8 && others > 100, "{own} acks of the stalled shard, {others} of the other");
        let state = State { cut: recorded.steps.len(), changes: Vec::new() };
        let said = recorded.said(state.cut);
        assert_eq!(recorded.check(&state, &said), Ok(()));
    });
}

/// When the longest write of a batch began and ended, and its shard.
fn longest_write(steps: &[Step]) -> (u64, u64, u16) {
    let written = steps.iter().filter_map(|step| match step.what {
        What::Written { write, .. } => match steps[write].what {
            What::Write { batch: Some(batch), .. } => Some((steps[write].at_ns, step.at_ns, batch.shard)),
            _ => None,
        },
        _ => None,
    });
    written.max_by_key(|(began, ended, _)| ended - began).expect("batches")
}
