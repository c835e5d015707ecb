//! Golden files of format version 1: bytes that this program must read for ever as it reads them now,
//! sound and damaged, and must still write bit for bit.
//!
//! `tests/golden/v1.segment` is the used part of a segment file (its header says 1 MiB; the rest is
//! zero). `tests/golden/v1.txt` says what a scan finds in it, whole and after each kind of damage.
//! `v1-adopted.segment` and `v1-adopted.txt` are the same with adopted ends, which programs from before
//! they were added call damage. `UPDATE_GOLDEN=1` writes all of them anew: only for a new format version.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use forebay::io::buf::AlignedBuf;
use forebay::types::{
    BatchNo, BlockKind, Chain, Epoch, FileId, Generation, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream,
};
use forebay::wal::batch::{BatchBuilder, Begin, Push, StreamEnds};
use forebay::wal::breaks::Scanned;
use forebay::wal::entry::{Absent, Adopted, Control, EncodedEntry, Entry, EntryKind, Identity, void_entry};
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

fn entry(kind: EntryKind, identity: Option<Identity>, payload: &[u8]) -> EncodedEntry {
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

/// Entries of a batch, each with its payload.
type Entries = Vec<(EncodedEntry, Vec<u8>)>;

/// The first segment: four batches with every kind of entry that there was then, the last one a seal.
fn entries() -> [Entries; 4] {
    let replayed = Identity { stream: Stream { epoch: Epoch(4), ..own() }, seq: Seq(401) };
    let done = Control::IntakeDone(Epoch(4));
    let long: Vec<u8> = (0..6000u32).map(|at| (at * at % 253) as u8).collect();
    let short = [&b""[..], b"a", b"bc"].map(|payload| (entry(EntryKind::Own, None, payload), payload.to_vec()));
    [
        vec![
            (entry(EntryKind::Carried, Some(replayed), b"replayed"), b"replayed".to_vec()),
            (void_entry(), Vec::new()),
            (done.entry(&done.encode()), done.encode()),
        ],
        vec![(entry(EntryKind::Own, None, &long), long)],
        short.to_vec(),
        Vec::new(),
    ]
}

/// The second one: a stream of another store with blocks before, between and behind what is lost of it.
fn entries_with_adopted() -> [Entries; 4] {
    let of = |epoch, seq| {
        let stream = Stream { origin: StoreId(*b"another store 01"), epoch: Epoch(epoch), ..own() };
        Identity { stream, seq: Seq(seq) }
    };
    let carried = |epoch, seq| (entry(EntryKind::Carried, Some(of(epoch, seq)), b"carried"), b"carried".to_vec());
    let adopted = |epoch, seq, absent| {
        let adopted = Adopted { last: of(epoch, seq), chain: Chain(0xfedc_ba98_7654_3210 + seq), absent };
        (adopted.entry(), Vec::new())
    };
    [
        vec![carried(2, 3), adopted(2, 8, Absent::Lost), carried(2, 9)],
        vec![adopted(2, 20, Absent::Lost), adopted(3, 5, Absent::InDataFiles), carried(3, 6)],
        vec![(entry(EntryKind::Own, None, b"own"), b"own".to_vec())],
        Vec::new(),
    ]
}

fn build(entries: [Entries; 4]) -> Vec<u8> {
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
    for (batch, entries) in entries.into_iter().enumerate() {
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
        for (header, payload) in entries {
            assert_eq!(builder.push(header.bytes(), &payload), Push::Taken);
        }
        let place = log.place();
        let link = log.link(BatchNo(39 + batch as u64), batch == 3);
        let (image, header, after) = builder.finish(link);
        bytes[place.offset as usize..][..image.len()].copy_from_slice(&image);
        log.appended(&header, after);
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

/// The segment with adopted ends, sound and damaged, and what is known of its streams.
fn adopted_cases(sound: &[u8]) -> String {
    let mut rotten = vec![("sound", sound.to_vec())];
    for (name, at) in [
        ("payload before an adopted end rotten", 8192 + 4 + 128 + 24 + 48 + 6 + 5),
        ("adopted chain rotten", 8192 + 4 + 128 + 24 + 48 + 11 + 7 + 8),
        ("second batch rotten", 12288 + 20),
    ] {
        let mut bytes = sound.to_vec();
        bytes[at] ^= 1;
        rotten.push((name, bytes));
    }
    let of = |(name, bytes): &(&str, Vec<u8>)| {
        let (mut text, found) = (describe(name, bytes), scan(bytes));
        for (stream, end) in found.ends.iter().collect::<BTreeMap<_, _>>() {
            let _ = writeln!(text, "  epoch {}: seq {} chain {:016x}", stream.epoch, end.seq, end.chain.0);
        }
        for (_, gap) in &found.gaps {
            if let Control::Gap { stream, from, to } = gap {
                let _ = writeln!(text, "  gap in epoch {}: behind {from}, before {to}", stream.epoch);
            }
        }
        text
    };
    rotten.iter().map(of).collect()
}

/// Compares with the golden files of this name.
fn as_ever(name: &str, built: &[u8], describe: impl Fn(&[u8]) -> String) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let (segment, text) = (dir.join(format!("{name}.segment")), dir.join(format!("{name}.txt")));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&segment, &built[..USED_BYTES]).expect("a segment");
        std::fs::write(&text, describe(built)).expect("a text");
    }
    let mut golden = std::fs::read(&segment).expect("a segment");
    golden.resize(SEGMENT_BYTES, 0);
    assert!(golden == built, "this program writes version 1 differently: {name}");
    let golden_text = std::fs::read_to_string(&text).expect("a text");
    assert_eq!(describe(&golden), golden_text, "this program reads version 1 differently: {name}");
}

#[test]
fn version_1_is_written_and_read_as_ever() {
    as_ever("v1", &build(entries()), |bytes| cases(bytes).iter().map(|(name, bytes)| describe(name, bytes)).collect());
}

#[test]
fn adopted_ends_are_written_and_read_as_ever() {
    as_ever("v1-adopted", &build(entries_with_adopted()), adopted_cases);
}
