//! What must hold of several stores: what each stream is ([`Ledger`]), and who may accept ([`Promotion`]).
//!
//! Every block that a store accepted is in the ledger, under the identity that it was given. After each opening the
//! blocks of each stream that a store holds must be the first ones of that stream, each once and in order (P8).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use crate::repl::wire::{Role, Stand};
use crate::sim::blocks::BlockName;
use crate::sim::check::{Kind, What, Wrong};
use crate::sim::shard::Shard;
use crate::types::{Opening, Seq, StoreId, Stream, Term};

/// Stores.
pub const SITES: usize = 3;

/// Up to where something holds of each stream.
pub type Upto = HashMap<Stream, Seq>;

/// A block as its store accepted it.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    seq: Seq,
    name: BlockName,
    received_at_ns: i64,
}

/// Every stream, as it was accepted.
#[derive(Debug, Default)]
pub struct Ledger {
    streams: BTreeMap<Stream, Vec<Accepted>>,
}

impl Ledger {
    /// A block was given this identity.
    ///
    /// # Errors
    /// Where the stream has come further: it would be two histories.
    pub fn accepted(&mut self, stream: Stream, seq: Seq, name: BlockName, received_at_ns: i64) -> Result<(), Wrong> {
        let blocks = self.streams.entry(stream).or_default();
        if let Some(last) = blocks.last().filter(|last| last.seq >= seq) {
            return Err(
                format!("{stream:?} is at seq {}, and seq {seq} of it is accepted: two histories", last.seq).into()
            );
        }
        blocks.push(Accepted { seq, name, received_at_ns });
        Ok(())
    }

    /// The store of this opening is open again: what it had given a seq in it, and never published, is nowhere.
    pub fn forget_holes(&mut self, opening: Opening, shards: &[Shard]) {
        let of = self.streams.iter_mut().filter(|(stream, _)| Opening::of(stream) == opening);
        for (stream, blocks) in of {
            let items = shards.iter().flat_map(|shard| shard.model.items());
            let voids = items.filter(|(_, item)| item.stream == *stream && item.what == What::Void);
            let voids: Vec<Seq> = voids.map(|(_, item)| item.number).collect();
            blocks.retain(|block| !voids.contains(&block.seq));
        }
    }

    /// The last block of a stream that is not behind this seq.
    #[must_use]
    pub fn last_upto(&self, stream: Stream, seq: Seq) -> Option<Seq> {
        let blocks = self.streams.get(&stream)?;
        let count = blocks.partition_point(|block| block.seq <= seq);
        Some(blocks[count.checked_sub(1)?].seq)
    }

    /// Streams of which there are blocks.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Blocks that whoever has this of each stream holds.
    #[must_use]
    pub fn held(&self, upto: &Upto) -> u64 {
        let of = |stream| upto.get(stream).copied().unwrap_or_default();
        self.streams.iter().map(|(stream, all)| all.partition_point(|block| block.seq <= of(stream)) as u64).sum()
    }

    /// What these shards hold is a beginning of each stream, but for what they have given back.
    ///
    /// # Errors
    /// A block that is missing in between, there twice, in another order, or another one.
    pub fn check_prefixes(&self, shards: &[Shard]) -> Result<(), Wrong> {
        let mut walk = Walk::default();
        for shard in shards {
            for (local, item) in shard.model.items() {
                let What::Block(name) = item.what else { continue };
                let found = (item.number, name, item.received_at_ns);
                self.is_next(&mut walk, item.stream, found)
                    .map_err(|wrong| Wrong { what: format!("{} (shard {} {local})", wrong.what, shard.id), ..wrong })?;
            }
        }
        self.begins(&walk, shards)
    }

    /// The next block of a stream is this one.
    ///
    /// # Errors
    /// It is another one, or none.
    pub fn is_next(&self, walk: &mut Walk, stream: Stream, found: (Seq, BlockName, i64)) -> Result<(), Wrong> {
        let blocks = self.streams.get(&stream).map_or(&[][..], |blocks| &blocks[..]);
        let first = || blocks.partition_point(|block| block.seq < found.0);
        let (first, count) = walk.0.entry(stream).or_insert_with(|| (first(), 0));
        let block = blocks.get(*first + *count);
        *count += 1;
        match block.map(|block| (block.seq, block.name, block.received_at_ns)) == Some(found) {
            true => Ok(()),
            false => {
                Err(silent(format!("block {} of {stream:?} should be {block:?}, and is {found:?}", *first + *count)))
            }
        }
    }

    /// Each stream that was walked through begins with its first block, where nothing was given back.
    ///
    /// # Errors
    /// One does not.
    pub fn begins(&self, walk: &Walk, shards: &[Shard]) -> Result<(), Wrong> {
        let all_there = shards.iter().all(|shard| shard.released == Seq(0));
        match walk.0.iter().filter(|(_, (first, _))| all_there && *first > 0).min() {
            None => Ok(()),
            Some((stream, (first, _))) => {
                Err(silent(format!("{first} blocks are missing at the beginning of {stream:?}")))
            }
        }
    }
}

/// Streams as they are read: where in each the first block stood, and how many there were.
#[derive(Debug, Default)]
pub struct Walk(HashMap<Stream, (usize, usize)>);

const fn silent(what: String) -> Wrong {
    Wrong { kind: Kind::SilentLoss, what }
}

/// What must be held, and is not.
///
/// # Errors
/// The first stream that ends before.
pub fn must_hold(held: &Upto, must: &Upto, why: &str) -> Result<(), Wrong> {
    let short = |(stream, seq): &(&Stream, &Seq)| held.get(stream).copied().unwrap_or_default() < **seq;
    // The least of them, so that it is the same one each time.
    match must.iter().filter(short).min() {
        None => Ok(()),
        Some((stream, seq)) => {
            Err(silent(format!("{stream:?} ends at {:?}, and {why} up to seq {seq}", held.get(stream))))
        }
    }
}

/// A store was made the active one under a term, or several were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    term: Term,
    store: StoreId,
}

impl Promotion {
    /// What a store says of itself.
    #[must_use]
    pub const fn said(stand: Stand) -> Self {
        Self { term: stand.term, store: stand.active }
    }

    /// A store that stands so, and has met no better one, may accept.
    #[must_use]
    pub fn lets(&self, stand: Stand, store: StoreId) -> bool {
        let is_shared = stand.role == Role::ActiveActive && self.store == StoreId::default();
        *self == Self::said(stand) && stand.role != Role::Standby && (is_shared || self.store == store)
    }

    /// Of two, the one that counts: the later term; of one term, that of one store, the one with the lower number.
    #[must_use]
    pub fn better(self, other: Self) -> Self {
        let key = |of: &Self| (of.term, of.store != StoreId::default(), Reverse(of.store));
        if key(&other) > key(&self) { other } else { self }
    }
}
