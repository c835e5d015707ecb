//! `scripts/compare-fsync.sh`: its figures from made-up runs whose answers are known, its pictures, its gate,
//! and a small comparison from beginning to end.
//!
//! Needs a plain `python3`, or the one that `FOREBAY_PYTHON` names. Without it these tests are skipped, and
//! fail where `REQUIRE_RIG=1`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const LOAD_TEST: &str = env!("CARGO_BIN_EXE_load-test");
const PLOTS: [&str; 4] = ["drop.svg", "writers.svg", "latency.svg", "timeline.svg"];

/// The script under that Python; `None` where there is none.
fn script() -> Option<Command> {
    let python = std::env::var_os("FOREBAY_PYTHON").unwrap_or_else(|| "python3".into());
    let there = Command::new(&python).arg("--version").output().is_ok_and(|said| said.status.success());
    if !there {
        let why = "there is no python3";
        assert!(std::env::var("REQUIRE_RIG").as_deref() != Ok("1"), "{why}");
        eprintln!("SKIPPED: {why}");
        return None;
    }
    let mut command = Command::new(python);
    command.arg("-B").current_dir(env!("CARGO_MANIFEST_DIR"));
    Some(command)
}

/// Exit code, stdout and stderr.
fn said(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

fn redraw(mut script: Command, dir: &Path, options: &[&str]) -> (i32, String, String) {
    said(script.arg("scripts/compare-fsync.py").arg("--redraw").arg(dir).args(options))
}

fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// A made-up run as a line of runs.jsonl: 50 writers at this setting and pace, in steps of 100 ms.
fn record(round: u32, setting: &str, blocks_per_s: f64, steps: &[u64]) -> Value {
    let ack = json!({"min": 0.2, "mean": 1, "p50": 0.9, "p90": 2, "p95": 3, "p99": 40, "p999": 500, "max": 60_000});
    let run = json!({
        "schema": "forebay.load-test/1", "settings": {"io": "uring"}, "seconds": 2.0,
        "blocks": 1000, "bytes": 4_096_000, "rows": 1000,
        "blocks_per_s": blocks_per_s, "bytes_per_s": blocks_per_s * 4096.0, "rows_per_s": blocks_per_s,
        "ack_us": ack, "fsync": {"count": 3, "us": {"p50": 400}}, "bound_by": null, "ended_early": null,
        "warnings": [], "timeline": {"interval_ms": 100, "bytes": steps},
    });
    json!({
        "schema": "forebay.compare-fsync/1", "round": round, "block": "4 KiB", "in_flight": 1, "writers": 50,
        "setting": setting, "error": null, "run": run,
    })
}

const EVEN: [u64; 20] = [1 << 20; 20];

/// Level 1 at these paces, and the other two settings with these ratios to it, round by round.
fn made_up(level_1: &[f64], periodic: &[f64], each: &[f64]) -> Vec<Value> {
    let mut records = Vec::new();
    for (at, pace) in level_1.iter().enumerate() {
        let round = at as u32 + 1;
        records.push(record(round, "(1)", *pace, &EVEN));
        records.push(record(round, "plain file (1)", pace / 4.0, &EVEN));
        records.push(record(round, "(2,3000)", pace * periodic[at], &EVEN));
        records.push(record(round, "(2,0)", pace * each[at], &EVEN));
    }
    records
}

fn write(dir: &Path, records: &[Value]) {
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    fs::write(dir.join("runs.jsonl"), text).expect("written");
}

/// summary.json's comparison of one setting with another.
fn comparison(dir: &Path, of: &str, against: &str) -> Value {
    let text = fs::read_to_string(dir.join("summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&text).expect("JSON");
    let entries = summary["comparisons"].as_array().expect("comparisons").iter();
    let mut found = entries.filter(|entry| entry["of"] == of && entry["against"] == against);
    found.next().unwrap_or_else(|| panic!("{of} against {against}: {text}")).clone()
}

fn assert_near(value: &Value, expected: f64) {
    assert!((value.as_f64().expect("a number") - expected).abs() < 1e-6, "{value} is not {expected}");
}

/// A machine whose pace changes from round to round, tenfold: only ratios within a round say anything.
const PACES: [f64; 5] = [1000.0, 4000.0, 400.0, 2500.0, 700.0];
const PERIODIC: [f64; 5] = [0.9, 0.8, 0.7, 0.85, 0.6];
const EACH: [f64; 5] = [0.45, 0.40, 0.35, 0.51, 0.48];

#[test]
fn ratios_are_paired_by_round_and_their_median_counts() {
    let Some(script) = script() else { return };
    let dir = folder();
    let mut records = made_up(&PACES, &PERIODIC, &EACH);
    // Without a partner in its round.
    records.push(record(6, "(2,3000)", 1.0, &EVEN));
    write(dir.path(), &records);
    let (code, out, err) = redraw(script, dir.path(), &[]);
    assert_eq!(code, 0, "{err}");
    let periodic = comparison(dir.path(), "(2,3000)", "(1)");
    assert_eq!(periodic["rounds"], 5);
    assert_near(&periodic["drop_percent"]["median"], 20.0);
    // Of five ratios the interval goes from the least to the greatest: nothing surer can be said.
    assert_near(&periodic["drop_percent"]["interval"][0], 10.0);
    assert_near(&periodic["drop_percent"]["interval"][1], 40.0);
    // 0.5, 0.5, 0.5, 0.6 and 0.8 of (2,3000), where the medians of both columns would say something else.
    assert_near(&comparison(dir.path(), "(2,0)", "(2,3000)")["drop_percent"]["median"], 50.0);
    assert_near(&comparison(dir.path(), "(1)", "plain file (1)")["ratio"]["median"], 4.0);
    assert!(out.contains("(2,3000) against (1): 20.0 % slower [10.0 to 40.0]"), "{out}");
    let text = fs::read_to_string(dir.path().join("summary.md")).expect("a summary");
    assert!(text.contains("Of 5 rounds") && text.contains("with 93.8 % only"), "{text}");
}

#[test]
fn the_interval_holds_the_truth_as_often_as_it_says() {
    let Some(mut script) = script() else { return };
    let program = "
import random, sys
sys.path.insert(0, 'scripts')
from compare_fsync.summary import interval
def sets(rounds):
    rng = random.Random(7)
    made = [[0.8 * rng.lognormvariate(0, 0.05) for _ in range(rounds)] for _ in range(300)]
    found = [interval(ratios, 1000) for ratios in made]
    held = sum(low <= 0.8 <= high for low, high in found)
    return held, sum(high - low for low, high in found) / 300
print(*sets(9), *sets(31), interval([0.5]))";
    let (code, out, err) = said(script.args(["-c", program]));
    assert_eq!(code, 0, "{err}");
    let words: Vec<&str> = out.split_whitespace().collect();
    let [held_9, width_9, held_31, width_31, of_one] = words[..] else { panic!("{out}") };
    let number = |word: &str| word.parse::<f64>().expect("a number");
    for held in [held_9, held_31] {
        assert!((273.0..300.0).contains(&number(held)), "of 300 intervals of 95 % hold the truth: {out}");
    }
    assert!(number(width_31) < 0.7 * number(width_9), "more rounds make it narrower: {out}");
    assert_eq!(of_one, "None", "one round has no interval");
}

#[test]
fn the_gate_names_what_is_beyond_it_and_lets_the_rest_pass() {
    for (limit, code, names) in [
        ("60", 0, vec![]),
        ("30", 3, vec!["(2,0) against (2,3000): 50.0 % slower"]),
        (
            "15",
            3,
            vec!["(2,3000) against (1): 20.0 % slower [10.0 to 40.0]; its interval is not wholly beyond", "(2,0)"],
        ),
    ] {
        let Some(script) = script() else { return };
        let dir = folder();
        write(dir.path(), &made_up(&PACES, &PERIODIC, &EACH));
        let (found, out, err) = redraw(script, dir.path(), &["--max-drop", limit]);
        assert_eq!(found, code, "{out}{err}");
        let verdict = out.split("gate: ").nth(1).expect("a verdict");
        assert!(verdict.starts_with(if code == 0 { "passed" } else { "failed" }), "{verdict}");
        assert!(names.iter().all(|name| verdict.contains(name)), "{verdict}");
        assert_eq!(verdict.matches(" % slower").count(), names.len(), "{verdict}");
    }
}

#[test]
fn a_gate_with_nothing_to_judge_does_not_pass() {
    let Some(script) = script() else { return };
    let dir = folder();
    write(dir.path(), &made_up(&PACES, &PERIODIC, &EACH));
    let (code, out, err) = redraw(script, dir.path(), &["--max-drop", "99", "--gate-writers", "7"]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("nothing to judge"), "{out}");
}

#[test]
fn what_cannot_count_is_left_out_and_named() {
    let Some(script) = script() else { return };
    let dir = folder();
    let mut records = made_up(&PACES, &PERIODIC, &EACH);
    // The (2,3000) of round 1, and the (2,0) of round 2.
    records[2]["run"]["ended_early"] = "interrupted".into();
    records[7]["run"] = Value::Null;
    records[7]["error"] = "exit code 74: no space".into();
    records[0]["run"]["bound_by"] = "generator".into();
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    // The machine went down while the last line was written.
    fs::write(dir.path().join("runs.jsonl"), text + "{\"schema\":\"forebay.comp").expect("written");
    let (code, out, err) = redraw(script, dir.path(), &[]);
    assert_eq!(code, 1, "{err}");
    assert_eq!(comparison(dir.path(), "(2,3000)", "(1)")["rounds"], 4);
    assert_eq!(comparison(dir.path(), "(2,0)", "(2,3000)")["rounds"], 3);
    assert!(
        err.contains("(2,3000): ended early: interrupted") && err.contains("(2,0): exit code 74: no space"),
        "{err}"
    );
    assert!(out.contains("runs bound by the generator, not by the log"), "{out}");
    let text = fs::read_to_string(dir.path().join("summary.md")).expect("a summary");
    assert!(text.contains("generator (1 runs)") && text.contains("exit code 74: no space"), "{text}");
}

/// Each picture is XML with a title; returns all their texts.
fn assert_drawn(dir: &Path) -> String {
    let mut script = script().expect("there was one");
    let program = "
import sys, xml.etree.ElementTree as tree
for path in sys.argv[1:]:
    root = tree.parse(path).getroot()
    space = '{http://www.w3.org/2000/svg}'
    assert root.tag == space + 'svg', root.tag
    assert root.find(space + 'title').text.strip(), 'no title'
    assert 'prefers-color-scheme:dark' in root.find(space + 'style').text
    print(*(text for node in root.iter(space + 'text') for text in node.itertext()), sep='\\n')";
    let (code, out, err) = said(script.args(["-c", program]).args(PLOTS.map(|name| dir.join(name))));
    assert_eq!(code, 0, "{err}");
    out
}

#[test]
fn pictures_say_what_the_runs_say() {
    let Some(script) = script() else { return };
    let dir = folder();
    let mut records = made_up(&PACES, &PERIODIC, &EACH);
    // A (2,0) that stands still from 0.5 s to 0.8 s, and for a moment that is too short to count.
    let mut steps = EVEN;
    steps[5..8].fill(1000);
    records[3]["run"]["timeline"] = json!({"interval_ms": 100, "bytes": steps});
    records[7]["run"]["timeline"] = json!({"interval_ms": 20, "bytes": [100, 0, 0, 100, 0, 100]});
    write(dir.path(), &records);
    assert_eq!(redraw(script, dir.path(), &[]).0, 0);
    let texts = assert_drawn(dir.path());
    for text in ["20.0 %  [10.0, 40.0]", "(2,0) against (2,3000)", "plain file (1)  250", "(1)  60 ms", "99.9 %"] {
        assert!(texts.contains(text), "{text}: {texts}");
    }
    assert_eq!(texts.matches("1 stall, longest 300 ms").count(), 1, "{texts}");
    assert_eq!(texts.matches("no stall;").count(), 3, "{texts}");
    // An unclosed tag is seen.
    let path = dir.path().join(PLOTS[0]);
    let text = fs::read_to_string(&path).expect("a picture");
    fs::write(&path, text.replace("</svg>", "")).expect("written");
    assert!(std::panic::catch_unwind(|| assert_drawn(dir.path())).is_err());
}

/// A comparison of small stores, measured with this program.
fn small(script: &mut Command, dir: &Path, rounds: &str, program: &Path) {
    script.args(["scripts/compare-fsync.py", "--rounds", rounds, "--load-test"]).arg(program);
    script.arg("--dir").arg(dir.join("disk")).arg("--out").arg(dir.join("out"));
    script.args(["--seconds", "0.2", "--writers", "2", "--in-flight", "1", "--blocks", "4k", "--periods", "0,3000"]);
    script.args(["--", "--shards", "1", "--intake-bytes", "1m", "--segment-bytes", "1m", "--block-bytes-max", "256k"]);
}

fn runs(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("out/runs.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn every_round_has_every_setting_once_and_is_drawn_again_the_same() {
    let Some(mut first) = script() else { return };
    let dir = folder();
    small(&mut first, dir.path(), "3", Path::new(LOAD_TEST));
    let (code, _, err) = said(&mut first);
    assert_eq!(code, 0, "{err}");
    let runs = runs(dir.path());
    let of_round = |round: u64| {
        let own = runs.iter().filter(|run| run["round"] == round);
        own.map(|run| run["setting"].as_str().expect("a setting").to_owned()).collect::<Vec<_>>()
    };
    for round in 1..=3 {
        let mut settings = of_round(round);
        settings.sort();
        assert_eq!(settings, ["(1)", "(2,0)", "(2,3000)", "plain file (1)", "plain file (2,0)"], "round {round}");
    }
    assert!((2..=3).any(|round| of_round(round) != of_round(1)), "the order is not always the same");
    let env: Value = serde_json::from_slice(&fs::read(dir.path().join("out/env.json")).expect("a file")).expect("JSON");
    for name in ["kernel", "cpu", "file_system", "mount_options", "vm", "rustc", "commit", "load_average"] {
        assert!(!env[name].is_null(), "{name}: {env}");
    }
    assert!(env.get("queue").is_some() && !env["vm"]["dirty_ratio"].is_null(), "{env}");
    let log = fs::read_to_string(dir.path().join("out/histograms/4KiB-2-1.hlog")).expect("histograms");
    assert_eq!(log.matches("Tag=").count(), runs.len());
    assert_eq!(log.matches("Tag=forebay-2-3000-run-3,").count(), 1);
    // From runs.jsonl alone.
    let drawn = PLOTS.map(|name| fs::read(dir.path().join("out").join(name)).expect("a picture"));
    let again = dir.path().join("again");
    fs::create_dir(&again).expect("made");
    fs::copy(dir.path().join("out/runs.jsonl"), again.join("runs.jsonl")).expect("copied");
    let (code, _, err) = redraw(script().expect("there was one"), &again, &[]);
    assert_eq!(code, 0, "{err}");
    assert_drawn(&again);
    for (name, before) in PLOTS.iter().zip(drawn) {
        assert!(fs::read(again.join(name)).expect("a picture") == before, "{name} differs");
    }
}

#[test]
fn an_interrupted_comparison_keeps_and_summarizes_what_it_did() {
    let Some(mut command) = script() else { return };
    let dir = folder();
    small(&mut command, dir.path(), "1000", Path::new(LOAD_TEST));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let began = Instant::now();
    while runs(dir.path()).len() < 6 && child.try_wait().expect("a child").is_none() {
        assert!(began.elapsed() < Duration::from_secs(300), "no runs within five minutes");
        thread::sleep(Duration::from_millis(20));
    }
    let _ = kill_process(Pid::from_child(&child), Signal::INT);
    let output = child.wait_with_output().expect("its output");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("interrupted: what was measured so far follows"), "{err}");
    assert_drawn(&dir.path().join("out"));
    assert!(fs::read_to_string(dir.path().join("out/summary.md")).expect("a summary").contains("(2,0) against (1)"));
    assert_eq!(fs::read_dir(dir.path().join("disk")).expect("a folder").count(), 0, "no store stays behind");
}

#[test]
fn a_folder_that_is_not_its_own_is_left_alone() {
    let Some(mut command) = script() else { return };
    let dir = folder();
    let mine = dir.path().join("disk/compare-fsync/IDENTITY");
    fs::create_dir_all(mine.parent().expect("a folder")).expect("made");
    fs::write(&mine, "mine").expect("written");
    small(&mut command, dir.path(), "1", Path::new(LOAD_TEST));
    let (code, _, err) = said(&mut command);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("is there already; remove it or name another --dir"), "{err}");
    assert!(mine.exists() && !dir.path().join("out").exists());
}

#[test]
fn a_run_that_fails_is_recorded_and_the_others_go_on() {
    let Some(mut command) = script() else { return };
    let dir = folder();
    // In place of load-test: at (2,0) it fails as on a full disk, and leaves its folder behind.
    let program = dir.path().join("load-test");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *'--wal-fsync-period 0'*) mkdir \"$2\"; touch \"$2/kept\"; echo no space >&2; exit 74;; esac\n\
         exec '{}' \"$@\"\n",
        LOAD_TEST
    );
    fs::write(&program, text).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    small(&mut command, dir.path(), "1", &program);
    let (code, _, err) = said(&mut command);
    assert_eq!(code, 1, "{err}");
    let (failed, done): (Vec<_>, Vec<_>) = runs(dir.path()).into_iter().partition(|run| run["run"].is_null());
    assert_eq!((failed.len(), done.len()), (2, 3), "of engine and file: {err}");
    assert!(failed.iter().all(|run| run["error"] == "exit code 74: no space"), "{failed:?}");
    assert!(err.contains("left out: round 1, 4 KiB, 2 writers, 1 in flight, (2,0): exit code 74: no space"), "{err}");
}

#[test]
fn a_gate_that_the_matrix_cannot_feed_is_refused_before_it_runs() {
    let Some(mut script) = script() else { return };
    let (code, _, err) = said(script.args(["scripts/compare-fsync.py", "--writers", "2", "--max-drop", "30"]));
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("--max-drop judges 50 writers"), "{err}");
}
