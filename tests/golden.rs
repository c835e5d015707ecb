//! Golden files of format version 1: bytes that this program must read for ever as it reads them now,
//! sound and damaged, and must still write bit for bit.
//!
//! `tests/golden/v1.segment` is the used part of a segment file (its header says 1 MiB; the rest is
//! zero). `tests/golden/v1.txt` says what a scan finds in it, whole and after each kind of damage.
//! `UPDATE_GOLDEN=1` writes both anew: only for a new format version.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use forebay::io::buf::AlignedBuf;
use forebay::types::{BatchNo, BlockKind, Epoch, FileId, Generation, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream};
use forebay::wal::batch::{BatchBuilder, Begin, Push, StreamEnds};
use forebay::wal::breaks::Scanned;
use forebay::wal::entry::{Control, Entry, EntryKind, Identity, void_entry};
use forebay::wal::log::{Log, UsedSegment};
use forebay::wal::scan::Scan;
use forebay::wal::segment::{LogEnd, SegmentHeader};
use forebay::wal::verdict::InPart;

const SEGMENT_BYTES: usize = 1 << 20;
const USED_BYTES: usize = 32 << 10;

fn own() -> Stream {
    Stream { origin: StoreId(*b"golden store v01"), shard: ShardId(3), epoch: Epoch(5), nonce: Nonce(0x1234_5678_9abc) }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        store: own().origin,
        shard: own().shard,
        segment: SegmentNo(7),
        epoch: own().epoch,
        nonce: own().nonce,
        file_id: FileId(0xfeed),
        generation: Generation(2),
        filled_upto: 12288,
        segment_bytes: SEGMENT_BYTES as u64,
        boot: *b"the boot of v001",
        pin: Some(LogEnd {
            segment: SegmentNo(6),
            offset: 65536,
            batch: BatchNo(40),
            seq: Seq(400),
            ..LogEnd::default()
        }),
        handled: Vec::new(),
    }
}

fn entry(kind: EntryKind, identity: Option<Identity>, payload: &[u8]) -> forebay::wal::entry::EncodedEntry {
    Entry {
        kind,
        block_kind: BlockKind::Raw,
        namespace: "plant7",
        table: "blobs",
        length: payload.len() as u32,
        received_at_ns: 1_700_000_000_000_000_000,
        rows: 1,
        payload_crc: crc32fast::hash(payload),
        identity,
    }
    .encode()
}

/// The segment: four batches with every kind of entry, the last one a seal.
fn build() -> Vec<u8> {
    let mut bytes = header().encode();
    bytes.resize(SEGMENT_BYTES, 0);
    let current =
        UsedSegment { header: header(), first_batch: BatchNo(41), first_seq: Seq(401), last_seq: Seq(400), end: 8192 };
    let pin = header().pin.expect("a pin");
    let mut log = Log {
        used: Default::default(),
        current,
        ready: Default::default(),
        number: pin.batch,
        chain: pin.chain,
        ends: StreamEnds::new(),
        gaps: Vec::new(),
        says_vector: true,
        prev_end: pin.offset,
    };
    for batch in 0..4u32 {
        let begin = Begin {
            vector: log.vector(),
            place: log.place(),
            own: own(),
            first_seq: log.last_seq().next(),
            soft_bytes: 16384,
            hard_bytes: log.room(),
            ends: std::mem::take(&mut log.ends),
        };
        let mut builder = BatchBuilder::new(begin, AlignedBuf::new(16384));
        let mut push = |header: &[u8], payload: &[u8]| assert_eq!(builder.push(header, payload), Push::Taken);
        match batch {
            0 => {
                let replayed = Identity { stream: Stream { epoch: Epoch(4), ..own() }, seq: Seq(401) };
                push(entry(EntryKind::Carried, Some(replayed), b"replayed").bytes(), b"replayed");
                push(void_entry().bytes(), b"");
                let done = Control::IntakeDone(Epoch(4));
                push(done.entry(&done.encode()).bytes(), &done.encode());
            }
            1 => {
                let long: Vec<u8> = (0..6000u32).map(|at| (at * at % 253) as u8).collect();
                push(entry(EntryKind::Own, None, &long).bytes(), &long);
            }
            2 => {
                for payload in [&b""[..], b"a", b"bc"] {
                    push(entry(EntryKind::Own, None, payload).bytes(), payload);
                }
            }
            _ => {}
        }
        let place = log.place();
        let link = log.link(BatchNo(39 + u64::from(batch)), batch == 3);
        let (image, header, ends) = builder.finish(link);
        bytes[place.offset as usize..][..image.len()].copy_from_slice(&image);
        log.appended(&header, ends);
    }
    assert!(log.current.end as usize <= USED_BYTES, "{}", log.current.end);
    bytes
}

fn scan(bytes: &[u8]) -> Scanned {
    let found = SegmentHeader::decode(bytes).ok();
    let readable = found.is_some();
    let mut scan = Scan::new(BTreeMap::from([(SegmentNo(7), found)]), Seq(0));
    scan.feed(SegmentNo(7), if readable { bytes } else { &[] });
    scan.finish()
}

fn describe(name: &str, bytes: &[u8]) -> String {
    let found = scan(bytes);
    let mut text = format!(
        "{name}: end {:#x} batch {} seq {} chain {:016x} sealed {} intake done {} streams {}\n",
        found.end.offset,
        found.end.batch,
        found.end.seq,
        found.end.chain.0,
        found.sealed,
        found.intake_done,
        found.ends.len()
    );
    for torn in &found.torn {
        let _ = writeln!(text, "  torn {:#x}..{:#x}", torn.offset, torn.upto);
    }
    for at in &found.breaks {
        let to = at.resume.map(|resume| resume.resume_offset);
        let _ = write!(text, "  damage at {:#x}: {} ({:?}), goes on at {to:x?}", at.offset, at.wrong, at.proof);
        let runs = |of: &InPart| of.lost.iter().map(|run| run.first.0..=run.last.0).collect::<Vec<_>>();
        let lost = at.in_part.as_ref().map(runs).map(|runs| format!(", lost of the batch: {runs:?}"));
        let _ = writeln!(text, "{}", lost.unwrap_or_default());
    }
    text
}

/// The sound bytes and every kind of damage to them, by name.
fn cases(sound: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.to_vec();
        change(&mut bytes);
        bytes
    };
    vec![
        ("sound", sound.to_vec()),
        ("first header copy lost", changed(&|bytes| bytes[..4096].fill(0))),
        ("both header copies lost", changed(&|bytes| bytes[..8192].fill(0))),
        ("batch header rotten", changed(&|bytes| bytes[8192 + 20] ^= 1)),
        ("stamp rotten", changed(&|bytes| bytes[8192 + 512] ^= 1)),
        ("entry header rotten", changed(&|bytes| bytes[8192 + 4 + 128] ^= 1)),
        ("payload rotten", changed(&|bytes| bytes[12288 + 1040] ^= 1)),
        ("stream table rotten", changed(&|bytes| bytes[8192 + 4 + 128 + 200] ^= 1)),
        ("last data batch torn", changed(&|bytes| bytes[20480 + 512..24576].fill(0))),
        ("last two batches never written", changed(&|bytes| bytes[20480..].fill(0))),
        ("a zero sector where an older generation wrote", changed(&|bytes| bytes[8192 + 1024..8192 + 1536].fill(0))),
    ]
}

#[test]
fn version_1_is_written_and_read_as_ever() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let built = build();
    let said: String = cases(&built).iter().map(|(name, bytes)| describe(name, bytes)).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(dir.join("v1.segment"), &built[..USED_BYTES]).expect("v1.segment");
        std::fs::write(dir.join("v1.txt"), &said).expect("v1.txt");
    }
    let mut golden = std::fs::read(dir.join("v1.segment")).expect("v1.segment");
    golden.resize(SEGMENT_BYTES, 0);
    assert!(golden == built, "this program writes version 1 differently");
    let golden_text = std::fs::read_to_string(dir.join("v1.txt")).expect("v1.txt");
    let read: String = cases(&golden).iter().map(|(name, bytes)| describe(name, bytes)).collect();
    assert_eq!(read, golden_text, "this program reads version 1 differently");
}
