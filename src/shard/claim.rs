//! Claims: who may write where in the ring, decided by two words.
//!
//! `claimed` is {state 2 bits, slots 30, units 32}, counted modulo; writers move it by
//! compare-and-swap. `freed` has the same packing and is written by the shard alone. Room is
//! `freed + size - claimed`. Promises: two claims never overlap, none reaches into room that is not
//! freed, and none succeeds while the ring is full or closed.
//!
//! A claim reserves a slot without saying which: whoever takes seq `s` writes slot `s % slots`. The
//! `s + 1` who have taken a seq by then have all claimed before, so one of them has seen that slot
//! freed; taking the seq with acquire and release passes that on.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering};
use crate::types::Seq;

const SLOT_MASK: u32 = (1 << 30) - 1;

/// Whether claims succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Anyone may claim.
    Open = 0,
    /// Somebody waits in line; only the line's head is served.
    Full = 1,
    /// Nobody.
    Closed = 2,
}

/// A packed word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) const fn new(state: u8, slots: u32, units: u32) -> Self {
        Self((state as u64) << 62 | ((slots & SLOT_MASK) as u64) << 32 | units as u64)
    }

    /// A word that names a seq, modulo 2^62.
    pub(crate) const fn of_seq(state: u8, seq: Seq) -> Self {
        Self((state as u64) << 62 | seq.0 << 2 >> 2)
    }

    /// It names this seq.
    pub(crate) const fn is_of(self, seq: Seq) -> bool {
        self.0 << 2 == seq.0 << 2
    }

    pub(crate) const fn state_bits(self) -> u8 {
        (self.0 >> 62) as u8
    }

    const fn state(self) -> State {
        match self.state_bits() {
            0 => State::Open,
            1 => State::Full,
            _ => State::Closed,
        }
    }

    pub(crate) const fn slots(self) -> u32 {
        (self.0 >> 32) as u32 & SLOT_MASK
    }

    pub(crate) const fn units(self) -> u32 {
        self.0 as u32
    }

    const fn with(self, state: State) -> Self {
        Self::new(state as u8, self.slots(), self.units())
    }

    const fn plus(self, slots: u32, units: u32) -> Self {
        Self::new(self.state_bits(), self.slots().wrapping_add(slots), self.units().wrapping_add(units))
    }

    /// Slots and units between an earlier word and this one.
    const fn since(self, earlier: Self) -> (u32, u32) {
        (slots_between(earlier.slots(), self.slots()), self.units().wrapping_sub(earlier.units()))
    }

    /// It stands at `target` or behind it, in slots or in units; both are less than half a turn away.
    pub(crate) const fn reached(self, target: Self) -> bool {
        let (slots, units) = self.since(target);
        slots <= SLOT_MASK / 2 || units as i32 >= 0
    }
}

/// How far a count of slots has come since `earlier`.
pub(crate) const fn slots_between(earlier: u32, now: u32) -> u32 {
    now.wrapping_sub(earlier) & SLOT_MASK
}

/// Room in the byte area that its owner alone may write, and the right to one seq. There is one
/// for each claim; what is in it must be published, as a block or as a void.
#[derive(Debug)]
pub(crate) struct Claimed {
    unit: u32,
    units: u32,
}

impl Claimed {
    /// The claim that a grant stands for; the grant is spent.
    pub(crate) const fn of_grant(unit: u32, units: u32) -> Self {
        Self { unit, units }
    }

    /// The first unit, counted modulo 2^32.
    pub(crate) const fn unit(&self) -> u32 {
        self.unit
    }

    /// Units.
    pub(crate) const fn units(&self) -> u32 {
        self.units
    }
}

/// Why there is no claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoClaim {
    /// It does not fit; the word says to what this applies.
    DoesNotFit(Word),
    /// Others wait in line.
    Full,
    /// The ring is closed.
    Closed,
}

/// The two words of a ring, and its size.
#[derive(Debug)]
pub(crate) struct Counters {
    claimed: CachePadded<AtomicU64>,
    freed: CachePadded<AtomicU64>,
    slots: u32,
    units: u32,
}

impl Counters {
    pub(crate) fn new(slots: u32, units: u32) -> Self {
        Self { claimed: CachePadded::new(AtomicU64::new(0)), freed: CachePadded::new(AtomicU64::new(0)), slots, units }
    }

    /// Units of the whole ring.
    pub(crate) const fn units(&self) -> u32 {
        self.units
    }

    pub(crate) fn claimed(&self) -> Word {
        Word(self.claimed.load(Ordering::SeqCst))
    }

    fn freed(&self) -> Word {
        Word(self.freed.load(Ordering::SeqCst))
    }

    pub(crate) fn state(&self) -> State {
        self.claimed().state()
    }

    const fn fits(&self, used: (u32, u32), need: u32) -> bool {
        used.0 < self.slots && used.1 <= self.units && need <= self.units - used.1
    }

    /// Claims `need` units and a slot, if the ring is open and they fit.
    #[inline]
    pub(crate) fn try_claim(&self, need: u32) -> Result<Claimed, NoClaim> {
        let mut seen = Word(self.claimed.load(Ordering::Relaxed));
        loop {
            match seen.state() {
                State::Open => {}
                State::Full => return Err(NoClaim::Full),
                State::Closed => return Err(NoClaim::Closed),
            }
            // Acquire: what the shard read there, it has read before we write there.
            let freed = Word(self.freed.load(Ordering::Acquire));
            if !self.fits(seen.since(freed), need) {
                // The word may be older than what was freed since; then this says nothing.
                let now = self.claimed();
                if now == seen {
                    return Err(NoClaim::DoesNotFit(seen));
                }
                seen = now;
                continue;
            }
            match self.claimed.compare_exchange_weak(seen.0, seen.plus(1, need).0, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Ok(Claimed { unit: seen.units(), units: need }),
                Err(now) => seen = Word(now),
            }
        }
    }

    /// Declares the ring full, if nothing was claimed since `seen`; false where the claim is to be tried again.
    pub(crate) fn set_full(&self, seen: Word) -> bool {
        let full = seen.with(State::Full);
        self.claimed.compare_exchange(seen.0, full.0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Claims for the head of the line, whose lock the caller holds: while the ring is full nobody
    /// else moves the word.
    pub(crate) fn claim_in_turn(&self, need: u32) -> Option<Claimed> {
        let seen = self.claimed();
        if seen.state() != State::Full || !self.fits(seen.since(self.freed()), need) {
            return None;
        }
        self.claimed.store(seen.plus(1, need).0, Ordering::SeqCst);
        Some(Claimed { unit: seen.units(), units: need })
    }

    /// Sets the state; the caller holds the line's lock.
    pub(crate) fn set_state(&self, state: State) {
        let mut seen = self.claimed();
        loop {
            match self.claimed.compare_exchange(seen.0, seen.with(state).0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => seen = Word(now),
            }
        }
    }

    /// A quarter of the slots and of the units is free.
    pub(crate) fn quarter_is_free(&self) -> bool {
        let (slots, units) = self.claimed().since(self.freed());
        slots <= self.slots - self.slots / 4 && units <= self.units - self.units / 4
    }

    /// So many slots or units are at least a quarter of the ring.
    pub(crate) const fn is_quarter(&self, slots: u32, units: u32) -> bool {
        slots >= self.slots / 4 || units >= self.units / 4
    }

    /// The word at which the ring is a quarter fuller than empty, when so much of what was claimed up
    /// to now waits.
    pub(crate) fn quarter_from_here(&self, slots: u32, units: u32) -> (u32, u32) {
        let target =
            self.claimed().plus((self.slots / 4).saturating_sub(slots), (self.units / 4).saturating_sub(units));
        (target.slots(), target.units())
    }

    /// Gives room back; the shard alone calls it. True where somebody may wait in line.
    pub(crate) fn free(&self, slots: u32, units: u32) -> bool {
        // Alone in writing this word. SeqCst against `set_full`: either the one who set it sees what
        // is freed here, or we see that it is full.
        let freed = self.freed().plus(slots, units);
        self.freed.store(freed.0, Ordering::SeqCst);
        self.state() == State::Full
    }
}

#[cfg(all(test, not(forebay_model)))]
mod tests {
    use super::*;

    #[test]
    fn counts_turn_over_without_touching_each_other() {
        let word = Word::new(1, SLOT_MASK, u32::MAX).plus(1, 2);
        assert_eq!((word.state(), word.slots(), word.units()), (State::Full, 0, 1));
        assert_eq!(word.since(Word::new(0, SLOT_MASK - 1, u32::MAX - 1)), (2, 3));
        assert!(word.reached(Word::new(0, SLOT_MASK, 5)) && word.reached(Word::new(0, 5, u32::MAX)));
        assert!(word.reached(word) && !word.reached(word.plus(1, 1)));
    }

    #[test]
    fn claims_never_overlap_and_never_exceed_what_is_free() {
        let counters = Counters::new(4, 100);
        let first = counters.try_claim(60).expect("room");
        assert_eq!((first.unit(), first.units()), (0, 60));
        assert!(matches!(counters.try_claim(41), Err(NoClaim::DoesNotFit(_))));
        assert_eq!(counters.try_claim(40).expect("room").unit(), 60);
        assert!(!counters.free(1, 60));
        for _ in 0..3 {
            counters.try_claim(1).expect("units and slots");
        }
        assert!(matches!(counters.try_claim(1), Err(NoClaim::DoesNotFit(_))), "no slot");
    }

    #[test]
    fn nobody_claims_while_full_or_closed() {
        let counters = Counters::new(4, 100);
        counters.try_claim(100).expect("room");
        let Err(NoClaim::DoesNotFit(seen)) = counters.try_claim(1) else { panic!("it cannot fit") };
        assert!(counters.set_full(seen) && !counters.set_full(seen));
        assert!(counters.free(1, 100), "somebody may wait");
        assert_eq!(counters.try_claim(1).err(), Some(NoClaim::Full));
        assert_eq!(counters.claim_in_turn(30).expect("in turn").unit(), 100);
        counters.set_state(State::Closed);
        assert_eq!(counters.try_claim(1).err(), Some(NoClaim::Closed));
        assert!(counters.claim_in_turn(1).is_none());
        counters.set_state(State::Open);
        assert_eq!(counters.try_claim(1).expect("open again").unit(), 130);
    }
}
