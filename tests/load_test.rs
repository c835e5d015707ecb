//! `load-test` as scripts see it: exit codes, what stands on stdout, real input proven at each setting.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

const WEATHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nyc-weather-2000.lp");
/// Sizes that make a small store, quickly.
const SMALL: &str = "--shards 2 --intake-bytes 1m --segment-bytes 1m --block-bytes-max 256k";

/// Exit code, stdout and stderr in a folder of its own.
fn load_test(dir: &TempDir, options: &str) -> (i32, String, String) {
    let output = Command::cargo_bin("load-test")
        .expect("built")
        .current_dir(dir.path())
        .args(options.split_whitespace())
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn misuse_exits_2_and_names_the_option() {
    for (options, named) in [
        ("--wal-fsync-period 100", "--wal-fsync-period"),
        ("--wal-level 2 --wal-fsync-period 180001", "--wal-fsync-period"),
        ("--wal-level 3", "--wal-level"),
        ("--store parquet", "--store parquet: not built into this version"),
        ("--block-bytes 1 --rows-per-block 1", "--block-bytes"),
        ("--nonsense", "--nonsense"),
    ] {
        let (code, out, err) = load_test(&folder(), options);
        assert_eq!((code, out.as_str()), (2, ""), "{options}: {err}");
        assert!(err.contains(named), "{options}: {err}");
    }
}

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let dir = folder();
    fs::create_dir(dir.path().join("mine")).expect("made");
    fs::write(dir.path().join("mine/file"), "x").expect("written");
    let (code, _, err) = load_test(&dir, "--dir mine");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("neither empty nor a store"), "{err}");
    assert!(dir.path().join("mine/file").exists());
}

#[test]
fn with_json_on_stdout_there_is_one_object_per_run_and_nothing_else() {
    let dir = folder();
    let options = "--writers 4 --seconds 0.2 --warmup 0.1 --repeat 2 --baseline --json - --hdr x.hlog --plot x.svg";
    let (code, out, err) = load_test(&dir, &format!("{options} {SMALL}"));
    assert_eq!(code, 0, "{err}");
    let runs: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<_> = runs.iter().map(|run| (run["engine"].as_str(), &run["settings"]["wal_level"])).collect();
    assert_eq!(kinds.len(), 12, "{out}");
    assert_eq!(kinds[0], (Some("forebay"), &1.into()));
    assert_eq!(kinds[1], (Some("file"), &1.into()), "the baseline runs in turn with the engine");
    assert!(runs.iter().all(|run| run["blocks"].as_u64() > Some(0)), "{out}");
    assert!(err.contains("(2,3000) against (1)") && err.contains("(2,0) against (2,3000)"), "{err}");
    assert!(fs::read_to_string(dir.path().join("x.svg")).expect("a picture").contains("(2,0)"));
    assert_eq!(fs::read_to_string(dir.path().join("x.hlog")).expect("a log").matches("Tag=").count(), 12);
    assert!(!dir.path().join("forebay-load-test").exists(), "what was made is removed");
}

#[test]
fn the_weather_is_there_once_at_each_setting() {
    let dir = folder();
    let (code, out, err) = load_test(&dir, &format!("--input {WEATHER} --rows-per-block 20 --verify --json - {SMALL}"));
    assert_eq!(code, 0, "{err}");
    for line in out.lines() {
        let run: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&run["rows"], &run["blocks"]), (&2000.into(), &100.into()));
        assert_eq!((&run["verified_blocks"], &run["lost_blocks"]), (&100.into(), &0.into()));
    }
    assert_eq!(out.lines().count(), 3);
}

#[test]
fn raw_and_meters_blocks_are_proven_at_each_setting() {
    for workload in ["--block-bytes 100", "--rows-per-block 10", "--block-bytes 4k --in-flight 4", "--rate 2000/s"] {
        let options = format!("{workload} --writers 8 --seconds 0.2 --warmup 0.1 --repeat 1 --verify --json - {SMALL}");
        let (code, out, err) = load_test(&folder(), &options);
        assert_eq!(code, 0, "{workload}: {err}");
        for line in out.lines() {
            let run: Value = serde_json::from_str(line).expect("JSON");
            assert!(run["verified_blocks"].as_u64() >= run["blocks"].as_u64(), "{workload}: {line}");
            assert_eq!(run["lost_blocks"], 0, "{workload}: {line}");
        }
    }
}

#[test]
fn a_bad_line_exits_1_with_its_number_and_keeps_what_was_acknowledged() {
    let dir = folder();
    let mut text = fs::read_to_string(WEATHER).expect("the sample");
    text.push_str("weather,origin=EWR temp=cold 1\n");
    fs::write(dir.path().join("bad.lp"), text).expect("written");
    let (code, _, err) =
        load_test(&dir, &format!("--input bad.lp --rows-per-block 100 --dir kept --wal-level 1 {SMALL}"));
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("line 2001, column 25: field value 'cold'"), "{err}");
    assert!(err.contains("were acknowledged before") && err.contains("kept in kept"), "{err}");
    assert!(Path::new(&dir.path().join("kept")).exists());
}
