//! How much is sent when.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes of frames that are made before they are sent.
pub(super) const FILL_BYTES: usize = 1 << 20;

/// How much may be sent when, so that a link takes no more than its share of the way.
pub(super) struct Rate {
    per_s: Option<u64>,
    /// From when on more may be sent.
    from: Instant,
}

impl Rate {
    pub(super) fn new(per_s: Option<u64>) -> Self {
        Self { per_s, from: Instant::now() }
    }

    pub(super) fn from(&self) -> Instant {
        self.from
    }

    pub(super) fn may(&self) -> bool {
        self.per_s.is_none() || self.from <= Instant::now()
    }

    /// No more at once than a twentieth of a second is worth, so that nothing waits for long behind it.
    pub(super) fn at_once(&self, most: usize) -> usize {
        self.per_s.map_or(most, |per_s| most.min(per_s as usize / 20))
    }

    pub(super) fn spent(&mut self, bytes: usize) {
        if let Some(per_s) = self.per_s {
            // What was not used is not saved up.
            let took = Duration::from_secs_f64(bytes as f64 / per_s as f64);
            self.from = self.from.max(Instant::now()) + took;
        }
    }
}
