//! The line in front of a full ring: first come, first served, each with a deadline.
//!
//! All that changes the line, grants out of it, or opens and closes the ring happens under one lock.
//! Who joins looks at the room once more under it, and the shard looks at the line each time it
//! frees room of a full ring, so no room is free for long while somebody waits. Served are threads
//! (all with one system call) and futures (by their `Waker`). A future that does not use its grant
//! loses it after a while, so that a task that is never polled again cannot stop a shard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::error::{Fault, NotActive};
use crate::shard::claim::{Claimed, Counters, State};
use crate::sync::{AtomicU32, AtomicU64, Futex, Mutex, Ordering, lock};

/// A future that was served must publish within this time.
const GRANT_UNUSED: Duration = Duration::from_millis(100);

const WAITING: u32 = 0;
const GRANTED: u32 = 1;
const TAKEN: u32 = 2;
const REVOKED: u32 = 3;
const REFUSED: u32 = 4;
const EXPIRED: u32 = 5;

/// Why a ring takes nothing.
#[derive(Clone, Debug)]
pub enum Closed {
    /// Only the reserve is left; the ring opens again by itself.
    StoreFull,
    /// The store is not the active one: what is carried here is taken, and nothing else.
    NotActive(NotActive),
    /// The engine is closing.
    Closing,
    /// The shard stopped at an I/O error.
    Fault(Arc<Fault>),
}

impl Closed {
    /// A graver reason replaces a lesser one.
    pub(crate) const fn gravity(&self) -> u8 {
        match self {
            Self::StoreFull | Self::NotActive(_) => 0,
            Self::Closing => 1,
            Self::Fault(_) => 2,
        }
    }
}

/// One who waits in line.
#[derive(Debug)]
pub(crate) struct Waiter {
    need: u32,
    deadline: Instant,
    bit: u32,
    /// One of the numbers above in the high half; with `GRANTED` the claim's unit in the low half.
    status: AtomicU64,
    is_future: bool,
    waker: Mutex<Option<Waker>>,
    of: Of,
}

/// Whose block it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// A client of this store.
    Client,
    /// Another store: it was accepted there.
    Carried,
}

/// What a waiter finds.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Nothing yet.
    Waiting,
    /// Its claim; it is handed out once.
    Granted(Claimed),
    /// It may join again: the grant was not used in time.
    Revoked,
    /// The ring was closed.
    Refused,
    /// The deadline passed.
    Expired,
}

/// What happened to who wanted to join.
#[derive(Debug)]
pub(crate) enum Joined {
    /// It stands in line.
    Waits(Arc<Waiter>),
    /// The ring is open: no line.
    Open,
    /// The ring is closed.
    Closed,
}

/// Claims whose owners lost them; the caller must publish each as a void.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct Orphans(pub(crate) Vec<Claimed>);

#[derive(Debug, Default)]
struct Inner {
    line: VecDeque<Arc<Waiter>>,
    /// Futures that were served, and when.
    granted: Vec<(Arc<Waiter>, Instant)>,
    next_bit: u32,
    closed: Option<Closed>,
    /// The store is full: nobody is served, and who waits goes on waiting.
    held: bool,
    /// The ring stays full, so that all claims are made in line, and those of clients are refused there.
    fenced: Option<NotActive>,
}

/// Who is to be woken once the lock is released.
#[derive(Default)]
struct Served {
    bits: u32,
    wakers: Vec<Waker>,
}

/// The line.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    served: Futex,
    /// Futures in line or served.
    futures: AtomicU32,
    /// 1 while it is fenced, for who need not know at once.
    is_fenced: AtomicU32,
}

impl Queue {
    /// Joins the line of a full ring.
    pub(crate) fn join(
        &self,
        counters: &Counters,
        (of, need): (Of, u32),
        deadline: Instant,
        waker: Option<&Waker>,
    ) -> Joined {
        let mut inner = lock(&self.inner);
        let fenced = inner.fenced.is_some() && of == Of::Client;
        #[cfg(all(test, forebay_model))]
        let fenced = fenced && crate::sync::Mutant::now() != crate::sync::Mutant::NoFenceInLine;
        if fenced {
            return Joined::Closed;
        }
        match counters.state() {
            State::Open => return Joined::Open,
            State::Closed => return Joined::Closed,
            State::Full => {}
        }
        let bit = 1 << (inner.next_bit % 32);
        inner.next_bit = inner.next_bit.wrapping_add(1);
        let waiter = Arc::new(Waiter {
            need,
            deadline,
            bit,
            status: AtomicU64::new(status(WAITING, 0)),
            is_future: waker.is_some(),
            waker: Mutex::new(waker.cloned()),
            of,
        });
        inner.line.push_back(Arc::clone(&waiter));
        if waiter.is_future {
            self.futures.fetch_add(1, Ordering::SeqCst);
        }
        #[cfg(all(test, forebay_model))]
        if crate::sync::Mutant::now() == crate::sync::Mutant::NoLookInLine {
            return Joined::Waits(waiter);
        }
        // The room may have come just before the ring was declared full.
        let served = self.serve(&mut inner, counters);
        drop(inner);
        self.wake(served);
        Joined::Waits(waiter)
    }

    /// Claims at once for a block that was accepted elsewhere, in a ring that is fenced and where nobody waits.
    pub(crate) fn claim_of_carried(&self, counters: &Counters, need: u32) -> Option<Claimed> {
        let inner = lock(&self.inner);
        let may = inner.fenced.is_some() && !inner.held && inner.line.is_empty() && counters.quarter_is_free();
        may.then(|| counters.claim_in_turn(need)).flatten()
    }

    /// A thread's wait for its turn.
    pub(crate) fn wait(&self, counters: &Counters, waiter: &Arc<Waiter>) -> Turn {
        loop {
            let seen = self.served.load();
            match waiter.turn() {
                Turn::Waiting => {}
                turn => return turn,
            }
            if !self.served.wait(seen, waiter.bit, Some(waiter.deadline)) {
                return self.leave(counters, waiter);
            }
        }
    }

    /// Leaves the line; a grant that came before is handed out.
    pub(crate) fn leave(&self, counters: &Counters, waiter: &Arc<Waiter>) -> Turn {
        let mut inner = lock(&self.inner);
        match waiter.turn() {
            Turn::Waiting => {}
            turn => return turn,
        }
        inner.line.retain(|other| !Arc::ptr_eq(other, waiter));
        // Whoever stood behind may fit where this one did not.
        let served = self.serve(&mut inner, counters);
        drop(inner);
        self.wake(served);
        Turn::Expired
    }

    /// Serves the line after room was freed.
    pub(crate) fn serve_line(&self, counters: &Counters) {
        let mut inner = lock(&self.inner);
        let served = self.serve(&mut inner, counters);
        drop(inner);
        self.wake(served);
    }

    /// No claim succeeds until [`release`](Self::release); who waits in line goes on waiting.
    pub(crate) fn hold(&self, counters: &Counters) {
        let mut inner = lock(&self.inner);
        inner.held = true;
        if inner.closed.is_none() {
            counters.set_state(State::Full);
        }
    }

    /// Ends a hold and serves the line.
    pub(crate) fn release(&self, counters: &Counters) {
        let mut inner = lock(&self.inner);
        inner.held = false;
        let served = self.serve(&mut inner, counters);
        drop(inner);
        self.wake(served);
    }

    /// From here on no claim of a client succeeds, and those in line are refused; `None` ends it.
    pub(crate) fn fence(&self, counters: &Counters, why: Option<NotActive>) {
        let mut inner = lock(&self.inner);
        inner.fenced = why;
        self.is_fenced.store(u32::from(why.is_some()), Ordering::Relaxed);
        let mut served = Served::default();
        if why.is_some() && inner.closed.is_none() {
            counters.set_state(State::Full);
            inner.line.retain(|waiter| {
                if waiter.of == Of::Client {
                    waiter.settle(REFUSED, 0, &mut served);
                }
                waiter.of == Of::Carried
            });
        }
        let more = self.serve(&mut inner, counters);
        drop(inner);
        self.wake(served);
        self.wake(more);
    }

    /// No claim of a client succeeds.
    #[inline]
    pub(crate) fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed) != 0
    }

    /// Closes the ring and refuses all who wait. A graver reason replaces a lesser one.
    pub(crate) fn close(&self, counters: &Counters, why: Closed) -> Orphans {
        let mut inner = lock(&self.inner);
        if inner.closed.as_ref().is_none_or(|before| before.gravity() < why.gravity()) {
            inner.closed = Some(why);
        }
        counters.set_state(State::Closed);
        let mut served = Served::default();
        for waiter in std::mem::take(&mut inner.line) {
            waiter.settle(REFUSED, 0, &mut served);
        }
        let orphans = revoke(&mut inner, None, &mut served);
        drop(inner);
        self.wake(served);
        orphans
    }

    /// Why the ring is closed for clients, if it is.
    pub(crate) fn closed(&self) -> Option<Closed> {
        let inner = lock(&self.inner);
        let fenced = || inner.fenced.map(Closed::NotActive);
        inner.closed.clone().or_else(fenced).or_else(|| inner.held.then_some(Closed::StoreFull))
    }

    /// So many wait in line.
    #[cfg(all(test, not(forebay_model)))]
    pub(crate) fn has_a_line_of(&self, waiters: usize) -> bool {
        lock(&self.inner).line.len() == waiters
    }

    /// Futures have no timer of their own: lets their deadlines and unused grants run out. The
    /// answer is when to do so next; costs nothing where there is no future in line.
    pub(crate) fn tick(&self, counters: &Counters, now: Instant) -> (Option<Instant>, Orphans) {
        if self.futures.load(Ordering::SeqCst) == 0 {
            return (None, Orphans::default());
        }
        let mut inner = lock(&self.inner);
        let mut served = Served::default();
        inner.line.retain(|waiter| {
            let expired = waiter.is_future && waiter.deadline <= now;
            if expired {
                waiter.settle(EXPIRED, 0, &mut served);
            }
            !expired
        });
        let orphans = revoke(&mut inner, Some(now), &mut served);
        let more = self.serve(&mut inner, counters);
        let in_line = inner.line.iter().filter(|waiter| waiter.is_future).map(|waiter| waiter.deadline);
        let granted = inner.granted.iter().map(|(_, since)| *since + GRANT_UNUSED);
        let (count, next) = in_line
            .chain(granted)
            .fold((0, None), |(count, next), at| (count + 1, Some(next.map_or(at, |next: Instant| next.min(at)))));
        self.futures.store(count, Ordering::SeqCst);
        drop(inner);
        self.wake(served);
        self.wake(more);
        (next, orphans)
    }

    /// Claims for the line's head as long as it fits; opens the ring where nobody waits any more, unless it is fenced.
    /// Not before a quarter is free: a ring that is nearly full would open and close at each block.
    fn serve(&self, inner: &mut Inner, counters: &Counters) -> Served {
        let mut served = Served::default();
        if inner.held || counters.state() != State::Full || !counters.quarter_is_free() {
            return served;
        }
        while let Some(head) = inner.line.front() {
            let Some(claimed) = counters.claim_in_turn(head.need) else { return served };
            head.settle(GRANTED, claimed.unit(), &mut served);
            let head = inner.line.pop_front().expect("the head");
            if head.is_future {
                inner.granted.push((head, Instant::now()));
            }
        }
        if inner.fenced.is_none() {
            counters.set_state(State::Open);
        }
        served
    }

    fn wake(&self, served: Served) {
        if served.bits != 0 {
            self.served.bump();
            self.served.wake(served.bits);
        }
        for waker in served.wakers {
            waker.wake();
        }
    }
}

/// Takes back grants of futures that were not used: all, or those that are too old.
fn revoke(inner: &mut Inner, now: Option<Instant>, served: &mut Served) -> Orphans {
    let mut orphans = Orphans::default();
    inner.granted.retain(|(waiter, since)| {
        if now.is_some_and(|now| now < *since + GRANT_UNUSED) {
            return waiter.status() == GRANTED;
        }
        if let Some(claimed) = waiter.take(REVOKED) {
            orphans.0.push(claimed);
            served.wakers.extend(lock(&waiter.waker).clone());
        }
        false
    });
    orphans
}

const fn status(status: u32, unit: u32) -> u64 {
    (status as u64) << 32 | unit as u64
}

impl Waiter {
    fn status(&self) -> u32 {
        (self.status.load(Ordering::SeqCst) >> 32) as u32
    }

    /// Where it stands; takes the grant, if there is one.
    pub(crate) fn turn(&self) -> Turn {
        match self.status() {
            WAITING => Turn::Waiting,
            GRANTED => self.take(TAKEN).map_or(Turn::Revoked, Turn::Granted),
            REFUSED => Turn::Refused,
            EXPIRED => Turn::Expired,
            _ => Turn::Revoked,
        }
    }

    /// A future's turn; where it still waits, `waker` is called when that changes.
    pub(crate) fn poll_turn(&self, waker: &Waker) -> Turn {
        {
            let mut mine = lock(&self.waker);
            if mine.as_ref().is_none_or(|mine| !mine.will_wake(waker)) {
                *mine = Some(waker.clone());
            }
        }
        self.turn()
    }

    /// Takes the claim of a grant, leaving this status. Only one taker gets it.
    fn take(&self, leaving: u32) -> Option<Claimed> {
        let seen = self.status.load(Ordering::SeqCst);
        let left = status(leaving, 0);
        let taken = seen >> 32 == u64::from(GRANTED)
            && self.status.compare_exchange(seen, left, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        taken.then(|| Claimed::of_grant(seen as u32, self.need))
    }

    fn settle(&self, to: u32, unit: u32, served: &mut Served) {
        self.status.store(status(to, unit), Ordering::SeqCst);
        if self.is_future {
            served.wakers.extend(lock(&self.waker).clone());
        } else {
            served.bits |= self.bit;
        }
    }
}
