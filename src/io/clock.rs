//! Time and chance as the machine has them. Everything else takes both as arguments, so that the
//! simulator can give its own.

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::io::disk::{Clock, Instant};

/// `CLOCK_MONOTONIC`. All values agree with each other, whoever asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        let time = clock_gettime(ClockId::Monotonic);
        // Both parts of a monotonic time are never negative; 64 bits of nanoseconds last 584 years.
        Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// A number from the kernel's random source: file ids and nonces come from here.
///
/// # Panics
/// Where the kernel has no `getrandom`; then nothing could be told apart safely.
#[must_use]
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("getrandom: {error}"),
        }
    }
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_and_all_clocks_agree() {
        let before = MonotonicClock.now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let after = std::thread::spawn(|| MonotonicClock.now()).join().expect("a clock");
        assert!(after.since_ns(before) >= 2_000_000, "{before:?} {after:?}");
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random_u64(), random_u64());
    }
}
