//! What the watch of a lap sees: how long writers waited for the store, and how evenly bytes were
//! acknowledged, second by second and in steps short enough to show a stall.

use forebay::types::Seq;
use serde::Serialize;

use crate::target::Counts;

/// A log that is less full than this holds nobody up, whatever the reserve within its bound.
const FULL_LOG_SHARE: f64 = 0.25;
/// A step of the time line in the beginning: as often as the watch looks.
const STEP_MS: u64 = 20;
/// A time line that would have more steps gets steps of twice the length.
const STEPS_MAX: usize = 1000;

/// What was seen of a lap.
#[derive(Debug, Default)]
pub struct Watched {
    /// How long its writers waited for the store.
    pub waits: StoreWaits,
    /// What was acknowledged in each second.
    pub pace: Seconds,
    /// The same in short steps.
    pub steps: Steps,
}

/// How evenly a run went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pace {
    /// Bytes that were acknowledged in each whole second, from the first.
    pub bytes: Vec<u64>,
    /// The least of them as a share of their median; `None` for runs of less than two seconds.
    pub least_to_median: Option<f64>,
}

/// What was acknowledged second by second.
#[derive(Debug, Default)]
pub struct Seconds {
    bytes: Vec<u64>,
    /// When the last of them ended, and the bytes until then.
    last: (f64, u64),
}

impl Seconds {
    /// So many bytes were acknowledged within so many seconds from the beginning.
    pub fn look(&mut self, spent: f64, bytes: u64) {
        let (time, before) = self.last;
        if spent.floor() > time.floor() {
            // The watch comes a little late: what counts is the pace.
            self.bytes.push(((bytes - before) as f64 / (spent - time)).round() as u64);
            self.last = (spent, bytes);
        }
    }

    /// The whole seconds.
    pub fn figures(self) -> Pace {
        let mut sorted = self.bytes.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
        let least_to_median = (sorted.len() > 1).then(|| sorted[0] as f64 / median.max(1) as f64);
        Pace { bytes: self.bytes, least_to_median: least_to_median.map(|share| (share * 1e3).round() / 1e3) }
    }
}

/// What was acknowledged in steps of equal length, from the first measured block on: a line that shows stalls.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timeline {
    /// How long each step is.
    pub interval_ms: u64,
    /// Bytes that were acknowledged in each whole step.
    pub bytes: Vec<u64>,
}

/// A [`Timeline`] that grows.
#[derive(Debug)]
pub struct Steps {
    line: Timeline,
    /// The bytes of all its steps.
    counted: u64,
    /// When the watch looked last, and the bytes until then.
    last: (f64, u64),
}

impl Default for Steps {
    fn default() -> Self {
        Self { line: Timeline { interval_ms: STEP_MS, bytes: Vec::new() }, counted: 0, last: (0.0, 0) }
    }
}

impl Steps {
    /// So many bytes were acknowledged within so many seconds from the beginning. Steps that end between
    /// two looks share what came meanwhile evenly.
    pub fn look(&mut self, spent: f64, bytes: u64) {
        let (time, before) = self.last;
        loop {
            let end = ((self.line.bytes.len() as u64 + 1) * self.line.interval_ms) as f64 / 1e3;
            if end > spent {
                break;
            }
            let by_then = before as f64 + (bytes - before) as f64 * (end - time) / (spent - time);
            self.line.bytes.push((by_then.round() as u64).saturating_sub(self.counted));
            self.counted = self.counted.max(by_then.round() as u64);
            if self.line.bytes.len() == STEPS_MAX {
                self.line.bytes = self.line.bytes.chunks(2).map(|pair| pair.iter().sum()).collect();
                self.line.interval_ms *= 2;
            }
        }
        self.last = (spent, bytes);
    }

    /// The whole steps.
    pub fn figures(self) -> Timeline {
        self.line
    }
}

/// How long the writers of a lap waited for the store.
#[derive(Debug, Default)]
pub struct StoreWaits {
    first_stalls: Option<u64>,
    /// The first and the last block that was accepted by each shard when the watch looked.
    accepted: Vec<(Seq, Seq)>,
    looks: u64,
    waits: u64,
    /// The most bytes that the log's segments had.
    pub wal_peak_bytes: u64,
}

impl StoreWaits {
    /// Counts each shard that is written to and has taken nothing since the last look, though or because
    /// its log has been full before.
    pub fn look(&mut self, counts: &Counts) {
        let first_stalls = *self.first_stalls.get_or_insert(counts.stalls);
        self.accepted.resize(counts.accepted.len(), (Seq(0), Seq(0)));
        let (used, max) = counts.wal_bytes;
        self.wal_peak_bytes = self.wal_peak_bytes.max(used);
        let was_full = counts.stalls > first_stalls && used as f64 >= max as f64 * FULL_LOG_SHARE;
        for ((first, last), &now) in self.accepted.iter_mut().zip(&counts.accepted) {
            if self.looks == 0 {
                *first = now;
            } else if now > *first {
                self.waits += u64::from(was_full && now == *last);
            }
            *last = now;
        }
        self.looks += 1;
    }

    /// The share of the time in which a shard took nothing.
    pub fn share(&self) -> f64 {
        let shards = self.accepted.iter().filter(|(first, last)| last > first).count() as u64;
        self.waits as f64 / (self.looks * shards).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Setting;
    use crate::baseline::PlainFile;
    use crate::target::Target;

    #[test]
    fn the_pace_is_that_of_whole_seconds() {
        let mut seconds = Seconds::default();
        for (spent, bytes) in [(0.5, 50), (1.0, 100), (1.9, 150), (2.02, 202), (3.01, 211), (3.9, 999)] {
            seconds.look(spent, bytes);
        }
        let pace = seconds.figures();
        assert_eq!((pace.bytes, pace.least_to_median), (vec![100, 100, 9], Some(0.09)));
        assert_eq!(Seconds::default().figures(), Pace::default());
    }

    #[test]
    fn the_time_line_has_a_hole_where_nothing_was_acknowledged() {
        let mut steps = Steps::default();
        for (spent, bytes) in [(0.021, 210), (0.040, 400), (0.061, 400), (0.080, 400), (0.120, 1200), (0.139, 1300)] {
            steps.look(spent, bytes);
        }
        let line = Timeline { interval_ms: 20, bytes: vec![200, 200, 0, 0, 400, 400] };
        assert_eq!(steps.figures(), line);
        assert!(Steps::default().figures().bytes.is_empty());
    }

    #[test]
    fn a_long_time_line_gets_longer_steps_and_keeps_its_bytes() {
        let mut steps = Steps::default();
        for look in 1..=4321_u32 {
            steps.look(f64::from(look) / 2.0, u64::from(look) * 50);
        }
        let line = steps.figures();
        assert!(line.bytes.len() < STEPS_MAX && line.bytes.len() >= STEPS_MAX / 2, "{}", line.bytes.len());
        let whole_ms = line.bytes.len() as u64 * line.interval_ms;
        assert!(whole_ms <= 2_160_500 && 2_160_500 - whole_ms < line.interval_ms, "{whole_ms}");
        assert_eq!(line.bytes.iter().sum::<u64>(), whole_ms / 10, "100 bytes a second");
    }

    #[test]
    fn a_shard_waits_for_the_store_where_it_takes_nothing_and_its_log_was_full() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = PlainFile::create(&dir.path().join("file"), Setting::Level1).expect("a file");
        let share = |stalls: u64, used: u64, accepted: &[[u64; 3]]| {
            let mut waits = StoreWaits::default();
            for (at, accepted) in accepted.iter().enumerate() {
                let accepted = accepted.iter().map(|seq| Seq(*seq)).collect();
                let stalls = if at == 0 { 7 } else { 7 + stalls };
                waits.look(&Counts { stalls, accepted, wal_bytes: (used, 100), ..file.counts() });
            }
            waits.share()
        };
        // The third shard has no writers; of the others one waits at every other look, one never does.
        let looks = [[5, 5, 5], [6, 6, 5], [6, 7, 5], [7, 8, 5], [7, 9, 5], [8, 10, 5], [8, 11, 5], [9, 12, 5]];
        assert_eq!(share(1, 50, &looks), 3.0 / 16.0);
        assert_eq!(share(0, 50, &looks), 0.0, "a device may be slow too");
        assert_eq!(share(1, 20, &looks), 0.0, "so may the making of segments");
        assert_eq!(StoreWaits::default().share(), 0.0);
    }
}
