//! Chance that repeats: a small generator of random numbers for the simulator, from one seed.

use crate::types::mix64;

/// splitmix64: every seed is a good one, and the same seed gives the same numbers for ever.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The numbers of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Numbers of their own for one purpose, so that more or fewer draws elsewhere leave them alone.
    #[must_use]
    pub const fn fork(&self, purpose: u64) -> Self {
        Self(mix64(self.0, purpose))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        let at = self.0;
        self.0 = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(at, 0)
    }

    /// A number below `bound` (which is at least 1).
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: the bias is far below what a simulation could notice.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    ///
    /// # Panics
    /// Where there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_bounds_hold() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            (0..100).map(|_| chance.within(3, 9)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let seen: std::collections::BTreeSet<u64> = draw(3).into_iter().collect();
        assert_eq!(seen, (3..=9).collect());
        assert_ne!(Chance::new(1).fork(1).next_u64(), Chance::new(1).fork(2).next_u64());
    }
}
