//! What a follower costs, how far it is behind, and how fast one that is far behind catches up.
//!
//! Two nodes on this machine, linked over loopback, level 1, blocks of 4 KiB, 50 writers.
//! `cargo bench --bench replication -- --repeats 5` runs the full sizes; without `--bench` (as the tests run it) a moment
//! with small ones, to see that it works. `--only` one of `catch-up`, `tricklers` and `open-loop`, the last with `--rate` at
//! so many blocks a second. One JSON line for each measurement:
//!
//! - `catch-up`: a follower that is 1 GiB behind, from the start of its node until it has everything synced; beside it
//!   one TCP stream over loopback, a sequential synced write of the same bytes, and what the disk needs to read and to
//!   write them at the same time, as two stores on it do.
//! - `sustained`: the highest of several rates at which a follower does not fall behind.
//! - `alone`, `pair`: an open loop at half of that rate without and with a follower, by turns: latency of the
//!   acknowledgements, and of a pair how long it takes from an acknowledgement until the follower has the block synced.
//! - `quiet`, `trickled`: an open loop without and with 200 connections beside it that send a byte five times a second
//!   and are put out again and again, by turns.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::io::buf::AlignedBuf;
use forebay::node::{Node, NodeConfig, make_store};
use forebay::{Block, Durability};
use hdrhistogram::Histogram;

const WRITERS: usize = 50;
const BLOCK_BYTES: usize = 4096;
/// Connections that trickle, and the rate of the open loop beside them, in blocks a second.
const TRICKLERS: usize = 200;
const RATE_OF_TRICKLED: f64 = 20_000.0;
/// Followers are asked for what they have so often.
const LOOK: Duration = Duration::from_millis(1);

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    seconds: f64,
    repeats: usize,
    behind_bytes: u64,
    engine: &'static str,
}

const FULL: Size = Size { seconds: 10.0, repeats: 5, behind_bytes: 1 << 30, engine: "" };
const SMALL: Size = Size {
    seconds: 0.3,
    repeats: 1,
    behind_bytes: 8 << 20,
    engine: "segment_bytes = 4194304\nblock_bytes_max = 262144\nbatch_bytes_max = 262144\nintake_bytes = 4194304\n\
             intake_slots = 4096\nwal_bytes_max = 268435456\n",
};

/// A site that can be started.
struct Site {
    folder: tempfile::TempDir,
    store: String,
    port: u16,
    size: Size,
}

impl Site {
    fn new(size: Size) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        // Of those that no connection is made from.
        let port = std::iter::repeat_with(|| {
            10_000 + (std::process::id() as u16 ^ NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000
        });
        let port = port.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port");
        let mut this = Self { folder, store: String::new(), port, size };
        this.store = make_store(&this.config("standby", None)).expect("a store").to_string();
        this
    }

    fn config(&self, role: &str, peer: Option<&Self>) -> NodeConfig {
        let mut text = format!(
            "dir = \"data\"\nstore = \"none\"\n[engine]\nwal_level = 1\n{}[replication]\nrole = \"{role}\"\n\
             start_alone = true\nlisten = \"127.0.0.1:{}\"\n",
            self.size.engine, self.port
        );
        if let Some(peer) = peer {
            let (store, port) = (&peer.store, peer.port);
            text += &format!("[[replication.peers]]\nstore = \"{store}\"\naddress = \"127.0.0.1:{port}\"\n");
        }
        NodeConfig::parse(&text, self.folder.path()).expect("a sound configuration")
    }

    fn start(&self, role: &str, peer: Option<&Self>) -> Node {
        Node::start(&self.config(role, peer)).expect("it starts")
    }
}

/// Blocks that a node has accepted, and those that it has synced.
fn marks(node: &Node) -> (u64, u64) {
    let marks = node.engine().marks();
    (marks.iter().map(|of| of.accepted.0).sum(), marks.iter().map(|of| of.synced.0).sum())
}

fn wait_until(mut is: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(300);
    while !is() {
        assert!(Instant::now() < give_up, "a node is stuck");
        std::thread::sleep(LOOK);
    }
}

/// Starts two that are linked both ways.
fn pair(size: Size) -> (Site, Node, Site, Node) {
    let (site_a, site_b) = (Site::new(size), Site::new(size));
    let a = site_a.start("active", Some(&site_b));
    let b = site_b.start("standby", Some(&site_a));
    wait_until(|| a.status().expect("it runs").links.iter().filter(|link| link.is_up).count() == 2);
    (site_a, a, site_b, b)
}

/// Writers in an open loop at so many blocks a second, or (0) in a closed one, for so long or until so many bytes are in:
/// the latencies of their acknowledgements from when they were due, in nanoseconds.
fn load(node: &Node, rate: f64, seconds: f64, bytes_max: u64) -> Histogram<u64> {
    let all = Mutex::new(histogram());
    let began = Instant::now();
    let blocks = bytes_max / BLOCK_BYTES as u64 / WRITERS as u64;
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            let all = &all;
            scope.spawn(move || {
                let writer = node.engine().writer("bench").expect("a writer");
                let payload = Bytes::from(vec![number as u8; BLOCK_BYTES]);
                let mut latencies = histogram();
                for count in 0..blocks {
                    let due = if rate > 0.0 {
                        let at = (count as f64 * WRITERS as f64 + number as f64) / rate;
                        began + Duration::from_secs_f64(at)
                    } else {
                        Instant::now()
                    };
                    if due.duration_since(began).as_secs_f64() >= seconds {
                        break;
                    }
                    if let Some(early) = due.checked_duration_since(Instant::now()) {
                        std::thread::sleep(early);
                    }
                    writer.append(Block::raw("t", payload.clone())).expect("an append");
                    let _ = latencies.record(due.elapsed().as_nanos() as u64);
                }
                all.lock().expect("no writer panicked").add(latencies).expect("the same bounds");
            });
        }
    });
    all.into_inner().expect("no writer panicked")
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("sound bounds")
}

/// One block after the other, each until the follower has it: how long that takes from the acknowledgement.
fn lags(node: &Node, over: &AtomicBool) -> Histogram<u64> {
    let writer = node.engine().writer("bench").expect("a writer");
    let mut lags = histogram();
    while !over.load(Ordering::Relaxed) {
        let receipt = writer.append(Block::raw("lag", vec![0; 64])).expect("an append");
        let began = Instant::now();
        node.engine().wait(&receipt, Durability::Shipped(1)).expect("the follower has it");
        let _ = lags.record(began.elapsed().as_nanos() as u64);
        std::thread::sleep(Duration::from_micros(500));
    }
    lags
}

fn us(histogram: &Histogram<u64>) -> String {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    format!(
        "{{\"p50\":{:.1},\"p90\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"max\":{:.1}}}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        histogram.max() as f64 / 1e3
    )
}

fn say(what: &str, fields: &str) {
    println!("{{\"schema\":\"forebay.replication/1\",\"what\":\"{what}\",{fields}}}");
}

fn catch_up(size: Size) {
    let (_site_a, a, site_b, b) = pair(size);
    load(&a, 0.0, 0.1, 1 << 20);
    let from = marks(&a).0;
    wait_until(|| marks(&b).1 == from);
    b.stop().expect("it stops");
    load(&a, 0.0, 600.0, size.behind_bytes);
    let upto = marks(&a).0;
    a.engine().sync().expect("synced");
    let b = site_b.start("standby", Some(&_site_a));
    let began = Instant::now();
    wait_until(|| marks(&b).1 == upto);
    let seconds = began.elapsed().as_secs_f64();
    let bytes = (upto - from) * BLOCK_BYTES as u64;
    let (tcp, written, both) = (tcp_seconds(bytes), write_seconds(bytes), read_and_write_seconds(bytes));
    let rate = |seconds: f64| bytes as f64 / seconds / f64::from(1 << 20);
    say(
        "catch-up",
        &format!(
            "\"bytes\":{bytes},\"seconds\":{seconds:.3},\"mib_s\":{:.1},\"tcp_mib_s\":{:.1},\"write_mib_s\":{:.1},\"of_lower\":{:.3},\
             \"read_and_write_mib_s\":{:.1},\"of_read_and_write\":{:.3}",
            rate(seconds),
            rate(tcp),
            rate(written),
            tcp.max(written) / seconds,
            rate(both),
            both / seconds
        ),
    );
}

/// One stream over loopback, in pieces of 1 MiB.
fn tcp_seconds(bytes: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let piece = vec![7; 1 << 20];
            for _ in 0..bytes >> 20 {
                stream.write_all(&piece).expect("sent");
            }
        });
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut piece = vec![0; 1 << 20];
        while stream.read(&mut piece).expect("read") > 0 {}
    });
    began.elapsed().as_secs_f64()
}

/// A new file, written past the cache in pieces of 1 MiB, and synced.
fn write_seconds(bytes: u64) -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let file = new_file(&folder, "file");
    let began = Instant::now();
    write(&file, bytes, bytes >> 20);
    began.elapsed().as_secs_f64()
}

/// Two files are read and two others, which were written before, are written and synced after each 2 MiB, each with half
/// of the bytes: what a source and a follower of two shards do on one disk, and nothing else.
fn read_and_write_seconds(bytes: u64) -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let files = ["read-0", "read-1", "written-0", "written-1"].map(|name| new_file(&folder, name));
    files.iter().for_each(|file| write(file, bytes / 2, bytes >> 20));
    let [from_0, from_1, to_0, to_1] = &files;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for from in [from_0, from_1] {
            scope.spawn(move || {
                let mut piece = piece();
                for at in 0..bytes >> 21 {
                    from.read_exact_at(&mut piece, at << 20).expect("read");
                }
            });
        }
        for to in [to_0, to_1] {
            scope.spawn(move || write(to, bytes / 2, 2));
        }
    });
    began.elapsed().as_secs_f64()
}

fn new_file(folder: &tempfile::TempDir, name: &str) -> File {
    let mut options = File::options();
    options.create_new(true).read(true).write(true).custom_flags(direct());
    options.open(folder.path().join(name)).expect("a file")
}

fn piece() -> AlignedBuf {
    let mut piece = AlignedBuf::new(1 << 20);
    piece.set_len(1 << 20);
    piece
}

/// Writes a file in pieces of 1 MiB, and syncs it after so many of them and after the last.
fn write(file: &File, bytes: u64, pieces_a_sync: u64) {
    let (piece, pieces) = (piece(), bytes >> 20);
    for at in 0..pieces {
        file.write_all_at(&piece, at << 20).expect("written");
        if (at + 1).is_multiple_of(pieces_a_sync) || at + 1 == pieces {
            file.sync_data().expect("synced");
        }
    }
}

fn direct() -> i32 {
    rustix::fs::OFlags::DIRECT.bits() as i32
}

/// The highest rate at which a follower does not fall behind.
fn sustained(size: Size) -> f64 {
    let (_site_a, a, _site_b, b) = pair(size);
    let (before, began) = (marks(&b).1, Instant::now());
    // No more than the log can hold for a follower: beyond that it would be left behind.
    load(&a, 0.0, 600.0, size.behind_bytes);
    wait_until(|| marks(&b).1 == marks(&a).0);
    let most = (marks(&b).1 - before) as f64 / began.elapsed().as_secs_f64();
    for part in [2.0, 1.6, 1.3, 1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2] {
        wait_until(|| marks(&b).1 == marks(&a).0);
        let rate = most * part;
        let (before, began) = (marks(&a).0, Instant::now());
        load(&a, rate, size.seconds / 2.0, size.behind_bytes);
        let (seconds, accepted) = (began.elapsed().as_secs_f64(), marks(&a).0);
        let behind = accepted - marks(&b).1;
        // As fast as was wanted, and no more behind than a fifth of a second.
        let holds = (accepted - before) as f64 / seconds > 0.97 * rate && (behind as f64) < rate / 5.0;
        say(
            "rate",
            &format!(
                "\"blocks_s\":{rate:.0},\"reached\":{:.0},\"behind\":{behind},\"holds\":{holds}",
                (accepted - before) as f64 / seconds
            ),
        );
        if holds {
            say("sustained", &format!("\"blocks_s\":{rate:.0},\"in_bulk_blocks_s\":{most:.0}"));
            return rate;
        }
    }
    // On a machine that is busy with other things: the lowest is as good as any.
    say("sustained", "\"blocks_s\":null");
    most * 0.2
}

/// Holds so many connections to a node, each of which says a byte now and then; who is put out comes again.
fn trickle(port: u16, over: &AtomicBool) {
    let frame: Vec<u8> = [&b"FBR1\x01\0\0\0\x40\0\0\0"[..], &[7; 68]].concat();
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_nonblocking(true).expect("a connection");
        (stream, frame.iter())
    };
    let mut open: Vec<_> = std::iter::repeat_with(connect).take(TRICKLERS).collect();
    while !over.load(Ordering::Relaxed) {
        for (stream, rest) in &mut open {
            let is_said = rest.next().is_some_and(|byte| stream.write(&[*byte]).is_ok());
            let is_over = !is_said || matches!(stream.read(&mut [0; 1024]), Ok(0));
            if is_over {
                (*stream, *rest) = connect();
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn beside_tricklers(size: Size, with_tricklers: bool) {
    let site = Site::new(size);
    let node = site.start("active", None);
    let over = AtomicBool::new(false);
    let latencies = std::thread::scope(|scope| {
        if with_tricklers {
            scope.spawn(|| trickle(site.port, &over));
        }
        let latencies = load(&node, RATE_OF_TRICKLED, size.seconds, u64::MAX);
        over.store(true, Ordering::Relaxed);
        latencies
    });
    let what = if with_tricklers { "trickled" } else { "quiet" };
    let reached = latencies.len() as f64 / size.seconds;
    say(what, &format!("\"rate\":{RATE_OF_TRICKLED:.0},\"reached\":{reached:.0},\"ack_us\":{}", us(&latencies)));
}

fn open_loop(size: Size, rate: f64, with_follower: bool) {
    let over = AtomicBool::new(false);
    let run = |a: &Node, seconds: f64| {
        std::thread::scope(|scope| {
            let lags = with_follower.then(|| scope.spawn(|| lags(a, &over)));
            let began = Instant::now();
            let latencies = load(a, rate, seconds, u64::MAX);
            let reached = latencies.len() as f64 / began.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            let lags = lags.map(|lags| us(&lags.join().expect("no panic")));
            (latencies, reached, lags.unwrap_or_else(|| "null".to_owned()))
        })
    };
    let ((latencies, reached, lags), what) = if with_follower {
        let (_site_a, a, _site_b, b) = pair(size);
        let ran = run(&a, size.seconds);
        wait_until(|| marks(&b).1 == marks(&a).0);
        (ran, "pair")
    } else {
        let site = Site::new(size);
        (run(&site.start("active", None), size.seconds), "alone")
    };
    say(what, &format!("\"rate\":{rate:.0},\"reached\":{reached:.0},\"ack_us\":{},\"lag_us\":{lags}", us(&latencies)));
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut size = SMALL;
    let mut only = None;
    let mut rate: Option<f64> = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => size = Size { repeats: size.repeats.max(FULL.repeats), ..FULL },
            "--repeats" => {
                size.repeats = args.next().and_then(|count| count.parse().ok()).expect("a number of repeats")
            }
            "--rate" => rate = args.next().and_then(|rate| rate.parse().ok()),
            "--only" => only = args.next(),
            _ => {}
        }
    }
    let is_wanted = |what: &str| only.as_deref().is_none_or(|only| only == what);
    if is_wanted("catch-up") {
        (0..size.repeats).for_each(|_| catch_up(size));
    }
    if is_wanted("tricklers") {
        for repeat in 0..size.repeats {
            [repeat % 2 == 0, repeat % 2 == 1].into_iter().for_each(|with| beside_tricklers(size, with));
        }
    }
    if is_wanted("open-loop") {
        let half = rate.unwrap_or_else(|| sustained(size) / 2.0);
        for repeat in 0..size.repeats {
            for with_follower in [repeat % 2 == 0, repeat % 2 == 1] {
                open_loop(size, half, with_follower);
            }
        }
    }
}
