//! `forebay probe` on a real disk: the library's measurements and the command.

use std::fs;
use std::process::Command;
use std::time::Duration;

use forebay::probe::{Load, Options, Probe, probe};
use forebay::{Error, IoChoice, SyncPolicy};
use serde_json::Value;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

#[test]
fn all_is_measured_and_nothing_left_behind() {
    let dir = folder();
    for io in [IoChoice::Auto, IoChoice::Pwrite] {
        let options = Options { dir: dir.path().into(), io, time: Duration::from_millis(100) };
        let found = probe(&options).expect("probed");
        assert!(found.write_synced.len() >= 16, "{}", found.write_synced.len());
        let all = found.write.iter().chain(&found.write_synced).chain([&found.overwrite, &found.append]);
        for point in all {
            assert!(point.operations >= point.in_flight && point.us_p99 >= point.us_p50, "{point:?}");
            assert!(point.us_p50 > 0.0 && point.bytes_per_s() > 0.0, "{point:?}");
        }
        for policy in [SyncPolicy::Level1, SyncPolicy::Periodic { ms: 3000 }, SyncPolicy::Each] {
            let load = Load { writers: 50, in_flight: 1, block_bytes: 4096 };
            let predicted = found.predict(policy, load).blocks_per_s;
            assert!(predicted.is_finite() && predicted > 0.0, "{policy:?}: {predicted}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
    let nowhere = Options { dir: dir.path().join("nowhere"), io: IoChoice::Auto, time: Duration::ZERO };
    assert!(matches!(probe(&nowhere), Err(Error::Io { .. })));
}

#[test]
fn the_command_prints_a_table_or_what_load_test_reads() {
    let dir = folder();
    let run = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_forebay"))
            .args(["probe", "--seconds", "0.2", "--dir"])
            .arg(dir.path())
            .args(arguments)
            .output()
            .expect("started");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).expect("UTF-8")
    };
    let text = run(&[]);
    for part in ["device: ", "flush: ", "4 KiB overwritten, fdatasync each", "(2, 3000)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = run(&["--json"]);
    let value: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["schema"], "forebay.probe/1");
    assert_eq!(value["predicted"].as_array().map(Vec::len), Some(9));
    serde_json::from_str::<Probe>(&json).expect("what load-test reads");
    let file = dir.path().join("probe.json");
    fs::write(&file, json).expect("written");
    let done = Command::new(env!("CARGO_BIN_EXE_load-test"))
        .args(["--seconds", "0.2", "--warmup", "0", "--writers", "4", "--wal-level", "2", "--wal-fsync-period", "0"])
        .args(["--block-bytes", "4096", "--json", "-", "--dir"])
        .arg(dir.path().join("store"))
        .arg("--probe")
        .arg(&file)
        .output()
        .expect("started");
    assert!(done.status.success(), "{done:?}");
    let run: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert!(run["predicted_blocks_per_s"].as_f64().is_some_and(|predicted| predicted > 0.0), "{run}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("of what the disk allows"), "{said}");
}

#[test]
fn a_folder_that_is_not_there_and_a_file_that_is_no_probe_are_named() {
    let dir = folder();
    let nowhere = dir.path().join("nowhere");
    let done = Command::new(env!("CARGO_BIN_EXE_forebay")).args(["probe", "--dir"]).arg(&nowhere).output();
    let done = done.expect("started");
    assert_eq!(done.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&done.stderr).contains("nowhere"), "{done:?}");
    let file = dir.path().join("no-probe.json");
    fs::write(&file, "{}").expect("written");
    let done = Command::new(env!("CARGO_BIN_EXE_load-test")).arg("--probe").arg(&file).output().expect("started");
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("--probe") && said.contains("no-probe.json"), "{said}");
}
