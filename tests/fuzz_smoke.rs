//! Every fuzz target (`src/fuzz`) with inputs out of seeds, on any toolchain and the same each time.
//!
//! `FOREBAY_FUZZ_RUNS` is the number of inputs for each target, and `FOREBAY_FUZZ_ONLY=<target>:<seed>` runs
//! one of them; a failure prints that command. `FOREBAY_FUZZ_ONLY=<target>:<file>` runs the bytes of a file,
//! such as a finding of `scripts/fuzz.sh`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, thread};

use forebay::fuzz::targets::{TARGETS, Target, input};
use forebay::repl::asks::{Ask, At};
use forebay::repl::entries::Entries;
use forebay::repl::wire::{Bye, Frame, HEADER_BYTES, Reason, Told, Vector};
use forebay::types::{Epoch, Seq, StoreId, Stream, Term};
use forebay::wal::batch::StreamEnd;
use forebay::wal::entry::{EntryKind, void_entry};

/// Inputs for each target where nothing else is asked for.
const RUNS: u64 = 3000;
/// No input takes so long, on however busy a machine.
const STUCK: Duration = Duration::from_secs(60);
/// What the process may hold at its peak, in KiB: no input makes a target allocate more than its own share.
const PEAK_KIB_MAX: u64 = 1 << 20;

fn path(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// Inputs to begin with: what was found interesting, and files of the formats behind the choice of a way
/// that takes bytes as they are.
fn known(target: &Target) -> Vec<Vec<u8>> {
    let mut known: Vec<Vec<u8>> = Vec::new();
    let mut corpus: Vec<PathBuf> = match fs::read_dir(path("fuzz/corpus").join(target.name)) {
        Ok(entries) => entries.map(|entry| entry.expect("an entry").path()).collect(),
        Err(_) => Vec::new(),
    };
    corpus.sort();
    known.extend(corpus.iter().map(|file| fs::read(file).expect("a file of the corpus")));
    let raw = |way: &[u8], bytes: &[u8]| [way, bytes].concat();
    let golden = fs::read(path("tests/golden/v1.segment")).expect("golden file");
    match target.name {
        "batch" => known.push(raw(&[1, 1, 0, 0, 0, 0, 0, 1], &golden[8192..16384])),
        "segment" => known.push(raw(&[2], &golden[..8192])),
        "lines" => {
            let text = fs::read(path("tests/data/nyc-weather-2000.lp")).expect("lines");
            known.push(raw(&[0], &text[..1500]));
        }
        "config" => known.push(raw(
            &[0],
            br#"{"format":1,"store":"0123456789abcdef0123456789abcdef","shards":2,"segment_bytes":67108864}"#,
        )),
        "manifest" => known.push(raw(&[0], MANIFEST.as_bytes())),
        "wire" => {
            // A kind, a checksum that holds, and the payload.
            let stream = Stream { epoch: Epoch(4), ..Stream::default() };
            let mut entry = void_entry().bytes().to_vec();
            entry[0] = EntryKind::Own as u8;
            let mut entries = Entries::new(stream, StreamEnd::default());
            assert!(entries.push(Seq(3), &entry, &[]) && entries.push(Seq(5), &entry, &[]));
            let vector = Vector { last: true, ends: vec![(stream, StreamEnd::default())], gaps: Vec::new() };
            let bye = Bye { reason: Reason::Stop, term: Term(2), active: StoreId([1; 16]), text: "stop".to_owned() };
            let end = StreamEnd { seq: Seq(3), ..StreamEnd::default() };
            let rows = vec![At::Nothing, At::Begins(end), At::End(end), At::Block { end, length: 9, payload_crc: 7 }];
            for frame in [
                Frame::Entries(entries),
                Frame::Vector(vector.clone()),
                Frame::Bye(bye),
                Frame::Ack(vec![(stream, Seq(1))]),
                Frame::Ask(Ask::Stands),
                Frame::Ask(Ask::At(vec![(stream, Seq(1)), (stream, Seq(9))])),
                Frame::Told(Told::Stands(vector)),
                Frame::Told(Told::At(rows)),
            ] {
                let bytes = frame.encode();
                known.push(raw(&[bytes[4], 1], &bytes[HEADER_BYTES..]));
            }
        }
        _ => {}
    }
    known
}

/// Two records as the manifest writes them.
const MANIFEST: &str = r#"{"transaction":1,"part":0,"last":true,"anew":true,"next_file":3,"add":[{"no":1,"namespace":"n","table":"t","kind":"lines","day":15706,"rows":7,"bytes":900,"crc":5,"time_min":1,"time_max":2}],"columns":[{"namespace":"n","table":"t","key":"k","type":"float"}],"progress":[{"shard":0,"epoch":1,"nonce":2,"seq":3,"streams":[{"origin":"07070707070707070707070707070707","shard":0,"epoch":1,"nonce":2,"seq":3,"chain":4}]}]}
{"transaction":2,"part":0,"last":true,"next_file":4,"add":[{"no":3,"namespace":"n","table":"t","kind":"raw","day":-1,"rows":7,"bytes":900,"crc":5,"time_min":1,"time_max":2}],"remove":[1]}"#;

/// Runs one input; what it panicked with, if it did.
fn fails(target: &Target, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err()
}

fn runs() -> u64 {
    std::env::var("FOREBAY_FUZZ_RUNS").map_or(RUNS, |text| text.parse().expect("FOREBAY_FUZZ_RUNS is a number"))
}

fn smoke(name: &str) {
    let target = *TARGETS.iter().find(|target| target.name == name).expect("a target");
    let seeds = match std::env::var("FOREBAY_FUZZ_ONLY") {
        Err(_) => 0..runs(),
        Ok(only) => match only.split_once(':').expect("FOREBAY_FUZZ_ONLY is <target>:<seed or file>") {
            (other, _) if other != name => return,
            (_, what) => match what.parse::<u64>() {
                Ok(seed) => seed..seed + 1,
                Err(_) => {
                    let bytes = fs::read(what).unwrap_or_else(|error| panic!("{what}: {error}"));
                    (target.run)(&bytes);
                    return;
                }
            },
        },
    };
    let known = known(&target);
    let count = seeds.end - seeds.start;
    let at = Arc::new(AtomicU64::new(seeds.start));
    let progress = Arc::clone(&at);
    let worker = thread::spawn(move || {
        seeds.into_iter().find(|&seed| {
            progress.store(seed, Ordering::Relaxed);
            fails(&target, &input(seed, &known))
        })
    });
    let again =
        |seed: u64| format!("FOREBAY_FUZZ_ONLY={name}:{seed} cargo test --features sim --test fuzz_smoke {name}");
    let mut last = (at.load(Ordering::Relaxed), std::time::Instant::now());
    while !worker.is_finished() {
        thread::sleep(Duration::from_millis(20));
        let now = at.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        assert!(last.1.elapsed() < STUCK, "{name} hangs with seed {now}; to repeat it: {}", again(now));
    }
    let failed = worker.join().expect("panics are caught");
    if let Some(seed) = failed {
        panic!("{name} fails with seed {seed}; to repeat it: {}", again(seed));
    }
    println!("{name}: {count} inputs");
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    assert!(peak < PEAK_KIB_MAX, "{name}: the process held {peak} KiB at its peak");
}

macro_rules! smoke {
    ($($test:ident: $name:literal;)*) => {
        $(#[test]
        fn $test() {
            smoke($name);
        })*

        #[test]
        fn every_target_is_run_here_and_has_a_program() {
            let here = [$($name),*];
            let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(here, all[..], "the targets of src/fuzz/targets.rs, in their order");
            for name in all {
                let program = fs::read_to_string(path(&format!("fuzz/fuzz_targets/{name}.rs"))).expect(name);
                assert!(program.contains(&format!("forebay::fuzz::{name}::run(data)")), "{program}");
            }
        }
    };
}

smoke! {
    batch: "batch";
    segment: "segment";
    scan: "scan";
    ring: "ring";
    manifest: "manifest";
    lines: "lines";
    config: "config";
    wire: "wire";
}

#[test]
fn an_input_is_the_same_each_time() {
    let known = [vec![1, 2, 3]];
    let all = |known: &[Vec<u8>]| (0..100).map(|seed| input(seed, known)).collect::<Vec<_>>();
    assert_eq!(all(&known), all(&known));
    assert_ne!(all(&known), all(&[]));
}
