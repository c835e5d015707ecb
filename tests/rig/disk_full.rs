//! Fault 10: a file system that is really full. The intake closes, writers wait, nothing that was acknowledged is
//! lost, a start always succeeds, also after a kill or a power cut while it is full, and when room comes it goes
//! on by itself.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs, syncfs};

use crate::check::{Said, open_and_check};
use crate::device::{Fs, Mounted, Rig};
use crate::enclosure::enclosed;
use crate::image::{Mark, MarkKind, What};
use crate::load::{AGAIN, FULL, Load, Marker, Setting, Sink, WAITS, WRITERS};
use crate::power_cut::{count, random};
use crate::recorded::{Recorded, caught};
use crate::server::MARKS;
use crate::states::{Kind, Random, state};

/// Kills on a full disk, one after the other, before there is room.
const KILLS: usize = 3;
/// Power cuts of each kind while it was full, of each recording.
const CUTS: usize = 2;
/// What the log finds free, and a bit more at random: less than it may take.
const FREE_BYTES: usize = 14 << 20;
/// Less than a segment, and what the file system counts as free and keeps for itself: ext4 1 MiB of 48.
const FULL_BYTES: u64 = 5 << 19;

/// How often a writer was told so.
static STORE_FULL: AtomicU32 = AtomicU32::new(0);

#[test]
fn a_full_disk_loses_nothing_and_always_starts() {
    enclosed("disk_full::a_full_disk_loses_nothing_and_always_starts", Fs::Ext4, |dir| fills(dir, Fs::Ext4));
}

#[test]
fn a_full_disk_loses_nothing_and_always_starts_on_xfs() {
    enclosed("disk_full::a_full_disk_loses_nothing_and_always_starts_on_xfs", Fs::Xfs, |dir| fills(dir, Fs::Xfs));
}

fn fills(dir: &Path, fs: Fs) {
    let rig = Rig::start(dir, fs);
    let mut random = random();
    let began = Instant::now();
    let (rounds, first) = (count(fs).div_ceil(70), random.below(3));
    for number in first..first + rounds {
        fill(&rig, Setting::ALL[number % 3], &mut random);
    }
    let told = STORE_FULL.load(Ordering::Acquire);
    println!("{fs:?}: {rounds} times filled, {:?} each; {told} times StoreFull", began.elapsed() / rounds as u32);
    assert!(told > 0, "nobody was told that the store is full");
}

/// Fills the disk, kills while it is full, makes room; then power cuts while it was full.
fn fill(rig: &Rig, setting: Setting, random: &mut Random) {
    rig.renew();
    let load = Load { tells: true, ..Load::new(rig, setting, Sink::Hold, u64::MAX) };
    let number = rig.record();
    let mounted = rig.mount();
    let ballast = mounted.at.join("ballast");
    take_all_but(&mounted, &ballast, FREE_BYTES + random.below(4 << 20));
    let marker = Marker::connect(&rig.dir.join(MARKS));
    let recorded = |steps| Recorded { rig, number, steps, load: load.clone(), earlier: Said::default() };
    let check_killed = |recorded: &Recorded<'_>| {
        let said = recorded.said(recorded.steps.len()).by_a_kill();
        caught(|| open_and_check(&load, &said)).unwrap_or_else(|why| panic!("{setting:?}: after a kill: {why}"));
    };
    for kill in 1..=KILLS {
        let running = Running::start(&load);
        running.wait_until_full(&mounted);
        take_the_rest(&mounted);
        marker.mark(of_the_disk(MarkKind::Full));
        if kill == KILLS {
            std::fs::remove_file(&ballast).expect("removed");
            marker.mark(of_the_disk(MarkKind::Room));
            running.wait("it goes on by itself", |waiting| waiting < WRITERS);
        }
        running.kill();
        // At times the next one finds what the kill left.
        if kill == KILLS || random.percent(50) {
            check_killed(&recorded(rig.steps_so_far(number)));
        }
    }
    drop(mounted);
    let recorded = recorded(rig.steps(number));
    println!("{}", recorded.summary());
    let at = |kind| {
        let is = |what: &What| matches!(what, What::Mark(mark) if mark.kind == kind);
        recorded.steps.iter().position(|step| is(&step.what)).expect("it was marked")
    };
    let full = at(MarkKind::Full)..at(MarkKind::Room);
    for kind in Kind::CUTS {
        for _ in 0..CUTS {
            let until_room = &recorded.steps[..full.end];
            let cut = (0..1000)
                .filter_map(|_| state(recorded.rig.fs, until_room, kind, random))
                .find(|state| full.contains(&state.cut));
            let state = cut.expect("a cut while it was full");
            let said = recorded.said(state.cut);
            if let Err(why) = recorded.check(&state, &said) {
                recorded.fail(&state, &said, &format!("{kind:?}, the disk is full: {why}"));
            }
        }
    }
}

fn of_the_disk(kind: MarkKind) -> Mark {
    Mark { kind, writer: 0, counter: 0, shard: 0, epoch: 0, seq: 0 }
}

fn free_bytes(mounted: &Mounted<'_>) -> u64 {
    let now = statvfs(&mounted.at).expect("a mounted file system");
    now.f_bfree * now.f_frsize
}

/// Leaves so much of the file system free.
fn take_all_but(mounted: &Mounted<'_>, ballast: &Path, bytes: usize) {
    // Made now: a name may need room too.
    File::create(mounted.at.join("rest")).expect("a file");
    let file = File::create(ballast).expect("a file");
    let taken = free_bytes(mounted).checked_sub(bytes as u64).expect("the disk is larger");
    fallocate(&file, FallocateFlags::empty(), 0, taken).expect("there is room");
    syncfs(&file).expect("the file system is sound");
}

/// Leaves nothing free, to the last page.
fn take_the_rest(mounted: &Mounted<'_>) {
    let file = File::options().append(true).open(mounted.at.join("rest")).expect("a file");
    let page = [1; 4096];
    while (&file).write(&page).and_then(|_| file.sync_data()).is_ok() {}
}

/// The engine's process, and how many of its writers wait for room.
struct Running {
    child: Child,
    waiting: Arc<AtomicU32>,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn start(load: &Load) -> Self {
        let mut child = load.spawn();
        let pipe = BufReader::new(child.stderr.take().expect("a pipe"));
        let (waiting, said) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(String::new())));
        let (counted, kept) = (Arc::clone(&waiting), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                if line == FULL {
                    STORE_FULL.fetch_add(1, Ordering::AcqRel);
                }
                match line.as_str() {
                    WAITS | FULL => drop(counted.fetch_add(1, Ordering::AcqRel)),
                    AGAIN => drop(counted.fetch_sub(1, Ordering::AcqRel)),
                    other => kept.lock().expect("no panic").push_str(&format!("{other}\n")),
                }
            }
        });
        Self { child, waiting, said }
    }

    /// Every writer waits for room that the disk does not have, and has for a while.
    fn wait_until_full(&self, mounted: &Mounted<'_>) {
        let since = Cell::new(Instant::now());
        self.wait("the disk is full", |waiting| {
            if waiting < WRITERS || free_bytes(mounted) >= FULL_BYTES {
                since.set(Instant::now());
            }
            since.get().elapsed() > Duration::from_millis(200)
        });
    }

    fn wait(&self, what: &str, is_so: impl Fn(u32) -> bool) {
        let began = Instant::now();
        while !is_so(self.waiting.load(Ordering::Acquire)) {
            let (waiting, said) = (self.waiting.load(Ordering::Acquire), self.said.lock().expect("no panic"));
            assert!(said.is_empty(), "{what}: {said}");
            assert!(began.elapsed() < Duration::from_secs(120), "{what}: {waiting} writers wait for room");
            drop(said);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("an end");
    }
}
