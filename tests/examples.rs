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
fn own_store_holds_each_block_once_over_two_runs() {
    let dir = folder();
    assert_eq!(said("own_store", &dir), "11 blocks are in the store\n");
    assert_eq!(said("own_store", &dir), "22 blocks are in the store\n");
    let text = std::fs::read_to_string(dir.path().join("data/files/shard-0.txt")).expect("the store's file");
    let mut blocks: Vec<&str> = text.lines().skip(1).collect();
    blocks.dedup();
    assert_eq!(blocks.len(), 22, "{text}");
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
