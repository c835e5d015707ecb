//! One suite for all disks: what `io/disk.rs` promises holds for each of them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use forebay::io::buf::AlignedBuf;
use forebay::io::clock::{MonotonicClock, random_u64};
use forebay::io::disk::{Clock, Disk, DiskOp, Done, Folder, Instant, OpId, Outcome, Wait};
use forebay::io::folder::DirFolder;
use forebay::io::maker::Maker;
use forebay::io::pwrite::PwriteDisk;
use forebay::io::uring::UringDisk;
use forebay::io::waker::Waker;
use forebay::limits::SEGMENT_HEADER_BYTES;
use forebay::types::{Epoch, FileId, Generation, Nonce, SegmentNo, ShardId, StoreId};
use forebay::wal::segment::{SegmentHeader, segment_name};
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 1 << 20;
const STORE: StoreId = StoreId([7; 16]);
const START: u32 = SEGMENT_HEADER_BYTES as u32;

/// Makes a disk over a directory; the segments in it that are named can be written at once.
type Factory = fn(&Path, &[SegmentNo], Arc<Waker>) -> Box<dyn Disk>;

const DISKS: [(&str, Factory); 2] = [
    ("uring", |dir, ready, waker| {
        let (folder, maker) = outfit(dir);
        Box::new(UringDisk::new(folder, maker, ready, waker).expect("io_uring"))
    }),
    ("pwrite", |dir, ready, waker| {
        let (folder, maker) = outfit(dir);
        Box::new(PwriteDisk::new(folder, maker, ready, waker).expect("threads"))
    }),
];

fn outfit(dir: &Path) -> (Arc<DirFolder>, Maker) {
    let folder = DirFolder::open(dir).expect("the folder opens");
    let mut maker = Maker::new(STORE, ShardId(0), SEGMENT_BYTES, 1, Box::new(random_u64));
    maker.adopt_leftovers(&folder).expect("adopted");
    (Arc::new(folder), maker)
}

/// A disk under test, driven as a shard would.
struct Rig {
    disk: Box<dyn Disk>,
    waker: Arc<Waker>,
    next: u64,
    ended: HashMap<OpId, Done>,
    dir: Arc<TempDir>,
}

impl Rig {
    fn new(factory: Factory) -> Self {
        Self::over(factory, Arc::new(folder()), &[])
    }

    fn over(factory: Factory, dir: Arc<TempDir>, ready: &[SegmentNo]) -> Self {
        let waker = Waker::new().expect("an eventfd");
        let disk = factory(dir.path(), ready, Arc::clone(&waker));
        Self { disk, waker, next: 0, ended: HashMap::new(), dir }
    }

    fn submit(&mut self, op: DiskOp) -> OpId {
        self.next += 1;
        self.disk.submit(OpId(self.next), op);
        OpId(self.next)
    }

    fn poll(&mut self, wait: Wait) -> usize {
        let mut done = Vec::new();
        self.disk.poll(wait, &mut done).expect("the disk is sound");
        let count = done.len();
        for end in done {
            let id = end.id;
            assert!((1..=self.next).contains(&id.0), "{end:?} was never submitted");
            assert!(self.ended.insert(id, end).is_none(), "{id:?} ended twice");
        }
        count
    }

    fn end_of(&mut self, id: OpId) -> Done {
        loop {
            if let Some(end) = self.ended.remove(&id) {
                return end;
            }
            self.poll(Wait::Event);
        }
    }

    fn run(&mut self, op: DiskOp) -> Done {
        let id = self.submit(op);
        self.end_of(id)
    }

    fn prepare(&mut self, segment: u64) -> SegmentHeader {
        match self.run(DiskOp::Prepare { header: Box::new(wanted(segment)) }).outcome {
            Outcome::Prepared(header) => *header,
            other => panic!("prepare: {other:?}"),
        }
    }

    fn submit_write(&mut self, segment: u64, offset: u32, bytes: usize, fill: u8) -> OpId {
        let mut buf = AlignedBuf::new(bytes);
        buf.fill(fill);
        self.submit(DiskOp::Write { segment: SegmentNo(segment), offset, buf })
    }

    fn write(&mut self, segment: u64, offset: u32, bytes: usize, fill: u8) -> Done {
        let id = self.submit_write(segment, offset, bytes, fill);
        self.end_of(id)
    }

    fn content(&self, segment: u64) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_BYTES as usize + 1];
        let folder = DirFolder::open(self.dir.path()).expect("the folder opens");
        let count = folder.read(&segment_name(SegmentNo(segment)), 0, &mut bytes).expect("read");
        assert_eq!(count as u64, SEGMENT_BYTES, "a segment never changes its length");
        bytes.truncate(count);
        bytes
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("listed");
        let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> = entries.map(|entry| name(entry).into_string().expect("ASCII")).collect();
        names.sort_unstable();
        names
    }
}

/// Beside the build: the system's temporary folder may be kept in memory.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn wanted(segment: u64) -> SegmentHeader {
    SegmentHeader {
        store: STORE,
        shard: ShardId(0),
        segment: SegmentNo(segment),
        epoch: Epoch(5),
        nonce: Nonce(6),
        file_id: FileId(0),
        generation: Generation(0),
        filled_upto: 0,
        segment_bytes: SEGMENT_BYTES,
        boot: [9; 16],
        pin: None,
        handled: Vec::new(),
    }
}

fn soon(us: u64) -> Wait {
    Wait::Until(MonotonicClock.now().plus_us(us))
}

/// A deadline that no wait should reach, so that a lost wake shows as a failure and not as a hang.
fn late() -> Wait {
    soon(60_000_000)
}

const LOST_NS: u64 = 50_000_000_000;

fn for_all_disks(test: impl Fn(Factory)) {
    for (name, factory) in DISKS {
        eprintln!("disk: {name}");
        test(factory);
    }
}

fn failed_as(outcome: &Outcome, kind: io::ErrorKind) -> bool {
    matches!(outcome, Outcome::Failed(error) if error.kind() == kind)
}

#[test]
fn what_is_written_is_read_back_and_nothing_else_changes() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        let header = rig.prepare(1);
        let before = rig.content(1);
        assert_eq!(SegmentHeader::decode(&before).expect("a header"), header);
        assert!(before[START as usize..].iter().all(|&byte| byte == 0));
        let end = rig.write(1, START + 4096, 12288, 7);
        assert!(matches!(end.outcome, Outcome::Written), "{end:?}");
        assert_eq!(end.buf.expect("the buffer comes home").len(), 12288);
        let sync = rig.run(DiskOp::Sync { segment: SegmentNo(1) });
        assert!(matches!(sync.outcome, Outcome::Synced) && sync.buf.is_none(), "{sync:?}");
        let at = START as usize + 4096;
        let mut expected = before;
        expected[at..at + 12288].fill(7);
        assert!(rig.content(1) == expected);
    });
}

#[test]
fn a_synced_write_is_written_whole_and_says_so() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        rig.prepare(1);
        let mut buf = AlignedBuf::new(8192);
        buf.fill(7);
        let end = rig.run(DiskOp::WriteSynced { segment: SegmentNo(1), offset: START, buf });
        assert!(matches!(end.outcome, Outcome::Synced), "{end:?}");
        assert_eq!(end.buf.expect("the buffer comes home").len(), 8192);
        assert!(rig.content(1)[START as usize..][..8192].iter().all(|&byte| byte == 7));
        let nowhere = DiskOp::WriteSynced { segment: SegmentNo(2), offset: START, buf: AlignedBuf::new(4096) };
        let end = rig.run(nowhere);
        assert!(failed_as(&end.outcome, io::ErrorKind::NotFound) && end.buf.is_some(), "{end:?}");
    });
}

#[test]
fn many_operations_in_flight_all_end_once_with_their_own_buffers() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        let fill = |segment: u64, page: u32| (u64::from(page) * 3 + segment) as u8;
        // Together more than a submission queue or a completion queue holds.
        let pages = (SEGMENT_BYTES as u32 - START) / 4096;
        let mut ids = HashMap::new();
        for segment in 1..=3 {
            rig.prepare(segment);
        }
        for page in 0..pages {
            for segment in 1..=3 {
                let id = rig.submit_write(segment, START + page * 4096, 4096, fill(segment, page));
                ids.insert(id, fill(segment, page));
            }
        }
        assert!(ids.len() > 700);
        for (&id, &fill) in &ids {
            let end = rig.end_of(id);
            assert!(matches!(end.outcome, Outcome::Written), "{end:?}");
            assert!(end.buf.expect("the buffer comes home").iter().all(|&byte| byte == fill));
        }
        for segment in 1..=3 {
            let content = rig.content(segment);
            for (page, bytes) in content[START as usize..].chunks_exact(4096).enumerate() {
                let fill = fill(segment, page as u32);
                assert!(bytes.iter().all(|&byte| byte == fill), "segment {segment} page {page}");
            }
        }
    });
}

#[test]
fn a_segment_that_is_not_prepared_fails_the_operation_and_not_the_disk() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        let end = rig.write(9, START, 4096, 7);
        assert!(failed_as(&end.outcome, io::ErrorKind::NotFound), "{end:?}");
        assert_eq!(end.buf.expect("the buffer comes home").len(), 4096);
        let sync = rig.run(DiskOp::Sync { segment: SegmentNo(9) });
        assert!(failed_as(&sync.outcome, io::ErrorKind::NotFound), "{sync:?}");
        rig.prepare(9);
        assert!(matches!(rig.write(9, START, 4096, 7).outcome, Outcome::Written));
    });
}

/// The environment by which a test runs itself again as a child: the disk's name, the folder.
const CHILD: [&str; 2] = ["DISKS_TEST_CHILD_DISK", "DISKS_TEST_CHILD_FOLDER"];
const CHILD_SAYS: &str = "both writes failed as they should";

#[test]
fn short_and_failed_writes_are_reported_with_their_buffers() {
    if let (Ok(disk), Ok(dir)) = (std::env::var(CHILD[0]), std::env::var(CHILD[1])) {
        return write_beyond_the_limit(&disk, Path::new(&dir));
    }
    for (name, factory) in DISKS {
        let mut rig = Rig::new(factory);
        rig.prepare(1);
        let dir = Arc::clone(&rig.dir);
        drop(rig);
        // The limit on file sizes is a process's own: `sh` sets it, ignores its signal, and becomes the test.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", "short_and_failed_writes_are_reported_with_their_buffers", "--nocapture"])
            .env(CHILD[0], name)
            .env(CHILD[1], dir.path())
            .output()
            .expect("sh");
        let said = [child.stdout, child.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(child.status.success() && said.contains(CHILD_SAYS), "{name}: {said}");
    }
}

fn write_beyond_the_limit(disk: &str, dir: &Path) {
    let (_, factory) = *DISKS.iter().find(|(name, _)| *name == disk).expect("a disk's name");
    // `ulimit -f` counts in units of 512 or 1024 bytes, as the shell likes.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.expect("a limit");
    assert!((512 << 10..=SEGMENT_BYTES).contains(&limit), "{limit}");
    let limit = limit as u32;
    let mut disk = factory(dir, &[SegmentNo(1)], Waker::new().expect("an eventfd"));
    let mut write = |id, offset| {
        let buf = AlignedBuf::new(8192);
        disk.submit(OpId(id), DiskOp::Write { segment: SegmentNo(1), offset, buf });
        let mut done = Vec::new();
        while done.is_empty() {
            disk.poll(Wait::Event, &mut done).expect("the disk is sound");
        }
        let end = done.pop().expect("one end");
        assert_eq!((end.id, end.buf.map(|buf| buf.len())), (OpId(id), Some(8192)));
        end.outcome
    };
    assert!(matches!(write(1, limit - 8192), Outcome::Written));
    let short = write(2, limit - 4096);
    assert!(failed_as(&short, io::ErrorKind::WriteZero), "{short:?}");
    let beyond = write(3, limit);
    assert!(failed_as(&beyond, io::ErrorKind::FileTooLarge), "{beyond:?}");
    assert!(matches!(write(4, START), Outcome::Written), "one failed write is not a failed disk");
    println!("{CHILD_SAYS}");
}

#[test]
fn no_wait_returns_at_once_and_finds_what_has_ended() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        for _ in 0..1000 {
            assert_eq!(rig.poll(Wait::No), 0);
        }
        rig.prepare(1);
        let id = rig.submit_write(1, START, 4096, 7);
        while !rig.ended.contains_key(&id) {
            rig.poll(Wait::No);
            std::thread::yield_now();
        }
        assert!(matches!(rig.end_of(id).outcome, Outcome::Written));
    });
}

#[test]
fn a_wait_lasts_until_its_deadline_and_not_for_ever() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        for us in [0, 500, 20_000] {
            let until = MonotonicClock.now().plus_us(us);
            // A poll may return early; the deadline is what ends the loop.
            while MonotonicClock.now() < until {
                assert_eq!(rig.poll(Wait::Until(until)), 0);
            }
        }
        // It does not return early all the time: ten waits of 5 ms take their time.
        let start = MonotonicClock.now();
        for _ in 0..10 {
            rig.poll(soon(5_000));
        }
        assert!(MonotonicClock.now().since_ns(start) > 25_000_000, "waits ended early");
        assert_eq!(rig.poll(Wait::Until(Instant(1))), 0, "a deadline in the past");
    });
}

#[test]
fn a_wake_from_another_thread_ends_a_wait_again_and_again() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        for round in 0..50 {
            let waker = Arc::clone(&rig.waker);
            let thread = std::thread::spawn(move || {
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                waker.wake();
            });
            let start = MonotonicClock.now();
            assert_eq!(rig.poll(late()), 0);
            assert!(MonotonicClock.now().since_ns(start) < LOST_NS, "the wake was lost in round {round}");
            thread.join().expect("the waking thread");
        }
    });
}

#[test]
fn a_wake_before_the_wait_is_not_lost_and_counts_once() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        rig.poll(soon(100));
        rig.waker.wake();
        rig.waker.wake();
        let start = MonotonicClock.now();
        rig.poll(late());
        assert!(MonotonicClock.now().since_ns(start) < LOST_NS, "the wake was lost");
        // At most one more poll is cut short; then it sleeps again.
        rig.poll(soon(1_000));
        let start = MonotonicClock.now();
        rig.poll(soon(20_000));
        assert!(MonotonicClock.now().since_ns(start) >= 19_000_000, "the wake counted twice");
    });
}

#[test]
fn files_are_recycled_with_the_next_generation_and_another_stamp() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        let first = rig.prepare(1);
        assert_eq!(first, SegmentHeader { file_id: first.file_id, generation: Generation(1), ..wanted(1) });
        let mut buf = AlignedBuf::new(8192);
        buf.fill(7);
        buf[..4].copy_from_slice(&first.stamp().to_le_bytes());
        let id = rig.submit(DiskOp::Write { segment: SegmentNo(1), offset: START, buf });
        assert!(matches!(rig.end_of(id).outcome, Outcome::Written));
        let end = START + 8192;
        let retired = rig.run(DiskOp::Retire { segment: SegmentNo(1), end });
        assert!(matches!(retired.outcome, Outcome::Retired), "{retired:?}");
        assert!(matches!(rig.write(1, START, 4096, 8).outcome, Outcome::Failed(_)), "retired segments are closed");
        let again = rig.prepare(2);
        let recycled = (again.file_id, again.generation, again.filled_upto);
        assert_eq!(recycled, (first.file_id, Generation(2), end));
        assert_ne!(again.stamp(), first.stamp());
        let content = rig.content(2);
        assert_eq!(SegmentHeader::decode(&content).expect("a header"), again);
        assert!(content[START as usize + 4..end as usize].iter().all(|&byte| byte == 7), "the old content stays");
        // A second file; then both are retired, and one spare is kept.
        assert_ne!(rig.prepare(3).file_id, first.file_id);
        for segment in [2, 3] {
            let retired = rig.run(DiskOp::Retire { segment: SegmentNo(segment), end: START });
            assert!(matches!(retired.outcome, Outcome::Retired), "{retired:?}");
        }
        assert_eq!(rig.names(), [format!("spare-{:016x}.wal", first.file_id.0)]);
        // The next process takes the spare over, with what its header says.
        let dir = Arc::clone(&rig.dir);
        drop(rig);
        let third = Rig::over(factory, dir, &[]).prepare(4);
        assert_eq!((third.file_id, third.generation, third.filled_upto), (first.file_id, Generation(3), end));
    });
}

#[test]
fn a_preparation_that_fails_leaves_the_disk_and_the_folder_sound() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        // A folder of that name is in the way of the rename.
        let in_the_way = rig.dir.path().join(segment_name(SegmentNo(1)));
        std::fs::create_dir(&in_the_way).expect("made");
        let failed = rig.run(DiskOp::Prepare { header: Box::new(wanted(1)) });
        assert!(matches!(failed.outcome, Outcome::Failed(_)), "{failed:?}");
        std::fs::remove_dir(&in_the_way).expect("removed");
        assert!(rig.names().is_empty(), "{:?}", rig.names());
        rig.prepare(1);
    });
}

#[test]
fn segments_in_use_are_locked_for_other_processes() {
    for_all_disks(|factory| {
        let mut rig = Rig::new(factory);
        rig.prepare(1);
        let dir = Arc::clone(&rig.dir);
        let other = DirFolder::open(dir.path()).expect("the folder opens");
        assert!(!other.try_lock(&segment_name(SegmentNo(1))).expect("tried"));
        drop(rig);
        assert!(other.try_lock(&segment_name(SegmentNo(1))).expect("tried"));
    });
}

#[test]
fn dropping_a_disk_with_operations_in_flight_waits_for_them() {
    const BYTES: usize = 262_144;
    for_all_disks(|factory| {
        for round in 0..20 {
            let mut rig = Rig::new(factory);
            rig.prepare(1);
            let offsets = [0, 1, 2].map(|at| START + at * BYTES as u32);
            let ids = offsets.map(|offset| rig.submit_write(1, offset, BYTES, 7));
            rig.submit(DiskOp::Sync { segment: SegmentNo(1) });
            rig.submit(DiskOp::Prepare { header: Box::new(wanted(2)) });
            // On io_uring nothing has begun in odd rounds, and in even ones all of it.
            if round % 2 == 0 {
                rig.poll(Wait::No);
            }
            let known = ids.map(|id| rig.ended.contains_key(&id));
            let dir = Arc::clone(&rig.dir);
            drop(rig);
            // Whatever has begun is whole; what was known to be written is there; nobody writes any more.
            let read = || std::fs::read(dir.path().join(segment_name(SegmentNo(1)))).expect("read");
            let content = read();
            for (offset, known) in offsets.into_iter().zip(known) {
                let new = content[offset as usize..][..BYTES].iter().filter(|&&byte| byte == 7).count();
                assert!(new == BYTES || (!known && new == 0), "write at {offset}: {new} bytes");
            }
            assert!(content == read());
        }
    });
}

#[test]
fn a_ring_is_made_on_one_thread_and_used_on_another_without_idle_system_calls() {
    let dir = folder();
    let (folder, maker) = outfit(dir.path());
    let waker = Waker::new().expect("an eventfd");
    let mut disk = UringDisk::new(folder, maker, &[], waker).expect("io_uring");
    let used = std::thread::spawn(move || {
        let mut done = Vec::new();
        disk.submit(OpId(1), DiskOp::Prepare { header: Box::new(wanted(1)) });
        while done.is_empty() {
            disk.poll(Wait::Event, &mut done).expect("the disk is sound");
        }
        let before = disk.enters();
        for _ in 0..100 {
            disk.poll(Wait::No, &mut done).expect("the disk is sound");
        }
        assert!(disk.enters() <= before + 1, "{} system calls without work", disk.enters() - before);
        done
    });
    let done = used.join().expect("the other thread");
    assert!(matches!(done[..], [Done { outcome: Outcome::Prepared(_), .. }]), "{done:?}");
}
