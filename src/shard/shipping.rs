//! How far a shard's log is synced at followers, and those who wait for that.
//!
//! Promises: what n followers have synced never counts for fewer later, whoever of them is gone; a future that waits
//! learns that its time is over from the shard's thread, which asks for the next such time before it sleeps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::limits::SHIPPED_FOLLOWERS_MAX;
use crate::shard::waiters::{Mark, Parked, Waited};
use crate::types::Seq;

/// The `shipped` marks of a shard.
#[derive(Debug)]
pub struct Shipping {
    /// The first is where one follower at least has everything synced, the second where two have, and so on.
    marks: Box<[Mark]>,
    followers: Mutex<BTreeMap<u64, Seq>>,
    known: AtomicUsize,
    timers: Mutex<Timers>,
}

/// Futures by the time at which they wait no longer.
#[derive(Debug, Default)]
struct Timers {
    wakers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
}

/// A future's wait, if it has begun.
#[derive(Debug, Default)]
pub struct Waiting {
    parked: Parked,
    timer: Option<(Instant, u64)>,
}

/// A poisoned lock is taken all the same: every section under these locks leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Shipping {
    fn default() -> Self {
        Self {
            marks: (0..SHIPPED_FOLLOWERS_MAX).map(|_| Mark::new(Seq(0))).collect(),
            followers: Mutex::default(),
            known: AtomicUsize::new(0),
            timers: Mutex::default(),
        }
    }
}

impl Shipping {
    /// A follower has everything up to `seq` synced; it is known from its first call on.
    pub fn shipped(&self, follower: u64, seq: Seq) {
        let mut followers = lock(&self.followers);
        let at = followers.entry(follower).or_default();
        *at = (*at).max(seq);
        self.known.store(followers.len(), Ordering::Release);
        let mut ends: Vec<Seq> = followers.values().copied().collect();
        ends.sort_unstable_by(|one, other| other.cmp(one));
        // Under the lock: a mark is moved by one thread at a time.
        for (mark, end) in self.marks.iter().zip(ends) {
            mark.advance(end);
        }
    }

    /// The follower is none any more. What it had counts on.
    pub fn gone(&self, follower: u64) {
        let mut followers = lock(&self.followers);
        followers.remove(&follower);
        self.known.store(followers.len(), Ordering::Release);
    }

    /// Followers that are known, linked or not.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.load(Ordering::Acquire)
    }

    /// How many followers have had everything up to `seq` synced.
    #[must_use]
    pub fn count(&self, seq: Seq) -> u8 {
        self.marks.iter().take_while(|mark| mark.at() >= seq).count() as u8
    }

    /// No follower will have more.
    pub fn fail(&self) {
        self.marks.iter().for_each(Mark::fail);
    }

    /// The mark of so many followers; who waits for none, or for more than there can be, need not wait.
    fn mark(&self, followers: u8) -> Result<&Mark, Waited> {
        let index = usize::from(followers).checked_sub(1).ok_or(Waited::Reached)?;
        self.marks.get(index).ok_or(Waited::TimedOut)
    }

    /// Waits until so many followers have `seq` synced.
    pub fn wait(&self, followers: u8, seq: Seq, deadline: Instant) -> Waited {
        self.mark(followers).map_or_else(|waited| waited, |mark| mark.wait(seq, Some(deadline)))
    }

    /// The same for a future. `sooner` is called where the shard's thread is to be woken, because it would sleep past
    /// the deadline. A future that gives up calls [`forget`](Self::forget).
    pub fn poll(
        &self,
        (followers, seq): (u8, Seq),
        deadline: Instant,
        waiting: &mut Waiting,
        context: &mut Context<'_>,
        sooner: impl FnOnce(),
    ) -> Poll<Waited> {
        let mark = match self.mark(followers) {
            Ok(mark) => mark,
            Err(waited) => return Poll::Ready(waited),
        };
        let polled = match mark.poll(seq, &mut waiting.parked, context) {
            Poll::Pending if deadline <= Instant::now() => Poll::Ready(Waited::TimedOut),
            polled => polled,
        };
        if polled.is_ready() {
            self.forget(followers, waiting);
            return polled;
        }
        let mut timers = lock(&self.timers);
        let before = timers.wakers.first_key_value().map(|(key, _)| *key);
        let key = waiting.timer.unwrap_or_else(|| {
            timers.next += 1;
            (deadline, timers.next)
        });
        waiting.timer = Some(key);
        timers.wakers.insert(key, context.waker().clone());
        drop(timers);
        if before.is_none_or(|before| key < before) {
            sooner();
        }
        Poll::Pending
    }

    /// A future waits no longer.
    pub fn forget(&self, followers: u8, waiting: &mut Waiting) {
        if let Ok(mark) = self.mark(followers) {
            mark.unpark(&mut waiting.parked);
        }
        if let Some(key) = waiting.timer.take() {
            lock(&self.timers).wakers.remove(&key);
        }
    }

    /// Wakes the futures whose time is over; when the next one's is.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        let mut timers = lock(&self.timers);
        let later = timers.wakers.split_off(&(now, u64::MAX));
        let over = std::mem::replace(&mut timers.wakers, later);
        let next = timers.wakers.first_key_value().map(|(key, _)| key.0);
        drop(timers);
        over.into_values().for_each(Waker::wake);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;
    use std::time::Duration;

    #[test]
    fn the_nth_mark_is_where_n_followers_are() {
        let shipping = Shipping::default();
        for (follower, seq) in [(7, 0), (8, 0), (9, 0), (7, 10), (8, 30), (9, 20), (7, 5)] {
            shipping.shipped(follower, Seq(seq));
        }
        assert_eq!(shipping.known(), 3);
        let counts: Vec<u8> = [10, 11, 20, 21, 30, 31].map(|seq| shipping.count(Seq(seq))).to_vec();
        assert_eq!(counts, [3, 2, 2, 1, 1, 0]);
        shipping.gone(8);
        assert_eq!((shipping.known(), shipping.count(Seq(30))), (2, 1), "what it had it had");
        let late = Instant::now();
        assert_eq!(shipping.wait(2, Seq(20), late), Waited::Reached);
        assert_eq!(shipping.wait(2, Seq(21), late), Waited::TimedOut);
        assert_eq!(shipping.wait(0, Seq(99), late), Waited::Reached);
        assert_eq!(shipping.wait(9, Seq(1), late + Duration::from_secs(60)), Waited::TimedOut);
        shipping.fail();
        assert_eq!(shipping.wait(1, Seq(31), late + Duration::from_secs(60)), Waited::Failed);
    }

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_future_is_woken_by_its_followers_or_by_its_deadline() {
        let shipping = Shipping::default();
        let (now, count) = (Instant::now(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut waits: Vec<Waiting> = (0..3).map(|_| Waiting::default()).collect();
        let mut earlier = 0;
        let mut poll = |index: usize, followers, seq, after| {
            let deadline = now + Duration::from_secs(after);
            let context = &mut Context::from_waker(&waker);
            shipping.poll((followers, Seq(seq)), deadline, &mut waits[index], context, || earlier += 1)
        };
        assert!(poll(0, 1, 5, 100).is_pending() && poll(1, 1, 9, 50).is_pending() && poll(2, 2, 5, 200).is_pending());
        assert_eq!(poll(0, 1, 9, 0), Poll::Ready(Waited::TimedOut));
        assert!(poll(0, 1, 5, 100).is_pending());
        shipping.shipped(1, Seq(5));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(0, 1, 5, 100), Poll::Ready(Waited::Reached));
        assert_eq!(earlier, 2, "the first, and the one that is over before it");
        assert_eq!(shipping.tick(now), Some(now + Duration::from_secs(50)));
        assert_eq!(shipping.tick(now + Duration::from_secs(50)), Some(now + Duration::from_secs(200)));
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        waits.iter_mut().zip([1, 1, 2]).for_each(|(waiting, followers)| shipping.forget(followers, waiting));
        assert_eq!(shipping.tick(now + Duration::from_secs(500)), None);
        assert_eq!(count.0.load(Ordering::SeqCst), 2, "who gave up is not woken");
    }
}
