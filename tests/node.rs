//! Nodes that are linked over loopback: following, failover, failback, a third site.
#![cfg(feature = "server")]

mod ports;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay::node::certs::{self, SiteFiles};
use forebay::node::control::{Request, ask};
use forebay::node::status::{LinkStatus, Way};
use forebay::node::{Node, NodeConfig, NodeStatus};
use forebay::store::{Hold, Null};
use forebay::types::Stream;
use forebay::{Block, Config, Cursor, Durability, Engine, Error, OnDamage, Status, Unknown};
use ports::free_port;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

const ENGINE: &str = "segment_bytes = 1048576\nblock_bytes_max = 65536\nbatch_bytes_max = 65536\n\
                      intake_bytes = 131072\nintake_slots = 1024\nwal_bytes_max = 134217728\n";

fn small(dir: &Path) -> Config {
    let config = Config::new(dir).shards(2).segment_bytes(1 << 20).block_bytes_max(64 << 10);
    config.batch_bytes_max(64 << 10).intake_bytes(128 << 10).intake_slots(1024).wal_bytes_max(128 << 20)
}

/// A site: its folder, its store's id, where it listens.
struct Site {
    dir: PathBuf,
    store: String,
    port: u16,
    level: u8,
    /// What takes blocks out of the log.
    sink: &'static str,
    /// More options of the engine.
    engine: &'static str,
    /// More of the configuration.
    tls: String,
}

impl Site {
    fn new(home: &Path, name: &str, level: u8) -> Self {
        let dir = home.join(name);
        let engine = Engine::open_with(small(&dir.join("data")), Box::new(Null)).expect("it opens");
        let store = engine.opening().origin.to_string();
        engine.close().expect("it closes");
        let port = free_port();
        Self { dir, store, port, level, sink: "log", engine: "", tls: String::new() }
    }

    fn config(&self, role: &str, peers: &[&Self]) -> String {
        let mut text = format!(
            "dir = \"data\"\nstore = \"{}\"\n[engine]\nwal_level = {}\nwal_retention_period_s = 3600\n{ENGINE}{}\
             [replication]\nlisten = \"127.0.0.1:{}\"\nrole = \"{role}\"\n{}",
            self.sink, self.level, self.engine, self.port, self.tls
        );
        for peer in peers {
            let (store, port) = (&peer.store, peer.port);
            text += &format!("[[replication.peers]]\nstore = \"{store}\"\naddress = \"127.0.0.1:{port}\"\n");
        }
        text
    }

    fn start(&self, role: &str, peers: &[&Self]) -> Node {
        let config = NodeConfig::parse(&self.config(role, peers), &self.dir).expect("a sound configuration");
        Node::start(&config).expect("it starts")
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn append(node: &Node, text: &str, count: usize) {
    let writer = node.engine().writer("plant7").expect("a writer");
    for number in 0..count {
        let payload = format!("{text} {number}").into_bytes();
        let other = node.engine().writer("plant7").expect("a writer of another shard");
        if number % 2 == 0 { &writer } else { &other }.append(Block::raw("blobs", payload)).expect("a receipt");
    }
}

/// Payloads by stream, of what its log has.
fn blocks(node: &Node) -> BTreeMap<Stream, Vec<(u64, String)>> {
    let mut streams: BTreeMap<Stream, Vec<_>> = BTreeMap::new();
    for delivered in node.engine().subscribe(Cursor::default()).expect("a subscription").until_end() {
        let delivered = delivered.expect("a block");
        let text = String::from_utf8(delivered.block.payload().to_vec()).expect("text");
        let of = streams.entry(delivered.receipt.stream).or_default();
        assert!(of.last().is_none_or(|(seq, _)| *seq < delivered.receipt.seq.0), "each once, and in order");
        of.push((delivered.receipt.seq.0, text));
    }
    streams
}

fn count(node: &Node) -> usize {
    blocks(node).values().map(Vec::len).sum()
}

fn status(node: &Node) -> NodeStatus {
    node.status().expect("it runs")
}

fn equal(one: &Node, other: &Node) {
    until("both have the same", || blocks(one) == blocks(other));
}

#[test]
fn a_standby_takes_over_and_gives_back() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (site_a, site_b) = (Site::new(home.path(), "a", 1), Site::new(home.path(), "b", 2));
    let b = site_b.start("standby", &[&site_a]);
    let a = site_a.start("active", &[&site_b]);
    until("a has heard from b", || status(&a).refuses.is_none());
    append(&a, "from a", 300);
    equal(&a, &b);
    assert_eq!(count(&b), 300);
    let told = b.engine().writer("plant7").expect("a writer").append(Block::raw("blobs", &b"x"[..]));
    let told = told.expect_err("a standby");
    assert_eq!(told.to_string(), format!("fenced: term 0 is active at {}", site_a.store));
    until("b is even", || status(&a).links.iter().any(|link| link.is_up && link.behind_blocks == 0));

    // A is gone; B takes over.
    a.stop().expect("it stops");
    b.promote().expect("promoted");
    assert_eq!((status(&b).role.as_str(), status(&b).term), ("active", 1));
    append(&b, "from b", 200);
    assert_eq!(count(&b), 500);

    // A comes back: it is fenced, and gets what it lacks.
    let a = site_a.start("active", &[&site_b]);
    until("a knows", || status(&a).term == 1);
    let told = a.engine().writer("plant7").expect("a writer").append(Block::raw("blobs", &b"x"[..]));
    assert_eq!(told.expect_err("fenced").to_string(), format!("fenced: term 1 is active at {}", site_b.store));
    equal(&a, &b);

    // And back again, with both alive.
    a.promote().expect("promoted");
    until("b knows", || status(&b).term == 2 && status(&b).refuses.is_some());
    append(&a, "from a again", 100);
    equal(&a, &b);
    assert_eq!(count(&a), 600);
    a.stop().expect("it stops");
    b.stop().expect("it stops");
}

#[test]
fn what_was_not_shipped_flows_to_the_new_active() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (site_a, site_b) = (Site::new(home.path(), "a", 1), Site::new(home.path(), "b", 1));
    let a = site_a.start("active", &[&site_b]);
    let b = site_b.start("standby", &[&site_a]);
    until("a has heard from b", || status(&a).refuses.is_none());
    append(&a, "first", 50);
    equal(&a, &b);
    b.stop().expect("it stops");
    append(&a, "alone", 70);
    a.stop().expect("it stops");
    let b = site_b.start("standby", &[&site_a]);
    b.promote().expect("promoted");
    append(&b, "meanwhile", 30);
    let a = site_a.start("active", &[&site_b]);
    equal(&a, &b);
    assert_eq!(count(&b), 150);
    assert!(status(&a).refuses.is_some_and(|why| why.starts_with("fenced: term 1 ")));
}

#[test]
fn a_log_that_nobody_else_holds_is_there_for_the_follower_after_a_restart() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (mut site_a, site_b) = (Site::new(home.path(), "a", 1), Site::new(home.path(), "b", 1));
    site_a.sink = "none";
    let a = site_a.start("active-active", &[&site_b]);
    let b = site_b.start("active-active", &[&site_a]);
    until("a has heard from b", || status(&a).refuses.is_none());
    append(&a, "first", 50);
    until("b has them", || count(&b) == 50);
    b.stop().expect("it stops");
    // More than a segment.
    append(&a, &"x".repeat(20_000), 200);
    a.stop().expect("it stops");
    let a = site_a.start("active-active", &[&site_b]);
    let b = site_b.start("active-active", &[&site_a]);
    until("b has them all", || count(&b) == 250);
    until("a lets go of them", || status(&a).shards.iter().all(|shard| shard.trimmed > 0));
}

#[test]
fn a_store_that_accepts_follows_one_whose_log_has_let_go_of_its_blocks() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (mut site_a, site_b) = (Site::new(home.path(), "a", 1), Site::new(home.path(), "b", 1));
    site_a.sink = "none";
    let b = site_b.start("active", &[&site_a]);
    let a = site_a.start("standby", &[&site_b]);
    until("b has heard from a", || status(&b).refuses.is_none());
    append(&b, &"x".repeat(20_000), 400);
    until("a has let go of the first", || status(&a).shards.iter().any(|shard| shard.trimmed > 0));
    // Each change of roles ends all links.
    a.promote().expect("promoted");
    until("b knows", || status(&b).term == 1 && status(&b).refuses.is_some());
    append(&a, "from a", 20);
    until("b has them", || count(&b) == 420);
}

#[test]
fn a_third_site_starts_from_the_second() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let sites = ["a", "b", "c"].map(|name| Site::new(home.path(), name, 1));
    let [site_a, site_b, site_c] = &sites;
    let a = site_a.start("active", &[site_b]);
    let b = site_b.start("standby", &[site_a, site_c]);
    until("a has heard from b", || status(&a).refuses.is_none());
    append(&a, "from a", 80);
    equal(&a, &b);
    a.stop().expect("it stops");
    let c = site_c.start("standby", &[site_b]);
    equal(&b, &c);
    b.promote().expect("promoted");
    append(&b, "from b", 40);
    equal(&b, &c);
    assert_eq!(count(&c), 120);
}

#[test]
fn all_are_active_and_all_have_everything() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let sites = ["a", "b", "c"].map(|name| Site::new(home.path(), name, 1));
    let [site_a, site_b, site_c] = &sites;
    let nodes = [
        site_a.start("active-active", &[site_b, site_c]),
        site_b.start("active-active", &[site_a, site_c]),
        site_c.start("active-active", &[site_a, site_b]),
    ];
    for node in &nodes {
        until("it has heard from a peer", || status(node).refuses.is_none());
    }
    std::thread::scope(|scope| {
        for (number, node) in nodes.iter().enumerate() {
            scope.spawn(move || append(node, &format!("from {number}"), 200));
        }
    });
    equal(&nodes[0], &nodes[1]);
    equal(&nodes[1], &nodes[2]);
    assert_eq!(count(&nodes[0]), 600);
}

#[test]
fn a_stranger_is_turned_away() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let sites = ["a", "b", "c"].map(|name| Site::new(home.path(), name, 1));
    let [site_a, site_b, site_c] = &sites;
    let a = site_a.start("active", &[site_b]);
    let c = site_c.start("standby", &[site_a]);
    let ended = |node: &Node| status(node).links.first().and_then(|link| link.ended.clone());
    until("c is told", || ended(&c).is_some_and(|why| why.contains("is not a peer of this store")));
    assert!(status(&a).links.iter().all(|link| !link.is_up));
    assert_eq!(
        status(&a).refuses.as_deref(),
        Some("waiting: no peer has been heard since the start, and start_alone is not set")
    );
}

/// A certificate like this one, of the same authority, that was good until 2021.
fn expired(folder: &Path, of: &SiteFiles) -> SiteFiles {
    let text = |path: &Path| std::fs::read_to_string(path).expect("a file");
    let authority = KeyPair::from_pem(&text(&folder.join("ca.key"))).expect("a key");
    let mut signer = CertificateParams::default();
    signer.distinguished_name = DistinguishedName::new();
    signer.distinguished_name.push(DnType::CommonName, "forebay authority");
    let issuer = Issuer::new(signer, authority);
    let mut params = CertificateParams::new(vec![format!("{}.forebay", of.store)]).expect("parameters");
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::from_pem(&text(&of.key)).expect("a key");
    let cert = folder.join("expired.pem");
    std::fs::write(&cert, params.signed_by(&key, &issuer).expect("signed").pem()).expect("written");
    SiteFiles { cert, ..of.clone() }
}

#[test]
fn links_over_tls_are_those_of_the_stores_that_the_certificates_name() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [mut site_a, mut site_b] = ["a", "b"].map(|name| Site::new(home.path(), name, 1));
    let stores = [&site_a, &site_b].map(|site| site.store.parse().expect("an id"));
    let folder = home.path().join("certs");
    let (_, files) = certs::make(&folder, &stores).expect("certificates");
    let again = certs::make(&folder, &stores).expect_err("they are there");
    assert!(again.to_string().contains("is there already"), "{again}");
    let (_, strange) = certs::make(&home.path().join("other"), &stores).expect("of another authority");
    let tls = |of: &SiteFiles| {
        let (ca, cert, key) = (folder.join("ca.pem"), &of.cert, &of.key);
        format!("[replication.tls]\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n")
    };
    let ended = |node: &Node, says: &str| {
        let links = status(node).links;
        links.iter().any(|link| link.ended.as_ref().is_some_and(|why| why.contains(says)))
    };
    site_a.tls = tls(&files[0]);
    let a = site_a.start("active", &[&site_b]);
    // Without TLS, with a certificate of somebody else, and with that of another store.
    let b = site_b.start("standby", &[&site_a]);
    until("plain text is refused", || status(&b).links.iter().any(|link| link.ended.is_some()));
    b.stop().expect("it stops");
    site_b.tls = tls(&strange[1]);
    let b = site_b.start("standby", &[&site_a]);
    until("an unknown authority is refused", || status(&b).links.iter().any(|link| link.ended.is_some()));
    b.stop().expect("it stops");
    site_b.tls = tls(&files[0]);
    let b = site_b.start("standby", &[&site_a]);
    until("another store's certificate is refused", || {
        ended(&b, "is not a peer of this store") || ended(&a, "certificate")
    });
    assert!(status(&a).refuses.is_some(), "a has heard from nobody");
    b.stop().expect("it stops");
    let expired = expired(&folder, &files[1]);
    site_b.tls = tls(&expired);
    let b = site_b.start("standby", &[&site_a]);
    until("one that has expired is refused", || ended(&b, "xpired") || ended(&a, "xpired"));
    assert!(status(&a).refuses.is_some(), "a has heard from nobody");
    b.stop().expect("it stops");
    site_b.tls = tls(&files[1]);
    let b = site_b.start("standby", &[&site_a]);
    until("a has heard from b", || status(&a).refuses.is_none());
    append(&a, "over tls", 100);
    equal(&a, &b);
}

#[test]
fn a_node_is_asked_and_told_over_its_socket_and_at_rest() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    // Longer than a socket's path may be.
    let deep = home.path().join("d".repeat(120));
    let (site_a, site_b) = (Site::new(&deep, "a", 1), Site::new(home.path(), "b", 1));
    let dir = site_a.dir.join("data");
    let at_rest = ask(&dir, Request::Status).expect("at rest");
    assert_eq!((at_rest["running"].as_bool(), at_rest["role"].as_str()), (Some(false), None));
    let a = site_a.start("standby", &[&site_b]);
    let stands = |request| {
        let answer = ask(&dir, request).expect("an answer");
        (answer["running"] == true, answer["role"].as_str().map(str::to_owned), answer["term"].as_u64())
    };
    assert_eq!(stands(Request::Status), (true, Some("standby".to_owned()), Some(0)));
    assert_eq!(stands(Request::Promote), (true, Some("active".to_owned()), Some(1)));
    append(&a, "promoted", 3);
    assert_eq!(stands(Request::Demote), (true, Some("standby".to_owned()), Some(1)));
    a.stop().expect("it stops");
    assert_eq!(stands(Request::Status), (false, Some("standby".to_owned()), Some(1)));
    assert_eq!(stands(Request::Promote), (false, Some("active".to_owned()), Some(2)));
    let engine = Engine::open_with(small(&dir), Box::new(Hold)).expect("it opens");
    let told = ask(&dir, Request::Demote).expect_err("an engine without a node has it open");
    assert_eq!(told.exit_code(), 73);
    engine.close().expect("it closes");
    let told = ask(home.path(), Request::Status).expect_err("no store");
    assert!(told.to_string().contains("holds no store"), "{told}");
}

#[test]
fn an_acknowledgement_can_wait_for_followers() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (mut site_a, site_b) = (Site::new(home.path(), "a", 1), Site::new(home.path(), "b", 1));
    site_a.engine = "shipped_deadline_ms = 300\n";
    let b = site_b.start("standby", &[&site_a]);
    let a = site_a.start("active", &[&site_b]);
    until("a has heard from b", || status(&a).refuses.is_none());
    let writer = a.engine().writer("plant7").expect("a writer");
    let block = |text: &'static str| Block::raw("blobs", text.as_bytes());
    // Each asks for what it needs.
    let shipped = writer.append_with(block("one"), Durability::Shipped(1)).expect("b has it");
    assert_eq!(a.engine().status_of(&shipped).expect("known"), Status::Durable(Durability::Shipped(1)));
    assert_eq!(count(&b), 1);
    let told = writer.append_with(block("two"), Durability::Shipped(2)).expect_err("there is one follower");
    assert_eq!(told.to_string(), "an acknowledgement by 2 followers was asked for, and 1 are configured");
    b.stop().expect("it stops");

    // Accepted, and in one place only.
    let told = writer.append_with(block("three"), Durability::Shipped(1)).expect_err("b is away");
    assert!(told.to_string().starts_with("unknown outcome: 0 of 1 followers had it synced within 300 ms."), "{told}");
    assert_eq!(told.exit_code(), 75);
    let receipt = writer.append(block("four")).expect("who does not ask does not wait");
    let told = a.engine().wait(&receipt, Durability::Shipped(1)).expect_err("b is away");
    assert!(matches!(told, Error::OutcomeUnknown(Unknown::NotShipped { wanted: 1, has: 0, .. })), "{told}");
    let b = site_b.start("standby", &[&site_a]);
    until("b is back", || a.engine().wait(&receipt, Durability::Shipped(1)).is_ok());
    assert_eq!(count(&b), 3);

    // A store whose every acknowledgement waits; receipts of an earlier opening can be asked about.
    a.stop().expect("it stops");
    site_a.engine = "shipped_deadline_ms = 300\nshipped_followers = 1\n";
    let a = site_a.start("active", &[&site_b]);
    until("a has heard from b", || status(&a).refuses.is_none());
    a.engine().wait(&receipt, Durability::Shipped(1)).expect("b has had it");
    let writer = a.engine().writer("plant7").expect("a writer");
    writer.append(block("five")).expect("b has it");
    assert_eq!(count(&b), 4);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(writer.append_async(block("six"))).expect("b has it");
    writer.submit(block("seven")).expect("accepted").wait().expect("b has it");
    assert_eq!(count(&b), 6);
    b.stop().expect("it stops");
    // No runtime keeps the time for this one: the shard's thread does.
    let told = runtime.block_on(writer.append_async(block("eight"))).expect_err("b is away");
    assert!(told.to_string().starts_with("unknown outcome: 0 of 1"), "{told}");
    let told = writer.submit(block("nine")).expect("accepted").wait().expect_err("b is away");
    assert!(told.to_string().starts_with("unknown outcome: 0 of 1"), "{told}");
    a.stop().expect("it stops");
}

#[test]
fn a_node_whose_shard_has_stopped_ends_with_an_error_and_goes_on_when_started_again() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (site_a, site_b) = (Site::new(home.path(), "a", 1), Site::new(home.path(), "b", 1));
    let a = site_a.start("active", &[&site_b]);
    let config = site_b.dir.join("node.toml");
    std::fs::write(&config, site_b.config("standby", &[&site_a])).expect("written");
    let serve = || {
        // The signal that comes with the limit would kill it.
        let line = format!("trap '' XFSZ; exec {} serve --config \"$0\"", env!("CARGO_BIN_EXE_forebay"));
        let mut command = Command::new("sh");
        command.args(["-c", &line]).arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let b = serve();
    until("a has heard from b", || status(&a).refuses.is_none());
    append(&a, "before", 10);
    until("b has them", || status(&a).links.iter().any(|link| link.is_up && link.behind_blocks == 0));
    // No file of it can be written beyond its first bytes.
    let pid = Pid::from_child(&b);
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(1), maximum: Some(1) }).expect("a limit");
    append(&a, "behind", 10);
    let ended = b.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(74), "{told}");
    assert!(told.contains("fatal: ") && told.contains("Restart to recover"), "{told}");
    let mut b = serve();
    until("b has all", || status(&a).links.iter().any(|link| link.is_up && link.behind_blocks == 0));
    kill_process(Pid::from_child(&b), Signal::TERM).expect("told");
    assert!(b.wait().expect("it ends").success());
}

#[test]
fn what_is_behind_blocks_that_a_source_has_lost_is_followed() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [site_a, site_b, site_c] = ["a", "b", "c"].map(|name| Site::new(home.path(), name, 1));
    let a = site_a.start("active", &[&site_b]);
    let b = site_b.start("standby", &[&site_a]);
    until("a has heard from b", || status(&a).refuses.is_none());
    b.stop().expect("it stops");
    append(&a, "from a", 100);
    a.stop().expect("it stops");
    let data = site_a.dir.join("data");
    let is_damaged = |path: PathBuf| {
        let mut bytes = std::fs::read(&path).expect("a segment");
        let at = bytes.windows(9).position(|window| window == b"from a 42")?;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).expect("a damaged segment");
        Some(at)
    };
    let shards = (0..2).map(|shard| data.join(format!("shard-{shard:04}")));
    let files =
        shards.flat_map(|shard| std::fs::read_dir(shard).expect("a shard").map(|file| file.expect("one").path()));
    let segments = files.filter(|path| path.extension().is_some_and(|name| name == "wal"));
    assert_eq!(segments.filter_map(is_damaged).count(), 1);
    let salvage = small(&data).on_damage(OnDamage::Salvage);
    Engine::open_with(salvage, Box::new(Hold)).expect("it is salvaged").close().expect("it closes");

    let a = site_a.start("active", &[&site_b]);
    let b = site_b.start("standby", &[&site_a, &site_c]);
    let c = site_c.start("standby", &[&site_b]);
    until("a has heard from b", || status(&a).refuses.is_none());
    append(&a, "more from a", 20);
    until("b and c have what is left", || count(&b) == 119 && count(&c) == 119);
    equal(&a, &b);
    equal(&a, &c);
    until("the links are even", || {
        [&a, &b].iter().all(|node| status(node).links.iter().all(|link| link.is_up && link.behind_blocks == 0))
    });
}

#[test]
fn a_link_can_be_packed_and_bounded() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (mut site_a, mut site_b) = (Site::new(home.path(), "a", 1), Site::new(home.path(), "b", 1));
    site_a.tls = "compress = \"lz4\"\n".to_owned();
    site_b.tls = "rate_bytes_per_s = 1000000\n".to_owned();
    let b = site_b.start("active", &[&site_a]);
    let a = site_a.start("standby", &[&site_b]);
    until("b has heard from a", || status(&b).refuses.is_none());
    let moved = |node: &Node, way| {
        let of = |link: &&LinkStatus| link.way == way;
        status(node).links.iter().find(of).map_or(0, |link| link.moved_bytes)
    };
    let (began, payload) = (Instant::now(), "x".repeat(20_000));
    append(&b, &payload, 100);
    equal(&a, &b);
    assert!(began.elapsed() > Duration::from_millis(1500), "two megabytes in {:?}", began.elapsed());
    assert!(moved(&b, Way::Out) > 2_000_000, "as they are");

    a.promote().expect("promoted");
    until("b knows", || status(&b).refuses.is_some());
    append(&a, &payload, 100);
    equal(&a, &b);
    assert_eq!(count(&b), 200);
    let (sent, got) = (moved(&a, Way::Out), moved(&b, Way::In));
    assert_eq!(sent, got);
    assert!(sent < 400_000, "{sent} bytes of 2,000,000");
}
