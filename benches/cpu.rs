//! What the CPU does for a block, part by part and without a disk: publishing it in the ring and draining it,
//! building a batch, deciding (the core, with a disk that answers at once), reading a log back, checking lines.
//!
//! `cargo bench --bench cpu` measures; without `--bench` (as the tests run it) each part runs once. On a noisy
//! machine instructions say more than time: `scripts/count-instructions.sh` counts them, for which
//! `FOREBAY_TIMES=N` runs the one part that is named so many times and nothing else.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use forebay::SyncPolicy;
use forebay::io::buf::AlignedBuf;
use forebay::io::disk::{DiskOp, Done, Instant, OpId, Outcome};
use forebay::limits::SEGMENT_HEADER_BYTES;
use forebay::serve::lines::check;
use forebay::shard::consumer::Consumer;
use forebay::shard::core::{Core, CoreConfig};
use forebay::shard::event::{Effect, Event, Look};
use forebay::shard::ring::{Ring, Wake};
use forebay::types::{
    BatchNo, BlockKind, Chain, Epoch, FileId, Generation, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream,
};
use forebay::wal::batch::{BatchBuilder, Begin, Push, StreamEnds};
use forebay::wal::entry::{EncodedEntry, Entry, EntryKind};
use forebay::wal::intake::RingHeader;
use forebay::wal::log::{Log, LogBounds, UsedSegment};
use forebay::wal::scan::Scan;
use forebay::wal::segment::SegmentHeader;

const SIZES: [usize; 3] = [128, 4 << 10, 64 << 10];
/// Blocks of one batch.
const BLOCKS: u64 = 16;
const STORE: StoreId = StoreId([7; 16]);
const SEGMENT_BYTES: u64 = 64 << 20;
const SCANNED_BYTES: usize = 1 << 20;

fn own() -> Stream {
    Stream { origin: STORE, shard: ShardId(0), epoch: Epoch(1), nonce: Nonce(2) }
}

fn segment(segment: u64) -> SegmentHeader {
    SegmentHeader {
        store: STORE,
        shard: ShardId(0),
        segment: SegmentNo(segment),
        epoch: Epoch(1),
        nonce: Nonce(2),
        file_id: FileId(segment),
        generation: Generation(1),
        filled_upto: 0,
        segment_bytes: SEGMENT_BYTES,
        boot: [9; 16],
        pin: None,
        handled: Vec::new(),
    }
}

/// An empty log.
fn log() -> Log {
    Log {
        used: VecDeque::new(),
        current: UsedSegment {
            header: segment(1),
            first_batch: BatchNo(1),
            first_seq: Seq(1),
            last_seq: Seq(0),
            end: SEGMENT_HEADER_BYTES as u32,
        },
        ready: (2..6).map(segment).collect(),
        number: BatchNo(0),
        chain: Chain(0),
        ends: StreamEnds::new(),
        gaps: Vec::new(),
        says_vector: true,
        prev_end: 0,
    }
}

fn entry(payload: &[u8]) -> EncodedEntry {
    Entry {
        kind: EntryKind::Own,
        block_kind: BlockKind::Raw,
        namespace: "plant7",
        table: "blobs",
        length: payload.len() as u32,
        received_at_ns: 1_700_000_000_000_000_000,
        rows: 1,
        payload_crc: crc32fast::hash(payload),
        identity: None,
    }
    .encode()
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 % 251) as u8).collect()
}

fn begin(log: &mut Log, buf: AlignedBuf) -> BatchBuilder {
    let (soft_bytes, hard_bytes) = (buf.capacity(), log.room());
    let (place, first_seq) = (log.place(), log.last_seq().next());
    let ends = std::mem::take(&mut log.ends);
    BatchBuilder::new(Begin { place, own: own(), first_seq, soft_bytes, hard_bytes, ends, vector: Vec::new() }, buf)
}

fn fill(batch: &mut BatchBuilder, payload: &[u8]) {
    for _ in 0..BLOCKS {
        assert_eq!(batch.push(entry(payload).bytes(), payload), Push::Taken);
    }
}

/// Room for a batch of blocks of this size.
fn buf(bytes: usize) -> AlignedBuf {
    AlignedBuf::new(((bytes + 512) * BLOCKS as usize * 2).next_multiple_of(4096))
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

fn ring() -> (Arc<Ring>, Consumer) {
    let header = RingHeader {
        store: STORE,
        shard: ShardId(0),
        boot: [9; 16],
        epoch: Epoch(1),
        nonce: Nonce(2),
        first_seq: Seq(1),
        slots: 1 << 16,
        bytes: 16 << 20,
    };
    Ring::in_memory(&header, Arc::new(Nobody)).expect("memory")
}

/// One part: what is counted, how much of it a turn does, and a turn.
struct Part {
    name: String,
    throughput: Throughput,
    turn: Box<dyn FnMut()>,
}

impl Part {
    fn new(name: String, throughput: Throughput, turn: impl FnMut() + 'static) -> Self {
        Self { name, throughput, turn: Box::new(turn) }
    }
}

/// A writer publishes blocks, the shard takes them into a batch and gives their room back.
fn publish_and_drain(bytes: usize) -> Part {
    let (payload, (ring, mut consumer), mut log) = (payload(bytes), ring(), log());
    let mut spare = Some(buf(bytes));
    Part::new(format!("publish_and_drain/{bytes}"), Throughput::Elements(BLOCKS), move || {
        for _ in 0..BLOCKS {
            ring.try_publish(&mut entry(&payload), &payload).expect("the ring has room");
        }
        let upto = consumer.look().published;
        let mut batch = begin(&mut log, spare.take().expect("the buffer came home"));
        assert!(matches!(consumer.drain(&mut batch, upto), Push::Taken), "all fit");
        consumer.free(upto);
        let (buf, ends) = batch.abandon();
        (log.ends, log.current.last_seq) = (ends, upto);
        spare = Some(buf);
    })
}

/// Headers, stamps and checksums of a batch.
fn build_batch(bytes: usize) -> Part {
    let (payload, mut log, mut spare) = (payload(bytes), log(), Some(buf(bytes)));
    Part::new(format!("build_batch/{bytes}"), Throughput::Elements(BLOCKS), move || {
        let mut batch = begin(&mut log, spare.take().expect("the buffer came home"));
        fill(&mut batch, &payload);
        let (buf, header, after) = batch.finish(log.link(BatchNo(0), false));
        log.ends = after.ends;
        black_box(header.chain);
        spare = Some(buf);
    })
}

/// The decisions for one batch, from the look at the ring to the moved marks, on a disk that answers at once.
fn decide() -> Part {
    let (payload, bounds) = (payload(128), LogBounds { segments_max: 64, reserve: 1 });
    let config = CoreConfig { own: own(), policy: SyncPolicy::Each, batch_bytes_max: 1 << 20, bounds };
    let (mut core, mut now, mut published) = (Core::new(config, log(), Seq(0)), 0, 0);
    let mut effects = Vec::new();
    Part::new("decide/128".to_owned(), Throughput::Elements(BLOCKS), move || {
        now += 100_000;
        published += BLOCKS;
        let look = Look { published: Seq(published), bytes: 4096, ..Look::default() };
        core.step(Instant(now), Event::Looked(look), &mut effects);
        while let Some(effect) = effects.pop() {
            let event = match effect {
                Effect::Fill(mut batch, _) => {
                    fill(&mut batch, &payload);
                    Event::Filled(batch, Push::Taken)
                }
                Effect::Disk(id, op) => Event::Done(answer(id, op)),
                _ => continue,
            };
            core.step(Instant(now), event, &mut effects);
        }
        assert_eq!(core.marks().synced, Seq(published));
        // What is synced is in the store as well.
        let (flushed, released) = (Seq(published), Seq(published));
        core.step(Instant(now), Event::Released { flushed, released }, &mut effects);
    })
}

fn answer(id: OpId, op: DiskOp) -> Done {
    let (outcome, buf) = match op {
        DiskOp::Write { buf, .. } => (Outcome::Written, Some(buf)),
        DiskOp::WriteSynced { buf, .. } => (Outcome::Synced, Some(buf)),
        DiskOp::Sync { .. } => (Outcome::Synced, None),
        DiskOp::Prepare { header } => (Outcome::Prepared(header), None),
        DiskOp::Retire { .. } => (Outcome::Retired, None),
    };
    Done { id, outcome, buf }
}

/// Every check that an opening makes of a log.
fn scan(bytes: usize) -> Part {
    let (payload, mut log, mut spare) = (payload(bytes), log(), Some(buf(bytes)));
    let mut image = segment(1).encode();
    while image.len() < SCANNED_BYTES {
        let mut batch = begin(&mut log, spare.take().expect("the buffer came home"));
        fill(&mut batch, &payload);
        let (buf, header, after) = batch.finish(log.link(BatchNo(0), false));
        log.appended(&header, after);
        image.extend_from_slice(&buf);
        spare = Some(buf);
    }
    Part::new(format!("scan/{bytes}"), Throughput::Bytes(image.len() as u64), move || {
        let mut scan = Scan::new([(SegmentNo(1), Some(segment(1)))].into(), Seq(0));
        scan.feed(SegmentNo(1), &image);
        assert_eq!(scan.finish().end.batch, log.number);
    })
}

/// The check of a block of line protocol on its writer's thread.
fn check_lines() -> Part {
    const ROWS: usize = 1000;
    let row = |number: usize| {
        format!(
            "meters,groupid={},location=California.City{} current={}.{},voltage={}i,phase=0.{} {}\n",
            number % 10,
            number % 7,
            8 + number % 5,
            number % 100,
            200 + number % 50,
            number % 90,
            1_601_714_285_000_000_000 + number
        )
    };
    let text: String = (0..ROWS).map(row).collect();
    Part::new("check_lines/1000".to_owned(), Throughput::Elements(ROWS as u64), move || {
        black_box(check(black_box(text.as_bytes())).expect("sound"));
    })
}

/// All parts, each made when it is asked for.
fn parts() -> Vec<Box<dyn Fn() -> Part>> {
    let mut parts: Vec<Box<dyn Fn() -> Part>> = vec![Box::new(decide), Box::new(check_lines)];
    for bytes in SIZES {
        parts.push(Box::new(move || publish_and_drain(bytes)));
        parts.push(Box::new(move || build_batch(bytes)));
        parts.push(Box::new(move || scan(bytes)));
    }
    parts
}

fn main() {
    let Some(times) = std::env::var_os("FOREBAY_TIMES") else { return measure() };
    let times: u64 = times.to_str().and_then(|times| times.parse().ok()).expect("FOREBAY_TIMES is a number");
    let name = std::env::args().nth(1).unwrap_or_default();
    let mut names = Vec::new();
    let named = parts().into_iter().map(|make| make()).find(|part| {
        names.push(part.name.clone());
        part.name == name
    });
    let mut part = named.unwrap_or_else(|| panic!("no part '{name}'; there are: {}", names.join(" ")));
    (0..times).for_each(|_| (part.turn)());
    let (Throughput::Elements(of_a_turn) | Throughput::Bytes(of_a_turn)) = part.throughput else { return };
    println!("{of_a_turn} a turn");
}

fn measure() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(50);
    for make in parts() {
        let mut part = make();
        let (group, of) = part.name.split_once('/').expect("group/size");
        let mut group = criterion.benchmark_group(group);
        group.throughput(part.throughput.clone());
        group.bench_function(of, |bencher| bencher.iter(&mut part.turn));
        group.finish();
    }
    criterion.final_summary();
}
