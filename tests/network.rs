//! Rows 15, 16 and 21 of the faults on real connections: links that are cut, reset, delayed, half-open or open one way only
//! end and begin again, and every block is at both sites once. A proxy stands for the way; where this is allowed, two
//! network namespaces do; and sites in every shape: a chain, a ring, all to all, two sources into one. `FOREBAY_CUTS`
//! and `FOREBAY_NAMESPACE_CUTS` say how often it is disturbed.
#![cfg(feature = "server")]

mod ports;
mod site;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use forebay::node::Node;
use forebay::node::control::{Request, ask};
use forebay::node::status::Way;
use forebay::types::{Receipt, Seq, Stream};
use forebay::{Block, Cursor, Engine};
use ports::free_port;
use site::{Site, status, until};

const LEVEL_1: &str = "wal_level = 1\n";
/// A peer of which nothing is heard for 5 s is dead; then some time until that is noticed.
const DEAD: Duration = Duration::from_millis(6500);

fn home() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn times(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |times| times.parse().expect("a number"))
}

/// What the way does to what goes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// It passes on.
    Clear,
    /// It passes on, so much later.
    Slow(Duration),
    /// What goes to the site that listens stays on the way.
    DeafThere,
    /// What comes back stays on the way.
    DeafBack,
    /// Connections are ended, whatever is on its way, and none is made.
    Reset,
    /// The site that listens is told that the other has gone, and the other one nothing.
    HalfOpen,
}

/// Listens, and is the way to a site.
struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    to: u16,
    weather: Mutex<Weather>,
    over: AtomicBool,
    /// What was sent on the first connection to the site that listens.
    recorded: Mutex<Vec<u8>>,
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    fn new(to: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let (weather, over) = (Mutex::new(Weather::Clear), AtomicBool::new(false));
        let shared = Arc::new(Shared { to, weather, over, recorded: Mutex::default() });
        let serving = Arc::clone(&shared);
        let thread = spawn(move || {
            let mut is_first = true;
            while !serving.over.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((from, _)) if serving.weather() == Weather::Reset => drop(from),
                    Ok((from, _)) => {
                        if let Ok(to) = TcpStream::connect(("127.0.0.1", serving.to)) {
                            pass_on(from, to, &serving, std::mem::take(&mut is_first));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(2)),
                    Err(error) => panic!("accepting: {error}"),
                }
            }
        });
        Self { port, shared, thread: Some(thread) }
    }

    fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pass_on(from: TcpStream, to: TcpStream, shared: &Arc<Shared>, records: bool) {
    for (way_there, mut source, mut sink) in
        [(true, from.try_clone().expect("a connection"), to.try_clone().expect("a connection")), (false, to, from)]
    {
        source.set_read_timeout(Some(Duration::from_millis(5))).expect("a connection");
        source.set_nonblocking(false).expect("a connection");
        let shared = Arc::clone(shared);
        spawn(move || {
            let mut bytes = [0; 16 << 10];
            while !shared.over.load(Ordering::SeqCst) {
                match (shared.weather(), way_there) {
                    (Weather::Reset, _) => break,
                    (Weather::DeafThere, true) | (Weather::DeafBack, false) => {
                        sleep(Duration::from_millis(5));
                        continue;
                    }
                    (Weather::HalfOpen, true) => {
                        let _ = sink.shutdown(Shutdown::Both);
                        // Held open, and nothing is ever said.
                        while shared.weather() == Weather::HalfOpen {
                            sleep(Duration::from_millis(5));
                        }
                        return;
                    }
                    (Weather::HalfOpen, false) => return,
                    _ => {}
                }
                let count = match source.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                    Err(_) => break,
                };
                if records && way_there {
                    shared.recorded.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..count]);
                }
                if let Weather::Slow(by) = shared.weather() {
                    sleep(by);
                }
                if sink.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            let _ = sink.shutdown(Shutdown::Both);
            let _ = source.shutdown(Shutdown::Both);
        });
    }
}

/// Appends to a node until it is told to stop; how many blocks were acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Load {
    fn start(node: &Node) -> Self {
        let writer = node.engine().writer("plant7").expect("a writer");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::SeqCst) {
                let payload = format!("{count} {}", "x".repeat(500)).into_bytes();
                writer.append(Block::raw("blobs", payload)).expect("a receipt");
                count += 1;
                sleep(Duration::from_millis(2));
            }
            count
        });
        Self { stop, thread }
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("writes")
    }
}

/// Chains by stream and seq, of what a store's log has.
fn blocks(engine: &Engine) -> BTreeMap<(Stream, u64), u64> {
    let mut all = BTreeMap::new();
    for delivered in engine.subscribe(Cursor::default()).expect("a subscription").until_end() {
        let delivered = delivered.expect("a block");
        let twice = all.insert((delivered.receipt.stream, delivered.receipt.seq.0), delivered.chain.0);
        assert_eq!(twice, None, "a block twice");
    }
    all
}

fn is_up(node: &Node, peer: &Site, way: Way) -> bool {
    status(node).links.iter().any(|link| link.peer == peer.store && link.way == way && link.is_up)
}

fn is_followed(node: &Node, by: &Site) -> bool {
    let links = status(node).links;
    links.iter().any(|link| link.way == Way::Out && link.peer == by.store && link.is_up && link.behind_blocks == 0)
}

#[test]
fn a_way_that_is_disturbed_in_any_manner_loses_nothing_and_brings_nothing_twice() {
    let times = times("FOREBAY_CUTS", 6);
    let home = home();
    let (site_a, site_b) = (Site::new(home.path(), "a", "log", LEVEL_1), Site::new(home.path(), "b", "log", LEVEL_1));
    let way = Proxy::new(site_a.port);
    let a_behind_the_way = Site { port: way.port, ..site_a.clone() };
    let b = site_b.start("standby", &[&a_behind_the_way]);
    let a = site_a.start("active", &[&site_b]);
    until("a accepts", || status(&a).refuses.is_none());
    until("the first link", || is_followed(&a, &site_b));
    let load = Load::start(&a);
    let kinds = [
        Weather::Reset,
        Weather::Slow(Duration::from_millis(20)),
        Weather::DeafThere,
        Weather::HalfOpen,
        Weather::DeafBack,
        Weather::Reset,
    ];
    for time in 0..times {
        let weather = kinds[time % kinds.len()];
        let before = blocks(b.engine()).len();
        way.set(weather);
        match weather {
            Weather::Slow(_) => {
                sleep(Duration::from_millis(1500));
                assert!(is_up(&b, &site_a, Way::In), "it is slow, not dead");
            }
            Weather::Reset => until("the follower knows", || !is_up(&b, &site_a, Way::In)),
            _ => {
                let began = Instant::now();
                until("the follower knows", || !is_up(&b, &site_a, Way::In));
                until("the source knows", || !is_up(&a, &site_b, Way::Out));
                println!("{weather:?}: known on both sides after {:?}", began.elapsed());
            }
        }
        way.set(Weather::Clear);
        until("it goes on", || blocks(b.engine()).len() > before + 10 && is_up(&b, &site_a, Way::In));
    }
    let count = load.end();
    until("b has everything", || is_followed(&a, &site_b));
    assert_eq!(blocks(b.engine()).len(), count);
    assert_eq!(blocks(b.engine()), blocks(a.engine()));

    // Somebody says again what the follower has said on its first link: nothing comes of it.
    let recorded = way.shared.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(recorded.len() > 100, "a hello, a vector, acks");
    let frame =
        |at: usize| at + 16 + u32::from_le_bytes(recorded[at + 8..at + 12].try_into().expect("a header")) as usize;
    let vector = frame(frame(0));
    for upto in [frame(0) / 2, vector, recorded.len()] {
        let mut stale = TcpStream::connect(("127.0.0.1", site_a.port)).expect("it listens");
        // It may be refused before it has said all of it.
        let _ = stale.write_all(&recorded[..upto]);
        stale.set_read_timeout(Some(Duration::from_secs(30))).expect("a connection");
        let mut told = Vec::new();
        let read = stale.read_to_end(&mut told);
        println!("{upto} of {} recorded bytes said again: {read:?}", recorded.len());
        let text = String::from_utf8_lossy(&told).into_owned();
        // Where it has said more than was read, the answer may be lost with the connection.
        let is_told = text.contains("a newer session of the same store has begun");
        assert!(is_told || upto != vector, "{text}");
        assert!(is_up(&a, &site_b, Way::Out), "the link that there is goes on");
    }
    append_one(&a);
    until("b has that, too", || is_followed(&a, &site_b) && blocks(b.engine()).len() == count + 1);
    a.stop().expect("it stops");
    b.stop().expect("it stops");
    println!("{times} times disturbed, {count} blocks");
}

fn append_one(node: &Node) {
    let writer = node.engine().writer("plant7").expect("a writer");
    writer.append(Block::raw("blobs", &b"at last"[..])).expect("a receipt");
}

/// Row 21 of the faults: `FOREBAY_TRICKLERS` connections that say nothing, or a byte now and then.
#[test]
fn who_trickles_is_put_out_and_keeps_nobody_from_anything() {
    let tricklers = times("FOREBAY_TRICKLERS", 200);
    let home = home();
    let (site_a, site_b) = (Site::new(home.path(), "a", "log", LEVEL_1), Site::new(home.path(), "b", "log", LEVEL_1));
    let b = site_b.start("standby", &[&site_a]);
    let a = site_a.start("active", &[&site_b]);
    until("a accepts", || status(&a).refuses.is_none());
    until("the first link", || is_followed(&a, &site_b));
    let load = Load::start(&a);
    // The beginning of a frame that may come.
    let frame: Vec<u8> = [&b"FBR1\x01\0\0\0\x40\0\0\0"[..], &[7; 68]].concat();
    let mut open: Vec<(TcpStream, usize)> = Vec::new();
    for number in 0..tricklers {
        let stream = TcpStream::connect(("127.0.0.1", site_a.port)).expect("it listens");
        stream.set_nonblocking(true).expect("a connection");
        // Every third says nothing at all.
        open.push((stream, if number % 3 == 0 { frame.len() } else { 0 }));
    }
    let began = Instant::now();
    let mut ended = 0;
    while !open.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "{} are still connected", open.len());
        open.retain_mut(|(stream, said)| {
            if let Some(byte) = frame.get(*said..*said + 1) {
                *said += usize::from(stream.write(byte).is_ok());
            }
            // It may be told why before it is put out.
            let is_over = loop {
                match stream.read(&mut [0; 4096]) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(error) => break error.kind() != ErrorKind::WouldBlock,
                }
            };
            ended += usize::from(is_over);
            !is_over
        });
        assert!(is_up(&a, &site_b, Way::Out) && is_up(&b, &site_a, Way::In), "the link goes on");
        sleep(Duration::from_millis(200));
    }
    let count = load.end();
    until("b has everything", || is_followed(&a, &site_b));
    assert_eq!(blocks(b.engine()).len(), count);
    assert!(count > 20, "blocks were accepted meanwhile");
    a.stop().expect("it stops");
    b.stop().expect("it stops");
    println!("{ended} tricklers put out within {:?}, {count} blocks", began.elapsed());
}

/// Set in the process that is in namespaces of its own.
const INSIDE: &str = "FOREBAY_NETWORK_DIR";

/// Whether this machine lets us have a network of our own.
fn namespaces() -> Result<(), String> {
    let made = Command::new("unshare").args(["--net", "--pid", "--fork", "--mount-proc", "--", "ip", "link"]).output();
    match made {
        Ok(made) if made.status.success() => Ok(()),
        Ok(made) => Err(String::from_utf8_lossy(&made.stderr).trim().to_owned()),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// Runs a program of the system; it must succeed.
fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().expect(program);
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Two machines, as far as the network goes: each has an end of a wire, and the second a process of its own.
#[test]
fn two_machines_whose_network_is_cut_or_works_one_way_only_go_on_with_each_other() {
    const NAME: &str = "two_machines_whose_network_is_cut_or_works_one_way_only_go_on_with_each_other";
    if let Some(dir) = std::env::var_os(INSIDE) {
        return on_two_machines(Path::new(&dir));
    }
    if let Err(why) = namespaces() {
        assert!(std::env::var_os("REQUIRE_RIG").is_none(), "there are no network namespaces: {why}");
        eprintln!("SKIPPED: {NAME}: there are no network namespaces: {why}");
        return;
    }
    let home = home();
    // Whatever ends the process, namespaces and processes in them are gone with it.
    let ended = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, home.path())
        .status()
        .expect("unshare");
    assert!(ended.success(), "{NAME}: {ended}");
    assert!(home.path().join("done").exists(), "no such test ran");
}

/// A program in the other machine's namespace.
struct There(Child);

impl There {
    fn start(program: &mut Command) -> Self {
        Self(program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"))
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn on_two_machines(home: &Path) {
    const MORE: &str = "insecure_plaintext = true\n";
    let times = times("FOREBAY_NAMESPACE_CUTS", 3);
    run("ip", &["link", "set", "lo", "up"]);
    // It has a network of its own from its first instruction on.
    let machine = There::start(Command::new("unshare").args(["--net", "--", "sleep", "3600"]));
    let pid = machine.0.id().to_string();
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    until("it has its own network", || fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net != own));
    let there = |arguments: &[&str]| run("nsenter", &[&["--target", &pid, "--net", "--"], arguments].concat());
    run("ip", &["link", "add", "here", "type", "veth", "peer", "name", "there", "netns", &pid]);
    run("ip", &["addr", "add", "10.97.0.1/24", "dev", "here"]);
    run("ip", &["link", "set", "here", "up"]);
    there(&["ip", "addr", "add", "10.97.0.2/24", "dev", "there"]);
    there(&["ip", "link", "set", "there", "up"]);

    let mut site_a = Site::new(home, "a", "log", LEVEL_1);
    let mut site_b = Site::new(home, "b", "log", LEVEL_1);
    (site_a.host, site_a.way) = ("10.97.0.1", MORE);
    (site_b.host, site_b.way) = ("10.97.0.2", MORE);
    let config = site_b.dir.join("node.toml");
    fs::write(&config, site_b.text("standby", &[&site_a])).expect("written");
    let b = There::start(
        Command::new("nsenter")
            .args(["--target", &pid, "--net", "--", env!("CARGO_BIN_EXE_forebay"), "serve", "--config"])
            .arg(&config),
    );
    let a = site_a.start("active", &[&site_b]);
    until("a accepts", || status(&a).refuses.is_none());
    until("the first link", || is_followed(&a, &site_b));
    let b_is_up = || {
        let told = ask(&site_b.data(), Request::Status).expect("it runs");
        told["links"]
            .as_array()
            .is_some_and(|links| links.iter().any(|link| link["way"] == "in" && link["is_up"] == true))
    };
    let load = Load::start(&a);
    for time in 0..times {
        let (break_it, mend_it): (&dyn Fn(), &dyn Fn()) = match time % 3 {
            // The wire is out: nobody is told.
            0 => (&|| run("ip", &["link", "set", "here", "down"]), &|| run("ip", &["link", "set", "here", "up"])),
            // What the source sends is lost.
            1 => (&|| run("ip", &["route", "add", "blackhole", "10.97.0.2/32"]), &|| {
                run("ip", &["route", "del", "blackhole", "10.97.0.2/32"])
            }),
            // What the follower sends is lost.
            _ => (&|| there(&["ip", "route", "add", "blackhole", "10.97.0.1/32"]), &|| {
                there(&["ip", "route", "del", "blackhole", "10.97.0.1/32"])
            }),
        };
        break_it();
        let began = Instant::now();
        until("the follower knows", || !b_is_up());
        until("the source knows", || !is_up(&a, &site_b, Way::Out));
        let ended = status(&a).links.into_iter().find_map(|link| link.ended.filter(|_| link.way == Way::Out));
        println!("cut {}: known on both sides after {:?}: {}", time % 3, began.elapsed(), ended.unwrap_or_default());
        sleep(DEAD.saturating_sub(began.elapsed()));
        mend_it();
        until("it goes on", || b_is_up() && is_followed(&a, &site_b));
    }
    let count = load.end();
    until("b has everything", || is_followed(&a, &site_b));
    let all = blocks(a.engine());
    a.stop().expect("it stops");
    drop(b);
    let text = format!("{}\n", site_b.text("standby", &[]));
    fs::write(&config, text).expect("written");
    let options = forebay::node::NodeConfig::read(&config).expect("a sound configuration").engine();
    let b = Engine::open_with(options.hold_for_subscriber(true), Box::new(forebay::store::Hold)).expect("it opens");
    assert_eq!((blocks(&b).len(), count), (count, all.len()));
    assert_eq!(blocks(&b), all);
    b.close().expect("it closes");
    println!("{times} times cut, {count} blocks");
    fs::write(home.join("done"), "").expect("written");
}

/// Who follows whom, by number; blocks are accepted by `sources`.
struct Shape {
    name: &'static str,
    sites: usize,
    /// The first follows the second.
    follows: &'static [(usize, usize)],
    sources: &'static [usize],
    /// Who has everything in the end.
    all: &'static [usize],
}

const SHAPES: [Shape; 4] = [
    Shape { name: "chain", sites: 4, follows: &[(1, 0), (2, 1), (3, 2)], sources: &[0], all: &[0, 1, 2, 3] },
    Shape { name: "ring", sites: 3, follows: &[(1, 0), (2, 1), (0, 2)], sources: &[0, 1, 2], all: &[0, 1, 2] },
    Shape {
        name: "all to all",
        sites: 3,
        follows: &[(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)],
        sources: &[0, 1, 2],
        all: &[0, 1, 2],
    },
    Shape { name: "two into one", sites: 3, follows: &[(2, 0), (2, 1)], sources: &[0, 1], all: &[2] },
];

fn receipts(node: &Node) -> HashSet<Receipt> {
    blocks(node.engine()).into_keys().map(|(stream, seq)| Receipt { stream, seq: Seq(seq) }).collect()
}

#[test]
fn in_every_shape_each_block_is_everywhere_once() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for shape in &SHAPES {
        let folder = home.path().join(shape.name.replace(' ', "-"));
        let name = |number: usize| format!("site-{number}");
        let sites: Vec<Site> =
            (0..shape.sites).map(|number| Site::new(&folder, &name(number), "log", "wal_level = 1\n")).collect();
        let start = |number: usize| {
            // Whom it follows it dials; who follows it is known, and dials.
            let peers = (0..shape.sites).filter_map(|other| {
                let dials = shape.follows.contains(&(number, other));
                let host = if dials { "127.0.0.1" } else { "" };
                let is_peer = dials || shape.follows.contains(&(other, number));
                is_peer.then(|| Site { host, ..sites[other].clone() })
            });
            let peers: Vec<Site> = peers.collect();
            let role = match shape.sources.contains(&number) {
                true if shape.sources.len() > 1 => "active-active",
                true => "active",
                false => "standby",
            };
            sites[number].start(role, &peers.iter().collect::<Vec<_>>())
        };
        let nodes: Vec<Node> = (0..shape.sites).map(start).collect();
        let mut accepted = HashSet::new();
        for number in shape.sources {
            until("it accepts", || status(&nodes[*number]).refuses.is_none());
            let writer = nodes[*number].engine().writer("plant7").expect("a writer");
            for block in 0..100 {
                let payload = format!("{number} {block}").into_bytes();
                accepted.insert(writer.append(Block::raw("blobs", payload)).expect("a receipt"));
            }
        }
        for number in shape.all {
            until(shape.name, || receipts(&nodes[*number]) == accepted);
        }
        for node in nodes {
            node.stop().expect("it stops");
        }
    }
}
