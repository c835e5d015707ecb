//! Waiting for a mark to pass a seq.
//!
//! Promises: nobody sleeps on after the mark has passed (no lost wake-up); moving the mark makes one
//! system call for each passed cell in which somebody sleeps, and none where nobody does; it takes a
//! lock only where a passed seq has a future parked under it. Threads sleep on the cell
//! `(seq / 32) % 64` under the bit `seq % 32`, so that only those are woken whose seq was passed;
//! futures park their `Waker` under their seq.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU32, AtomicU64, Futex, Mutex, Ordering, lock};
use crate::types::Seq;

const CELLS: u64 = 64;
const SEQS_IN_A_CELL: u64 = 32;
const NOBODY: u64 = u64::MAX;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The mark is there.
    Reached,
    /// The deadline passed.
    TimedOut,
    /// The mark will never move again.
    Failed,
}

#[derive(Debug, Default)]
struct Cell {
    moved: Futex,
    sleepers: AtomicU32,
}

/// A mark that only grows, and those who wait for it.
#[derive(Debug)]
pub struct Mark {
    at: CachePadded<AtomicU64>,
    failed: AtomicU32,
    /// The lowest seq with a future parked under it, or `NOBODY`.
    lowest_parked: AtomicU64,
    parked: Mutex<Futures>,
    cells: Box<[CachePadded<Cell>]>,
}

#[derive(Debug, Default)]
struct Futures {
    wakers: BTreeMap<(u64, u64), Waker>,
    next: u64,
}

/// Where a future is parked, if it is. A fresh one for each wait; see [`Mark::poll`].
#[derive(Debug, Default)]
pub struct Parked(Option<(u64, u64)>);

impl Mark {
    /// A mark that stands at `at`.
    #[must_use]
    pub fn new(at: Seq) -> Self {
        Self {
            at: CachePadded::new(AtomicU64::new(at.0)),
            failed: AtomicU32::new(0),
            lowest_parked: AtomicU64::new(NOBODY),
            parked: Mutex::default(),
            cells: (0..CELLS).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Where it stands.
    #[must_use]
    #[inline]
    pub fn at(&self) -> Seq {
        Seq(self.at.load(Ordering::SeqCst))
    }

    /// Moves it (never back) and wakes whom it passed. One thread at a time.
    pub fn advance(&self, to: Seq) {
        // SeqCst here and where sleepers and futures announce themselves: either they see the mark, or
        // we see them.
        let before = self.at.fetch_max(to.0, Ordering::SeqCst);
        if before >= to.0 {
            return;
        }
        for (cell, bits) in passed(before, to.0) {
            self.cells[cell].wake(bits);
        }
        if self.lowest_parked.load(Ordering::SeqCst) <= to.0 {
            self.wake_parked(to.0);
        }
    }

    /// It will never move again: wakes all, now and later.
    pub fn fail(&self) {
        self.failed.store(1, Ordering::SeqCst);
        for cell in &self.cells {
            cell.wake(u32::MAX);
        }
        self.wake_parked(NOBODY - 1);
    }

    /// What a waiter for `seq` is told, if it need not wait. Reached counts before failed.
    #[inline]
    fn answer(&self, seq: Seq) -> Option<Waited> {
        let failed = self.failed.load(Ordering::SeqCst) != 0;
        if self.at() >= seq {
            return Some(Waited::Reached);
        }
        failed.then_some(Waited::Failed)
    }

    /// Waits until it has reached `seq`.
    pub fn wait(&self, seq: Seq, deadline: Option<Instant>) -> Waited {
        if let Some(answer) = self.answer(seq) {
            return answer;
        }
        let cell = &self.cells[(seq.0 / SEQS_IN_A_CELL % CELLS) as usize];
        cell.sleepers.fetch_add(1, Ordering::SeqCst);
        let answer = loop {
            let seen = cell.moved.load();
            if let Some(answer) = self.answer(seq) {
                break answer;
            }
            if !cell.moved.wait(seen, 1 << (seq.0 % SEQS_IN_A_CELL), deadline) {
                break self.answer(seq).unwrap_or(Waited::TimedOut);
            }
        };
        cell.sleepers.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    /// The same for a future, which has no deadline here. A future that gives up calls
    /// [`unpark`](Self::unpark).
    pub fn poll(&self, seq: Seq, parked: &mut Parked, cx: &mut Context<'_>) -> Poll<Waited> {
        if let Some(answer) = self.answer(seq) {
            self.unpark(parked);
            return Poll::Ready(answer);
        }
        {
            let mut futures = lock(&self.parked);
            let key = parked.0.filter(|key| key.0 == seq.0 && futures.wakers.contains_key(key)).unwrap_or_else(|| {
                futures.next += 1;
                (seq.0, futures.next)
            });
            if let Some(stale) = parked.0.replace(key)
                && stale != key
            {
                futures.wakers.remove(&stale);
            }
            futures.wakers.insert(key, cx.waker().clone());
            self.note_lowest(&futures);
        }
        match self.answer(seq) {
            Some(answer) => {
                self.unpark(parked);
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }

    /// Forgets a future that gave up.
    pub fn unpark(&self, parked: &mut Parked) {
        if let Some(key) = parked.0.take() {
            let mut futures = lock(&self.parked);
            futures.wakers.remove(&key);
            self.note_lowest(&futures);
        }
    }

    fn wake_parked(&self, to: u64) {
        let passed = {
            let mut futures = lock(&self.parked);
            let later = futures.wakers.split_off(&(to + 1, 0));
            let passed = std::mem::replace(&mut futures.wakers, later);
            self.note_lowest(&futures);
            passed
        };
        for waker in passed.into_values() {
            waker.wake();
        }
    }

    fn note_lowest(&self, futures: &Futures) {
        let lowest = futures.wakers.first_key_value().map_or(NOBODY, |(key, _)| key.0);
        self.lowest_parked.store(lowest, Ordering::SeqCst);
    }
}

/// The cells that a mark passes on its way from `before` to `to`, and the bits of the seqs in them.
fn passed(before: u64, to: u64) -> impl Iterator<Item = (usize, u32)> {
    let (first, last) = ((before + 1) / SEQS_IN_A_CELL, to / SEQS_IN_A_CELL);
    (first..=last.min(first + CELLS - 1)).map(move |cell| {
        // Past a whole turn the first cell is passed a second time, by other bits.
        let from = if cell == first && last < first + CELLS { (before + 1) % SEQS_IN_A_CELL } else { 0 };
        let upto = if cell == last { to % SEQS_IN_A_CELL } else { SEQS_IN_A_CELL - 1 };
        ((cell % CELLS) as usize, u32::MAX << from & u32::MAX >> (SEQS_IN_A_CELL - 1 - upto))
    })
}

impl Cell {
    /// Wakes those who sleep under one of these bits.
    fn wake(&self, bits: u32) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.moved.bump();
            self.moved.wake(bits);
        }
    }
}

#[cfg(all(test, not(forebay_model)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_waiter_is_woken_by_the_mark_that_passes_it_and_not_before() {
        let mark = Mark::new(Seq(0));
        let last = 5000;
        thread::scope(|scope| {
            for first in 1..=8u64 {
                let mark = &mark;
                scope.spawn(move || {
                    for seq in (first..=last).step_by(8) {
                        assert_eq!(mark.wait(Seq(seq), None), Waited::Reached);
                        assert!(mark.at() >= Seq(seq));
                    }
                });
            }
            let mut to = 0;
            while to < last {
                to = (to + 1 + to % 97).min(last);
                mark.advance(Seq(to));
                thread::yield_now();
            }
        });
        assert_eq!(mark.wait(Seq(last + 1), Some(Instant::now() + Duration::from_millis(5))), Waited::TimedOut);
        mark.advance(Seq(3));
        assert_eq!(mark.at(), Seq(last), "never back");
    }

    #[test]
    fn a_mark_wakes_those_it_passes_and_no_others() {
        let all = CELLS * SEQS_IN_A_CELL;
        for before in (0..3 * SEQS_IN_A_CELL).chain([all - 1, all, all + 1]) {
            let lengths = (1..3 * SEQS_IN_A_CELL).chain(all - 40..all + 40).chain([2 * all]);
            for to in lengths.map(|length| before + length) {
                let mut bits = vec![0; CELLS as usize];
                passed(before, to).for_each(|(cell, passed)| bits[cell] |= passed);
                for seq in before + 1..=before + all {
                    let woken = bits[(seq / SEQS_IN_A_CELL % CELLS) as usize] >> (seq % SEQS_IN_A_CELL) & 1 == 1;
                    // From a whole turn on the cells are woken in full.
                    assert!(
                        woken == (seq <= to) || (woken && to - before > all - SEQS_IN_A_CELL),
                        "{before} {to} {seq}"
                    );
                }
            }
        }
    }

    #[test]
    fn failure_ends_all_waits_but_not_what_was_reached() {
        let mark = Mark::new(Seq(7));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| mark.wait(Seq(8), None));
            thread::sleep(Duration::from_millis(5));
            mark.fail();
            assert_eq!(waiter.join().expect("no panic"), Waited::Failed);
        });
        assert_eq!(mark.wait(Seq(7), None), Waited::Reached);
        assert_eq!(mark.wait(Seq(8), None), Waited::Failed);
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn futures_are_woken_once_by_the_mark_that_passes_them() {
        let mark = Mark::new(Seq(0));
        let counts: Vec<_> = (0..4).map(|_| Arc::new(Count::default())).collect();
        let mut parked: Vec<_> = (0..4).map(|_| Parked::default()).collect();
        let mut poll = |index: usize, seq| {
            let waker = Waker::from(Arc::clone(&counts[index]));
            mark.poll(Seq(seq), &mut parked[index], &mut Context::from_waker(&waker))
        };
        for _ in 0..2 {
            for (index, seq) in [10, 10, 20, 30].into_iter().enumerate() {
                assert!(poll(index, seq).is_pending());
            }
        }
        let woken = || counts.iter().map(|count| count.0.load(Ordering::SeqCst)).collect::<Vec<_>>();
        mark.advance(Seq(9));
        assert_eq!(woken(), [0, 0, 0, 0]);
        mark.advance(Seq(20));
        assert_eq!(woken(), [1, 1, 1, 0]);
        assert_eq!(poll(0, 10), Poll::Ready(Waited::Reached));
        mark.fail();
        assert_eq!(woken(), [1, 1, 1, 1]);
        assert_eq!(poll(3, 30), Poll::Ready(Waited::Failed));
        assert!(lock(&mark.parked).wakers.is_empty());
    }

    #[test]
    fn a_future_that_gave_up_is_forgotten() {
        let mark = Mark::new(Seq(0));
        let mut parked = Parked::default();
        assert!(mark.poll(Seq(5), &mut parked, &mut Context::from_waker(Waker::noop())).is_pending());
        mark.unpark(&mut parked);
        assert!(lock(&mark.parked).wakers.is_empty());
        assert_eq!(mark.lowest_parked.load(Ordering::SeqCst), NOBODY);
    }
}
