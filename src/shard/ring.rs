//! The intake ring, the writers' side: a block is claimed for, copied, and published.
//!
//! Promises: what [`Ring::try_publish`] and [`Ring::publish_by`] return a seq for is in the ring
//! whole, survives the process where the ring is a shared file, and is drained once, in the order of
//! the seqs; a claim that is not published becomes a void; none succeeds once the ring is closed.
//! While the shard is awake and the ring not full, publishing makes no system call and takes no lock.
//! The seq is taken last, after the copy, so that slow copies hold up nobody. The shard's side is
//! `shard/consumer.rs`, the line in front of a full ring `shard/queue.rs`.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::error::NotActive;
use crate::shard::claim::{Claimed, Counters, NoClaim, Word};
use crate::shard::intake::{COPY_BYTES, Region};
pub use crate::shard::queue::Closed;
use crate::shard::queue::{Joined, Of, Orphans, Queue, Turn, Waiter};
#[cfg(all(test, forebay_model))]
use crate::sync::Mutant;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::types::Seq;
use crate::wal::entry::{EncodedEntry, void_entry};
use crate::wal::intake::{Slot, slot_checksum, units_for};

/// Wakes a sleeping shard.
pub trait Wake: Send + Sync {
    /// Ends the shard's present or next sleep.
    fn wake(&self);
}

/// Why a block was not published.
#[derive(Clone, Debug)]
pub enum Refused {
    /// There is no room at present.
    Full,
    /// No room came before the deadline.
    Deadline,
    /// The ring takes nothing.
    Closed(Closed),
    /// It can never fit.
    TooLarge,
    /// The call came from a forked child.
    Forked,
}

/// What a publisher finds the shard doing: the state bits of `Ring::asleep`.
pub(crate) mod asleep {
    /// It looks by itself.
    pub(crate) const AWAKE: u8 = 0;
    /// The publication of the seq that the word names wakes it: without that one it sees none behind it.
    pub(crate) const ON_PUBLICATION: u8 = 1;
    /// A publication wakes it once the claims have reached the word's counts.
    pub(crate) const ON_QUARTER: u8 = 2;
}

/// The writers' side of a ring; shared.
pub struct Ring {
    region: Arc<Region>,
    pub(crate) counters: Counters,
    pub(crate) queue: Queue,
    next_seq: CachePadded<AtomicU64>,
    /// A `Word` whose state is one of `asleep`.
    asleep: CachePadded<AtomicU64>,
    wake: Arc<dyn Wake>,
    shared_file: bool,
    #[cfg(all(test, forebay_model))]
    pub(crate) mutant: Mutant,
}

impl Ring {
    /// The writers' side of a ring in `region`; `shared_file`: what stands there survives the process.
    pub(crate) fn new(region: Arc<Region>, wake: Arc<dyn Wake>, shared_file: bool) -> Self {
        let header = *region.header();
        Self {
            region,
            counters: Counters::new(header.slots, header.units()),
            queue: Queue::default(),
            next_seq: CachePadded::new(AtomicU64::new(header.first_seq.0)),
            asleep: CachePadded::new(AtomicU64::new(0)),
            wake,
            shared_file,
            #[cfg(all(test, forebay_model))]
            mutant: Mutant::now(),
        }
    }

    /// What is published here survives the process: no for a ring in plain memory.
    #[must_use]
    pub const fn is_shared_file(&self) -> bool {
        self.shared_file
    }

    /// This process is a forked child of the one that opened the ring: a lock may be held for ever,
    /// and the memory is not there.
    #[must_use]
    #[inline]
    pub fn is_forked(&self) -> bool {
        self.region.is_forked()
    }

    /// The last seq that was given to a writer.
    #[must_use]
    pub fn last_given(&self) -> Seq {
        Seq(self.next_seq.load(Ordering::SeqCst)).prev()
    }

    /// Publishes a block, or refuses it at once. Sets the payload's checksum in `entry`.
    ///
    /// # Errors
    /// [`Refused`]; nothing was published.
    pub fn try_publish(&self, entry: &mut EncodedEntry, payload: &[u8]) -> Result<Seq, Refused> {
        let need = self.need(entry, payload)?;
        match self.counters.try_claim(need) {
            Ok(claimed) => Ok(self.publish(Of::Client, claimed, entry, payload)),
            Err(NoClaim::Closed) => Err(self.refused()),
            Err(NoClaim::Full | NoClaim::DoesNotFit(_)) => Err(self.closed().map_or(Refused::Full, Refused::Closed)),
        }
    }

    /// Publishes a block that was accepted elsewhere, whose header has its payload's checksum; `None` where it has to take
    /// its [place in line](Self::queue_ticket_of_carried), which says why if it cannot.
    pub fn try_publish_carried(&self, entry: &mut EncodedEntry, payload: &[u8]) -> Option<Seq> {
        let need = self.need(entry, payload).ok()?;
        let claimed = self.counters.try_claim(need).ok();
        let claimed = claimed.or_else(|| self.queue.claim_of_carried(&self.counters, need))?;
        Some(self.publish(Of::Carried, claimed, entry, payload))
    }

    /// Publishes a block; where there is no room it waits in line until the deadline. Sets the
    /// payload's checksum in `entry`.
    ///
    /// # Errors
    /// [`Refused`], but never `Full`; nothing was published.
    pub fn publish_by(&self, entry: &mut EncodedEntry, payload: &[u8], deadline: Instant) -> Result<Seq, Refused> {
        let need = self.need(entry, payload)?;
        loop {
            match self.claim_or_join((Of::Client, need), deadline, None) {
                ClaimOrJoin::Claimed(claimed) => return Ok(self.publish(Of::Client, claimed, entry, payload)),
                ClaimOrJoin::Closed => return Err(self.refused()),
                ClaimOrJoin::Waits(waiter) => match self.queue.wait(&self.counters, &waiter) {
                    Turn::Granted(claimed) => return Ok(self.publish(Of::Client, claimed, entry, payload)),
                    Turn::Refused => return Err(self.refused()),
                    Turn::Expired => return Err(self.expired()),
                    Turn::Waiting | Turn::Revoked => {}
                },
            }
        }
    }

    /// A place in line for a future: see [`QueueTicket::poll`].
    #[must_use]
    pub fn queue_ticket(self: &Arc<Self>, deadline: Instant) -> QueueTicket {
        QueueTicket { ring: Arc::clone(self), deadline, of: Of::Client, waiter: None }
    }

    /// The same for a block that was accepted elsewhere, whose header has its payload's checksum: it is taken by a ring
    /// that is fenced, too.
    #[must_use]
    pub fn queue_ticket_of_carried(self: &Arc<Self>, deadline: Instant) -> QueueTicket {
        QueueTicket { ring: Arc::clone(self), deadline, of: Of::Carried, waiter: None }
    }

    /// From here on no claim of a client succeeds, and those who wait are refused; what was claimed before will be
    /// published. `None`: they are taken again.
    pub fn fence(&self, why: Option<NotActive>) {
        if !self.is_forked() {
            self.queue.fence(&self.counters, why);
        }
    }

    /// No claim of a client succeeds.
    #[must_use]
    #[inline]
    pub fn is_fenced(&self) -> bool {
        self.queue.is_fenced()
    }

    /// From here on no claim succeeds; what was claimed before will be published. Who waits in line
    /// is refused, but at `StoreFull`: that ends by itself, so there one goes on waiting. A graver
    /// reason replaces a lesser one: `StoreFull`, `Closing`, `Fault`.
    pub fn close(&self, why: Closed) {
        if self.is_forked() {
            return;
        }
        if matches!(why, Closed::StoreFull) {
            self.queue.hold(&self.counters);
        } else {
            let orphans = self.queue.close(&self.counters, why);
            self.publish_voids(orphans);
        }
    }

    /// Opens the ring again, if it was closed for `StoreFull`.
    pub fn reopen(&self) {
        if !self.is_forked() {
            self.queue.release(&self.counters);
        }
    }

    /// Why the ring is closed for clients, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.queue.closed()
    }

    pub(crate) fn refused(&self) -> Refused {
        // It may have been opened again since; the caller is told why it was refused all the same.
        Refused::Closed(self.closed().unwrap_or(Closed::StoreFull))
    }

    /// Why no room came in time.
    pub(crate) fn expired(&self) -> Refused {
        self.closed().map_or(Refused::Deadline, Refused::Closed)
    }

    #[inline]
    fn need(&self, entry: &EncodedEntry, payload: &[u8]) -> Result<u32, Refused> {
        if self.is_forked() {
            return Err(Refused::Forked);
        }
        let units = units_for(entry.bytes().len() + payload.len());
        if units > self.counters.units() as usize || payload.len() > u32::MAX as usize {
            return Err(Refused::TooLarge);
        }
        Ok(units as u32)
    }

    fn claim_or_join(&self, (of, need): (Of, u32), deadline: Instant, waker: Option<&std::task::Waker>) -> ClaimOrJoin {
        loop {
            match self.counters.try_claim(need) {
                Ok(claimed) => return ClaimOrJoin::Claimed(claimed),
                Err(NoClaim::Closed) => return ClaimOrJoin::Closed,
                Err(NoClaim::DoesNotFit(seen)) if !self.counters.set_full(seen) => continue,
                Err(NoClaim::Full | NoClaim::DoesNotFit(_)) => {}
            }
            match self.queue.join(&self.counters, (of, need), deadline, waker) {
                Joined::Waits(waiter) => return ClaimOrJoin::Waits(waiter),
                Joined::Closed => return ClaimOrJoin::Closed,
                Joined::Open => {}
            }
        }
    }

    #[inline]
    fn publish(&self, of: Of, claimed: Claimed, entry: &mut EncodedEntry, payload: &[u8]) -> Seq {
        let mut claim = Claim { ring: self, claimed: Some(claimed) };
        let claimed = claim.claimed.as_mut().expect("not published yet");
        let header_bytes = entry.bytes().len();
        #[cfg(all(test, forebay_model))]
        if self.mutant == Mutant::PublishedBeforeTheCopy {
            let claimed = claim.claimed.take().expect("not published yet");
            entry.set_payload_crc(crc32fast::hash(payload));
            let header_crc = crc32fast::hash(entry.bytes());
            let slot = Self::slot(&claimed, payload.len(), header_bytes, header_crc, crc32fast::hash(payload));
            let seq = self.give(&slot);
            let mut claimed = claimed;
            self.region.copy_in(&mut claimed, header_bytes, payload);
            self.region.copy_in(&mut claimed, 0, entry.bytes());
            return seq;
        }
        self.region.prefetch(Seq(self.next_seq.load(Ordering::Relaxed)), claimed);
        // What is copied at one go is checksummed before: it stays in the cache, and the header, which
        // holds the checksum, need not be read back behind the copy's stores.
        let copies_at_once = of == Of::Carried || payload.len() <= COPY_BYTES;
        let payload_crc = match (of, copies_at_once) {
            // Whoever has read it from a frame has checked it there.
            (Of::Carried, _) => entry.payload_crc(),
            (Of::Client, true) => crc32fast::hash(payload),
            (Of::Client, false) => self.region.copy_in_with_crc(claimed, header_bytes, payload),
        };
        debug_assert_eq!(payload_crc, crc32fast::hash(payload), "the checksum of this payload");
        entry.set_payload_crc(payload_crc);
        let header_crc = crc32fast::hash(entry.bytes());
        self.region.copy_in(claimed, 0, entry.bytes());
        if copies_at_once {
            self.region.copy_in(claimed, header_bytes, payload);
        }
        let slot = Self::slot(claimed, payload.len(), header_bytes, header_crc, payload_crc);
        claim.claimed = None;
        self.give(&slot)
    }

    #[inline(always)]
    fn slot(claimed: &Claimed, length: usize, header_bytes: usize, header_crc: u32, payload_crc: u32) -> Slot {
        Slot {
            claim_unit: claimed.unit(),
            claim_units: claimed.units(),
            length: length as u32,
            header_bytes: header_bytes as u32,
            header_crc,
            payload_crc,
        }
    }

    /// Publishes a void in place of what was claimed.
    pub(crate) fn publish_void(&self, mut claimed: Claimed) {
        #[cfg(all(test, forebay_model))]
        if self.mutant == Mutant::NoVoid {
            return;
        }
        let entry = void_entry();
        let header = entry.bytes();
        self.region.copy_in(&mut claimed, 0, header);
        self.give(&Self::slot(&claimed, 0, header.len(), crc32fast::hash(header), crc32fast::hash(&[])));
    }

    /// What happens to a claim whose owner goes away before it is published.
    #[cfg(test)]
    pub(crate) fn claim_and_drop(&self, units: u32) -> bool {
        let claimed = self.counters.try_claim(units).ok();
        let had_room = claimed.is_some();
        drop(Claim { ring: self, claimed });
        had_room
    }

    pub(crate) fn publish_voids(&self, orphans: Orphans) {
        for claimed in orphans.0 {
            self.publish_void(claimed);
        }
    }

    /// Takes the next seq and fills its slot, then wakes the shard if it sleeps.
    #[inline(always)]
    fn give(&self, slot: &Slot) -> Seq {
        let (words, premix) = (slot.words(), slot.premix(self.region.seed()));
        #[cfg(all(test, forebay_model))]
        let early = self.asleep.load(Ordering::SeqCst);
        // Between these two lines nothing may call, loop or panic: everybody behind waits for this.
        // Acquire and release: see `claim.rs`.
        let seq = Seq(self.next_seq.fetch_add(1, Ordering::AcqRel));
        self.region.fill(seq, words, slot_checksum(premix, seq));
        #[cfg(all(test, forebay_model))]
        if self.mutant == Mutant::NoFence {
            self.wake_if(Word(early), seq);
            return seq;
        }
        // After the slot, in the one order of both sides' accesses: either the shard's second look sees
        // the slot, or we see that it sleeps.
        self.wake_if(Word(self.asleep.load(Ordering::SeqCst)), seq);
        seq
    }

    #[inline]
    fn wake_if(&self, asleep: Word, published: Seq) {
        let wanted = match asleep.state_bits() {
            asleep::AWAKE => false,
            asleep::ON_PUBLICATION => asleep.is_of(published),
            _ => self.counters.claimed().reached(asleep),
        };
        if wanted && Word(self.asleep.swap(0, Ordering::SeqCst)).state_bits() != asleep::AWAKE {
            self.wake.wake();
        }
    }

    /// What the next publishers find; the shard's.
    pub(crate) fn set_asleep(&self, word: Word) {
        self.asleep.store(word.0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

enum ClaimOrJoin {
    Claimed(Claimed),
    Waits(Arc<Waiter>),
    Closed,
}

/// A claim that becomes a void unless it is published, whatever happens in between.
struct Claim<'a> {
    ring: &'a Ring,
    claimed: Option<Claimed>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(claimed) = self.claimed.take() {
            self.ring.publish_void(claimed);
        }
    }
}

/// A future's place in line; dropping it leaves the line.
pub struct QueueTicket {
    ring: Arc<Ring>,
    deadline: Instant,
    of: Of,
    waiter: Option<Arc<Waiter>>,
}

impl QueueTicket {
    /// Publishes the block as soon as there is room, in the line's order; the same block at each call.
    ///
    /// # Errors
    /// As [`Ring::publish_by`].
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        entry: &mut EncodedEntry,
        payload: &[u8],
    ) -> Poll<Result<Seq, Refused>> {
        let need = match self.ring.need(entry, payload) {
            Ok(need) => need,
            Err(refused) => return Poll::Ready(Err(refused)),
        };
        let mut joined = false;
        loop {
            if let Some(waiter) = &self.waiter {
                let turn = waiter.poll_turn(cx.waker());
                if matches!(turn, Turn::Waiting) {
                    if joined {
                        // The shard keeps a future's deadline and must learn of it.
                        self.ring.wake.wake();
                    }
                    return Poll::Pending;
                }
                self.waiter = None;
                match turn {
                    Turn::Granted(claimed) => {
                        return Poll::Ready(Ok(self.ring.publish(self.of, claimed, entry, payload)));
                    }
                    Turn::Refused => return Poll::Ready(Err(self.ring.refused())),
                    Turn::Expired => return Poll::Ready(Err(self.ring.expired())),
                    Turn::Waiting | Turn::Revoked => {}
                }
            }
            match self.ring.claim_or_join((self.of, need), self.deadline, Some(cx.waker())) {
                ClaimOrJoin::Claimed(claimed) => {
                    return Poll::Ready(Ok(self.ring.publish(self.of, claimed, entry, payload)));
                }
                ClaimOrJoin::Closed => return Poll::Ready(Err(self.ring.refused())),
                ClaimOrJoin::Waits(waiter) => (self.waiter, joined) = (Some(waiter), true),
            }
        }
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take()
            && !self.ring.is_forked()
            && let Turn::Granted(claimed) = self.ring.queue.leave(&self.ring.counters, &waiter)
        {
            self.ring.publish_void(claimed);
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("header", self.region.header()).field("last_given", &self.last_given()).finish()
    }
}

impl fmt::Debug for QueueTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueTicket").field("in_line", &self.waiter.is_some()).finish()
    }
}

#[cfg(all(test, not(forebay_model)))]
mod tests;
