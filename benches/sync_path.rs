//! What a durable write costs on a prepared segment: a write and then a sync, or one synced write,
//! on both disks, beside plain `pwrite` + `fdatasync`. Interleaved repeats; medians are printed.
//!
//! `cargo bench --bench sync_path` measures; without `--bench` (as the tests run it) it only proves
//! that it works.

use std::collections::HashMap;
use std::sync::Arc;

use forebay::io::buf::AlignedBuf;
use forebay::io::clock::{MonotonicClock, random_u64};
use forebay::io::disk::{Clock, Disk, DiskOp, Done, Instant, OpId, Outcome, Wait};
use forebay::io::folder::DirFolder;
use forebay::io::maker::Maker;
use forebay::io::pwrite::PwriteDisk;
use forebay::io::uring::UringDisk;
use forebay::io::waker::Waker;
use forebay::limits::SEGMENT_HEADER_BYTES;
use forebay::types::{Epoch, FileId, Generation, Nonce, SegmentNo, ShardId, StoreId};
use forebay::wal::segment::{SegmentHeader, segment_name};

const SEGMENT: SegmentNo = SegmentNo(1);
const SEGMENT_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, Debug)]
enum Way {
    WriteThenSync,
    WriteSynced,
}

/// Latencies of `count` durable writes of `bytes` with `depth` in flight, in nanoseconds.
fn on_disk(disk: &mut dyn Disk, way: Way, bytes: usize, depth: usize, count: usize) -> Vec<u64> {
    let (mut latencies, mut offset, mut next) = (Vec::with_capacity(count), SEGMENT_HEADER_BYTES, 0);
    let mut begun: HashMap<OpId, Instant> = HashMap::new();
    let mut bufs: Vec<_> = (0..depth).map(|_| AlignedBuf::new(bytes)).collect();
    let mut done: Vec<Done> = Vec::new();
    let (mut left, mut now) = (count, MonotonicClock.now());
    while latencies.len() < count {
        while left > 0 && begun.len() < depth {
            let buf = bufs.pop().expect("as many buffers as writes");
            (left, next) = (left - 1, next + 1);
            if offset + bytes > SEGMENT_BYTES as usize {
                offset = SEGMENT_HEADER_BYTES;
            }
            begun.insert(OpId(next), now);
            let at = offset as u32;
            disk.submit(
                OpId(next),
                match way {
                    Way::WriteThenSync => DiskOp::Write { segment: SEGMENT, offset: at, buf },
                    Way::WriteSynced => DiskOp::WriteSynced { segment: SEGMENT, offset: at, buf },
                },
            );
            offset += bytes;
        }
        disk.poll(Wait::Event, &mut done).expect("the disk is sound");
        now = MonotonicClock.now();
        for end in done.drain(..) {
            let start = begun.remove(&end.id).expect("it was begun");
            match end.outcome {
                Outcome::Written => {
                    next += 1;
                    begun.insert(OpId(next), start);
                    disk.submit(OpId(next), DiskOp::Sync { segment: SEGMENT });
                }
                Outcome::Synced => latencies.push(now.since_ns(start)),
                other => panic!("{other:?}"),
            }
            bufs.extend(end.buf);
        }
    }
    latencies
}

fn inline(folder: &DirFolder, bytes: usize, count: usize) -> Vec<u64> {
    let file = folder.file(&segment_name(SEGMENT)).expect("it is open");
    let (buf, mut offset) = (AlignedBuf::new(bytes), SEGMENT_HEADER_BYTES);
    let one = |_| {
        if offset + bytes > SEGMENT_BYTES as usize {
            offset = SEGMENT_HEADER_BYTES;
        }
        let start = MonotonicClock.now();
        assert_eq!(rustix::io::pwrite(&*file, &buf, offset as u64).expect("written"), bytes);
        rustix::fs::fdatasync(&*file).expect("synced");
        offset += bytes;
        MonotonicClock.now().since_ns(start)
    };
    (0..count).map(one).collect()
}

fn prepare(disk: &mut dyn Disk) {
    let header = SegmentHeader {
        store: StoreId([7; 16]),
        shard: ShardId(0),
        segment: SEGMENT,
        epoch: Epoch(1),
        nonce: Nonce(1),
        file_id: FileId(0),
        generation: Generation(0),
        filled_upto: 0,
        segment_bytes: SEGMENT_BYTES,
        boot: [0; 16],
        pin: None,
        handled: Vec::new(),
    };
    let mut done = Vec::new();
    disk.submit(OpId(0), DiskOp::Prepare { header: Box::new(header) });
    while done.is_empty() {
        disk.poll(Wait::Event, &mut done).expect("the disk is sound");
    }
    assert!(matches!(done[0].outcome, Outcome::Prepared(_)), "{done:?}");
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--bench");
    let (repeats, count) = if full { (11, 1_000) } else { (1, 8) };
    let outfit = || {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let folder = Arc::new(DirFolder::open(dir.path()).expect("it opens"));
        let maker = Maker::new(StoreId([7; 16]), ShardId(0), SEGMENT_BYTES, 1, Box::new(random_u64));
        (dir, folder, maker, Waker::new().expect("an eventfd"))
    };
    let (_a, folder, maker, waker) = outfit();
    let mut uring = UringDisk::new(Arc::clone(&folder), maker, &[], waker).expect("io_uring");
    let (_b, other, maker, waker) = outfit();
    let mut pwrite = PwriteDisk::new(other, maker, &[], waker).expect("threads");
    prepare(&mut uring);
    prepare(&mut pwrite);
    let mut medians: Vec<(String, Vec<u64>)> = Vec::new();
    for _ in 0..repeats {
        let mut row = 0;
        let mut record = |name: String, mut latencies: Vec<u64>| {
            if medians.len() == row {
                medians.push((name, Vec::new()));
            }
            medians[row].1.push(median(&mut latencies));
            row += 1;
        };
        for (bytes, count) in [(4096, count), (262_144, count / 4)] {
            record(format!("{bytes:6} B x 1  inline pwrite + fdatasync"), inline(&folder, bytes, count));
            for depth in [1, 4] {
                for way in [Way::WriteThenSync, Way::WriteSynced] {
                    let name = |disk| format!("{bytes:6} B x {depth}  {disk:6} {way:?}");
                    record(name("uring"), on_disk(&mut uring, way, bytes, depth, count));
                    record(name("pwrite"), on_disk(&mut pwrite, way, bytes, depth, count));
                }
            }
        }
    }
    for (name, mut runs) in medians {
        println!("{name:48} median {:8.1} us", median(&mut runs) as f64 / 1e3);
    }
}
