//! [`Outbound`]: what this store has for one follower, read from its log.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::config::SyncPolicy;
use crate::engine::inbound::lock;
use crate::engine::inner::Inner;
use crate::error::Error;
use crate::logged::{Logged, LoggedBlock, Missing};
use crate::reader::LogReader;
use crate::repl::link_error::LinkError;
use crate::repl::sender::{Offered, OfferedGap, Sender};
use crate::repl::wire::{Frame, Vector};
use crate::shard::handle::ShardHandle;
use crate::shard::waiters::{Parked, Waited};
use crate::types::{Opening, Receipt, Seq, ShardId, Stream};
use crate::wal::batch::StreamEnds;
use crate::wal::entry::Absent;

/// Bytes that may be on their way to a follower and not acknowledged; a block more at most.
const WINDOW_BYTES: usize = 16 << 20;
/// Blocks of one shard before it is the next one's turn.
const TURN_BLOCKS: usize = 256;
/// A follower's lag is known within so much.
pub const AGES_APART: Duration = Duration::from_millis(5);
/// Moments that are kept for it; where there are more, every other one is forgotten.
const AGES_MAX: usize = 4096;
/// Turns of one call: what the follower has already is read, too, and who calls has other things to do.
const TURNS_MAX: usize = 16;

/// The log, held for a follower from where that one has everything, within the options of retention, be it linked or
/// not; until this is dropped.
pub struct Retained {
    inner: Arc<Inner>,
    id: u64,
    /// By shard: up to where the follower has everything, synced or not.
    had: Box<[AtomicU64]>,
    ages: Mutex<VecDeque<Age>>,
}

/// What had been accepted at a moment, by shard.
struct Age {
    at: Instant,
    accepted: Box<[Seq]>,
}

/// How far a follower is behind, linked or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Blocks and voids that this store has accepted and that the follower has not acknowledged, without those that
    /// the follower accepts itself.
    pub blocks: u64,
    /// Since when the oldest of them are there, within [`AGES_APART`] and as far as was looked.
    pub since: Option<Instant>,
}

impl Retained {
    /// Holds all that is there.
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let id = inner.next_reader.fetch_add(1, Ordering::Relaxed) as u64;
        for shard in inner.shards.iter() {
            shard.shared.hold(id, Some(Seq(0)));
            shard.shared.shipping.shipped(id, Seq(0));
        }
        let had = inner.shards.iter().map(|_| AtomicU64::new(0)).collect();
        Self { inner, id, had, ages: Mutex::default() }
    }

    /// How far the follower is behind. To be called now and then: between two calls nobody knows how old a block is.
    #[must_use]
    pub fn behind(&self) -> Behind {
        let shards = || self.inner.shards.iter();
        let (now, accepted) = (Instant::now(), shards().map(|shard| shard.marks().accepted).collect::<Box<[Seq]>>());
        let had: Box<[u64]> = self.had.iter().map(|had| had.load(Ordering::Relaxed)).collect();
        let missing = |accepted: &[Seq]| {
            accepted.iter().zip(&had).map(|(accepted, had)| accepted.0.saturating_sub(*had)).sum::<u64>()
        };
        let blocks = missing(&accepted);
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        // What was there when nothing is missing of it is of no account any more.
        while ages.front().is_some_and(|age| missing(&age.accepted) == 0) {
            ages.pop_front();
        }
        if blocks > 0 && ages.back().is_none_or(|last| now.duration_since(last.at) >= AGES_APART) {
            if ages.len() == AGES_MAX {
                let mut nth = 0;
                ages.retain(|_| {
                    nth += 1;
                    nth % 2 == 1
                });
            }
            ages.push_back(Age { at: now, accepted });
        }
        Behind { blocks, since: ages.front().filter(|_| blocks > 0).map(|age| age.at) }
    }

    /// A link to the follower that begins now; `follower` is the opening that it has said it is.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn outbound(self: &Arc<Self>, follower: Opening) -> Result<Outbound, Error> {
        self.inner.not_forked()?;
        Ok(Outbound::new(Arc::clone(self), follower))
    }

    fn upto(&self, shard: &ShardHandle, seq: Seq) {
        shard.shared.hold(self.id, Some(seq));
        shard.shared.shipping.shipped(self.id, seq);
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        if self.inner.is_forked() {
            return;
        }
        for shard in self.inner.shards.iter() {
            shard.shared.hold(self.id, None);
            shard.shared.shipping.gone(self.id);
        }
    }
}

/// What a follower has said that it has.
pub struct Told(Sender);

impl Told {
    /// Up to where it has a stream.
    #[must_use]
    pub fn has(&self, stream: Stream) -> Seq {
        self.0.has(stream)
    }
}

/// One follower, from the beginning of a link to its end. The log is the queue: it is read back.
pub struct Outbound {
    inner: Arc<Inner>,
    retained: Arc<Retained>,
    sender: Sender,
    /// As it was when the follower had said what it holds.
    told: Option<Sender>,
    /// By shard, from then on.
    readers: Vec<LogReader>,
    parked: Vec<Parked>,
    turn: usize,
}

impl Outbound {
    fn new(retained: Arc<Retained>, follower: Opening) -> Self {
        // Held first, looked up then: what is found cannot go away in between.
        let inner = Arc::clone(&retained.inner);
        let sender = Sender::new(inner.shards.len(), follower);
        let parked = inner.shards.iter().map(|_| Parked::default()).collect();
        Self { inner, retained, sender, told: None, readers: Vec::new(), parked, turn: 0 }
    }

    /// Takes in a frame of what the follower holds. With the last one it is known where to begin.
    ///
    /// # Errors
    /// [`LinkError`]: there are two histories of a stream, or the log begins behind what the follower holds.
    pub fn vector(&mut self, frame: &Vector) -> Result<(), LinkError> {
        self.sender.vector(frame)?;
        if !self.sender.is_ready() || self.told.is_some() {
            return Ok(());
        }
        self.told = Some(self.sender.clone());
        self.sender.compare(&lock(&self.inner).ends())?;
        // What a power cut may still take must not be elsewhere only where every acknowledgement waits for fsync.
        let synced_only = self.inner.policy == SyncPolicy::Each;
        for shard in self.inner.shards.iter() {
            let (folder, shared) = (Arc::clone(&shard.folder), Arc::clone(&shard.shared));
            let mut place = StreamEnds::new();
            let covers = &mut |ends: &StreamEnds| {
                place.clone_from(ends);
                self.sender.covers(ends).map_err(LinkError::from)
            };
            let reader = LogReader::from_segment(shard.shard, folder, shared, synced_only, covers)?;
            self.sender.begin(shard.shard, reader.next_seq().prev(), &place);
            self.readers.push(reader.following(self.sender.follower()).reading_ahead());
        }
        self.hold();
        Ok(())
    }

    /// What the follower has, as it has said; `None` where it has not said all of it.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        self.told.clone().map(Told)
    }

    /// The follower has synced these.
    pub fn acked(&mut self, rows: &[(Stream, Seq)]) {
        self.sender.acked(rows);
        self.hold();
    }

    /// Lets go of the log up to where the follower has everything.
    fn hold(&self) {
        for (shard, had) in self.inner.shards.iter().zip(&self.retained.had) {
            had.fetch_max(self.sender.had(shard.shard).0, Ordering::Relaxed);
            let shipped = self.sender.shipped(shard.shard);
            if shipped > Seq(0) {
                self.retained.upto(shard, shipped);
            }
        }
    }

    /// Appends frames of what is in the log and the follower lacks: so many bytes or a block more, and no more than
    /// may be on its way.
    ///
    /// # Errors
    /// [`LinkError`]: the log cannot be read, was trimmed, or holds another history than the follower.
    pub fn fill(&mut self, out: &mut Vec<Frame>, bytes_max: usize) -> Result<(), LinkError> {
        self.inner.not_forked()?;
        let upto = self.sender.bytes_unacked().saturating_add(bytes_max).min(WINDOW_BYTES);
        let (mut idle, mut turns) = (0, 0);
        while idle < self.readers.len() && turns < TURNS_MAX && self.sender.bytes_unacked() < upto {
            turns += 1;
            let index = self.turn;
            self.turn = (self.turn + 1) % self.readers.len();
            let mut any = false;
            for _ in 0..TURN_BLOCKS {
                if self.sender.bytes_unacked() >= upto {
                    break;
                }
                let reader = &mut self.readers[index];
                let Some(logged) = reader.next_logged(Seq(u64::MAX))? else {
                    let upto = reader.next_seq().prev();
                    self.sender.shown(self.inner.shards[index].shard, upto);
                    break;
                };
                any = true;
                let from = out.len();
                let shard = &self.inner.shards[index];
                match &logged {
                    Logged::Block(block) => offer(&mut self.sender, reader, shard.shard, block, out)?,
                    Logged::Missing(missing) => offer_gap(&mut self.sender, shard, missing, out)?,
                    Logged::Passed { local, stream, seq } => self.sender.pass(shard.shard, *local, *stream, *seq),
                }
                let adopted = matches!(&logged, Logged::Missing(Missing { absent: Some(Absent::Lost), .. }));
                if !adopted {
                    out[from..].iter().try_for_each(|frame| is_lost(shard, frame))?;
                }
            }
            idle = if any { 0 } else { idle + 1 };
        }
        self.sender.flush(out);
        self.hold();
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.sender.bytes_unacked() < WINDOW_BYTES
    }

    /// Ready as soon as there may be more to send. Where as much is on its way as may be, an acknowledgement comes first.
    ///
    /// # Errors
    /// The shard's, where one has ended.
    pub fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.inner.not_forked().map_err(LinkError::from)?;
        if !self.has_room() {
            return Poll::Pending;
        }
        for ((reader, shard), parked) in self.readers.iter().zip(self.inner.shards.iter()).zip(&mut self.parked) {
            match reader.poll(parked, context) {
                Poll::Pending => {}
                Poll::Ready(Waited::Reached) => return Poll::Ready(Ok(())),
                Poll::Ready(Waited::Failed | Waited::TimedOut) => return Poll::Ready(Err(shard.unknown().into())),
            }
        }
        Poll::Pending
    }

    /// How far the follower is behind.
    #[must_use]
    pub fn behind(&self) -> Behind {
        self.retained.behind()
    }

    /// Bytes that were sent and are not acknowledged.
    #[must_use]
    pub const fn bytes_unacked(&self) -> usize {
        self.sender.bytes_unacked()
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        if self.inner.is_forked() {
            return;
        }
        for (reader, parked) in self.readers.iter().zip(&mut self.parked) {
            reader.unpark(parked);
        }
    }
}

/// Shows the sender what the log has not.
fn offer_gap(
    sender: &mut Sender,
    shard: &ShardHandle,
    missing: &Missing,
    out: &mut Vec<Frame>,
) -> Result<(), LinkError> {
    let Missing { local, stream, before, behind, .. } = *missing;
    Ok(sender.offer_gap(&OfferedGap { shard: shard.shard, local, stream, before, behind }, out)?)
}

/// What a follower is told to be lost is named as lost here. Otherwise the store has it, and damage has taken it from the
/// log only: a follower that lacks it must not go on without it.
fn is_lost(shard: &ShardHandle, frame: &Frame) -> Result<(), LinkError> {
    let Frame::Gap { stream, before, behind } = frame else { return Ok(()) };
    let last = Receipt { stream: *stream, seq: behind.seq };
    match shard.gaps.iter().any(|gap| gap.is_of(&last)) {
        true => Ok(()),
        false => Err(LinkError::NotInLog { stream: *stream, first: before.seq.next(), last: behind.seq }),
    }
}

/// Shows a block of a shard's log to the sender, as the reader has it.
///
/// # Errors
/// As [`Sender::offer`].
pub(crate) fn offer(
    sender: &mut Sender,
    reader: &LogReader,
    shard: ShardId,
    block: &LoggedBlock,
    out: &mut Vec<Frame>,
) -> Result<(), LinkError> {
    let LoggedBlock { local, stream, before, behind, .. } = *block;
    let (header, payload) = (reader.header(block), reader.payload(block));
    Ok(sender.offer(&Offered { shard, local, stream, before, behind, header: header.bytes(), payload }, out)?)
}
