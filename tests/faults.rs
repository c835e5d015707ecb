//! Faults that need no disk of their own: a file system that may not be written, two who want one store, and
//! a process that forks (rows 28 and 29 of the table in `docs/durability.md`).
//!
//! Needs root for the read-only file system; where it is missing, `REQUIRE_RIG=1` makes that a failure.
//! `FOREBAY_RACES` sets how often two race for a store (default 100).

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use forebay::error::Why;
use forebay::store::Hold;
use forebay::{Block, Config, Cursor, Durability, Engine, Error, Receipt, Subscription, Ticket, Writer};
use fork::Fork;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn small(dir: &Path) -> Config {
    let config = Config::new(dir).shards(1).segment_bytes(1 << 20).block_bytes_max(64 << 10);
    config.batch_bytes_max(64 << 10).intake_bytes(256 << 10).intake_slots(1024).wal_level(2).wal_fsync_period_ms(0)
}

/// Every file of a store, with its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.append(&mut tree(&path));
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => drop(found.insert(path, bytes)),
            // An engine that has the store open renames and removes files.
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {error}", path.display()),
        }
    }
    found
}

/// A store with one block; its folder holds nobody's lock.
fn store(dir: &Path) {
    let engine = Engine::open_with(small(dir), Box::new(Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    writer.append_with(Block::raw("t", &b"x"[..]), Durability::Synced).expect("an append");
    engine.close().expect("a clean close");
}

#[test]
fn of_two_who_open_one_store_one_is_refused_and_changes_nothing() {
    let dir = folder();
    store(dir.path());
    let races: usize = std::env::var("FOREBAY_RACES").map_or(100, |text| text.parse().expect("a number"));
    let (start, end) = (Barrier::new(2), Barrier::new(2));
    let open_all = || -> Vec<Result<(), Error>> {
        (0..races)
            .map(|_| {
                start.wait();
                let opened = Engine::open_with(small(dir.path()), Box::new(Hold));
                // Who has it keeps it until the other has been refused.
                end.wait();
                opened.map(|engine| engine.close().expect("a clean close"))
            })
            .collect()
    };
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(open_all);
        (open_all(), other.join().expect("no panic"))
    });
    println!("{} races", one.len());
    for (one, other) in one.into_iter().zip(other) {
        let (opened, refused) = if one.is_ok() { (one, other) } else { (other, one) };
        assert!(opened.is_ok(), "one of them has it: {opened:?}");
        let error = refused.expect_err("the other has not");
        assert_eq!(error.exit_code(), 73, "{error}");
        assert!(error.to_string().contains(&format!("in use by pid {}", std::process::id())), "{error}");
    }
    let _engine = Engine::open_with(small(dir.path()), Box::new(Hold)).expect("opens");
    // Segments are being made ahead; then nothing moves any more.
    let mut before = tree(dir.path());
    while {
        std::thread::sleep(Duration::from_millis(300));
        let now = tree(dir.path());
        std::mem::replace(&mut before, now) != before
    } {}
    assert!(Engine::open_with(small(dir.path()), Box::new(Hold)).is_err());
    assert!(tree(dir.path()) == before, "who was refused changed something");
}

/// What a child that has the engine of its parent finds, if it is not what it must.
fn calls_of_a_child(
    engine: Engine,
    writer: &Writer,
    receipt: &Receipt,
    mut subscription: Subscription,
    (waited, mut polled): (Ticket, Ticket),
) -> Vec<&'static str> {
    let block = || Block::raw("t", &b"of the child"[..]);
    let mut context = Context::from_waker(Waker::noop());
    let is_given_back = |result: Result<Receipt, Error>| match result {
        Err(Error::Rejected(rejected)) => matches!(rejected.why, Why::Forked) && rejected.block == block(),
        _ => false,
    };
    let is_given_back_async = match pin!(writer.append_async(block())).poll(&mut context) {
        Poll::Ready(result) => is_given_back(result),
        Poll::Pending => false,
    };
    let calls = [
        ("append", is_given_back(writer.append(block()))),
        ("append_with", is_given_back(writer.append_with(block(), Durability::Synced))),
        ("append_async", is_given_back_async),
        ("submit", writer.submit(block()).is_err_and(|rejected| matches!(rejected.why, Why::Forked))),
        ("wait of a ticket", matches!(waited.wait(), Err(Error::Forked))),
        ("poll of a ticket", matches!(pin!(&mut polled).poll(&mut context), Poll::Ready(Err(Error::Forked)))),
        ("next", matches!(subscription.next(), Some(Err(Error::Forked)))),
        ("writer", matches!(engine.writer("n"), Err(Error::Forked))),
        ("status_of", matches!(engine.status_of(receipt), Err(Error::Forked))),
        ("wait", matches!(engine.wait(receipt, Durability::Flushed), Err(Error::Forked))),
        ("sync", matches!(engine.sync(), Err(Error::Forked))),
        ("subscribe", matches!(engine.subscribe(Cursor::start()), Err(Error::Forked))),
        ("close", matches!(engine.close(), Err(Error::Forked))),
    ];
    calls.into_iter().filter(|(_, right)| !right).map(|(name, _)| name).collect()
}

/// Ends the forked child, which must never return into the test program's threads that are not there.
fn end_of_child(said: &Path, work: impl FnOnce() -> Vec<&'static str>) -> ! {
    let wrong = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| vec!["a panic"]);
    let written = fs::write(said, format!("wrong: {}", wrong.join(", ")));
    std::process::exit(i32::from(written.is_err()));
}

/// What the child said when it had ended; it must, whatever its parent's threads were doing.
fn said_by(child: i32, said: &Path) -> String {
    let began = Instant::now();
    while fork::waitpid_nohang(child).expect("a child").is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            let pid = rustix::process::Pid::from_raw(child).expect("a process");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a kill");
            fork::waitpid(child).expect("an end");
            panic!("the forked child hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::read_to_string(said).expect("what the child said")
}

#[test]
fn a_forked_child_is_told_so_and_the_store_stays_its_parents() {
    let dir = folder();
    let said = dir.path().join("said");
    // At (2, P) a ticket has nothing to wait for; here both are under way, or done, when the process forks.
    let engine = Engine::open_with(small(dir.path()), Box::new(Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    let block = || Block::raw("t", &b"of the parent"[..]);
    let receipt = writer.append(block()).expect("an append");
    let subscription = engine.subscribe(Cursor::start()).expect("a subscription");
    let tickets = (writer.submit(block()).expect("room"), writer.submit(block()).expect("room"));
    let child = match fork::fork().expect("a fork") {
        Fork::Child => {
            end_of_child(&said, || calls_of_a_child(engine, &writer, &receipt, subscription, tickets));
        }
        Fork::Parent(child) => child,
    };
    assert_eq!(said_by(child, &said), "wrong: ");
    let child = match fork::fork().expect("a fork") {
        // What is only dropped must not wait either.
        Fork::Child => end_of_child(&said, || {
            drop((subscription, tickets, engine, writer));
            vec!["dropped"]
        }),
        Fork::Parent(child) => child,
    };
    assert_eq!(said_by(child, &said), "wrong: dropped");
    // For the parent nothing has changed.
    tickets.0.wait().expect("an acknowledgement");
    tickets.1.wait().expect("an acknowledgement");
    writer.append(block()).expect("an append");
    let there = |subscription: Subscription| {
        let blocks = subscription.until_end().map(|delivered| delivered.expect("a block").block);
        blocks.inspect(|found| assert_eq!(*found, block())).count()
    };
    assert_eq!(there(subscription), 4);
    engine.close().expect("a clean close");
    let engine = Engine::open_with(small(dir.path()), Box::new(Hold)).expect("opens");
    assert_eq!(there(engine.subscribe(Cursor::start()).expect("a subscription")), 4);
}

#[test]
fn a_read_only_file_system_is_named_and_left_as_it_was() {
    let dir = folder();
    store(dir.path());
    let before = tree(dir.path());
    let path = dir.path().display();
    // In a mount namespace of its own: it goes with the process.
    let script = format!(
        "mount --bind {path} {path} && mount -o remount,bind,ro {path} || exit 99
         exec {} --dir {path} --seconds 1 --repeat 1 --wal-level 1 --store none --block-bytes 128",
        env!("CARGO_BIN_EXE_load-test")
    );
    let run = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output();
    let output = match run {
        Ok(output) if output.status.code() != Some(99) && !output.stderr.starts_with(b"unshare:") => output,
        other => {
            assert!(std::env::var_os("REQUIRE_RIG").is_none(), "nothing can be mounted: {other:?}");
            eprintln!("SKIPPED: a read-only file system needs root: {other:?}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{said}");
    let once = |what: &str| said.matches(what).count() == 1;
    assert!(once("Read-only file system") && once(&path.to_string()), "{said}");
    assert!(tree(dir.path()) == before, "a store on a read-only file system was changed");
}
