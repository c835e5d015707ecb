//! The examples do what they say: each is run in an empty folder and its output read.

use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// On the disk of the build: `/tmp` may be memory, which is no place for a log.
fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// `cargo test` builds the examples beside the folder of this program.
fn example(name: &str, dir: &TempDir) -> Output {
    let this = std::env::current_exe().expect("this program's path");
    let built: PathBuf = this.ancestors().nth(2).expect("target/PROFILE/deps/this").join("examples").join(name);
    assert!(built.exists(), "{} is not built: run `cargo build --examples`, or all tests", built.display());
    Command::new(built).current_dir(dir.path()).output().expect("the example runs")
}

/// What a run that succeeds says on stdout.
fn said(name: &str, dir: &TempDir) -> String {
    let output = example(name, dir);
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{said}{complaint}", output.status);
    said.into_owned()
}

#[test]
fn blocking_appends_two_blocks_and_both_are_synced() {
    let dir = folder();
    let said = said("blocking", &dir);
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("block 1 is safe"));
    let marks = lines.next().expect("the marks");
    assert!(marks.contains("accepted: Seq(2)") && marks.contains("synced: Seq(2)"), "{marks}");
}

#[test]
fn asynchronous_awaits_seventeen_blocks_without_a_runtime() {
    assert_eq!(said("asynchronous", &folder()), "17 blocks are safe\n");
}

#[test]
fn sqlite_holds_each_row_once_over_two_runs() {
    let dir = folder();
    for (run, volts) in [(1, 2190), (2, 4380)] {
        let said = said("sqlite", &dir);
        let expected = format!(
            "appended 10 blocks with 100 rows of meters and 1 raw block\n\
             data/blocks.sqlite holds {} rows and {run} raw blocks; the voltages of meter 7 add up to {volts}\n",
            run * 100
        );
        assert_eq!(said, expected);
    }
    let database = rusqlite::Connection::open(dir.path().join("data/blocks.sqlite")).expect("the database");
    let count = |select: &str| database.query_row(select, [], |row| row.get::<_, i64>(0)).expect(select);
    let rows = count("SELECT count(*) FROM (SELECT DISTINCT epoch, shard, seq, row FROM points)");
    assert_eq!(rows, 200, "rows under names of their own");
    assert_eq!(count("SELECT count(*) FROM progress WHERE epoch = 2"), 1, "the second run's progress");
}

#[test]
fn sqlite_refuses_a_database_of_another_engine() {
    let dir = folder();
    said("sqlite", &dir);
    std::fs::remove_dir_all(dir.path().join("data/engine")).expect("the engine's folder");
    let refused = example("sqlite", &dir);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && complaint.contains("the database belongs to store"), "{complaint}");
}

#[test]
fn read_back_finds_every_block_that_was_acknowledged_before_the_kill() {
    let dir = folder();
    let killed = example("read_back", &dir);
    let said_before = String::from_utf8_lossy(&killed.stdout).into_owned();
    assert!(!killed.status.success(), "it kills itself: {said_before}");
    assert!(said_before.ends_with("1000 blocks acknowledged; killed\n"), "{said_before}");
    let said_after = said("read_back", &dir);
    assert!(said_after.ends_with("1000 blocks read back\n"), "{said_after}");
}
