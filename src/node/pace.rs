//! How much is sent when, and what is said where there is nothing to say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::node::frames::HEARTBEAT;
use crate::repl::wire::{Frame, Heartbeat};

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

/// When something is said where there is nothing to say.
pub(super) fn beats() -> Interval {
    let mut tick = interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

pub(super) fn heartbeat(behind_blocks: u64, behind_bytes: u64) -> Frame {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let sent_ns = since.map_or(0, |since| since.as_nanos() as u64);
    Frame::Heartbeat(Heartbeat { sent_ns, behind_blocks, behind_bytes })
}
