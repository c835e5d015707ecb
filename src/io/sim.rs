//! The simulated disk, folder and clock: the traits of `io/disk.rs` over a [`Medium`].
//!
//! All of them belong to one process; once that is killed they only fail. A [`SimDisk`] advances the
//! simulated time in `poll`: operations take random times, run side by side and end out of order.
//! Segments are made by the real [`Maker`], one request after another.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::io::buf::AlignedBuf;
use crate::io::chance::Chance;
use crate::io::disk::{Clock, Disk, DiskOp, Done, Folder, Instant, OpId, Outcome, Wait};
use crate::io::maker::Maker;
use crate::io::medium::{FolderNo, Medium, WriteNo, count_down, dead};
use crate::limits::PAGE_BYTES;
use crate::wal::segment::segment_name;

/// A [`Medium`] that several hands hold.
#[derive(Clone, Debug)]
pub struct SharedMedium(Arc<Mutex<Medium>>);

impl SharedMedium {
    /// Shares a medium.
    #[must_use]
    pub fn new(medium: Medium) -> Self {
        Self(Arc::new(Mutex::new(medium)))
    }

    /// The medium itself, for as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, Medium> {
        // A panic in a test leaves the medium as it is; nothing relies on more.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first folder, as the process that runs now has it.
    #[must_use]
    pub fn folder(&self) -> SimFolder {
        self.folder_no(FolderNo(0))
    }

    /// Any folder, as the process that runs now has it.
    #[must_use]
    pub fn folder_no(&self, folder: FolderNo) -> SimFolder {
        SimFolder { medium: self.clone(), folder, process: self.lock().process() }
    }
}

impl Clock for SharedMedium {
    fn now(&self) -> Instant {
        self.lock().now
    }
}

/// The medium's folder, as one process has it.
#[derive(Clone, Debug)]
pub struct SimFolder {
    medium: SharedMedium,
    folder: FolderNo,
    process: u64,
}

impl SimFolder {
    /// Does `change`, unless the process dies first; it may also die right behind it.
    fn change<T>(
        &self,
        what: impl FnOnce() -> String,
        change: impl FnOnce(&mut Medium) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut medium = self.medium.lock();
        let goes_on = medium.enter_change(self.process)?;
        medium.note(what);
        if goes_on {
            return change(&mut medium);
        }
        if medium.coin() {
            // How it ended nobody hears.
            let _ = change(&mut medium);
        }
        Err(dead())
    }
}

impl Folder for SimFolder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut medium = self.medium.lock();
        medium.enter(self.process)?;
        Ok(medium.list(self.folder))
    }

    fn try_lock(&self, name: &str) -> io::Result<bool> {
        let mut medium = self.medium.lock();
        medium.enter(self.process)?;
        let file = medium.file(self.folder, name)?;
        Ok(medium.lock(file))
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut medium = self.medium.lock();
        medium.enter(self.process)?;
        let file = medium.file(self.folder, name)?;
        Ok(medium.read(file, offset as usize, buf))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<()> {
        self.change(|| format!("create {name}"), |medium| medium.create(self.folder, name, len as usize))
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.medium.lock();
        let goes_on = medium.enter_change(self.process)?;
        medium.note(|| format!("write {name} {offset:#x} {} bytes", bytes.len()));
        let file = medium.file(self.folder, name)?;
        let write = medium.begin_write(file, offset as usize, bytes.to_vec())?;
        if !goes_on {
            medium.die_in_write(file, write);
            return Err(dead());
        }
        medium.end_write(file, write)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.change(
            || format!("sync {name}"),
            |medium| {
                let file = medium.file(self.folder, name)?;
                let began = medium.begin_sync();
                medium.end_sync(file, began)
            },
        )
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|| format!("rename {from} {to}"), |medium| medium.rename(self.folder, from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|| format!("remove {name}"), |medium| medium.remove(self.folder, name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.change(
            || "sync the folder".to_owned(),
            |medium| {
                medium.sync_names(self.folder);
                Ok(())
            },
        )
    }
}

/// How long operations take: uniformly between the bounds, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A write.
    pub write_us: (u64, u64),
    /// A sync.
    pub sync_us: (u64, u64),
    /// Making or giving back a segment.
    pub make_us: (u64, u64),
    /// Percent of writes and syncs that take a hundred times as long.
    pub stall_percent: u64,
}

#[derive(Debug)]
enum Running {
    Write { file: usize, no: WriteNo, buf: AlignedBuf, synced: bool },
    Sync { file: usize, began: u64 },
    Make(DiskOp),
    Failed(io::Error, Option<AlignedBuf>),
}

#[derive(Debug)]
struct InFlight {
    id: OpId,
    due: Instant,
    running: Running,
}

/// How long an operation of a stalling disk takes, in nanoseconds.
pub const STALL_NS: u64 = 5_000_000_000;

/// One shard's simulated disk.
#[derive(Debug)]
pub struct SimDisk {
    folder: SimFolder,
    maker: Maker,
    chance: Chance,
    pace: Pace,
    submitted: VecDeque<(OpId, DiskOp)>,
    in_flight: Vec<InFlight>,
    making_until: Instant,
    slowest: Slowest,
    stall: Option<u64>,
}

/// The longest times that operations took or are going to take, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slowest {
    /// Of a write.
    pub write_ns: u64,
    /// Of a sync.
    pub sync_ns: u64,
    /// Of making or giving back a segment, with the wait for the one before.
    pub make_ns: u64,
}

impl SimDisk {
    /// A disk over this folder, whose segments this maker makes.
    #[must_use]
    pub fn new(folder: SimFolder, maker: Maker, chance: Chance, pace: Pace) -> Self {
        let (submitted, in_flight) = (VecDeque::new(), Vec::new());
        let making_until = Instant(0);
        let slowest = Slowest::default();
        Self { folder, maker, chance, pace, submitted, in_flight, making_until, slowest, stall: None }
    }

    /// The operation that is so many behind the next one takes [`STALL_NS`].
    pub const fn stall(&mut self, operations: u64) {
        self.stall = Some(operations);
    }

    /// Writes that were submitted and have not ended.
    #[must_use]
    pub fn writes(&self) -> usize {
        let waiting = self.submitted.iter();
        let waiting = waiting.filter(|(_, op)| matches!(op, DiskOp::Write { .. } | DiskOp::WriteSynced { .. }));
        let running = self.in_flight.iter().filter(|op| matches!(op.running, Running::Write { .. }));
        waiting.count() + running.count()
    }

    /// No operation is on its way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.submitted.is_empty() && self.in_flight.is_empty()
    }

    /// An operation is on its way that takes as long as only a stall does.
    #[must_use]
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.in_flight.iter().any(|op| op.due.since_ns(now) > STALL_NS / 5)
    }

    /// When the next operation ends; starts what was submitted.
    pub fn next_due(&mut self) -> Option<Instant> {
        self.start();
        self.in_flight.iter().map(|op| op.due).min()
    }

    /// The longest times so far.
    #[must_use]
    pub const fn slowest(&self) -> Slowest {
        self.slowest
    }

    fn time(&mut self, bounds: (u64, u64)) -> u64 {
        if count_down(&mut self.stall) {
            self.folder.medium.lock().note(|| "the next operation stalls".to_owned());
            return STALL_NS;
        }
        let time = self.chance.within(bounds.0, bounds.1);
        let stall = if self.chance.percent(self.pace.stall_percent) { 100 } else { 1 };
        // Odd nanoseconds, so that hardly ever two things happen at once.
        time * stall * 1_000 + self.chance.below(1_000)
    }

    fn write_time(&mut self) -> u64 {
        let time = self.time(self.pace.write_us);
        self.slowest.write_ns = self.slowest.write_ns.max(time);
        time
    }

    fn sync_time(&mut self) -> u64 {
        let time = self.time(self.pace.sync_us);
        self.slowest.sync_ns = self.slowest.sync_ns.max(time);
        time
    }

    fn start(&mut self) {
        while let Some((id, op)) = self.submitted.pop_front() {
            let now = self.folder.medium.now();
            let (running, due) = match op {
                DiskOp::Write { segment, offset, buf } => {
                    let time = self.write_time();
                    (self.begin_write(&segment_name(segment), offset, buf, false), Instant(now.0 + time))
                }
                DiskOp::WriteSynced { segment, offset, buf } => {
                    let time = self.write_time() + self.sync_time();
                    (self.begin_write(&segment_name(segment), offset, buf, true), Instant(now.0 + time))
                }
                DiskOp::Sync { segment } => {
                    let time = self.sync_time();
                    let medium = self.folder.medium.lock();
                    let running = match medium.file(self.folder.folder, &segment_name(segment)) {
                        Ok(file) => Running::Sync { file, began: medium.begin_sync() },
                        Err(error) => Running::Failed(error, None),
                    };
                    (running, Instant(now.0 + time))
                }
                make @ (DiskOp::Prepare { .. } | DiskOp::Retire { .. }) => {
                    self.making_until = Instant(self.making_until.max(now).0 + self.time(self.pace.make_us));
                    self.slowest.make_ns = self.slowest.make_ns.max(self.making_until.since_ns(now));
                    (Running::Make(make), self.making_until)
                }
            };
            self.in_flight.push(InFlight { id, due, running });
        }
    }

    fn begin_write(&self, name: &str, offset: u32, buf: AlignedBuf, synced: bool) -> Running {
        assert!(buf.len().is_multiple_of(PAGE_BYTES) && (offset as usize).is_multiple_of(PAGE_BYTES), "whole pages");
        let mut medium = self.folder.medium.lock();
        medium.note(|| format!("begin to write {name} {offset:#x} {} bytes", buf.len()));
        let begun = medium
            .file(self.folder.folder, name)
            .and_then(|file| Ok((file, medium.begin_write(file, offset as usize, buf.to_vec())?)));
        match begun {
            Ok((file, no)) => Running::Write { file, no, buf, synced },
            Err(error) => Running::Failed(error, Some(buf)),
        }
    }

    fn end(&mut self, op: InFlight) -> Done {
        let (result, buf) = match op.running {
            Running::Write { file, no, buf, synced } => {
                let mut medium = self.folder.medium.lock();
                let written = medium.end_write(file, no);
                let ended = match synced {
                    true => written.and_then(|()| medium.harden(file, no)).map(|()| Outcome::Synced),
                    false => written.map(|()| Outcome::Written),
                };
                (ended, Some(buf))
            }
            Running::Sync { file, began } => {
                (self.folder.medium.lock().end_sync(file, began).map(|()| Outcome::Synced), None)
            }
            Running::Make(DiskOp::Prepare { header }) => {
                let made = self.maker.prepare(&self.folder, *header);
                (made.map(|header| Outcome::Prepared(Box::new(header))), None)
            }
            Running::Make(DiskOp::Retire { segment, end }) => {
                (self.maker.retire(&self.folder, segment, end).map(|()| Outcome::Retired), None)
            }
            Running::Make(other) => unreachable!("{other:?} is not made"),
            Running::Failed(error, buf) => (Err(error), buf),
        };
        let outcome = result.unwrap_or_else(Outcome::Failed);
        self.folder.medium.lock().note(|| match &outcome {
            Outcome::Prepared(header) => format!("op {} ended: prepared segment {}", op.id.0, header.segment),
            outcome => format!("op {} ended: {outcome:?}", op.id.0),
        });
        Done { id: op.id, outcome, buf }
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, id: OpId, op: DiskOp) {
        self.submitted.push_back((id, op));
    }

    fn poll(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let next = self.next_due();
        let upto = {
            let mut medium = self.folder.medium.lock();
            medium.enter(self.folder.process)?;
            let until = match (wait, next) {
                (Wait::No, _) | (Wait::Event, None) => medium.now,
                (Wait::Event, Some(next)) => next,
                (Wait::Until(until), next) => next.map_or(until, |next| next.min(until)),
            };
            medium.now = medium.now.max(until);
            medium.now
        };
        while let Some(index) = (0..self.in_flight.len())
            .filter(|&at| self.in_flight[at].due <= upto)
            .min_by_key(|&at| self.in_flight[at].due)
        {
            let op = self.in_flight.swap_remove(index);
            done.push(self.end(op));
            if self.folder.medium.lock().is_crashed() {
                return Err(dead());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::medium::{Fate, Faults};
    use crate::types::{Epoch, FileId, Generation, Nonce, SegmentNo, ShardId, StoreId};
    use crate::wal::segment::SegmentHeader;

    const SEGMENT_BYTES: u64 = 32 << 10;
    const STORE: StoreId = StoreId([7; 16]);

    fn medium() -> SharedMedium {
        SharedMedium::new(Medium::new(Chance::new(1), 512))
    }

    /// A folder with one durable file of zeros.
    fn with_file(name: &str) -> (SharedMedium, SimFolder) {
        let shared = medium();
        let folder = shared.folder();
        folder.create(name, 8192).expect("created");
        folder.sync(name).expect("synced");
        folder.sync_folder().expect("synced");
        (shared, folder)
    }

    fn first_byte(shared: &SharedMedium, name: &str) -> u8 {
        let mut page = [0; 4096];
        shared.folder().read(name, 0, &mut page).expect("read");
        page[0]
    }

    fn disk(shared: &SharedMedium) -> SimDisk {
        let maker = Maker::new(STORE, ShardId(0), SEGMENT_BYTES, 2, Box::new(|| 9));
        let pace = Pace { write_us: (10, 20), sync_us: (100, 200), make_us: (1, 2), stall_percent: 0 };
        SimDisk::new(shared.folder(), maker, Chance::new(2), pace)
    }

    fn run(disk: &mut SimDisk, id: u64, op: DiskOp) -> Outcome {
        let mut done = Vec::new();
        disk.submit(OpId(id), op);
        while !done.iter().any(|done: &Done| done.id == OpId(id)) {
            disk.poll(Wait::Event, &mut done).expect("alive");
        }
        done.into_iter().find(|done| done.id == OpId(id)).expect("just seen").outcome
    }

    fn wanted(epoch: u64) -> SegmentHeader {
        SegmentHeader {
            store: STORE,
            shard: ShardId(0),
            segment: SegmentNo(1),
            epoch: Epoch(epoch),
            nonce: Nonce(1),
            file_id: FileId(0),
            generation: Generation(0),
            filled_upto: 0,
            segment_bytes: SEGMENT_BYTES,
            boot: [1; 16],
            pin: None,
            handled: Vec::new(),
        }
    }

    fn prepared(shared: &SharedMedium) -> SimDisk {
        let mut disk = disk(shared);
        let header = Box::new(wanted(1));
        assert!(matches!(run(&mut disk, 1, DiskOp::Prepare { header }), Outcome::Prepared(_)));
        disk
    }

    fn full_of(byte: u8) -> AlignedBuf {
        let mut buf = AlignedBuf::new(4096);
        buf.fill(byte);
        buf
    }

    fn write(byte: u8) -> DiskOp {
        DiskOp::Write { segment: SegmentNo(1), offset: 8192, buf: full_of(byte) }
    }

    fn at_8192(shared: &SharedMedium) -> Vec<u8> {
        let mut page = vec![0; 4096];
        shared.folder().read(&segment_name(SegmentNo(1)), 8192, &mut page).expect("read");
        page
    }

    #[test]
    fn only_what_was_synced_survives_a_power_cut_and_all_that_completed_a_kill() {
        let (shared, folder) = with_file("a");
        folder.write("a", 0, &full_of(1)).expect("written");
        folder.sync("a").expect("synced");
        folder.write("a", 0, &full_of(2)).expect("written");
        shared.lock().kill();
        assert_eq!(first_byte(&shared, "a"), 2);
        assert!(folder.list().is_err(), "the old process is dead");
        shared.lock().cut_power(Fate::Lost);
        assert_eq!(first_byte(&shared, "a"), 1);
    }

    #[test]
    fn a_name_is_durable_only_with_its_folder() {
        let (shared, folder) = with_file("a");
        folder.rename("a", "b").expect("renamed");
        shared.lock().cut_power(Fate::Lost);
        assert_eq!(shared.folder().list().expect("listed"), [("a".to_owned(), 8192)]);
        shared.folder().rename("a", "b").expect("renamed");
        shared.folder().sync_folder().expect("synced");
        shared.lock().cut_power(Fate::Lost);
        assert_eq!(shared.folder().list().expect("listed"), [("b".to_owned(), 8192)]);
    }

    #[test]
    fn a_sync_covers_no_write_that_completed_after_its_submission() {
        let shared = medium();
        let mut disk = prepared(&shared);
        let mut done = Vec::new();
        disk.submit(OpId(2), write(7));
        disk.submit(OpId(3), DiskOp::Sync { segment: SegmentNo(1) });
        while done.len() < 2 {
            disk.poll(Wait::Event, &mut done).expect("alive");
        }
        assert!(matches!(done[0].outcome, Outcome::Written) && matches!(done[1].outcome, Outcome::Synced));
        shared.lock().cut_power(Fate::Lost);
        assert!(at_8192(&shared).iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_synced_write_is_durable_and_a_later_sync_makes_a_written_one_so() {
        for op in [0, 1] {
            let shared = medium();
            let mut disk = prepared(&shared);
            if op == 0 {
                let buf = full_of(7);
                let synced = run(&mut disk, 2, DiskOp::WriteSynced { segment: SegmentNo(1), offset: 8192, buf });
                assert!(matches!(synced, Outcome::Synced));
            } else {
                assert!(matches!(run(&mut disk, 2, write(7)), Outcome::Written));
                assert!(matches!(run(&mut disk, 3, DiskOp::Sync { segment: SegmentNo(1) }), Outcome::Synced));
            }
            shared.lock().cut_power(Fate::Lost);
            assert!(at_8192(&shared).iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn after_a_failed_sync_the_next_says_ok_and_the_data_is_gone_all_the_same() {
        let shared = medium();
        let mut disk = prepared(&shared);
        run(&mut disk, 2, write(7));
        shared.lock().faults = Faults { sync_error: Some(0), ..Faults::default() };
        let sync = || DiskOp::Sync { segment: SegmentNo(1) };
        assert!(matches!(run(&mut disk, 3, sync()), Outcome::Failed(_)));
        assert!(matches!(run(&mut disk, 4, sync()), Outcome::Synced));
        shared.lock().cut_power(Fate::Kept);
        let lost = at_8192(&shared).iter().filter(|&&byte| byte == 0).count();
        assert!(lost > 0 && lost.is_multiple_of(512), "{lost} bytes lost");
    }

    #[test]
    fn a_power_cut_tears_a_write_at_atomic_units() {
        let shared = SharedMedium::new(Medium::new(Chance::new(3), 4096));
        let folder = shared.folder();
        folder.create("a", 32768).expect("created");
        folder.sync("a").expect("synced");
        folder.sync_folder().expect("synced");
        folder.write("a", 0, &[1; 32768]).expect("written");
        shared.lock().cut_power(Fate::Units);
        let mut bytes = vec![0; 32768];
        shared.folder().read("a", 0, &mut bytes).expect("read");
        let units: Vec<u8> = bytes.chunks(4096).map(|unit| unit[0]).collect();
        assert!(units.contains(&0) && units.contains(&1), "{units:?}");
        assert!(bytes.chunks(4096).all(|unit| unit.iter().all(|byte| *byte == unit[0])));
    }

    #[test]
    fn a_file_stays_locked_until_the_writes_of_a_killed_process_have_landed() {
        let mut waited = false;
        for seed in 0..20 {
            let shared = SharedMedium::new(Medium::new(Chance::new(seed), 512));
            let mut disk = prepared(&shared);
            disk.submit(OpId(2), write(7));
            disk.poll(Wait::No, &mut Vec::new()).expect("alive");
            shared.lock().kill();
            let name = segment_name(SegmentNo(1));
            let before = at_8192(&shared);
            let mut tries = 0;
            while !shared.folder().try_lock(&name).expect("tried") {
                tries += 1;
            }
            let after = at_8192(&shared);
            waited |= tries > 0 && before != after;
            for _ in 0..100 {
                assert_eq!(at_8192(&shared), after, "nothing lands any more");
            }
        }
        assert!(waited, "no write landed late");
    }

    #[test]
    fn the_last_call_of_a_process_happened_or_not_and_all_others_fail() {
        let mut happened = [false; 2];
        for seed in 0..20 {
            let shared = SharedMedium::new(Medium::new(Chance::new(seed), 512));
            let folder = shared.folder();
            folder.create("a", 4096).expect("created");
            shared.lock().faults.last_call = Some(0);
            assert!(folder.rename("a", "b").is_err());
            assert!(shared.lock().is_crashed() && folder.list().is_err());
            shared.lock().kill();
            let names = shared.folder().list().expect("listed");
            happened[usize::from(names[0].0 == "b")] = true;
        }
        assert_eq!(happened, [true; 2]);
    }

    #[test]
    fn a_segment_that_is_renewed_has_a_whole_header_after_any_row_of_cuts() {
        let mut renewed = 0;
        for seed in 0..400 {
            let mut chance = Chance::new(seed);
            let shared = SharedMedium::new(Medium::new(chance.fork(1), 512));
            prepared(&shared);
            let mut epochs = vec![1];
            for epoch in 2..6 {
                let (name, mut bytes) = (segment_name(SegmentNo(1)), vec![0; 8192]);
                // Recovery syncs before it reads.
                shared.folder().sync(&name).expect("synced");
                shared.folder().read(&name, 0, &mut bytes).expect("read");
                let found = SegmentHeader::decode(&bytes).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
                assert!(epochs.contains(&found.epoch.0), "seed {seed}: {found:?}");
                let mut maker = Maker::new(STORE, ShardId(0), SEGMENT_BYTES, 2, Box::new(|| 9));
                shared.lock().faults.last_call = chance.percent(80).then(|| chance.below(4));
                let result = maker.renew(&shared.folder(), &found, 12288, wanted(epoch));
                if result.is_ok() {
                    renewed += 1;
                    epochs.clear();
                }
                epochs.push(epoch);
                let fate = chance.pick(&Fate::ALL);
                if chance.percent(50) {
                    shared.lock().kill()
                } else {
                    shared.lock().cut_power(fate)
                }
                shared.lock().faults.last_call = None;
            }
        }
        assert!(renewed > 100, "{renewed}");
    }
}
