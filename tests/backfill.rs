//! Followers that are behind the log of their source: they get data files, then the log, and every row is there once.
#![cfg(all(feature = "server", feature = "parquet"))]

mod data_rows;
mod ports;
mod site;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use data_rows::{rows, rows_of_all};
use forebay::data::format::HeldFile;
use forebay::data::parquet::ParquetStore;
use forebay::node::Node;
use forebay::node::status::Way;
use forebay::store::Holding;
use forebay::{Block, Config, Engine};
use site::{Site, status, until};

/// Blocks leave the log soon, and nobody who lags is waited for.
const SHORT: &str = "wal_level = 1\nwal_retention_period_s = 0\nbuffer_bytes = 1048576\nflush_period_ms = 50\n";
/// The same, and the log is held for those who are behind.
const HELD: &str = "wal_level = 1\nbuffer_bytes = 1048576\nflush_period_ms = 50\n";
const LINES: usize = 20;

fn home() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Raw blocks, and blocks of lines, by writers of both shards.
fn append(node: &Node, text: &str, count: usize) {
    let text = text.replace(' ', "-");
    let writers = [(); 2].map(|()| node.engine().writer("plant7").expect("a writer"));
    for number in 0..count {
        let writer = &writers[number / 2 % 2];
        let block = match number % 2 {
            0 => Block::raw("blobs", format!("{text} {number} {}", "x".repeat(2000)).into_bytes()),
            _ => {
                let line = |row| format!("m,of={text} number={number}i,row={row}i,half=0.5 {}\n", number * LINES + row);
                Block::lines((0..LINES).map(line).collect::<String>()).expect("sound lines")
            }
        };
        writer.append(block).expect("a receipt");
    }
}

/// Everything that was accepted is in data files, and has left the log but for its end.
fn trimmed(node: &Node) {
    until("what is flushed is trimmed", || {
        status(node).shards.iter().all(|shard| shard.flushed == shard.accepted && shard.trimmed * 2 > shard.accepted)
    });
}

fn is_followed(source: &Node, by: &Site) -> bool {
    status(source).links.iter().any(|link| {
        let is_even = link.is_up && link.behind_blocks == 0 && link.backfill.is_none();
        link.way == Way::Out && link.peer == by.store && is_even
    })
}

/// The follower has everything that the source has accepted, synced.
fn has_all(source: &Node, by: &Site) {
    until("it has everything", || is_followed(source, by));
}

fn the_same_rows(sites: &[&Site], expected: usize) {
    let first = rows_of_all(&sites[0].data());
    assert_eq!(first.len(), expected);
    for site in &sites[1..] {
        let other = rows_of_all(&site.data());
        let differs = first.iter().find(|(row, words)| other.get(*row) != Some(*words));
        assert_eq!((other.len(), differs), (first.len(), None), "{} against {}", site.store, sites[0].store);
    }
}

const fn rows_in(blocks: usize) -> usize {
    blocks / 2 + blocks / 2 * LINES
}

#[test]
fn a_new_follower_gets_data_files_then_the_log_and_one_that_falls_behind_again_only_the_difference() {
    let home = home();
    let (site_a, site_b) =
        (Site::new(home.path(), "a", "parquet", SHORT), Site::new(home.path(), "b", "parquet", SHORT));
    let a = site_a.start("active", &[&site_b]);
    // It accepts once it has heard of its peer.
    let b = site_b.start("standby", &[&site_a]);
    until("a accepts", || status(&a).refuses.is_none());
    b.stop().expect("it stops");
    append(&a, "first", 4000);
    trimmed(&a);

    let b = site_b.start("standby", &[&site_a]);
    has_all(&a, &site_b);
    append(&a, "with the follower", 400);
    has_all(&a, &site_b);
    let moved = |node: &Node| status(node).links.iter().map(|link| link.moved_bytes).sum::<u64>();
    let first = moved(&b);
    b.stop().expect("it stops");

    append(&a, "without it", 3000);
    trimmed(&a);
    let b = site_b.start("standby", &[&site_a]);
    has_all(&a, &site_b);
    append(&a, "at last", 100);
    has_all(&a, &site_b);
    // Of the first 4,400 blocks nothing moves again but what shares a file with what does.
    assert!(moved(&b) < first, "{} and {first} bytes", moved(&b));
    a.stop().expect("it stops");
    b.stop().expect("it stops");
    the_same_rows(&[&site_a, &site_b], rows_in(7500));
    let folder = site_b.data().join("backfill").join(&site_a.store);
    assert!(!folder.exists(), "what was received is taken over and gone");
}

#[test]
fn a_third_site_follows_one_that_has_taken_data_files_over_and_goes_on_when_the_first_is_lost() {
    let home = home();
    let site_a = Site::new(home.path(), "a", "parquet", SHORT);
    let [site_b, site_c] = ["b", "c"].map(|name| Site::new(home.path(), name, "parquet", HELD));
    let a = site_a.start("active", &[]);
    append(&a, "first", 3000);
    trimmed(&a);
    a.stop().expect("it stops");
    let a = site_a.start("active", &[&site_b]);
    // Its log is held for a third site, which is not there yet.
    let b = site_b.start("standby", &[&site_a, &site_c]);
    has_all(&a, &site_b);
    until("a accepts", || status(&a).refuses.is_none());
    append(&a, "behind what was taken over", 500);
    has_all(&a, &site_b);
    until("it is in data files", || status(&b).shards.iter().all(|shard| shard.flushed == shard.accepted));
    // The log of B has only the ends of what it took over, and what came then: C gets data files, too.
    let c = site_c.start("standby", &[&site_b]);
    has_all(&b, &site_c);
    append(&a, "along the chain", 200);
    has_all(&a, &site_b);
    has_all(&b, &site_c);
    a.stop().expect("it stops");
    // The first site is lost: the second takes over, and the third follows on.
    b.promote().expect("promoted");
    append(&b, "from b", 300);
    has_all(&b, &site_c);
    b.stop().expect("it stops");
    c.stop().expect("it stops");
    the_same_rows(&[&site_b, &site_c], rows_in(4000));
}

#[test]
fn what_was_in_the_log_alone_before_a_takeover_is_handed_on_with_it() {
    const LATE: &str = "wal_level = 1\nflush_period_ms = 3000\n";
    let home = home();
    let site_a = Site::new(home.path(), "a", "parquet", SHORT);
    let [site_b, site_c] = ["b", "c"].map(|name| Site::new(home.path(), name, "parquet", LATE));
    let a = site_a.start("active", &[&site_b]);
    let b = Process::start(&site_b, &[&site_a]);
    until("a accepts", || status(&a).refuses.is_none());
    append(&a, "with the follower", 400);
    has_all(&a, &site_b);
    // It dies before that is in its data files, and comes back behind the log.
    b.kill();
    append(&a, "without it", 2000);
    trimmed(&a);
    let b = site_b.start("standby", &[&site_a, &site_c]);
    has_all(&a, &site_b);
    let c = site_c.start("standby", &[&site_b]);
    has_all(&b, &site_c);
    a.stop().expect("it stops");
    b.stop().expect("it stops");
    c.stop().expect("it stops");
    the_same_rows(&[&site_a, &site_b, &site_c], rows_in(2400));
}

/// A node in a process of its own.
struct Process(Child);

impl Process {
    fn start(site: &Site, peers: &[&Site]) -> Self {
        fs::write(site.dir.join("node.toml"), site.text("standby", peers)).expect("written");
        let mut serve = Command::new(env!("CARGO_BIN_EXE_forebay"));
        serve.arg("serve").arg("--config").arg(site.dir.join("node.toml")).stdout(Stdio::null()).stderr(Stdio::null());
        Self(serve.spawn().expect("it starts"))
    }

    fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

/// Row 18 of the faults, with kills: `FOREBAY_BACKFILLS` followers, each killed until it has everything.
#[test]
fn a_follower_behind_the_log_that_is_killed_again_and_again_has_every_row_once() {
    let count = std::env::var("FOREBAY_BACKFILLS").map_or(2, |count| count.parse().expect("a number"));
    let home = home();
    let mut site_a = Site::new(home.path(), "a", "parquet", SHORT);
    site_a.way = "rate_bytes_per_s = 2000000\n";
    let a = site_a.start("active", &[]);
    append(&a, "first", 3000);
    trimmed(&a);
    a.stop().expect("it stops");
    let (mut kills, mut backfills) = (0, 0);
    for number in 0..count {
        let site_b = Site::new(home.path(), &format!("b{number}"), "parquet", SHORT);
        let a = site_a.start("active", &[&site_b]);
        for life in 0.. {
            let b = Process::start(&site_b, &[&site_a]);
            let until = Instant::now() + Duration::from_millis(100 + (number * 131 + life * 71) % 400);
            let mut done = false;
            while Instant::now() < until || life > 60 && !done {
                std::thread::sleep(Duration::from_millis(5));
                done = is_followed(&a, &site_b);
            }
            b.kill();
            kills += 1;
            if done {
                break;
            }
        }
        a.stop().expect("it stops");
        // What it has is synced, and in its log or in its data files: closing it flushes the rest.
        let (a, b) = (site_a.start("active", &[&site_b]), site_b.start("standby", &[&site_a]));
        has_all(&a, &site_b);
        a.stop().expect("it stops");
        b.stop().expect("it stops");
        the_same_rows(&[&site_a, &site_b], rows_in(3000));
        backfills += 1;
    }
    println!("{backfills} backfills, {kills} kills");
}

#[test]
fn a_takeover_that_the_log_does_not_know_of_yet_is_finished_at_the_next_open() {
    let home = home();
    let config = |name: &str| {
        let config = Config::new(home.path().join(name)).shards(2).segment_bytes(1 << 20).block_bytes_max(64 << 10);
        config.batch_bytes_max(64 << 10).intake_bytes(128 << 10).intake_slots(1024).wal_bytes_max(128 << 20)
    };
    let open = |name: &str| Engine::open_with(config(name), Box::new(ParquetStore::default())).expect("it opens");
    let a = open("a");
    let writer = a.writer("plant7").expect("a writer");
    for number in 0..10 {
        writer.append(Block::raw("blobs", vec![number; 100])).expect("taken");
    }
    a.close().expect("it closes");
    let listing = forebay::engine::tools::list_files(&home.path().join("a")).expect("a list");
    let files: Vec<_> = listing
        .files
        .iter()
        .map(|file| {
            let about = serde_json::to_string(&file.part).expect("plain fields");
            (HeldFile { no: file.no.0, bytes: file.bytes, crc: file.crc, about }, listing.root.join(file.path()))
        })
        .collect();
    let a = open("a");
    let vector = a.inbound().expect("a vector").1;
    let ends: Vec<_> = vector.iter().flat_map(|part| part.ends.iter().copied()).collect();
    a.close().expect("it closes");

    // What a process does that dies between the files and the log.
    let take_over_only = || {
        use forebay::stats::StoreCounters;
        use forebay::store::{Home, Store, Wanted};
        let b = open("b");
        let store = b.opening().origin;
        b.close().expect("it closes");
        let (mut sink, counters) = (ParquetStore::default(), std::sync::Arc::new(StoreCounters::default()));
        let dir = home.path().join("b");
        let on_damage = forebay::OnDamage::Refuse;
        let opened = sink.open(&Home { dir: &dir, store, shards: 2, boot: [0; 16], on_damage, counters: &counters });
        opened.expect("it opens");
        let mut wanted = Wanted::default();
        for (stream, end) in &ends {
            assert!(wanted.add(*stream, forebay::types::Seq(0), *end));
        }
        let handover = sink.handover().expect("data files");
        assert_eq!(handover.take_over(&files, &wanted, &AtomicBool::new(false)).expect("taken over"), 10);
        sink.close().expect("it closes");
    };
    take_over_only();
    let b = open("b");
    let told: Vec<_> = b.inbound().expect("a vector").1.iter().flat_map(|part| part.ends.clone()).collect();
    assert_eq!(told, ends, "the log has the ends of what was taken over");
    let holding = Holding { ends: ends.iter().copied().collect(), ..Holding::default() };
    assert_eq!(b.take_over(&holding, &[], &AtomicBool::new(false)).expect("nothing to do").rows, 0);
    b.close().expect("it closes");
    assert_eq!(rows(&home.path().join("b")).len(), 10);
    assert_eq!(rows(&home.path().join("b")), rows(&home.path().join("a")));
}
