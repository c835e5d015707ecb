//! The intake ring, the shard's side: look, drain, free, sleep. There is one consumer for a ring.
//!
//! Promises: entries are drained once, in the order of their seqs, up to the first that is not
//! published; room is given back only when the shard says that it is written; a shard that was
//! allowed to sleep is woken by the publication that it asked for.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::shard::claim::{Word, slots_between};
use crate::shard::event::Look;
use crate::shard::intake::{Reader, Region};
use crate::shard::ring::{Ring, Wake, asleep};
use crate::shard::ring_file::{self, Backing};
#[cfg(all(test, forebay_model))]
use crate::sync::Mutant;
use crate::types::Seq;
use crate::wal::batch::{BatchBuilder, Push};
use crate::wal::intake::RingHeader;

/// When a sleeping shard wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeOn {
    /// At the next publication.
    Publication,
    /// When a quarter of the ring waits.
    Quarter,
}

/// The shard's side of a ring.
pub struct Consumer {
    ring: Arc<Ring>,
    reader: Reader,
    drained: Seq,
    /// Published and not drained, as far as it was looked at.
    waiting_bytes: u64,
    waiting_units: u32,
    /// What the last `look` told.
    told: Look,
    /// Slots whose publication was seen, modulo 2^30 as the claims are counted.
    seen_slots: u32,
    /// The first unit that is not given back, modulo 2^32.
    tail: u32,
    /// Units behind the tail that are done with, by place in the byte area.
    done: Box<[u64]>,
}

/// Making a ring: its two sides come together.
impl Ring {
    /// Makes the ring file at `path`, or takes over the one that is there, for the opening that
    /// `header` names; it is synced when this returns. Where the file system's mappings cannot be
    /// trusted the ring is plain memory and the file only says so: see
    /// [`is_shared_file`](Self::is_shared_file).
    ///
    /// What the old file held is gone after this, so the log says `intake done` before. A new shard
    /// makes its ring for epoch 0 before its first segment: from then on a missing file is damage.
    ///
    /// # Errors
    /// What the system said.
    pub fn create(path: &Path, header: &RingHeader, wake: Arc<dyn Wake>) -> io::Result<(Arc<Self>, Consumer)> {
        match ring_file::prepare(path, header)? {
            Backing::File(file) => Ok(Self::over(Region::map(&file, header)?, wake, true)),
            Backing::Memory(fd) => Ok(Self::over(Region::map(&fd, header)?, wake, false)),
        }
    }

    /// A ring in plain memory, without a file.
    ///
    /// # Errors
    /// What the system said.
    pub fn in_memory(header: &RingHeader, wake: Arc<dyn Wake>) -> io::Result<(Arc<Self>, Consumer)> {
        if !header.has_sound_sizes() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "intake_slots or intake_bytes out of bounds"));
        }
        Ok(Self::over(Region::map(&ring_file::memory(header)?, header)?, wake, false))
    }

    pub(crate) fn over(region: Region, wake: Arc<dyn Wake>, shared_file: bool) -> (Arc<Self>, Consumer) {
        let reader = Reader::new(region);
        let ring = Arc::new(Self::new(Arc::clone(reader.region()), wake, shared_file));
        (Arc::clone(&ring), Consumer::new(ring, reader))
    }
}

impl Consumer {
    fn new(ring: Arc<Ring>, reader: Reader) -> Self {
        let words = ring.counters.units().div_ceil(u64::BITS) as usize;
        let before = reader.seen();
        Self {
            ring,
            reader,
            drained: before,
            waiting_bytes: 0,
            waiting_units: 0,
            told: Look { published: before, ..Look::default() },
            seen_slots: 0,
            tail: 0,
            done: vec![0; words].into(),
        }
    }

    /// The writers' side.
    #[must_use]
    pub const fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Looks for what was published since.
    pub fn look(&mut self) -> Look {
        while let Some(slot) = self.reader.see_next() {
            self.waiting_bytes += u64::from(slot.header_bytes) + u64::from(slot.length);
            self.waiting_units += slot.claim_units;
            self.seen_slots = self.seen_slots.wrapping_add(1);
        }
        self.told = Look {
            published: self.reader.seen(),
            bytes: self.waiting_bytes,
            quarter_full: self.ring.counters.is_quarter(self.waiting_slots(), self.waiting_units),
            unpublished: self.unpublished() > 0,
        };
        self.told
    }

    /// Claims that were not published when the ring was last looked at. Once the ring is closed and
    /// this is 0, nothing comes any more.
    #[must_use]
    pub fn unpublished(&self) -> u32 {
        slots_between(self.seen_slots, self.ring.counters.claimed().slots())
    }

    /// A published entry that is not freed: its header and its payload.
    #[must_use]
    #[inline]
    pub fn entry(&self, seq: Seq) -> Option<(&[u8], &[u8])> {
        self.reader.entry(seq)
    }

    /// The last seq that was drained.
    #[must_use]
    pub const fn drained(&self) -> Seq {
        self.drained
    }

    /// Copies entries into a batch, from where the last drain ended up to `upto`, or to what was last
    /// looked at: `Taken` where all of these are in it, else why it stopped.
    ///
    /// # Panics
    /// Where the batch does not go on where the last drain ended.
    pub fn drain(&mut self, batch: &mut BatchBuilder, upto: Seq) -> Push {
        let upto = upto.min(self.reader.seen());
        while self.drained < upto {
            let seq = self.drained.next();
            assert_eq!(batch.next_seq(), seq, "the batch goes on where the last drain ended");
            let (header, payload) = self.reader.entry(seq).expect("published and not freed");
            match batch.push(header, payload) {
                Push::Taken => self.mark_drained(),
                other => return other,
            }
        }
        Push::Taken
    }

    /// Counts entries up to `upto`, which were looked at, as drained without copying them.
    pub fn skip(&mut self, upto: Seq) {
        while self.drained < upto.min(self.reader.seen()) {
            self.mark_drained();
        }
    }

    /// The next entry counts as drained.
    fn mark_drained(&mut self) {
        let slot = self.reader.slot(self.drained.next());
        self.drained = self.drained.next();
        self.waiting_bytes -= u64::from(slot.header_bytes) + u64::from(slot.length);
        self.waiting_units -= slot.claim_units;
        #[cfg(all(test, forebay_model))]
        if self.ring.mutant == Mutant::FreedWhileReadable {
            self.ring.counters.free(1, slot.claim_units);
        }
    }

    /// Gives back the room of everything up to `upto`, which is drained and written, and serves who
    /// waits in line.
    ///
    /// # Panics
    /// Where not all of it is drained.
    pub fn free(&mut self, upto: Seq) {
        assert!(upto <= self.drained, "freed before it was drained");
        let from = self.reader.freed();
        if upto <= from {
            return;
        }
        let before = self.tail;
        for seq in from.0 + 1..=upto.0 {
            let slot = self.reader.slot(Seq(seq));
            if slot.claim_unit == self.tail {
                self.tail = self.tail.wrapping_add(slot.claim_units);
            } else {
                self.mark_done(slot.claim_unit, slot.claim_units);
            }
        }
        self.pass_done();
        self.reader.give_back(upto);
        #[cfg(all(test, forebay_model))]
        if self.ring.mutant == Mutant::FreedWhileReadable {
            self.ring.queue.serve_line(&self.ring.counters);
            return;
        }
        if self.ring.counters.free((upto.0 - from.0) as u32, self.tail.wrapping_sub(before)) {
            self.ring.queue.serve_line(&self.ring.counters);
        }
    }

    /// Before a sleep: true where the shard may sleep and will be woken for what it asked, by
    /// [`Wake`]; false where there is news, so look again. After the sleep
    /// call [`awake`](Self::awake).
    ///
    /// News is a publication since the last [`look`](Self::look), or that a quarter waits where that
    /// look said that it does not. Where it said that it does, nobody calls: the shard sleeps for
    /// another reason then.
    pub fn prepare_sleep(&mut self, on: WakeOn) -> bool {
        let told = self.told;
        let counters = &self.ring.counters;
        let word = match on {
            WakeOn::Publication => Word::of_seq(asleep::ON_PUBLICATION, self.reader.seen().next()),
            WakeOn::Quarter if told.quarter_full => return true,
            WakeOn::Quarter => {
                let (slots, units) = counters.quarter_from_here(self.waiting_slots(), self.waiting_units);
                Word::new(asleep::ON_QUARTER, slots, units)
            }
        };
        self.ring.set_asleep(word);
        #[cfg(all(test, forebay_model))]
        if self.ring.mutant == Mutant::NoSecondLook {
            return true;
        }
        let now = self.look();
        let news = match on {
            WakeOn::Publication => now.published != told.published,
            WakeOn::Quarter => now.quarter_full,
        };
        if news {
            self.awake();
        }
        !news
    }

    /// After a sleep: publishers need not wake the shard.
    pub fn awake(&mut self) {
        self.ring.set_asleep(Word::new(asleep::AWAKE, 0, 0));
    }

    /// Before a sleep: futures in line have no timer of their own. The sleep must end at the answer,
    /// if there is one.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let (next, orphans) = self.ring.queue.tick(&self.ring.counters, now);
        self.ring.publish_voids(orphans);
        next
    }

    fn waiting_slots(&self) -> u32 {
        (self.reader.seen().0 - self.drained.0) as u32
    }

    /// Where the bit of a unit is: the word, the bit in it, and bits from there to the word's or the ring's end.
    fn bit_of(&self, unit: u32) -> (usize, u32, u32) {
        let units = self.ring.counters.units();
        let place = unit & (units - 1);
        (place as usize / 64, place % 64, (64 - place % 64).min(units - place))
    }

    /// Sets the bits of units that are done with before those in front of them.
    fn mark_done(&mut self, unit: u32, units: u32) {
        let mut left = units;
        let mut at = unit;
        while left > 0 {
            let (word, bit, room) = self.bit_of(at);
            let count = left.min(room);
            self.done[word] |= (u64::MAX >> (64 - count)) << bit;
            at = at.wrapping_add(count);
            left -= count;
        }
    }

    /// Moves the tail over set bits and clears them.
    fn pass_done(&mut self) {
        loop {
            let (word, bit, room) = self.bit_of(self.tail);
            let count = (self.done[word] >> bit).trailing_ones().min(room);
            if count == 0 {
                return;
            }
            self.done[word] &= !((u64::MAX >> (64 - count)) << bit);
            self.tail = self.tail.wrapping_add(count);
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("seen", &self.reader.seen())
            .field("drained", &self.drained)
            .field("freed", &self.reader.freed())
            .finish_non_exhaustive()
    }
}
