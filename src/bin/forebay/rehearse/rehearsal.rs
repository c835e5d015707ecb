//! One rehearsal: two sites under load, one is lost, the other takes over, the first comes back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, scope, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use forebay::node::control::{Request, ask};
use forebay::node::{NodeConfig, make_store};
use forebay::store::Hold;
use forebay::types::{Seq, Stream};
use forebay::{Cursor, Engine};
use serde::Serialize;
use serde_json::Value;

use super::proxy::Proxy;
use super::record::{Id, Record};
use super::site::now_ns;

/// How long anything may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it is so.
const LOOK: Duration = Duration::from_millis(5);
/// How often a site is asked how far its follower is behind.
const ASK: Duration = Duration::from_millis(20);
/// How long the second site is alone.
const ALONE: Duration = Duration::from_millis(300);
/// Sizes that make a store of some megabytes, so that opening one does not take longer than losing one.
const SIZES: &str = "segment_bytes = 4194304\nblock_bytes_max = 262144\nbatch_bytes_max = 262144\n\
                     intake_bytes = 4194304\nintake_slots = 16384\nwal_bytes_max = 1073741824\n";

/// What is rehearsed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Setting {
    /// As of the engine.
    pub wal_level: u8,
    /// As of the engine, at level 2.
    pub wal_fsync_period_ms: Option<u64>,
    /// Followers that an acknowledgement of the first site waits for.
    pub shipped: u8,
}

/// Under which load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub writers: u16,
    pub rate: u32,
    pub block_bytes: usize,
}

/// When the first site is lost, and whether the link is before.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// After so much of the load.
    pub lost_after: Duration,
    /// The link is cut for so long, that much before the site is lost.
    pub cut: Option<(Duration, Duration)>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub setting: Setting,
    /// The link was cut before the site was lost.
    pub link_was_cut: bool,
    /// Blocks that the first site had acknowledged when it was lost.
    pub acked: u64,
    /// Of these, the second site did not have so many when it took over.
    pub rpo_blocks: u64,
    /// The age of the oldest of them at that moment.
    pub rpo_ms: f64,
    /// As `status` had shown it last: blocks that the second site did not have.
    pub shown_blocks: u64,
    /// Of the missing blocks, those that were acknowledged before that was asked for: never more than was shown.
    pub missing_when_shown: u64,
    /// From the loss of the first site to the second one's first acknowledgement.
    pub rto_ms: f64,
    /// From the first site's start to both having everything.
    pub return_ms: f64,
    /// Bytes that went to the first site for that, and to the second.
    pub return_bytes: [u64; 2],
    /// Bytes of blocks that each lacked, with their headers, at most.
    pub lacked_bytes: [u64; 2],
    /// From the promotion of the first site to its first acknowledgement.
    pub failback_ms: f64,
    /// Acknowledged blocks that are in neither store at the end, or differ.
    pub lost: u64,
    /// Blocks that both stores have at the end, each once and the same.
    pub verified: u64,
}

impl Outcome {
    /// What does not hold of what is promised.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.lost > 0 {
            broken.push(format!("{} acknowledged blocks are lost", self.lost));
        }
        if self.setting.shipped > 0 && self.rpo_blocks > 0 {
            broken.push(format!("{} blocks that a follower had acknowledged were not there", self.rpo_blocks));
        }
        if self.missing_when_shown > self.shown_blocks {
            broken.push(format!(
                "{} blocks were missing where {} were shown",
                self.missing_when_shown, self.shown_blocks
            ));
        }
        for (moved, lacked) in self.return_bytes.iter().zip(self.lacked_bytes) {
            if *moved > lacked {
                broken.push(format!("{moved} bytes were moved where {lacked} were lacked"));
            }
        }
        broken
    }
}

/// Rehearses it once in this folder, which is new.
pub fn rehearse(folder: &Path, setting: Setting, load: Load, moment: Moment) -> Result<Outcome> {
    let places = [Place::new(folder, "a", setting)?, Place::new(folder, "b", setting)?];
    let ways = [Proxy::new()?, Proxy::new()?];
    let [a, b] = &places;
    a.configure("active", b, &ways[1])?;
    b.configure("standby", a, &ways[0])?;
    let mut site_b = Site::start((b, &ways[1]), (1, 0), load, 0)?;
    let mut site_a = Site::start((a, &ways[0]), (0, 0), load, setting.shipped)?;
    until("the first site accepts", || Ok(site_a.told().first_ack.is_some()))?;

    let (lost_ns, shown) = lose(&mut site_a, &a.store_dir(), &ways, moment)?;
    for way in &ways {
        way.cut(false);
    }
    ask(&b.store_dir(), Request::Promote)?;
    until("the second site accepts", || Ok(site_b.told().first_ack.is_some()))?;
    let rto_ms = ms(site_b.told().first_ack.unwrap_or_default().saturating_sub(lost_ns));
    let acked = site_a.ended()?;
    let held = site_b.held()?;
    let missing: BTreeMap<Id, u64> =
        acked.iter().filter(|(id, _)| !held.contains(*id)).map(|(id, at)| (*id, *at)).collect();
    sleep(ALONE);

    // What the first site will lack is what the second has acknowledged, or is about to.
    let (before, began) = (moved(&b.store_dir())?, Instant::now());
    let mut again = Site::start((a, &ways[0]), (0, 1), load, 0)?;
    site_b.tell("quiet")?;
    until("both have everything", || Ok(again.is_up()? && again.held()? == site_b.held()?))?;
    let return_ms = began.elapsed().as_secs_f64() * 1e3;
    let after = moved(&b.store_dir())?;
    let all = site_b.held()?;
    let entry = load.block_bytes as u64 + BESIDE_BYTES;
    let by_first = |id: &&Id| (id.site, id.life) == (0, 0);
    let lacked =
        [all.iter().filter(|id| id.site == 1).count() as u64, all.difference(&held).filter(by_first).count() as u64];

    let began = now_ns();
    ask(&a.store_dir(), Request::Promote)?;
    until("the first site accepts again", || Ok(again.told().first_ack.is_some()))?;
    let failback_ms = ms(again.told().first_ack.unwrap_or_default().saturating_sub(began));
    again.tell("quiet")?;
    until("both have everything again", || Ok(again.held()? == site_b.held()?))?;
    let mut all_acked = acked;
    for site in [again, site_b] {
        all_acked.extend(site.stop()?);
    }
    let (verified, lost) = verify(&places, &all_acked)?;
    Ok(Outcome {
        setting,
        link_was_cut: moment.cut.is_some(),
        acked: all_acked.keys().filter(|id| (id.site, id.life) == (0, 0)).count() as u64,
        rpo_blocks: missing.len() as u64,
        rpo_ms: missing.values().min().map_or(0.0, |at| ms(lost_ns.saturating_sub(*at))),
        shown_blocks: shown.1,
        missing_when_shown: missing.values().filter(|at| **at < shown.0).count() as u64,
        rto_ms,
        return_ms,
        return_bytes: [after[0] - before[0], after[1] - before[1]],
        lacked_bytes: lacked.map(|blocks| blocks * entry + FRAMES_BYTES),
        failback_ms,
        lost,
        verified,
    })
}

/// Bytes that a block has in a frame beside its payload: seq, entry header, names.
const BESIDE_BYTES: u64 = 64;
/// Bytes of the frames themselves, beside blocks.
const FRAMES_BYTES: u64 = 64 << 10;

fn ms(ns: u64) -> f64 {
    (ns as f64 / 1e3).round() / 1e3
}

/// Lets it run, cuts the link if so wanted, and kills the site; when, and what `status` had said last, when it was asked.
fn lose(site: &mut Site, dir: &Path, ways: &[Proxy], moment: Moment) -> Result<(u64, (u64, u64))> {
    let over = AtomicBool::new(false);
    let began = Instant::now();
    scope(|scope| {
        let shown = scope.spawn(|| {
            let mut shown = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let asked = now_ns();
                if let Ok(status) = ask(dir, Request::Status)
                    && let Some(blocks) = link(&status, "out")["behind_blocks"].as_u64()
                {
                    shown = (asked, blocks);
                }
                sleep(ASK);
            }
            shown
        });
        if let Some((before, long)) = moment.cut {
            sleep(moment.lost_after.saturating_sub(before));
            ways.iter().for_each(|way| way.cut(true));
            sleep(long.min(moment.lost_after.saturating_sub(began.elapsed())));
            ways.iter().for_each(|way| way.cut(false));
        }
        sleep(moment.lost_after.saturating_sub(began.elapsed()));
        let killed = site.child.kill();
        let lost_ns = now_ns();
        ways.iter().for_each(|way| way.cut(true));
        over.store(true, Ordering::SeqCst);
        killed.context("killing the first site")?;
        let shown = shown.join().map_err(|_| anyhow::anyhow!("asking for the status panicked"))?;
        Ok((lost_ns, shown))
    })
}

/// The link of this way in a status; null where there is none.
fn link<'a>(status: &'a Value, way: &str) -> &'a Value {
    let links = status["links"].as_array().into_iter().flatten();
    links.into_iter().find(|link| link["way"] == way).unwrap_or(&Value::Null)
}

/// Bytes of blocks that a site has sent, and those that it has got.
fn moved(dir: &Path) -> Result<[u64; 2]> {
    let status = ask(dir, Request::Status)?;
    Ok(["out", "in"].map(|way| link(&status, way)["moved_bytes"].as_u64().unwrap_or_default()))
}

fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !is()? {
        ensure!(Instant::now() < give_up, "not within {} s: {what}", PATIENCE.as_secs());
        sleep(LOOK);
    }
    Ok(())
}

/// Opens both stores, compares them block by block, and looks for what was acknowledged: how many blocks both have, and
/// how many that were acknowledged they have not.
fn verify(places: &[Place; 2], acked: &BTreeMap<Id, u64>) -> Result<(u64, u64)> {
    let [a, b] = places;
    let (of_a, of_b) = (contents(a)?, contents(b)?);
    ensure!(of_a == of_b, "the two stores are not the same; they are kept in {}", a.folder.display());
    let mut times: HashMap<Id, u64> = HashMap::new();
    for payload in of_a.values() {
        let id = Id::decode(payload).context("a block that no site wrote")?;
        ensure!(id.block(payload.len()).payload() == payload.as_slice(), "the block {id:?} has another content");
        *times.entry(id).or_default() += 1;
    }
    if let Some((id, times)) = times.iter().find(|(_, times)| **times > 1) {
        bail!("the block {id:?} is there {times} times; the stores are kept in {}", a.folder.display());
    }
    Ok((times.len() as u64, acked.keys().filter(|id| !times.contains_key(*id)).count() as u64))
}

/// All blocks of a store by their identity.
fn contents(place: &Place) -> Result<BTreeMap<(Stream, Seq), Vec<u8>>> {
    let config = NodeConfig::read(&place.config())?.engine();
    let engine = Engine::open_with(config, Box::new(Hold))?;
    let mut found = BTreeMap::new();
    for delivered in engine.subscribe(Cursor::start())?.until_end() {
        let delivered = delivered?;
        let identity = (delivered.receipt.stream, delivered.receipt.seq);
        ensure!(found.insert(identity, delivered.block.payload().to_vec()).is_none(), "{identity:?} is there twice");
    }
    engine.close()?;
    Ok(found)
}

/// Where a site is.
struct Place {
    folder: PathBuf,
    store: String,
    engine: String,
}

impl Place {
    fn new(home: &Path, name: &str, setting: Setting) -> Result<Self> {
        let folder = home.join(name);
        std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let mut engine = format!("[engine]\nwal_level = {}\nshipped_deadline_ms = 2000\n{SIZES}", setting.wal_level);
        if let Some(ms) = setting.wal_fsync_period_ms {
            engine += &format!("wal_fsync_period_ms = {ms}\n");
        }
        let text = format!("dir = \"data\"\nstore = \"log\"\n{engine}");
        let config = NodeConfig::parse(&text, &folder).map_err(anyhow::Error::msg)?;
        let store = make_store(&config)?.to_string();
        Ok(Self { folder, store, engine })
    }

    fn config(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    fn store_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn configure(&self, role: &str, peer: &Self, way: &Proxy) -> Result<()> {
        let text = format!(
            "dir = \"data\"\nstore = \"log\"\n{}[replication]\nlisten = \"127.0.0.1:0\"\nrole = \"{role}\"\n\
             [[replication.peers]]\nstore = \"{}\"\naddress = \"{}\"\n",
            self.engine,
            peer.store,
            way.address()
        );
        std::fs::write(self.config(), text).with_context(|| format!("writing {}", self.config().display()))
    }
}

/// What a site has told so far.
#[derive(Default)]
struct Told {
    first_ack: Option<u64>,
    acked: BTreeMap<Id, u64>,
    unknown: u64,
    held: BTreeSet<Id>,
    held_all: bool,
    is_over: bool,
}

/// A site that runs.
struct Site {
    child: Child,
    commands: ChildStdin,
    told: Arc<(Mutex<Told>, Condvar)>,
    listener: Option<JoinHandle<std::io::Result<()>>>,
    dir: PathBuf,
}

impl Site {
    /// Starts it, and leads the way there.
    fn start((place, way): (&Place, &Proxy), (site, life): (u8, u8), load: Load, shipped: u8) -> Result<Self> {
        let log = std::fs::File::create(place.folder.join(format!("site-{life}.log")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["rehearse-site", "--config"]).arg(place.config());
        for (name, value) in [
            ("--site", u64::from(site)),
            ("--life", u64::from(life)),
            ("--writers", load.writers.into()),
            ("--rate", load.rate.into()),
            ("--block-bytes", load.block_bytes as u64),
            ("--shipped", shipped.into()),
        ] {
            command.args([name, &value.to_string()]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let (commands, out) = (child.stdin.take().context("a pipe")?, child.stdout.take().context("a pipe")?);
        let told = Arc::new((Mutex::<Told>::default(), Condvar::new()));
        let shared = Arc::clone(&told);
        let listener = spawn(move || {
            let mut out = BufReader::new(out);
            let listened = loop {
                match Record::read(&mut out) {
                    Ok(Some(record)) => lock(&shared.0).take(record),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
                shared.1.notify_all();
            };
            lock(&shared.0).is_over = true;
            shared.1.notify_all();
            listened
        });
        let this = Self { child, commands, told, listener: Some(listener), dir: place.store_dir() };
        until("a site listens", || {
            ensure!(!this.told().is_over, "a site of {} did not start; its log is beside it", this.dir.display());
            // Another process's answer is from before.
            let status = ask(&this.dir, Request::Status).unwrap_or_default();
            let port = status["listen"].as_str().and_then(|address| address.parse::<SocketAddr>().ok());
            port.iter().for_each(|address| way.leads_to(address.port()));
            Ok(port.is_some())
        })?;
        Ok(this)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told.0)
    }

    fn tell(&mut self, what: &str) -> Result<()> {
        writeln!(self.commands, "{what}").with_context(|| format!("a site of {} is gone", self.dir.display()))
    }

    /// What is in its log.
    fn held(&mut self) -> Result<BTreeSet<Id>> {
        {
            let mut told = self.told();
            (told.held, told.held_all) = (BTreeSet::new(), false);
        }
        self.tell("held")?;
        let waited = self.told.1.wait_timeout_while(self.told(), PATIENCE, |told| !told.held_all && !told.is_over);
        let mut told = waited.unwrap_or_else(PoisonError::into_inner).0;
        ensure!(told.held_all, "a site of {} does not say what it has", self.dir.display());
        Ok(std::mem::take(&mut told.held))
    }

    /// It follows, and is followed, and does not accept.
    fn is_up(&self) -> Result<bool> {
        let status = ask(&self.dir, Request::Status)?;
        let up = |way| link(&status, way)["is_up"] == true;
        Ok(status["running"] == true && status["role"] == "standby" && up("in") && up("out"))
    }

    /// What it acknowledged, when it is gone.
    fn ended(&mut self) -> Result<BTreeMap<Id, u64>> {
        self.child.wait()?;
        match self.listener.take().map(JoinHandle::join) {
            Some(Ok(listened)) => listened?,
            _ => bail!("listening to a site panicked"),
        }
        Ok(self.told().acked.clone())
    }

    /// Stops it; what it acknowledged.
    fn stop(mut self) -> Result<BTreeMap<Id, u64>> {
        self.tell("stop")?;
        let acked = self.ended()?;
        let status = self.child.wait()?;
        ensure!(status.success(), "a site of {} ended with {status}", self.dir.display());
        Ok(acked)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Told {
    fn take(&mut self, record: Record) {
        match record {
            Record::Acked(id, at) => {
                self.first_ack.get_or_insert(at);
                self.acked.insert(id, at);
            }
            Record::Unknown(_) => self.unknown += 1,
            Record::Held(id) => drop(self.held.insert(id)),
            Record::HeldAll => self.held_all = true,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_is_named() {
        let setting = Setting { wal_level: 1, wal_fsync_period_ms: None, shipped: 1 };
        let sound = Outcome {
            setting,
            link_was_cut: false,
            acked: 100,
            rpo_blocks: 0,
            rpo_ms: 0.0,
            shown_blocks: 3,
            missing_when_shown: 3,
            rto_ms: 1.0,
            return_ms: 1.0,
            return_bytes: [10, 20],
            lacked_bytes: [10, 20],
            failback_ms: 1.0,
            lost: 0,
            verified: 100,
        };
        assert!(sound.broken().is_empty());
        for (wrong, says) in [
            (Outcome { lost: 1, ..sound.clone() }, "1 acknowledged blocks are lost"),
            (Outcome { rpo_blocks: 2, ..sound.clone() }, "2 blocks that a follower had acknowledged were not there"),
            (Outcome { missing_when_shown: 4, ..sound.clone() }, "4 blocks were missing where 3 were shown"),
            (Outcome { return_bytes: [10, 21], ..sound.clone() }, "21 bytes were moved where 20 were lacked"),
        ] {
            assert_eq!(wrong.broken(), [says]);
        }
        let unshipped = Setting { shipped: 0, ..setting };
        assert!(Outcome { setting: unshipped, rpo_blocks: 2, ..sound }.broken().is_empty(), "that is what it measures");
    }
}
