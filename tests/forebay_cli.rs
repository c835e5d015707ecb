//! `forebay inspect`, `verify` and `repair` on stores that are sound, damaged in each class of bytes, in
//! use, or copied: fault 5 and promise P5 from the command line.
//!
//! One store is made and killed: two shards, blocks that are each alone in a batch, and some that only the
//! ring has. Each case flips bits in a copy of it. What must be left is worked out from the list of all
//! blocks and from where `inspect` says that they stand.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use forebay::types::Receipt;
use forebay::{Block, Config, Cursor, Durability, Engine, Status, store};
use serde_json::Value;
use tempfile::TempDir;

/// Blocks of each shard that are synced in the log, and those behind them.
const SYNCED: u32 = 40;
const ACCEPTED: u32 = 12;
const SLOTS: u64 = 64;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn config(dir: &Path) -> Config {
    Config::new(dir)
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(32 << 10)
        .batch_bytes_max(64 << 10)
        .intake_bytes(128 << 10)
        .intake_slots(SLOTS)
        .wal_bytes_max(64 << 20)
}

/// Long enough for several sectors, and for two segments in all.
fn payload(shard: u32, counter: u32) -> Vec<u8> {
    let length = if counter < SYNCED { 29_000 } else { 700 };
    (0..length).map(|at| (at * 7 + counter * 3 + shard) as u8).collect()
}

/// Runs in the child only: what the store is made by.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("FOREBAY_CLI_CHILD") else { return };
    let engine = Engine::open_with(config(Path::new(&dir)), Box::new(store::Hold)).expect("opens");
    let writers = [engine.writer("n").expect("a writer"), engine.writer("n").expect("a writer")];
    for counter in 0..SYNCED {
        for (shard, writer) in (0..).zip(&writers) {
            writer.append_with(Block::raw("t", payload(shard, counter)), Durability::Synced).expect("an append");
        }
    }
    for (shard, writer) in (0..).zip(&writers) {
        for counter in SYNCED..SYNCED + ACCEPTED {
            writer.append(Block::raw("t", payload(shard, counter))).expect("an append");
        }
    }
    std::process::abort();
}

/// A killed store in which the ring of shard 0 has blocks that the log has not.
fn killed_store() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        for _ in 0..50 {
            let dir = folder();
            let status = Command::new(std::env::current_exe().expect("this program"))
                .args(["child", "--exact"])
                .env("FOREBAY_CLI_CHILD", dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("a child");
            assert!(!status.success(), "it kills itself");
            // The shard looks at its ring each millisecond, and may have been quicker.
            if json("inspect", dir.path(), &[]).1["shard_logs"][0]["ring"]["replay"].as_u64()
                == Some(u64::from(ACCEPTED))
            {
                return dir;
            }
        }
        panic!("the shard was quicker than its writers 50 times");
    });
    made.path()
}

fn copy(from: &Path) -> TempDir {
    let dir = folder();
    let copied = Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(dir.path()).status();
    assert!(copied.expect("cp").success());
    dir
}

fn forebay(command: &str, dir: &Path, more: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .arg(command)
        .arg("--dir")
        .arg(dir)
        .args(more)
        .output()
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

fn json(command: &str, dir: &Path, more: &[&str]) -> (i32, Value) {
    let (code, out, err) = forebay(command, dir, &[&["--json"], more].concat());
    let value: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{command}: {error}: {out}{err}"));
    assert_eq!(value["schema"], format!("forebay.{command}/1"));
    (code, value)
}

/// Every file's bytes and time of modification.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        let about = path.metadata().expect("metadata");
        let sum = if about.is_dir() { 0 } else { crc32fast::hash(&fs::read(&path).expect("a file")) };
        if about.is_dir() {
            found.extend(tree(&path));
        }
        found.insert(path, (sum, about.len(), about.mtime(), about.mtime_nsec()));
    }
    found
}

fn flip(path: &Path, at: u64, mask: u8) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ mask], at).expect("a flip");
    file.sync_all().expect("a sync");
}

/// The blocks that the log gives back, as (shard, counter), in order.
fn read_back(dir: &Path) -> Vec<(u32, u32)> {
    let engine = Engine::open_with(config(dir), Box::new(store::Hold)).expect("it opens, and asks nothing more");
    for shard in &engine.report().shards {
        assert!(shard.damage.is_empty() && shard.gaps.is_empty() && shard.ring.is_none(), "{shard:?}");
    }
    let mut blocks = Vec::new();
    for delivered in engine.subscribe(Cursor::start()).expect("a subscription").until_end() {
        let delivered = delivered.expect("a block");
        let shard = u32::from(delivered.shard.0);
        let bytes = delivered.block.payload();
        let counter = (0..SYNCED + ACCEPTED).find(|counter| payload(shard, *counter) == bytes[..]);
        blocks.push((shard, counter.expect("a block that was written")));
    }
    engine.close().expect("a clean close");
    blocks.sort_unstable();
    blocks
}

fn all_blocks() -> Vec<(u32, u32)> {
    (0..2).flat_map(|shard| (0..SYNCED + ACCEPTED).map(move |counter| (shard, counter))).collect()
}

/// A batch of shard 0 with one block.
struct Batch {
    file: &'static str,
    offset: u64,
    bytes: u64,
    seq: u64,
    length: u64,
    /// Bytes of the entry before it: what a segment's first batch says of the streams.
    vector: u64,
}

impl Batch {
    /// Where a position of its stream stands in the file.
    const fn at(&self, position: u64) -> u64 {
        self.offset + position / 508 * 512 + 4 + position % 508
    }

    /// Where its block's entry begins: behind the header and the vector.
    const fn entry(&self) -> u64 {
        128 + self.vector
    }

    /// Where its stream table begins: behind entry header, names and payload.
    const fn table(&self) -> u64 {
        self.entry() + 24 + 2 + self.length
    }
}

/// The batches that hold one block, in order: block `counter` is the one with that index.
fn batches(dir: &Path) -> Vec<Batch> {
    let (_, found) = json("inspect", dir, &["--blocks", "--shard", "0"]);
    let number = |value: &Value| value.as_u64().expect("a number");
    let batches = found["shard_logs"][0]["batches"].as_array().expect("batches");
    let of_blocks = batches.iter().filter_map(|batch| {
        let entries = batch["entries"].as_array().expect("entries");
        let block = entries.iter().position(|entry| entry["kind"] == "own")?;
        assert_eq!(block + 1, entries.len(), "each block is alone: {batch}");
        let says_vector = |entry: &Value| entry["control"].as_str().is_some_and(|text| text.starts_with("vector of"));
        assert!(block == 0 || (block == 1 && says_vector(&entries[0])), "{batch}");
        Some((batch, &entries[block], entries[..block].first()))
    });
    of_blocks
        .map(|(batch, block, vector)| Batch {
            file: match number(&batch["segment"]) {
                1 => "shard-0000/0000000000000001.wal",
                2 => "shard-0000/0000000000000002.wal",
                other => panic!("segment {other}"),
            },
            offset: number(&batch["offset"]),
            bytes: number(&batch["bytes"]),
            seq: number(&block["seq"]),
            length: number(&block["length"]),
            vector: vector.map_or(0, |vector| 24 + number(&vector["length"])),
        })
        .collect()
}

/// What a case expects of `verify`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// A finding in this part, about acknowledged blocks.
    Blocks(&'static str),
    /// A finding in this part, about no block.
    NoBlock(&'static str),
    /// Nothing reads these bytes: they are under no checksum.
    Nothing,
}

/// One damaged store: `flips` of (file, offset), and the counters of shard 0 that are lost with them.
fn case(name: &str, flips: &[(&str, u64)], found: Found, lost: &[u32]) {
    let dir = copy(killed_store());
    for (file, at) in flips {
        flip(&dir.path().join(file), *at, 1 << (at % 8));
    }
    let what = format!("{name} {flips:x?}");
    let before = tree(dir.path());
    let (code, inspected) = json("inspect", dir.path(), &["--blocks"]);
    assert_eq!(code, 0, "{what}: {inspected}");
    let (code, verified) = json("verify", dir.path(), &[]);
    let (planned, plan) = json("repair", dir.path(), &["--dry-run"]);
    assert_eq!(planned, 0, "{what}: {plan}");
    assert_eq!(tree(dir.path()), before, "{what}: a look changes nothing");

    let findings = verified["findings"].as_array().expect("findings");
    match found {
        Found::Nothing => assert_eq!((code, findings.len()), (0, 0), "{what}: {verified}"),
        Found::Blocks(part) | Found::NoBlock(part) => {
            assert_eq!((code, findings.len()), (3, 1), "{what}: {verified}");
            assert_eq!(findings[0]["part"], part, "{what}: {verified}");
            let concerns = if found == Found::Blocks(part) { "acknowledged" } else { "nothing" };
            assert_eq!(findings[0]["concerns"], concerns, "{what}: {verified}");
            assert!(
                flips[0]
                    .0
                    .ends_with(findings[0]["file"].as_str().expect("a file").rsplit('/').next().unwrap_or_default()),
                "{what}: {verified}"
            );
        }
    }
    refused(&what, dir.path(), found);

    let (code, repaired) = json("repair", dir.path(), &["--log-alone"]);
    assert_eq!(code, 0, "{what}: {repaired}");
    assert_eq!(repaired["shards"], plan["shards"], "{what}: a repair does what it said");
    named(&what, &repaired, lost);
    let (code, verified) = json("verify", dir.path(), &[]);
    assert_eq!((code, &verified["sound"]), (0, &Value::from(true)), "{what}: {verified}");
    let kept: Vec<(u32, u32)> =
        all_blocks().into_iter().filter(|(shard, counter)| *shard != 0 || !lost.contains(counter)).collect();
    assert_eq!(read_back(dir.path()), kept, "{what}: every sound block, and nothing else");
}

/// Where blocks are damaged the engine does not open, changes nothing of them, and names the command.
fn refused(what: &str, dir: &Path, found: Found) {
    let copied = copy(dir);
    let opened = Engine::open_with(config(copied.path()), Box::new(store::Hold));
    match found {
        Found::Blocks(_) => {
            let error = opened.err().unwrap_or_else(|| panic!("{what}: opened")).to_string();
            let command = format!("To go on: forebay repair --dir {} | on_damage=salvage", copied.path().display());
            assert!(error.starts_with("WAL damaged: ") && error.ends_with(&command), "{what}: {error}");
        }
        Found::NoBlock("identity") => {
            let error = opened.err().unwrap_or_else(|| panic!("{what}: opened")).to_string();
            assert!(error.contains("forebay repair --dir"), "{what}: {error}");
        }
        Found::NoBlock(_) | Found::Nothing => {
            opened.unwrap_or_else(|error| panic!("{what}: {error}")).close().expect("a clean close");
        }
    }
}

/// The report names exactly the blocks that are lost: in the damaged ranges, and as gaps of their stream.
fn named(what: &str, repaired: &Value, lost: &[u32]) {
    // Block `counter` has the next seq: nothing else took one.
    let seqs: Vec<u64> = lost.iter().map(|counter| u64::from(*counter) + 1).collect();
    let gaps = repaired["recovery"]["shards"][0]["gaps"].as_array().expect("gaps");
    let number = |value: &Value| value.as_u64();
    let in_gaps: Vec<u64> = gaps
        .iter()
        .flat_map(|gap| {
            let after = number(&gap["after"]).expect("a number");
            let before = number(&gap["before"]).unwrap_or(u64::from(SYNCED + ACCEPTED) + 1);
            after + 1..before
        })
        .collect();
    assert_eq!(in_gaps, seqs, "{what}: {repaired}");
    assert_eq!(repaired["recovery"]["shards"][1]["gaps"], Value::Array(Vec::new()), "{what}: the other shard");
    let quarantined = repaired["quarantined"].as_array().expect("a list");
    assert!(lost.is_empty() || !quarantined.is_empty(), "{what}: damaged bytes are kept");
}

#[test]
fn a_killed_store_is_sound_and_a_repair_loses_nothing() {
    let dir = copy(killed_store());
    let before = tree(dir.path());
    let (code, out, err) = forebay("verify", dir.path(), &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("shard 0: 2 segments, ") && out.contains("12 blocks in the ring only"), "{out}");
    assert!(out.ends_with("\nsound\n"), "{out}");
    let (code, out, _) = forebay("inspect", dir.path(), &["--blocks"]);
    assert_eq!(code, 0);
    for part in [
        "store ",
        "shard 1\n",
        " log 1048576 bytes",
        " spare ",
        " ready ",
        "    40 own raw \"n\" \"t\": 1 rows, 29000 bytes",
        "control: intake done up to epoch 0",
        ": replay, 12 entries follow the log",
        "nothing was written behind it",
    ] {
        assert!(out.contains(part) || part == " spare ", "{part}: {out}");
    }
    let (code, out, _) = forebay("repair", dir.path(), &["--dry-run"]);
    assert_eq!((code, out.lines().last()), (0, Some("nothing to repair")), "{out}");
    assert_eq!(tree(dir.path()), before, "a look changes nothing");
    let (code, out, _) = forebay("repair", dir.path(), &["--log-alone"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("shard 0: kept 40 blocks of the log and 12 blocks of the ring\n"), "{out}");
    assert_eq!(read_back(dir.path()), all_blocks());
}

#[test]
fn damage_in_a_batch_costs_its_block_and_no_other() {
    let base = batches(killed_store());
    assert_eq!(base.len(), SYNCED as usize);
    // In the middle of the log, and the first of the second segment.
    let second = base.iter().position(|batch| batch.file.ends_with("2.wal")).expect("a second segment");
    for index in [17, second] {
        let batch = &base[index];
        assert_eq!(batch.seq, index as u64 + 1);
        let lost = [index as u32];
        let one = |name: &str, at: u64| case(name, &[(batch.file, at)], Found::Blocks("log"), &lost);
        let none = |name: &str, at: u64| case(name, &[(batch.file, at)], Found::NoBlock("log"), &[]);
        for at in [0, 4, 6, 40, 60, 90, 100, 123, 127] {
            one("batch header", batch.at(at));
        }
        for sector in [0, 1, 7, batch.bytes / 512 - 1] {
            none("sector stamp", batch.offset + sector * 512 + sector % 4);
        }
        for at in [0, 4, 12, 20, 24] {
            one("entry header", batch.at(batch.entry() + at));
        }
        for at in [batch.entry() + 26, batch.entry() + 5_000, batch.table() - 1] {
            one("entry payload", batch.at(at));
        }
        for at in [0, 17, 40, 71] {
            one("stream table", batch.at(batch.table() + at));
        }
        for at in [batch.at(batch.table() + 72), batch.offset + batch.bytes - 1] {
            none("padding", at);
        }
        if batch.vector > 0 {
            // A control entry may say what nothing else does.
            case("vector", &[(batch.file, batch.at(128 + 24 + 9))], Found::Blocks("log"), &[]);
        }
    }
}

#[test]
fn damage_in_several_batches_costs_these_and_no_other() {
    let base = batches(killed_store());
    let at = |index: usize| (base[index].file, base[index].at(base[index].entry() + 72));
    let dir = copy(killed_store());
    for (file, at) in [3, 4, 20, 38].map(at) {
        flip(&dir.path().join(file), at, 4);
    }
    let (code, out, _) = forebay("verify", dir.path(), &[]);
    assert_eq!(code, 3, "{out}");
    for range in ["seq 4..4 ", "seq 5..5 ", "seq 21..21 ", "seq 39..39 "] {
        assert!(out.contains(range), "{range}: {out}");
    }
    assert!(out.contains("not sound: 4 findings") && out.contains("To go on: forebay repair --dir "), "{out}");
    let (code, repaired) = json("repair", dir.path(), &["--log-alone"]);
    assert_eq!(code, 0, "{repaired}");
    named("several", &repaired, &[3, 4, 20, 38]);
    assert_eq!(forebay("verify", dir.path(), &[]).0, 0);
    let lost = |block: &(u32, u32)| block.0 == 0 && [3, 4, 20, 38].contains(&block.1);
    assert_eq!(read_back(dir.path()), all_blocks().into_iter().filter(|block| !lost(block)).collect::<Vec<_>>());
}

#[test]
fn one_copy_of_a_segment_header_is_mended_from_the_other() {
    let file = "shard-0000/0000000000000001.wal";
    for at in [0, 8, 50, 1_000, 3_211] {
        case("header copy A", &[(file, at)], Found::NoBlock("header"), &[]);
        case("header copy B", &[(file, 4096 + at)], Found::NoBlock("header"), &[]);
    }
    // Behind the checksum of a copy: nothing stands there, and nothing reads it.
    case("behind the header", &[(file, 3_300)], Found::Nothing, &[]);
}

#[test]
fn both_copies_of_a_segment_header_cost_the_segment() {
    let base = batches(killed_store());
    let of = |number: &str| {
        let of_file = base.iter().enumerate().filter(|(_, batch)| batch.file.ends_with(number));
        of_file.map(|(index, _)| index as u32).collect::<Vec<_>>()
    };
    case(
        "header",
        &[("shard-0000/0000000000000001.wal", 20), ("shard-0000/0000000000000001.wal", 4096 + 700)],
        Found::Blocks("log"),
        &of("1.wal"),
    );
}

#[test]
fn damage_in_the_ring_costs_the_entries_that_it_hits() {
    let ring = "shard-0000/intake.ring";
    let bytes = fs::read(killed_store().join(ring)).expect("a ring");
    let word = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")));
    for counter in [SYNCED, SYNCED + 5, SYNCED + ACCEPTED - 1] {
        let slot = 8192 + (u64::from(counter) + 1) % SLOTS * 64;
        for at in [8, 15, 16, 20, 24, 28, 32, 39] {
            case("slot", &[(ring, slot + at)], Found::Blocks("ring"), &[counter]);
        }
        // Nothing reads the rest of a slot.
        case("rest of a slot", &[(ring, slot + 50)], Found::Nothing, &[]);
        let entry = 8192 + SLOTS * 64 + word(slot as usize + 16) % (128 << 10 >> 6) * 64;
        for at in [0, 8, 20, 30, 700] {
            case("entry in the ring", &[(ring, entry + at)], Found::Blocks("ring"), &[counter]);
        }
    }
    for at in [0, 8, 30, 60, 83] {
        case("ring header copy A", &[(ring, at)], Found::NoBlock("ring"), &[]);
        case("ring header copy B", &[(ring, 4096 + at)], Found::NoBlock("ring"), &[]);
    }
    // A freed mark that does not hold frees nothing, and here the log has all that was freed.
    case("freed mark", &[(ring, 2048)], Found::Nothing, &[]);
    // A room that is not claimed.
    case("free room", &[(ring, bytes.len() as u64 - 1)], Found::Nothing, &[]);
}

#[test]
fn both_copies_of_the_ring_header_cost_what_the_ring_alone_had() {
    let flips = [("shard-0000/intake.ring", 50), ("shard-0000/intake.ring", 4096 + 60)];
    case("ring header", &flips, Found::Blocks("ring"), &(SYNCED..SYNCED + ACCEPTED).collect::<Vec<_>>());
}

#[test]
fn a_damaged_identity_is_made_anew_from_the_segments() {
    let text = fs::read_to_string(killed_store().join("IDENTITY")).expect("an IDENTITY");
    for what in ["{", "\"format\": ", "\"store\": \"", "\"shards\": ", "\"segment_bytes\": ", "\"check\": "] {
        let at = (text.find(what).unwrap_or_else(|| panic!("{what}: {text}")) + what.len()) as u64;
        // The byte behind: a value, or the end of a line.
        case("IDENTITY", &[("IDENTITY", at)], Found::NoBlock("identity"), &[]);
    }
    let dir = copy(killed_store());
    fs::remove_file(dir.path().join("IDENTITY")).expect("removed");
    let refused = Engine::open_with(config(dir.path()), Box::new(store::Hold)).err().expect("refused").to_string();
    assert!(refused.contains("IDENTITY is missing, though its shards are there"), "{refused}");
    assert!(!dir.path().join("IDENTITY").exists(), "no other store is made in its place");
    assert_eq!(forebay("repair", dir.path(), &["--log-alone"]).0, 0);
    assert_eq!(read_back(dir.path()), all_blocks());
}

#[test]
fn a_detached_device_is_taken_for_a_power_cut() {
    let dir = copy(killed_store());
    // The page with the sixth entry's bytes never reached the device.
    let counter = SYNCED + 5;
    flip(&dir.path().join("shard-0000/intake.ring"), 8192 + (u64::from(counter) + 1) % SLOTS * 64 + 8, 1);
    let refused = Engine::open_with(config(dir.path()), Box::new(store::Hold)).err().expect("refused").to_string();
    assert!(refused.contains("intake entry damaged"), "{refused}");
    let more = ["--log-alone", "--intake-as-power-cut"];
    let (code, repaired) = json("repair", dir.path(), &more);
    assert_eq!(code, 0, "{repaired}");
    let said = repaired["shards"][0]["ring"].as_str().expect("words");
    assert_eq!(said, format!("ended at seq {} by a power cut; 6 later entries in quarantine", counter + 1));
    assert!(!repaired["quarantined"].as_array().expect("a list").is_empty(), "{repaired}");
    assert_eq!(forebay("verify", dir.path(), &[]).0, 0);
    let kept = all_blocks().into_iter().filter(|block| block.0 == 1 || block.1 < counter);
    assert_eq!(read_back(dir.path()), kept.collect::<Vec<_>>(), "a suffix is lost, as after a power cut");
}

#[test]
fn a_torn_tail_is_told_and_is_no_damage() {
    let dir = copy(killed_store());
    let base = batches(killed_store());
    let last = base.last().expect("a batch");
    // Behind the last batch: one sector of a batch that did not arrive, as the file had never been written.
    let path = dir.path().join(last.file);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("a file");
    let mut image = vec![0; 8192];
    file.read_exact_at(&mut image, last.offset).expect("read");
    file.write_all_at(&image[512..1024], last.offset + last.bytes + 512).expect("written");
    let (code, out, _) = forebay("verify", dir.path(), &[]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("shard 0: torn tail in segment 2 at ") && out.ends_with("\nsound\n"), "{out}");
    let (_, inspected) = json("inspect", dir.path(), &[]);
    assert_eq!(inspected["shard_logs"][0]["end"]["verdict"], "torn");
}

#[test]
fn a_store_in_use_can_be_inspected_and_nothing_else() {
    let dir = folder();
    let engine = Engine::open_with(config(dir.path()), Box::new(store::Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    let receipts: Vec<Receipt> = (0..20)
        .map(|counter| writer.append_with(Block::raw("t", payload(0, counter)), Durability::Synced).expect("an append"))
        .collect();
    let (code, inspected) = json("inspect", dir.path(), &["--blocks"]);
    assert_eq!(code, 0);
    assert_eq!(inspected["in_use"], format!("pid {}", std::process::id()));
    assert_eq!(inspected["shard_logs"][0]["ring"]["verdict"], "in use");
    assert_eq!(inspected["shard_logs"][0]["end"]["seq"], 20);
    for (command, more) in [("verify", &[][..]), ("repair", &["--log-alone"]), ("repair", &["--dry-run"])] {
        let (code, out, err) = forebay(command, dir.path(), more);
        assert_eq!((code, out.as_str()), (73, ""), "{command}: {err}");
        assert!(err.contains(&format!("is in use by pid {}", std::process::id())), "{command}: {err}");
    }
    assert!(receipts.iter().all(|receipt| engine.status_of(receipt).is_ok_and(|status| status != Status::Lost)));
    engine.close().expect("a clean close");
    assert_eq!(forebay("verify", dir.path(), &[]).0, 0, "a clean close leaves a sound store");
}

#[test]
fn what_is_no_store_and_what_cannot_be_repaired_is_said() {
    let dir = folder();
    for command in ["inspect", "verify", "repair"] {
        let (code, out, err) = forebay(command, dir.path(), &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{command}");
        assert!(err.contains("is no store: it has no IDENTITY"), "{command}: {err}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0, "nothing was made");
    let (code, _, err) = forebay("repair", killed_store(), &[]);
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("only the program that takes its blocks knows what it has") && err.contains("--log-alone"),
        "{err}"
    );
}

#[test]
fn who_stops_reading_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["inspect", "--blocks", "--dir"])
        .arg(killed_store())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
