//! Sites that follow each other, over real stores: links are queues of encoded frames that cut, repeat and swap them;
//! stores are closed and opened again, power-cut at level 1 (to a copy of their folder from before their last blocks),
//! and restored from a backup. At the end all are linked, and every store holds the same blocks of each stream, each
//! once and in order (P8), and every block that was accepted and not lost with its store is there.
//!
//! `FOREBAY_HISTORIES` sets how many run (default 20), `FOREBAY_HISTORY_SEED` the first seed.

mod links;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use forebay::engine::inbound::Inbound;
use forebay::engine::outbound::Outbound;
use forebay::error::NotActive;
use forebay::inspect::{Access, ShardLine, StoreView, Where};
use forebay::io::chance::Chance;
use forebay::planted::{Mutant, plant};
use forebay::repl::link_error::LinkError;
use forebay::repl::receiver::Refused;
use forebay::repl::wire::{Frame, Vector};
use forebay::store::Hold;
use forebay::types::{StoreId, Stream, Term};
use forebay::wal::batch::StreamEnds;
use forebay::{Block, Config, Cursor, Durability, Engine, OnDamage};
use links::{frame, meddle};

const SITES: usize = 3;

/// A block as a store holds it: its seq, the chain behind it, its payload.
type Held = (u64, u64, Vec<u8>);

fn config(dir: &Path, shards: usize, level: u8) -> Config {
    let config = Config::new(dir)
        .shards(shards)
        .segment_bytes(1 << 20)
        .block_bytes_max(64 << 10)
        .batch_bytes_max(64 << 10)
        .intake_bytes(128 << 10)
        .intake_slots(1024)
        .wal_bytes_max(128 << 20)
        .wal_level(level);
    if level == 2 { config.wal_fsync_period_ms(0) } else { config }
}

fn names(of: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(of).expect("a folder").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        if entry.file_type().expect("a type").is_dir() {
            found.extend(names(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

/// Copies a folder of which nobody renames anything meanwhile: an engine makes its segments when it likes.
fn copy(from: &Path, to: &Path) {
    loop {
        let before = names(from);
        fs::create_dir_all(to).expect("a folder for the copy");
        let copied = before.iter().try_for_each(|path| {
            let target = to.join(path.strip_prefix(from).expect("a path below"));
            fs::create_dir_all(target.parent().expect("a folder"))?;
            if path.is_dir() { fs::create_dir_all(target) } else { fs::copy(path, target).map(drop) }
        });
        if copied.is_ok() && names(from) == before {
            return;
        }
        fs::remove_dir_all(to).expect("half a copy");
    }
}

struct Site {
    dir: PathBuf,
    shards: usize,
    level: u8,
    engine: Option<Engine>,
    backup: Option<PathBuf>,
}

impl Site {
    fn new(dir: PathBuf, shards: usize, level: u8) -> Self {
        let mut this = Self { dir, shards, level, engine: None, backup: None };
        this.open();
        this
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is open")
    }

    fn open(&mut self) {
        let opened = Engine::open_with(config(&self.dir, self.shards, self.level), Box::new(Hold));
        self.engine = Some(opened.expect("it opens"));
    }

    /// Damage comes over the block with this text, or over the whole batch that it is in; it is salvaged.
    fn lose(&mut self, text: &str, what: Loses) {
        self.close();
        self.damage(text, what);
        let salvage = config(&self.dir, self.shards, self.level).on_damage(OnDamage::Salvage);
        let engine = Engine::open_with(salvage, Box::new(Hold)).expect("it is salvaged");
        assert!(engine.report().shards.iter().any(|shard| !shard.damage.is_empty()), "it is damaged");
        self.engine = Some(engine);
    }

    fn damage(&self, text: &str, what: Loses) {
        let segments = names(&self.dir).into_iter().filter(|path| path.extension().is_some_and(|name| name == "wal"));
        let mut found = segments.filter_map(|path| {
            let bytes = fs::read(&path).expect("a segment");
            let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
            Some((path, bytes, at))
        });
        let (path, mut bytes, at) = found.next().expect("the block is in the log");
        let begin = (0..=at / 4096).rev().map(|page| page * 4096).find(|page| bytes[page + 4..].starts_with(b"FBB1"));
        bytes[if what == Loses::Block { at } else { begin.expect("a batch") + 40 }] ^= 1;
        fs::write(path, bytes).expect("a damaged segment");
    }

    /// Blocks, each in a batch of its own.
    fn append_texts(&self, texts: impl Iterator<Item = String>) {
        let writer = self.engine().writer("plant7").expect("a writer");
        for text in texts {
            writer.append(Block::raw("blobs", text.into_bytes())).expect("a receipt");
            self.engine().sync().expect("it is synced");
        }
    }

    /// What its log names as lost: behind and before which seq.
    fn gaps(&mut self) -> Vec<(u64, Option<u64>)> {
        self.close();
        let at = Where { dir: self.dir.clone(), intake_dir: None, intake_rule: Default::default() };
        let store = StoreView::read(&at, Access::Alone).expect("it reads");
        let shards = store.shards().map(|shard| ShardLine::of(&store, &store.shard(shard).expect("a shard")));
        let mut gaps: Vec<_> = shards.flat_map(|line| line.gaps).map(|gap| (gap.after, gap.before)).collect();
        gaps.sort();
        drop(store);
        self.open();
        // Those next to each other are one.
        let mut merged: Vec<(u64, Option<u64>)> = Vec::new();
        for (after, before) in gaps {
            match merged.last_mut() {
                Some((_, upto)) if *upto > Some(after) => *upto = before,
                _ => merged.push((after, before)),
            }
        }
        merged
    }

    fn close(&mut self) {
        self.engine.take().expect("it is open").close().expect("it closes");
    }

    fn append(&self, chance: &mut Chance, count: u64) {
        for _ in 0..count {
            let writer = self.engine().writer("plant7").expect("a writer");
            let bytes = if chance.percent(3) { 30_000 } else { chance.below(300) };
            let payload: Vec<u8> = (0..bytes).map(|_| chance.below(256) as u8).collect();
            let receipt = writer.append(Block::raw("blobs", payload)).expect("a receipt");
            // What was written may leave.
            self.engine().wait(&receipt, Durability::Written).expect("it is written");
        }
    }

    fn restore(&mut self, from: &Path) {
        self.close();
        fs::remove_dir_all(&self.dir).expect("the old folder");
        copy(from, &self.dir);
        self.open();
    }

    /// Everything in its log, by stream.
    fn blocks(&self) -> BTreeMap<Stream, Vec<Held>> {
        let mut streams: BTreeMap<Stream, Vec<Held>> = BTreeMap::new();
        for delivered in self.engine().subscribe(Cursor::default()).expect("a subscription").until_end() {
            let delivered = delivered.expect("a block");
            let of = streams.entry(delivered.receipt.stream).or_default();
            let seq = delivered.receipt.seq.0;
            assert!(of.last().is_none_or(|(last, ..)| *last < seq), "each once, and in order: {delivered:?}");
            of.push((seq, delivered.chain.0, delivered.block.payload().to_vec()));
        }
        streams
    }

    /// All that it would tell a source that it holds.
    fn vector(&self) -> StreamEnds {
        let (_, vector) = self.engine().inbound().expect("an inbound link");
        vector.into_iter().flat_map(|frame| frame.ends).collect()
    }
}

/// What a damage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loses {
    /// One block of a batch.
    Block,
    /// All that is known of a batch.
    Batch,
}

struct Link {
    from: usize,
    to: usize,
    out: Outbound,
    inbound: Inbound,
    frames: VecDeque<Vec<u8>>,
    acks: VecDeque<Vec<u8>>,
    /// What the follower has given up: behind and up to which seq.
    lost: Vec<(u64, u64)>,
}

impl Link {
    fn open(sites: &[Site], from: usize, to: usize) -> Self {
        let (inbound, vector) = sites[to].engine().inbound().expect("an inbound link");
        let retained = sites[from].engine().retain().expect("the log is held");
        let mut out = retained.outbound(sites[to].engine().opening()).expect("an outbound link");
        for part in vector {
            let Frame::Vector(part) = frame(&Frame::Vector(part).encode()) else { panic!("a vector") };
            out.vector(&part).expect("one history of each stream, and all of the log");
        }
        Self { from, to, out, inbound, frames: VecDeque::new(), acks: VecDeque::new(), lost: Vec::new() }
    }

    fn fill(&mut self) {
        let mut out = Vec::new();
        self.out.fill(&mut out, usize::MAX).expect("the log reads back");
        self.frames.extend(out.iter().map(Frame::encode));
    }

    /// The follower takes in the next frame, if there is one.
    fn take(&mut self) -> Result<(), LinkError> {
        let Some(bytes) = self.frames.pop_front() else { return Ok(()) };
        match frame(&bytes) {
            Frame::Entries(entries) => until_ready(|context| self.inbound.poll_take(&entries, context)),
            Frame::Gap { stream, before, behind } => {
                let lost = until_ready(|context| self.inbound.poll_adopt((stream, before, behind), context))?;
                match (self.lost.last_mut(), lost) {
                    (_, None) => {}
                    (Some((_, upto)), Some((held, last))) if *upto == held.0 => *upto = last.0,
                    (_, Some((held, last))) => self.lost.push((held.0, last.0)),
                }
                Ok(())
            }
            other => panic!("only blocks and gaps are sent: {other:?}"),
        }
    }

    fn ack(&mut self) {
        let rows = self.inbound.acks();
        if !rows.is_empty() {
            self.acks.push_back(Frame::Ack(rows).encode());
        }
    }

    fn hear(&mut self) {
        let Some(bytes) = self.acks.pop_front() else { return };
        let Frame::Ack(rows) = frame(&bytes) else { panic!("only acks are answered") };
        self.out.acked(&rows);
    }

    /// Until the follower has all that may leave.
    fn drain(&mut self) {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            self.fill();
            while !self.frames.is_empty() {
                self.take().expect("what is sent in order is taken");
            }
            self.ack();
            while !self.acks.is_empty() {
                self.hear();
            }
            if self.out.behind().blocks == 0 && self.out.bytes_unacked() == 0 {
                return;
            }
            assert!(
                Instant::now() < give_up,
                "{} to {}: {} blocks behind",
                self.from,
                self.to,
                self.out.behind().blocks
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn until_ready<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<T, LinkError>>) -> Result<T, LinkError> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match poll(&mut context) {
            Poll::Ready(taken) => return taken,
            Poll::Pending => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// What the network did to a link, never what two stores hold.
fn is_of_the_network(error: &LinkError) -> bool {
    matches!(error, LinkError::Refused(Refused::Hole { .. }))
}

#[derive(Default)]
struct Counts {
    cuts: u64,
    restored: u64,
    refused: u64,
    blocks: u64,
}

fn history(seed: u64, counts: &mut Counts) {
    let chance = &mut Chance::new(seed);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut sites: Vec<Site> = (0..SITES)
        .map(|number| {
            let shards = 1 + chance.below(3) as usize;
            Site::new(home.path().join(format!("site-{number}")), shards, 1 + chance.below(2) as u8)
        })
        .collect();
    let mut links: Vec<Link> = Vec::new();
    for _ in 0..40 + chance.below(80) {
        let site = chance.below(SITES as u64) as usize;
        let link = (!links.is_empty()).then(|| chance.below(links.len() as u64) as usize);
        match (chance.below(24), link) {
            (0..=4, _) => {
                let count = chance.within(1, 12);
                sites[site].append(chance, count);
            }
            (5..=6, _) => {
                let to = (site + 1 + chance.below(SITES as u64 - 1) as usize) % SITES;
                links.retain(|link| (link.from, link.to) != (site, to));
                links.push(Link::open(&sites, site, to));
            }
            (7, _) if chance.percent(40) => {
                links.retain(|link| link.from != site && link.to != site);
                sites[site].close();
                if sites[site].backup.is_none() {
                    let backup = home.path().join(format!("backup-{site}"));
                    copy(&sites[site].dir, &backup);
                    sites[site].backup = Some(backup);
                }
                sites[site].open();
            }
            (8, _) if sites[site].level == 1 && chance.percent(60) => {
                // Nothing that is taken in or synced from here on is in the copy, so nothing is acknowledged.
                counts.cuts += 1;
                links.retain(|link| link.to != site);
                let before = home.path().join("before");
                copy(&sites[site].dir, &before);
                let count = chance.within(1, 12);
                sites[site].append(chance, count);
                for link in links.iter_mut().filter(|link| link.from == site) {
                    link.fill();
                    while !link.frames.is_empty() {
                        if link.take().is_err() {
                            break;
                        }
                    }
                }
                links.retain(|link| link.from != site);
                sites[site].restore(&before);
                fs::remove_dir_all(&before).expect("the copy");
            }
            (9, _) if chance.percent(20) => {
                if let Some(backup) = sites[site].backup.clone() {
                    counts.restored += 1;
                    links.retain(|link| link.from != site && link.to != site);
                    // What it alone has is not to be lost.
                    for to in (0..SITES).filter(|to| *to != site) {
                        Link::open(&sites, site, to).drain();
                    }
                    sites[site].restore(&backup);
                }
            }
            (10, Some(link)) if chance.percent(30) => drop(links.swap_remove(link)),
            (11..=14, Some(link)) => links[link].fill(),
            (15..=18, Some(index)) => {
                let link = &mut links[index];
                meddle(chance, &mut link.frames);
                if let Err(error) = link.take() {
                    assert!(is_of_the_network(&error), "seed {seed}: {error}");
                    counts.refused += 1;
                    links.swap_remove(index);
                }
            }
            (19..=20, Some(link)) => links[link].ack(),
            (_, Some(link)) => links[link].hear(),
            (_, None) => {}
        }
    }
    links.clear();
    settle(&mut sites, seed, counts);
}

/// Every site hears from each other one, and all are equal then.
fn settle(sites: &mut [Site], seed: u64, counts: &mut Counts) {
    for site in sites.iter_mut() {
        site.close();
        site.open();
    }
    for _ in 0..2 {
        for (from, to) in (0..SITES).flat_map(|from| (0..SITES).map(move |to| (from, to))) {
            if from != to {
                Link::open(sites, from, to).drain();
            }
        }
    }
    let first = sites[0].blocks();
    counts.blocks += first.values().map(|blocks| blocks.len() as u64).sum::<u64>();
    for (number, site) in sites.iter().enumerate() {
        let blocks = site.blocks();
        for (stream, held) in &first {
            assert!(blocks.get(stream) == Some(held), "seed {seed}: site {number} has another {stream:?}");
        }
        assert_eq!(blocks.len(), first.len(), "seed {seed}: site {number}");
        assert_eq!(site.vector(), sites[0].vector(), "seed {seed}: site {number}");
    }
}

#[test]
fn stores_become_equal_after_any_cuts() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (first, histories) = (number("FOREBAY_HISTORY_SEED", 0), number("FOREBAY_HISTORIES", 20));
    let mut counts = Counts::default();
    for seed in first..first + histories {
        eprintln!("FOREBAY_HISTORY_SEED={seed} FOREBAY_HISTORIES=1 repeats this history as far as timing allows");
        history(seed, &mut counts);
    }
    let Counts { cuts, restored, refused, blocks } = counts;
    println!("{histories} histories, {cuts} power cuts, {restored} restored, {refused} links refused, {blocks} blocks");
    assert!(histories < 20 || (cuts > 0 && restored > 0 && blocks > 0), "nothing happened");
}

#[test]
fn finds_a_restored_store_without_a_nonce() {
    plant(Some(Mutant::NoNonce));
    let found = (0..200).find(|seed| catch_unwind(|| history(*seed, &mut Counts::default())).is_err());
    plant(None);
    println!("found in history {}", found.expect("no history finds it"));
}

#[test]
fn a_store_that_is_not_active_takes_what_others_accepted_and_nothing_of_clients() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let chance = &mut Chance::new(1);
    let sites = [Site::new(home.path().join("a"), 2, 1), Site::new(home.path().join("b"), 1, 2)];
    sites[0].append(chance, 50);
    sites[1].engine().set_active(Err(NotActive::Fenced { term: Term(8), active: StoreId([7; 16]) }));
    let writer = sites[1].engine().writer("plant7").expect("a writer");
    let told = writer.append(Block::raw("blobs", &b"x"[..])).expect_err("it is fenced");
    assert_eq!(told.to_string(), "fenced: term 8 is active at 07070707-0707-0707-0707-070707070707");
    assert_eq!(told.exit_code(), 75);
    assert!(writer.submit(Block::raw("blobs", &b"x"[..])).is_err());
    Link::open(&sites, 0, 1).drain();
    assert_eq!(sites[1].blocks(), sites[0].blocks());
    sites[1].engine().set_active(Ok(()));
    writer.append(Block::raw("blobs", &b"x"[..])).expect("it is active");
}

#[test]
fn a_follower_that_is_behind_the_log_is_told_so() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    // A store that keeps nothing gives its segments back.
    let queue = config(&home.path().join("a"), 1, 1).wal_retention_period_s(0);
    let engine = Engine::open_with(queue, Box::new(forebay::store::Null)).expect("it opens");
    let writer = engine.writer("plant7").expect("a writer");
    for _ in 0..120 {
        writer.append(Block::raw("blobs", vec![7; 60_000])).expect("a receipt");
    }
    engine.sync().expect("it is synced");
    let give_up = Instant::now() + Duration::from_secs(30);
    while engine.marks()[0].trimmed.0 == 0 {
        assert!(Instant::now() < give_up, "nothing is trimmed: {:?}", engine.marks());
        std::thread::sleep(Duration::from_millis(5));
    }
    let follower = Site::new(home.path().join("b"), 1, 1);
    let (_inbound, vector) = follower.engine().inbound().expect("an inbound link");
    let mut out = engine.retain().and_then(|log| log.outbound(follower.engine().opening())).expect("an outbound link");
    let told = vector.iter().try_for_each(|part: &Vector| out.vector(part)).expect_err("it is behind");
    assert!(matches!(told, LinkError::Store(forebay::Error::Behind { .. })), "{told}");
}

fn texts(from: u32, upto: u32) -> impl Iterator<Item = String> {
    (from..upto).map(|number| format!("block {number:05} of these"))
}

/// The texts of all its blocks, in the order of their streams.
fn texts_of(site: &Site) -> Vec<String> {
    let blocks = site.blocks().into_values().flatten();
    blocks.map(|(.., payload)| String::from_utf8(payload).expect("a text")).collect()
}

#[test]
fn blocks_that_a_source_has_lost_are_given_up_and_what_is_behind_them_is_taken() {
    for what in [Loses::Block, Loses::Batch] {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let site = |name: &str, shards, level| Site::new(home.path().join(name), shards, level);
        let mut sites = [site("a", 1, 2), site("b", 2, 1), site("c", 1, 2), site("d", 1, 2)];
        sites[0].append_texts(texts(0, 10));
        // One that had more before than its source has now.
        Link::open(&sites, 0, 3).drain();
        sites[0].append_texts(texts(10, 20));
        let lost = ["block 00003", "block 00004", "block 00012"];
        lost.iter().for_each(|text| sites[0].lose(text, what));
        sites[0].append_texts(texts(20, 30));
        let kept: Vec<String> = texts(0, 30).filter(|text| !lost.contains(&&text[..11])).collect();
        assert_eq!(texts_of(&sites[0]), kept, "{what:?}");
        let gaps = sites[0].gaps();
        // The source's own openings, too, and a site behind it.
        for (from, to, given_up) in
            [(0, 1, vec![(3, 5), (12, 13)]), (1, 2, vec![(3, 5), (12, 13)]), (0, 3, vec![(12, 13)])]
        {
            let mut link = Link::open(&sites, from, to);
            link.drain();
            assert_eq!(link.lost, given_up, "{what:?}: {from} to {to}");
            assert_eq!(sites[to].vector(), sites[from].vector(), "{what:?}: {from} to {to}");
        }
        assert_eq!((texts_of(&sites[1]), texts_of(&sites[2])), (kept.clone(), kept.clone()), "{what:?}");
        assert_eq!(texts_of(&sites[3]).len(), 29, "{what:?}: it keeps what it had");
        assert_eq!(sites[3].gaps(), [(12, Some(14))], "{what:?}");
        for to in [1, 2] {
            // Each opening begins a segment, and once more those before it are not needed for it.
            assert_eq!(sites[to].gaps(), [(3, Some(6)), (12, Some(14))], "{what:?}");
            assert_eq!(sites[to].gaps(), [(3, Some(6)), (12, Some(14))], "{what:?}");
            assert_eq!(texts_of(&sites[to]), kept, "{what:?}");
        }
        assert!(gaps.len() >= 2, "{what:?}: {gaps:?}");
        // Whoever has it all is sent nothing; what is new goes on.
        sites[0].append_texts(texts(30, 32));
        for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 3), (3, 0)] {
            let mut link = Link::open(&sites, from, to);
            link.drain();
            assert_eq!(link.lost.len(), 0, "{what:?}: {from} to {to}");
        }
        assert_eq!(texts_of(&sites[2])[27..], ["block 00030 of these", "block 00031 of these"]);
        for site in &mut sites {
            site.close();
            site.open();
        }
        assert!(sites.iter().all(|site| site.vector() == sites[0].vector()), "{what:?}");
    }
}

#[test]
fn blocks_that_a_source_has_lost_from_the_end_of_a_stream_are_given_up_where_its_end_is_known() {
    for what in [Loses::Block, Loses::Batch] {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let site = |name: &str| Site::new(home.path().join(name), 1, 2);
        let mut sites = [site("a"), site("b"), site("c")];
        sites[0].append_texts(texts(0, 5));
        // The next opening's segment says how far the stream went.
        sites[0].close();
        sites[0].open();
        sites[0].append_texts(texts(5, 8));
        sites[0].lose("block 00004", what);
        let mut link = Link::open(&sites, 0, 1);
        link.drain();
        assert_eq!(link.lost, [(4, 5)], "{what:?}");
        drop(link);
        assert_eq!(sites[1].vector(), sites[0].vector(), "{what:?}");
        // It holds all that there is, so nothing is read again, and it may serve others.
        let mut link = Link::open(&sites, 1, 2);
        link.drain();
        assert_eq!((link.lost, sites[2].vector()), (vec![(4, 5)], sites[0].vector()), "{what:?}");
        let kept: Vec<String> = texts(0, 8).filter(|text| !text.starts_with("block 00004")).collect();
        assert_eq!((texts_of(&sites[1]), texts_of(&sites[2])), (kept.clone(), kept), "{what:?}");
    }
}

#[test]
fn the_end_of_a_stream_that_a_source_has_lost_comes_back_from_a_follower() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let site = |name: &str| Site::new(home.path().join(name), 1, 2);
    let mut sites = [site("a"), site("b"), site("c")];
    sites[0].append_texts(texts(0, 5));
    Link::open(&sites, 0, 1).drain();
    // Nothing behind it says that it was there.
    sites[0].lose("block 00004", Loses::Batch);
    let mut link = Link::open(&sites, 0, 2);
    link.drain();
    assert_eq!((link.lost.len(), texts_of(&sites[2]).len()), (0, 4));
    drop(link);
    for to in [0, 2] {
        let mut link = Link::open(&sites, 1, to);
        link.drain();
        assert_eq!((link.lost.len(), texts_of(&sites[to]).len()), (0, 5), "{to}");
        assert_eq!(sites[to].vector(), sites[1].vector());
    }
}

/// What is damaged in the log and stands in data files is not lost.
#[cfg(feature = "parquet")]
#[test]
fn blocks_that_a_source_has_in_data_files_only_are_not_given_up() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let dir = home.path().join("a");
    let open = || Engine::open(config(&dir, 1, 2).hold_for_subscriber(true)).expect("it opens");
    let mut sites = [Site::new(home.path().join("b"), 1, 2), Site::new(dir.clone(), 1, 2)];
    sites[1].close();
    sites[1].engine = Some(open());
    sites[1].append_texts(texts(0, 5));
    sites[1].close();
    sites[1].damage("block 00003", Loses::Block);
    sites[1].engine = Some(open());
    sites[1].append_texts(texts(5, 8));
    let mut link = Link::open(&sites, 1, 0);
    let told = link.out.fill(&mut Vec::new(), usize::MAX).expect_err("it is in data files");
    assert!(matches!(told, LinkError::NotInLog { first, last, .. } if (first.0, last.0) == (4, 4)), "{told}");
}
