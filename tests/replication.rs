//! Histories of several sites, with the real sender, receiver and frames over logs that are plain lists: links that
//! cut, repeat and swap frames, stores that lose what they had not synced, or blocks in the middle of their log to
//! damage. At the end all are connected, and every store stands at the same end of each stream and holds its blocks,
//! each once and in order (P8), but for those that it names as lost; what was acknowledged to a source was never lost
//! by a power cut of the follower.

mod links;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::catch_unwind;

use forebay::io::chance::Chance;
use forebay::planted::{Mutant, plant};
use forebay::repl::receiver::{Receiver, Refused, Source};
use forebay::repl::sender::{Offered, OfferedGap, Sender, Stop};
use forebay::repl::wire::Frame;
use forebay::types::{BlockKind, Epoch, Nonce, Opening, Seq, ShardId, StoreId, Stream};
use forebay::wal::batch::{StreamEnd, StreamEnds};
use forebay::wal::entry::{Entry, EntryKind};
use forebay::wal::read::Pieces;
use links::{frame, meddle};

const SITES: usize = 3;
/// Blocks from one place to the next at which a shard says its vector, as segments do.
const SEGMENT: usize = 7;

#[derive(Clone)]
struct Block {
    stream: Stream,
    before: StreamEnd,
    behind: StreamEnd,
    /// Its header and its payload; `None` where it stands for blocks that are lost.
    held: Option<(Vec<u8>, Vec<u8>)>,
}

/// What was ever accepted: by stream and seq, header and payload.
type Accepted = BTreeMap<(Stream, Seq), (Vec<u8>, Vec<u8>)>;

/// What happened in a history.
#[derive(Default)]
struct Counts {
    cuts: u64,
    damaged: u64,
    adopted: u64,
    refused: u64,
}

struct Site {
    id: StoreId,
    epoch: Epoch,
    nonce: Nonce,
    shards: Vec<Vec<Block>>,
    synced: Vec<usize>,
    receiver: Receiver,
    /// What it acknowledged to its sources.
    acked: HashMap<Stream, Seq>,
    /// What it has lost to damage, or sources of it before it had that: stream, behind and up to which seq.
    gaps: Vec<(Stream, Seq, Seq)>,
}

impl Site {
    fn new(number: usize, shards: usize, chance: &mut Chance) -> Self {
        let id = StoreId([number as u8 + 1; 16]);
        let mut this = Self {
            id,
            epoch: Epoch(0),
            nonce: Nonce(0),
            shards: vec![Vec::new(); shards],
            synced: vec![0; shards],
            receiver: Receiver::new(id, StreamEnds::new(), Vec::new()),
            acked: HashMap::new(),
            gaps: Vec::new(),
        };
        this.open(chance);
        this
    }

    fn own(&self, shard: usize) -> Stream {
        Stream { origin: self.id, shard: ShardId(shard as u16), epoch: self.epoch, nonce: self.nonce }
    }

    fn open(&mut self, chance: &mut Chance) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.nonce = Nonce(chance.below(1 << 40) + 1);
        self.synced = self.shards.iter().map(Vec::len).collect();
        let own = (0..self.shards.len()).map(|shard| self.own(shard)).collect();
        self.receiver = Receiver::new(self.id, self.ends(), own);
    }

    fn ends(&self) -> StreamEnds {
        self.shards.iter().flatten().map(|block| (block.stream, block.behind)).collect()
    }

    fn power_cut(&mut self, chance: &mut Chance) {
        for (shard, synced) in self.shards.iter_mut().zip(&self.synced) {
            let unsynced = shard.len() - synced;
            shard.truncate(synced + chance.below(unsynced as u64 + 1) as usize);
        }
        let ends = self.ends();
        for (stream, seq) in &self.acked {
            assert!(ends.get(stream).is_some_and(|end| end.seq >= *seq), "{stream:?} was acknowledged up to {seq}");
        }
        self.open(chance);
    }

    /// Damage takes some blocks one behind the other, and the log goes on behind them: it is closed and salvaged. Where
    /// only payloads are damaged what is left of the batch says that they were there.
    fn damage(&mut self, shard: usize, chance: &mut Chance) {
        let blocks = &mut self.shards[shard];
        let first = chance.below(blocks.len() as u64) as usize;
        let last = (first + chance.within(1, 4) as usize).min(blocks.len());
        for block in &blocks[first..last] {
            self.gaps.push((block.stream, block.before.seq, block.behind.seq));
        }
        match chance.percent(50) {
            true => blocks[first..last].iter_mut().for_each(|block| block.held = None),
            false => drop(blocks.drain(first..last)),
        }
        // Of a stream that had nothing behind them its sources are asked again.
        let ends = self.ends();
        self.acked.retain(|stream, seq| ends.get(stream).is_some_and(|end| end.seq >= *seq));
        self.open(chance);
    }

    fn append(&mut self, shard: usize, accepted: &mut Accepted, chance: &mut Chance) {
        let payload: Vec<u8> = (0..chance.below(60)).map(|_| chance.below(256) as u8).collect();
        let entry = Entry {
            kind: EntryKind::Own,
            block_kind: BlockKind::Raw,
            namespace: "plant7",
            table: "blobs",
            length: payload.len() as u32,
            received_at_ns: chance.below(1 << 50) as i64,
            rows: 1,
            payload_crc: crc32fast::hash(&payload),
            identity: None,
        };
        let seq = Seq(self.shards[shard].len() as u64 + 1);
        let header = entry.encode().bytes().to_vec();
        accepted.insert((self.own(shard), seq), (header.clone(), payload.clone()));
        self.put(self.own(shard), seq, shard, header, payload);
    }

    fn last_of(&self, stream: Stream, shard: usize) -> StreamEnd {
        let last = self.shards[shard].iter().rfind(|block| block.stream == stream);
        last.map(|block| block.behind).unwrap_or_default()
    }

    fn put(&mut self, stream: Stream, seq: Seq, shard: usize, header: Vec<u8>, payload: Vec<u8>) -> StreamEnd {
        let before = self.last_of(stream, shard);
        let chain = before.chain.then(seq, payload.len() as u32, crc32fast::hash(&payload));
        let behind = StreamEnd { seq, chain };
        self.shards[shard].push(Block { stream, before, behind, held: Some((header, payload)) });
        behind
    }

    fn adopt(&mut self, stream: Stream, behind: StreamEnd, shard: usize) {
        let before = self.last_of(stream, shard);
        self.gaps.push((stream, before.seq, behind.seq));
        self.shards[shard].push(Block { stream, before, behind, held: None });
    }

    fn sync(&mut self, shard: usize) {
        self.synced[shard] = self.shards[shard].len();
        self.receiver.synced(ShardId(shard as u16), Seq(self.synced[shard] as u64));
    }
}

struct Link {
    from: usize,
    to: usize,
    sender: Sender,
    source: Source,
    /// By shard of the source: the next block to show.
    next: Vec<usize>,
    /// On their way to the follower.
    frames: VecDeque<Vec<u8>>,
    /// On their way back.
    answers: VecDeque<Vec<u8>>,
}

impl Link {
    fn open(sites: &[Site], from: usize, to: usize) -> Self {
        let receiver = &sites[to].receiver;
        let follower = Opening::of(&sites[to].own(0));
        let mut sender = Sender::new(sites[from].shards.len(), follower);
        for part in receiver.vector() {
            let Frame::Vector(part) = frame(&Frame::Vector(part).encode()) else { panic!("a vector") };
            sender.vector(&part).expect("a vector of few streams");
        }
        assert!(sender.is_ready());
        let begin = |shard: &Vec<Block>| {
            let mut ends = StreamEnds::new();
            let mut begin = 0;
            for (index, block) in shard.iter().enumerate() {
                if index.is_multiple_of(SEGMENT) && sender.covers(&ends).expect("one history") {
                    begin = index;
                }
                ends.insert(block.stream, block.behind);
            }
            begin
        };
        let next = sites[from].shards.iter().map(begin).collect();
        let (frames, answers) = (VecDeque::new(), VecDeque::new());
        Self { from, to, source: Source::new(receiver), sender, next, frames, answers }
    }

    /// Shows the next blocks of a shard.
    fn show(&mut self, site: &Site, shard: usize, most: usize) -> Result<(), Stop> {
        let mut out = Vec::new();
        for _ in 0..most {
            let Some(block) = site.shards[shard].get(self.next[shard]) else { break };
            self.next[shard] += 1;
            let Block { stream, before, behind, .. } = *block;
            let (shard, local) = (ShardId(shard as u16), Seq(self.next[shard] as u64));
            match &block.held {
                Some((header, payload)) => {
                    let payload = Pieces::Plain(payload);
                    self.sender.offer(&Offered { shard, local, stream, before, behind, header, payload }, &mut out)?;
                }
                None => self.sender.offer_gap(&OfferedGap { shard, local, stream, before, behind }, &mut out)?,
            }
        }
        self.sender.flush(&mut out);
        self.frames.extend(out.iter().map(Frame::encode));
        Ok(())
    }

    /// What counts as shipped the follower has synced.
    fn check_shipped(&self, sites: &[Site]) {
        let (from, to) = (&sites[self.from], &sites[self.to]);
        let synced = |stream: Stream| {
            let shards = to.shards.iter().zip(&to.synced);
            let of = shards.flat_map(|(shard, synced)| &shard[..*synced]).filter(|block| block.stream == stream);
            of.map(|block| block.behind.seq).max().unwrap_or_default()
        };
        for (index, shard) in from.shards.iter().enumerate() {
            let shipped = self.sender.shipped(ShardId(index as u16)).0 as usize;
            // What the follower accepts now it has, and may count as shipped before its log is read from there on.
            let of_others = |block: &&Block| Opening::of(&block.stream) != Opening::of(&to.own(0));
            for block in shard[..shipped].iter().filter(of_others) {
                assert!(synced(block.stream) >= block.behind.seq, "{:?} counts as shipped", block.stream);
            }
        }
    }

    /// The follower takes in a frame; how many ends it adopts.
    fn take(&mut self, site: &mut Site, bytes: &[u8]) -> Result<u64, Refused> {
        let entries = match frame(bytes) {
            Frame::Entries(entries) => entries,
            Frame::Gap { stream, before, behind } => {
                let lacks = site.receiver.lacks(stream, before, behind)?;
                let shard = usize::from(site.receiver.shard_of(stream).0);
                if let Some(held) = lacks {
                    assert_eq!(held, site.last_of(stream, shard), "what is missing begins where the stream ends");
                    site.adopt(stream, behind, shard);
                    site.receiver.took(stream, behind, Seq(site.shards[shard].len() as u64));
                }
                self.source.sent(stream);
                return Ok(lacks.is_some().into());
            }
            other => panic!("only blocks and gaps are sent: {other:?}"),
        };
        let new = site.receiver.is_new(&entries)?;
        let shard = usize::from(site.receiver.shard_of(entries.stream).0);
        for entry in &entries.entries[new] {
            let (header, payload) = (&entries.bytes[entry.header.clone()], &entries.bytes[entry.payload.clone()]);
            let end = site.put(entries.stream, entry.seq, shard, header.to_vec(), payload.to_vec());
            site.receiver.took(entries.stream, end, Seq(site.shards[shard].len() as u64));
        }
        self.source.sent(entries.stream);
        Ok(0)
    }

    fn answer(&mut self, site: &mut Site) {
        let rows = self.source.acks(&site.receiver);
        if rows.is_empty() {
            return;
        }
        for (stream, seq) in &rows {
            // Of its own stream a store has a block under some of the seqs.
            let of = |block: &&Block| block.stream == *stream && block.behind.seq <= *seq;
            let Some(last) = site.shards.iter().flatten().filter(of).map(|block| block.behind.seq).max() else {
                continue;
            };
            let acked = site.acked.entry(*stream).or_default();
            *acked = (*acked).max(last);
        }
        self.answers.push_back(Frame::Ack(rows).encode());
    }

    fn hear(&mut self) {
        let Some(bytes) = self.answers.pop_front() else { return };
        let Frame::Ack(rows) = frame(&bytes) else { panic!("only acks are answered") };
        self.sender.acked(&rows);
    }
}

/// Refused for what the network did to it, never for what two stores hold.
fn is_of_the_network(refused: Refused) -> bool {
    matches!(refused, Refused::Hole { .. })
}

fn history(seed: u64) -> Counts {
    let mut chance = Chance::new(seed);
    let mut sites: Vec<Site> = (0..SITES)
        .map(|number| {
            let shards = 1 + chance.below(3) as usize;
            Site::new(number, shards, &mut chance)
        })
        .collect();
    let mut links: Vec<Link> = Vec::new();
    let (mut counts, mut accepted) = (Counts::default(), Accepted::new());
    for _ in 0..200 + chance.below(400) {
        let site = chance.below(SITES as u64) as usize;
        let shard = chance.below(sites[site].shards.len() as u64) as usize;
        match chance.below(20) {
            0..=4 => sites[site].append(shard, &mut accepted, &mut chance),
            5..=7 => sites[site].sync(shard),
            8 => {
                let to = (site + 1 + chance.below(SITES as u64 - 1) as usize) % SITES;
                links.retain(|link| (link.from, link.to) != (site, to));
                links.push(Link::open(&sites, site, to));
            }
            9 if chance.percent(30) => {
                counts.cuts += 1;
                sites[site].power_cut(&mut chance);
                links.retain(|link| link.from != site && link.to != site);
            }
            9 if chance.percent(15) && !sites[site].shards[shard].is_empty() => {
                counts.damaged += 1;
                sites[site].damage(shard, &mut chance);
                links.retain(|link| link.from != site && link.to != site);
            }
            _ if links.is_empty() => {}
            10 if chance.percent(20) => {
                let cut = chance.below(links.len() as u64) as usize;
                links.swap_remove(cut);
            }
            11..=13 => {
                let index = chance.below(links.len() as u64) as usize;
                let link = &mut links[index];
                let from = &sites[link.from];
                let shard = chance.below(from.shards.len() as u64) as usize;
                link.show(from, shard, 1 + chance.below(9) as usize).expect("one history of each stream");
                links[index].check_shipped(&sites);
            }
            14..=16 => {
                let index = chance.below(links.len() as u64) as usize;
                let link = &mut links[index];
                meddle(&mut chance, &mut link.frames);
                let Some(bytes) = link.frames.pop_front() else { continue };
                let to = link.to;
                match link.take(&mut sites[to], &bytes) {
                    Ok(adopted) => counts.adopted += adopted,
                    Err(refused) => {
                        assert!(is_of_the_network(refused), "{refused}");
                        counts.refused += 1;
                        links.swap_remove(index);
                    }
                }
            }
            17 | 18 => {
                let index = chance.below(links.len() as u64) as usize;
                let to = links[index].to;
                links[index].answer(&mut sites[to]);
            }
            _ => {
                let index = chance.below(links.len() as u64) as usize;
                links[index].hear();
                links[index].check_shipped(&sites);
            }
        }
    }
    settle(&mut sites, &accepted, &mut counts);
    counts
}

/// Connects all with all, until nobody has anything to say.
fn settle(sites: &mut [Site], accepted: &Accepted, counts: &mut Counts) {
    for _ in 0..SITES {
        for (from, to) in (0..SITES).flat_map(|from| (0..SITES).map(move |to| (from, to))) {
            if from == to {
                continue;
            }
            (0..sites[from].shards.len()).for_each(|shard| sites[from].sync(shard));
            let mut link = Link::open(sites, from, to);
            for shard in 0..sites[from].shards.len() {
                link.show(&sites[from], shard, usize::MAX).expect("one history of each stream");
            }
            while let Some(bytes) = link.frames.pop_front() {
                counts.adopted += link.take(&mut sites[to], &bytes).expect("it continues what is held");
            }
            (0..sites[to].shards.len()).for_each(|shard| sites[to].sync(shard));
            link.answer(&mut sites[to]);
            link.hear();
            for (shard, blocks) in sites[from].shards.iter().enumerate() {
                let shipped = link.sender.shipped(ShardId(shard as u16));
                assert_eq!(shipped, Seq(blocks.len() as u64), "all of shard {shard} is shipped");
            }
            assert_eq!(link.sender.bytes_unacked(), 0);
        }
    }
    for site in sites.iter() {
        assert_eq!(site.ends(), sites[0].ends());
        let (mut last, mut held) = (StreamEnds::new(), Accepted::new());
        for block in site.shards.iter().flatten() {
            let before = last.insert(block.stream, block.behind);
            assert!(before.is_none_or(|before| before.seq < block.behind.seq), "each once, and in order");
            held.extend(block.held.clone().map(|held| ((block.stream, block.behind.seq), held)));
        }
        for ((stream, seq), block) in accepted {
            if last.get(stream).is_none_or(|end| end.seq < *seq) {
                continue;
            }
            let is_named = site.gaps.iter().any(|(of, from, upto)| of == stream && from < seq && seq <= upto);
            match held.get(&(*stream, *seq)) {
                Some(held) => assert_eq!(held, block),
                None => assert!(is_named, "{seq} of {stream:?} is not there, and no gap names it"),
            }
        }
        assert!(held.keys().all(|key| accepted.contains_key(key)), "nothing else");
    }
}

#[test]
fn sites_become_equal_after_any_cuts() {
    let histories = std::env::var("FOREBAY_HISTORIES").ok().map_or(2_000, |text| text.parse().expect("a number"));
    let mut total = Counts::default();
    for seed in 0..histories {
        let Counts { cuts, damaged, adopted, refused } = history(seed);
        total.cuts += cuts;
        total.damaged += damaged;
        total.adopted += adopted;
        total.refused += refused;
    }
    let Counts { cuts, damaged, adopted, refused } = total;
    let counts = format!("{cuts} power cuts, {damaged} damages, {adopted} ends adopted, {refused} links refused");
    println!("{histories} histories, {counts}");
    assert!(cuts > histories / 4 && refused > histories / 20 && damaged.min(adopted) > histories / 20, "{counts}");
}

/// The first history in which this planted bug shows.
fn caught(mutant: Mutant) -> Option<u64> {
    plant(Some(mutant));
    let found = (0..2_000).find(|seed| catch_unwind(|| history(*seed)).is_err());
    plant(None);
    found
}

#[test]
fn finds_a_sender_that_resumes_too_far() {
    println!("found in history {}", caught(Mutant::ResumesTooFar).expect("no history finds it"));
}

#[test]
fn finds_acks_of_what_is_not_synced() {
    println!("found in history {}", caught(Mutant::AcksUnsynced).expect("no history finds it"));
}
