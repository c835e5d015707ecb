//! `forebay verify --peer`: nodes that compare their stores over real links, and the exact first difference.
#![cfg(feature = "server")]

mod ports;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use forebay::node::certs;
use forebay::node::control::verify_peer;
use forebay::node::{Node, NodeConfig};
use forebay::repl::entries::Entries;
use forebay::repl::link_error::LinkError;
use forebay::store::{Hold, Null, Store};
use forebay::types::{Epoch, Nonce, Seq, ShardId, StoreId, Stream};
use forebay::wal::batch::StreamEnd;
use forebay::wal::entry::{Entry, EntryKind};
use forebay::{Block, BlockKind, Config, Engine, Error};
use ports::free_port;
use serde_json::Value;

fn small(dir: &Path) -> Config {
    let config = Config::new(dir).shards(2).segment_bytes(1 << 20).block_bytes_max(64 << 10);
    config.batch_bytes_max(64 << 10).intake_bytes(128 << 10).intake_slots(1024).wal_bytes_max(128 << 20)
}

struct Site {
    dir: PathBuf,
    store: StoreId,
    port: u16,
    /// More of the part on replication.
    more: String,
}

impl Site {
    fn new(home: &Path, name: &str) -> Self {
        let dir = home.join(name);
        let engine = Engine::open_with(small(&dir.join("data")), Box::new(Hold)).expect("it opens");
        let store = engine.opening().origin;
        engine.close().expect("it closes");
        Self { dir, store, port: free_port(), more: String::new() }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A node that dials these and takes links from those.
    fn start(&self, role: &str, dials: &[&Self], takes: &[&Self]) -> Node {
        let mut text = format!(
            "dir = \"data\"\nstore = \"log\"\n[engine]\nsegment_bytes = 1048576\nblock_bytes_max = 65536\n\
             batch_bytes_max = 65536\nintake_bytes = 131072\nintake_slots = 1024\nwal_bytes_max = 134217728\n\
             [replication]\nlisten = \"127.0.0.1:{}\"\nrole = \"{role}\"\nstart_alone = true\n{}",
            self.port, self.more
        );
        for peer in dials {
            let (store, port) = (peer.store, peer.port);
            text += &format!("[[replication.peers]]\nstore = \"{store}\"\naddress = \"127.0.0.1:{port}\"\n");
        }
        for peer in takes {
            text += &format!("[[replication.peers]]\nstore = \"{}\"\n", peer.store);
        }
        Node::start(&NodeConfig::parse(&text, &self.dir).expect("a sound configuration")).expect("it starts")
    }

    /// Takes in blocks as if a source had sent them, into a store whose blocks `sink` takes.
    fn take_in(&self, sink: Box<dyn Store>, streams: &[(Stream, Vec<Told>)]) {
        let engine = Engine::open_with(small(&self.data()), sink).expect("it opens");
        for (stream, told) in streams {
            take_in(&engine, *stream, told);
        }
        engine.sync().expect("it is synced");
        engine.close().expect("it closes");
    }

    fn verify(&self, peer: &Self) -> Value {
        verify_peer(&self.data(), peer.store).expect("they are compared")
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn append(node: &Node, payload: &[u8], count: usize) {
    for _ in 0..count {
        let writer = node.engine().writer("plant7").expect("a writer");
        writer.append(Block::raw("blobs", payload.to_vec())).expect("a receipt");
    }
}

/// What a source says of a stream.
#[derive(Clone)]
enum Told {
    Block(u64, Vec<u8>),
    /// Blocks that it has lost, with the hash that they had.
    Lost(Vec<(u64, Vec<u8>)>),
}

fn stream(number: u64) -> Stream {
    Stream { origin: StoreId([9; 16]), shard: ShardId(number as u16), epoch: Epoch(1), nonce: Nonce(5) }
}

/// A thousand blocks at every third seq.
fn plain() -> Vec<Told> {
    (1..=1000u64).map(|number| Told::Block(3 * number, vec![number as u8; 1000])).collect()
}

fn until_ready<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<T, LinkError>>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match poll(&mut context) {
            Poll::Ready(taken) => return taken.expect("it is taken"),
            Poll::Pending => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn take_in(engine: &Engine, stream: Stream, told: &[Told]) {
    let (mut inbound, _) = engine.inbound().expect("an inbound link");
    let mut end = StreamEnd::default();
    let behind =
        |end: StreamEnd, seq: u64, payload: &[u8]| end.then(Seq(seq), payload.len() as u32, crc32fast::hash(payload));
    for one in told {
        match one {
            Told::Block(seq, payload) => {
                let header = Entry {
                    kind: EntryKind::Own,
                    block_kind: BlockKind::Raw,
                    namespace: "plant7",
                    table: "blobs",
                    length: payload.len() as u32,
                    received_at_ns: 0,
                    rows: 1,
                    payload_crc: crc32fast::hash(payload),
                    identity: None,
                };
                let mut frame = Entries::new(stream, end);
                assert!(frame.push(Seq(*seq), header.encode().bytes(), payload));
                until_ready(|context| inbound.poll_take(&frame, context));
                end = behind(end, *seq, payload);
            }
            Told::Lost(blocks) => {
                let last = blocks.iter().fold(end, |end, (seq, payload)| behind(end, *seq, payload));
                let lost = until_ready(|context| inbound.poll_adopt((stream, end, last), context));
                assert_eq!(lost, Some((end.seq, last.seq)));
                end = last;
            }
        }
    }
}

fn counts(found: &Value) -> Vec<(&str, u64)> {
    let kinds = ["identical", "behind", "ahead", "differing", "only_here", "only_there", "folded", "untold"];
    let number = |kind: &&'static str| (*kind, found[*kind].as_u64().expect("a number"));
    kinds.iter().map(number).filter(|(_, number)| *number > 0).collect()
}

fn forebay(arguments: &[&str]) -> (Option<i32>, String, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_forebay")).args(arguments).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (ran.status.code(), text(ran.stdout), text(ran.stderr))
}

fn verify_command(site: &Site, peer: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let dir = site.data();
    forebay(&[&["verify", "--dir", dir.to_str().expect("text"), "--peer", peer], more].concat())
}

#[test]
fn a_pair_that_holds_the_same_is_identical_and_goes_on_undisturbed() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [mut site_a, mut site_b] = ["a", "b"].map(|name| Site::new(home.path(), name));
    let (ca, files) = certs::make(&home.path().join("certs"), &[site_a.store, site_b.store]).expect("certificates");
    for (site, files) in [(&mut site_a, &files[0]), (&mut site_b, &files[1])] {
        site.more = format!("[replication.tls]\nca = {ca:?}\ncert = {:?}\nkey = {:?}\n", files.cert, files.key);
    }
    let b = site_b.start("standby", &[&site_a], &[]);
    let a = site_a.start("active", &[&site_b], &[]);
    let links = |node: &Node| node.status().expect("it runs").links;
    let even = || links(&a).iter().any(|link| link.is_up && link.behind_blocks == 0);
    until("both are linked", || {
        [&a, &b].iter().all(|node| links(node).len() == 2 && links(node).iter().all(|link| link.is_up))
    });
    append(&a, b"from a", 300);
    until("b has them", even);
    let ended = || [&a, &b].map(|node| links(node).into_iter().map(|link| link.ended).collect::<Vec<_>>());
    let before = ended();
    until("they are the same", || counts(&site_a.verify(&site_b)) == [("identical", 2)]);
    assert_eq!(counts(&site_b.verify(&site_a)), [("identical", 2)]);
    let (code, out, err) = verify_command(&site_a, &site_b.store.to_string(), &[]);
    assert_eq!(out, format!("identical up to the end with {}: 2 streams (2 the same)\n", site_b.store), "{err}");
    assert_eq!(code, Some(0));
    let (_, out, _) = verify_command(&site_a, &site_b.store.to_string(), &["--json"]);
    let found: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&found["schema"], &found["identical"]), (&"forebay.verify-peer/1".into(), &2.into()));
    assert_eq!(found["streams"], serde_json::json!([]));

    // While it is written to nothing differs, and the links are those that they were.
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| append(&a, &[7; 5000], 400));
        while !writing.is_finished() {
            for (site, peer) in [(&site_a, &site_b), (&site_b, &site_a)] {
                let found = site.verify(peer);
                assert!(found["differing"] == 0 && found["untold"] == 0, "{found}");
            }
        }
    });
    until("b has them", even);
    until("they are the same", || counts(&site_a.verify(&site_b)) == [("identical", 2)]);
    assert_eq!(ended(), before);
}

#[test]
fn who_is_behind_is_identical_up_to_there() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [site_a, mut site_b] = ["a", "b"].map(|name| Site::new(home.path(), name));
    // B sends slowly, and does not follow.
    site_b.more = "rate_bytes_per_s = 100000\n".to_owned();
    let b = site_b.start("active-active", &[], &[&site_a]);
    append(&b, &[7; 20_000], 100);
    let a = site_a.start("active-active", &[&site_b], &[]);
    append(&a, b"from a", 10);
    let mut found = Value::Null;
    until("a has some", || {
        found = site_a.verify(&site_b);
        found["behind"] == 2
    });
    assert_eq!(counts(&found), [("behind", 2), ("only_here", 2)], "{found}");
    for stream in found["streams"].as_array().expect("streams").iter().filter(|stream| stream["standing"] == "behind") {
        assert_eq!(stream["identical_upto"], stream["here"]);
        assert!(stream["here"].as_u64() < stream["there"].as_u64() && stream["here"].as_u64() > Some(0), "{stream}");
    }
    let (code, out, err) = verify_command(&site_a, &site_b.store.to_string(), &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains(": behind by at most ") && out.contains("\nidentical up to where both stand with "), "{out}");
    let (code, _, err) = verify_command(&site_b, &site_a.store.to_string(), &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains(&format!("it dials: compare there, with --peer {}", site_b.store)), "{err}");
}

#[test]
fn the_exact_first_difference_is_named() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [site_a, site_b] = ["a", "b"].map(|name| Site::new(home.path(), name));
    // By stream: another payload, a block less, a longer one, lost blocks.
    let mut other = plain();
    other[436] = Told::Block(3 * 437, b"another".to_vec());
    let less: Vec<Told> = plain().into_iter().filter(|told| !matches!(told, Told::Block(600, _))).collect();
    let mut lost = plain();
    let blocks = lost.drain(299..302).filter_map(|told| match told {
        Told::Block(seq, payload) => Some((seq, payload)),
        Told::Lost(_) => None,
    });
    let blocks = blocks.collect();
    lost.insert(299, Told::Lost(blocks));
    let here = [plain(), plain(), plain(), plain(), plain()];
    let there = [other, less, plain()[..900].to_vec(), lost, plain()];
    let numbered = |all: [Vec<Told>; 5]| (1..).map(stream).zip(all).collect::<Vec<_>>();
    site_a.take_in(Box::new(Hold), &numbered(here));
    site_b.take_in(Box::new(Hold), &numbered(there));
    let a = site_a.start("active-active", &[&site_b], &[]);
    let b = site_b.start("active-active", &[&site_a], &[]);
    let found = site_a.verify(&site_b);
    assert_eq!(counts(&found), [("identical", 1), ("ahead", 1), ("differing", 3)], "{found}");
    let of = |found: &Value, shard: u64| {
        let streams = found["streams"].as_array().expect("streams");
        streams.iter().find(|stream| stream["shard"] == shard).cloned().expect("it is listed")
    };
    let first = |found: &Value, shard: u64| {
        let stream = of(found, shard);
        let first = &stream["first_difference"];
        let what = |side: &str| first[side]["what"].as_str().map(str::to_owned).unwrap_or_default();
        (stream["identical_upto"].as_u64(), first["seq"].as_u64(), what("here"), what("there"))
    };
    let found_at = |upto, seq, here: &str, there: &str| (Some(upto), seq, here.to_owned(), there.to_owned());
    assert_eq!(first(&found, 1), found_at(1310, Some(1311), "block", "block"));
    let block = &of(&found, 1)["first_difference"]["there"];
    assert_eq!((&block["bytes"], &block["crc"]), (&7.into(), &format!("{:08x}", crc32fast::hash(b"another")).into()));
    assert_eq!(first(&found, 2), found_at(599, Some(600), "block", "nothing"));
    assert_eq!((&of(&found, 3)["here"], &of(&found, 3)["identical_upto"]), (&3000.into(), &2700.into()));
    assert_eq!(first(&found, 4), found_at(897, None, "", "lost"));
    let there = site_b.verify(&site_a);
    assert_eq!(first(&there, 2), found_at(599, Some(600), "nothing", "block"));
    assert_eq!(of(&there, 3)["standing"], "behind");
    let (code, out, _) = verify_command(&site_a, &site_b.store.to_string(), &[]);
    assert_eq!(code, Some(3));
    let shown = out.replace(&site_b.store.to_string(), "5b0f6a52-8d1c-4a0e-9d0a-6f0a1c9f2f11");
    let page = include_str!("../docs/replication.md");
    assert!(page.contains(&format!("```text\n{shown}```\n")), "docs/replication.md shows another answer than {shown}");
    drop((a, b));
}

#[test]
fn where_a_log_begins_later_it_is_said_up_to_where_the_difference_lies() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [site_a, site_b] = ["a", "b"].map(|name| Site::new(home.path(), name));
    let long = || -> Vec<Told> { (1..=3000u64).map(|number| Told::Block(number, vec![number as u8; 1000])).collect() };
    let mut early = long();
    early[29] = Told::Block(30, b"another".to_vec());
    let mut late = long();
    late[2989] = Told::Block(2990, b"another".to_vec());
    // Nothing is kept here of what is synced but for the last segments.
    site_a.take_in(Box::new(Null), &[(stream(1), long())]);
    site_a.take_in(Box::new(Null), &[(stream(2), long())]);
    site_b.take_in(Box::new(Hold), &[(stream(1), early), (stream(2), late)]);
    let a = site_a.start("active-active", &[&site_b], &[]);
    let b = site_b.start("active-active", &[], &[&site_a]);
    until("there is a link or none", || !a.status().expect("it runs").links.is_empty());
    let found = site_a.verify(&site_b);
    assert_eq!(counts(&found), [("differing", 2)], "{found}");
    let of = |shard: u64| {
        let streams = found["streams"].as_array().expect("streams");
        let first = &streams.iter().find(|stream| stream["shard"] == shard).expect("it is listed");
        (
            first["identical_upto"].as_u64(),
            first["first_difference"]["seq"].as_u64(),
            first["first_difference"]["by"].as_u64(),
        )
    };
    let (upto, seq, by) = of(1);
    assert_eq!((upto, seq), (Some(0), None), "{found}");
    assert!(by > Some(30), "{found}");
    assert_eq!(of(2), (Some(2989), Some(2990), Some(2990)), "{found}");
    drop((a, b));
}

#[test]
fn who_cannot_be_reached_is_named_with_what_helps() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [site_a, site_b, site_c] = ["a", "b", "c"].map(|name| Site::new(home.path(), name));
    let (code, out, err) = verify_command(&site_a, &site_b.store.to_string(), &[]);
    assert_eq!((code, out.as_str()), (Some(75), ""));
    assert!(err.contains("no node has the store in ") && err.contains("start it with forebay serve"), "{err}");
    let a = site_a.start("active", &[&site_b, &site_c], &[]);
    let (code, out, err) = verify_command(&site_a, &site_b.store.to_string(), &[]);
    assert_eq!((code, out.as_str()), (Some(75), ""));
    assert!(err.contains(&format!("not compared with {} at 127.0.0.1:{}", site_b.store, site_b.port)), "{err}");
    // One that is there, and does not know this store.
    let c = site_c.start("standby", &[], &[&site_b]);
    let told = verify_peer(&site_a.data(), site_c.store).expect_err("a stranger there");
    assert!(matches!(&told, Error::Unreachable(text) if text.contains("is not a peer of this store")), "{told}");
    // No peer at all, and no id.
    let (code, _, err) = verify_command(&site_a, &site_a.store.to_string(), &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("is no peer of this store; [[replication.peers]] has those that are"), "{err}");
    assert_eq!(verify_command(&site_a, "a", &[]).0, Some(2));
    // Without a peer it is checked as ever: not while it is open.
    let dir = site_a.data();
    assert_eq!(forebay(&["verify", "--dir", dir.to_str().expect("text")]).0, Some(73));
    drop((a, c));
}
