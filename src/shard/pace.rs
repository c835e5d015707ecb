//! [`Pace`]: slows writers down to what the store takes, before the log's bound stops them altogether.
//!
//! The flusher says how fast the store is and how full the log; writers that wait for their appends take
//! their turns accordingly. Promises: nobody waits while the log is less than a quarter full, nor longer than
//! [`WAIT_MAX`]; an append costs one relaxed load then. What is accepted is up to the ring alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest wait for a turn. Beyond it the bound holds writers, as it holds those that never wait here.
pub const WAIT_MAX: Duration = Duration::from_secs(1);
/// Turns that come sooner are not waited for: a sleep is not as short.
const SOON: Duration = Duration::from_millis(1);
/// Up to this share of the log's bound nobody is slowed down.
pub const FREE: f64 = 0.25;
/// Below this share of what the store takes writers are not slowed down, however full the log.
const SLOWEST: f64 = 0.1;

/// How fast writers may append to a shard.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    /// Nanoseconds for a MiB; 0: as fast as they like.
    ns_per_mib: AtomicU64,
    /// When those who took turns so far have had them, in nanoseconds from `began`.
    turns_end: AtomicU64,
    /// How long those who waited did so, all together, in nanoseconds.
    waited_ns: AtomicU64,
}

impl Pace {
    /// As fast as they like.
    #[must_use]
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            ns_per_mib: AtomicU64::new(0),
            turns_end: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }

    /// The store takes so many bytes a second, and so much of the log's bound is filled with what it has
    /// not taken, from 0 to 1: writers come out even with it at three quarters.
    pub fn set(&self, store_bytes_per_s: f64, filled: f64) {
        let share = ((1.0 - filled) * 4.0).max(SLOWEST);
        let ns_per_mib = f64::from(1 << 20) * 1e9 / (store_bytes_per_s * share);
        let slowed = filled > FREE && ns_per_mib.is_finite();
        self.ns_per_mib.store(if slowed { (ns_per_mib as u64).max(1) } else { 0 }, Ordering::Relaxed);
    }

    /// Waits for the turn of a block of so many bytes, but not longer than asked.
    #[inline]
    pub fn wait(&self, bytes: usize, longest: Duration) {
        let ns_per_mib = self.ns_per_mib.load(Ordering::Relaxed);
        if ns_per_mib != 0 {
            let wait = self.turn(bytes, ns_per_mib, self.began.elapsed()).min(longest);
            std::thread::sleep(wait);
            self.waited_ns.fetch_add(wait.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// How long writers have waited for their turns, all together.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed))
    }

    /// Takes a turn at `now`; how long it is until then.
    #[cold]
    fn turn(&self, bytes: usize, ns_per_mib: u64, now: Duration) -> Duration {
        let now = now.as_nanos() as u64;
        let ns = u64::try_from((bytes as u128 * u128::from(ns_per_mib)) >> 20).unwrap_or(u64::MAX);
        let latest = now + WAIT_MAX.as_nanos() as u64;
        // Turns of the past are gone, and so is one that would come too late.
        let next = |end: u64| Some(end.max(now).saturating_add(ns).min(latest));
        let before = self.turns_end.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(now);
        let wait = Duration::from_nanos(before.saturating_sub(now));
        if wait < SOON { Duration::ZERO } else { wait.min(WAIT_MAX) }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn ns_per_mib(store: f64, filled: f64) -> u64 {
        let pace = Pace::new();
        pace.set(store, filled);
        pace.ns_per_mib.load(Ordering::Relaxed)
    }

    #[test]
    fn writers_are_slowed_down_from_a_quarter_of_the_bound_on_and_even_with_the_store_at_three_quarters() {
        let store = (10 * MIB) as f64;
        assert_eq!(ns_per_mib(store, 0.25), 0);
        assert_eq!(ns_per_mib(store, 0.5), 50_000_000);
        assert_eq!(ns_per_mib(store, 0.625), 100_000_000 * 2 / 3);
        assert_eq!(ns_per_mib(store, 0.75), 100_000_000);
        assert_eq!(ns_per_mib(store, 1.0), 1_000_000_000);
        assert_eq!(ns_per_mib(store, 3.0), 1_000_000_000);
        assert_eq!(ns_per_mib(0.0, 0.9), 0, "nothing is known of the store yet");
    }

    #[test]
    fn turns_come_one_behind_the_other_and_never_later_than_the_longest_wait() {
        let (pace, ms) = (Pace::new(), Duration::from_millis);
        let turn = |bytes, now| pace.turn(bytes, 100_000_000, now);
        assert_eq!(turn(MIB, ms(1_000)), ms(0));
        assert_eq!(turn(MIB / 2, ms(1_000)), ms(100));
        assert_eq!(turn(MIB, ms(1_000)), ms(150));
        assert_eq!(turn(MIB, ms(1_249)), ms(1));
        assert_eq!(turn(100 * MIB, ms(5_000)), ms(0));
        assert_eq!(turn(MIB, ms(5_000)), WAIT_MAX);
        assert_eq!(turn(usize::MAX, ms(5_500)), ms(500), "those who came too late took no turn");
        assert_eq!(turn(1, ms(9_000)), ms(0), "turns of the past are gone");
    }
}
