//! Options of a store: the terms, defaults and ranges of the README's table, checked as a whole.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, thread};

use crate::error::Error;
use crate::limits::{
    APPEND_DEADLINE_MS, FSYNC_PERIOD_MS, INTAKE_BYTES, INTAKE_SLOTS, SEGMENT_BYTES, SEGMENT_HEADER_BYTES,
    SEGMENTS_AHEAD, SHARDS_MAX, SHIPPED_DEADLINE_MS, SHIPPED_FOLLOWERS_MAX, SLOT_RESERVE_BYTES, VECTOR_SEGMENT_SHARE,
};

/// When an acknowledgement waits for fsync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// `wal_level` 1: never; written data is synced at segment switches and after 30 s.
    Level1,
    /// `wal_level` 2 with a period: never; written data is synced each so many milliseconds.
    Periodic {
        /// The period in milliseconds, at least 1.
        ms: u64,
    },
    /// `wal_level` 2 with period 0: always.
    Each,
}

/// What is done at open where acknowledged, unflushed data is damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Nothing is changed; the error says what is damaged and how to go on.
    #[default]
    Refuse,
    /// Sound blocks before and after are kept, gaps recorded, damaged bytes moved to quarantine.
    Salvage,
}

/// By what an intake ring is judged at open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IntakeRule {
    /// By the boot id: within one boot nothing of it may be missing.
    #[default]
    ByBoot,
    /// As after a power cut: for a device that was detached and attached again within one boot.
    AsPowerCut,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring, or `pwrite` threads with one warning where it is blocked.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Threads that call `pwrite` and `fdatasync`.
    Pwrite,
}

impl FromStr for IoChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "pwrite" => Ok(Self::Pwrite),
            _ => Err(format!("'{text}' is not one of auto, uring, pwrite")),
        }
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Pwrite => "pwrite",
        })
    }
}

/// Options with their defaults; each setter takes one and gives the rest back.
///
/// ```
/// let config = forebay::Config::new("data").wal_level(2).wal_fsync_period_ms(0);
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) dir: PathBuf,
    pub(crate) intake_dir: Option<PathBuf>,
    pub(crate) wal_level: u8,
    pub(crate) wal_fsync_period_ms: Option<u64>,
    pub(crate) wal_retention_period_s: u64,
    pub(crate) wal_retention_size: u64,
    pub(crate) shards: Option<usize>,
    pub(crate) cpus: Option<Vec<usize>>,
    pub(crate) io: IoChoice,
    pub(crate) on_damage: OnDamage,
    pub(crate) intake_rule: IntakeRule,
    pub(crate) segment_bytes: u64,
    pub(crate) block_bytes_max: u64,
    pub(crate) intake_bytes: u64,
    pub(crate) intake_slots: u64,
    pub(crate) batch_bytes_max: u64,
    pub(crate) wal_bytes_max: Option<u64>,
    pub(crate) append_deadline_ms: u64,
    pub(crate) shipped_followers: u8,
    pub(crate) shipped_deadline_ms: u64,
    pub(crate) buffer_bytes: u64,
    pub(crate) flush_period_ms: u64,
    pub(crate) hold_for_subscriber: bool,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $field:ident $(, $wrap:path)?;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, value: $type) -> Self {
            self.$field = $($wrap)?(value);
            self
        })*
    };
}

impl Config {
    /// The defaults, for the store in this folder (made if it is not there).
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            intake_dir: None,
            wal_level: 1,
            wal_fsync_period_ms: None,
            wal_retention_period_s: 3600,
            wal_retention_size: 0,
            shards: None,
            cpus: None,
            io: IoChoice::Auto,
            on_damage: OnDamage::Refuse,
            intake_rule: IntakeRule::ByBoot,
            segment_bytes: 64 << 20,
            block_bytes_max: 16 << 20,
            intake_bytes: 64 << 20,
            intake_slots: 256 << 10,
            batch_bytes_max: 1 << 20,
            wal_bytes_max: None,
            append_deadline_ms: 30_000,
            shipped_followers: 0,
            shipped_deadline_ms: 10_000,
            buffer_bytes: 64 << 20,
            flush_period_ms: 30_000,
            hold_for_subscriber: false,
        }
    }

    setters! {
        /// 1 (default): WAL on, no ack waits for fsync. 2: WAL and fsync.
        wal_level: u8 => wal_level;
        /// Level 2 only. 0: an ack waits for fsync. P: fsync every P milliseconds, at most 180,000; default 3000.
        wal_fsync_period_ms: u64 => wal_fsync_period_ms, Some;
        /// Seconds for which the log is held for a subscriber that lags; default 3600.
        wal_retention_period_s: u64 => wal_retention_period_s;
        /// Bytes of log that are held for a subscriber that lags; 0 (default): as the WAL's own bound allows.
        wal_retention_size: u64 => wal_retention_size;
        /// Shards; fixed when the store is made. Default: available parallelism.
        shards: usize => shards, Some;
        /// The CPUs that shards are pinned to, in order, round again where there are fewer; empty: not pinned.
        cpus: Vec<usize> => cpus, Some;
        /// How the log is written.
        io: IoChoice => io;
        /// What is done at open where acknowledged, unflushed data is damaged; default refuse.
        on_damage: OnDamage => on_damage;
        /// By what the intake rings are judged at this open; default by the boot id.
        intake_rule: IntakeRule => intake_rule;
        /// A segment's size in bytes, 1 MiB to 1 GiB; fixed when the store is made. Default 64 MiB.
        segment_bytes: u64 => segment_bytes;
        /// The largest payload in bytes, at most a quarter of a segment; default 16 MiB.
        block_bytes_max: u64 => block_bytes_max;
        /// A shard's intake ring in bytes: a power of two, at least two largest blocks. Default 64 MiB.
        intake_bytes: u64 => intake_bytes;
        /// A shard's intake slots: a power of two. Default 262,144.
        intake_slots: u64 => intake_slots;
        /// A batch's size in bytes beyond which no further block joins it; default 1 MiB.
        batch_bytes_max: u64 => batch_bytes_max;
        /// The log's size on disk in bytes, all shards together; default the larger of 4 GiB and 512 MiB a shard.
        wal_bytes_max: u64 => wal_bytes_max, Some;
        /// How long an append waits for room, in milliseconds; default 30,000.
        append_deadline_ms: u64 => append_deadline_ms;
        /// Followers that have a block synced before it is acknowledged, at most 8; default 0: none is waited for.
        shipped_followers: u8 => shipped_followers;
        /// How long an acknowledgement waits for followers, in milliseconds; default 10,000.
        shipped_deadline_ms: u64 => shipped_deadline_ms;
        /// Bytes after which a shard's blocks are handed to the store; default 64 MiB.
        buffer_bytes: u64 => buffer_bytes;
        /// Milliseconds after which a shard's blocks are handed to the store; default 30,000.
        flush_period_ms: u64 => flush_period_ms;
        /// Hold the log from open until the first `subscribe`, within the retention options; default no.
        hold_for_subscriber: bool => hold_for_subscriber;
        /// Where the intake rings live, for a store on a file system whose mappings cannot be trusted.
        intake_dir: PathBuf => intake_dir, Some;
    }

    /// The store's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// When an acknowledgement waits for fsync.
    #[must_use]
    pub fn sync_policy(&self) -> SyncPolicy {
        match (self.wal_level, self.wal_fsync_period_ms.unwrap_or(3000)) {
            (1, _) => SyncPolicy::Level1,
            (_, 0) => SyncPolicy::Each,
            (_, ms) => SyncPolicy::Periodic { ms },
        }
    }

    /// Shards: for a new store what was asked for; IDENTITY puts the count of an old one here.
    pub(crate) fn shards_wanted(&self) -> usize {
        self.shards.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX))
    }

    /// The log's bound for one shard, in segments.
    pub(crate) fn segments_max(&self, shards: usize) -> u64 {
        let default = (4u64 << 30).max((512 << 20) * shards as u64);
        self.wal_bytes_max.unwrap_or(default) / shards as u64 / self.segment_bytes
    }

    /// Bytes of one shard's log that may be filled before its ring is closed.
    pub(crate) fn log_bytes(&self, shards: usize) -> u64 {
        // Beside the reserve one segment is being given back.
        (self.segments_max(shards).saturating_sub(self.reserve_segments() + 1)).max(1) * self.segment_bytes
    }

    /// Segments that a shard keeps so that everything in its ring can always be written.
    pub(crate) fn reserve_segments(&self) -> u64 {
        let ring = self.intake_bytes + self.intake_slots * SLOT_RESERVE_BYTES;
        let vector = self.segment_bytes / VECTOR_SEGMENT_SHARE;
        ring.div_ceil(self.segment_bytes - self.largest_batch_bytes() - vector) + 1
    }

    /// Bytes of a segment that the largest batch may leave unused at its end.
    pub(crate) fn largest_batch_bytes(&self) -> u64 {
        let stream = self.block_bytes_max.max(self.batch_bytes_max) + 4096;
        stream + stream / 100 + SEGMENT_HEADER_BYTES as u64
    }

    /// Checks every bound and combination.
    ///
    /// # Errors
    /// [`Error::Config`] that names the option, its value and its bounds.
    pub fn check(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Config(text));
        if !matches!(self.wal_level, 1 | 2) {
            return fail(format!("wal_level = {} is not 1 or 2", self.wal_level));
        }
        if let Some(ms) = self.wal_fsync_period_ms {
            if self.wal_level == 1 {
                return fail(format!(
                    "wal_fsync_period_ms = {ms} needs wal_level = 2; at level 1 nothing waits for fsync"
                ));
            }
            if !FSYNC_PERIOD_MS.contains(&ms) {
                return fail(format!("wal_fsync_period_ms = {ms} is not within 0..=180000"));
            }
        }
        let within = |name: &str, value: u64, range: std::ops::RangeInclusive<u64>| {
            if range.contains(&value) {
                Ok(())
            } else {
                Err(Error::Config(format!("{name} = {value} is not within {}..={}", range.start(), range.end())))
            }
        };
        within("segment_bytes", self.segment_bytes, SEGMENT_BYTES)?;
        within("intake_bytes", self.intake_bytes, INTAKE_BYTES)?;
        within("intake_slots", self.intake_slots, INTAKE_SLOTS)?;
        within("append_deadline_ms", self.append_deadline_ms, APPEND_DEADLINE_MS)?;
        within("shipped_followers", self.shipped_followers.into(), 0..=SHIPPED_FOLLOWERS_MAX.into())?;
        within("shipped_deadline_ms", self.shipped_deadline_ms, SHIPPED_DEADLINE_MS)?;
        within("block_bytes_max", self.block_bytes_max, 1..=self.segment_bytes / 4)?;
        within("batch_bytes_max", self.batch_bytes_max, 4096..=self.segment_bytes / 4)?;
        within("shards", self.shards_wanted() as u64, 1..=SHARDS_MAX as u64)?;
        if !self.segment_bytes.is_multiple_of(4096) {
            return fail(format!("segment_bytes = {} is not a multiple of 4096", self.segment_bytes));
        }
        for (name, value) in [("intake_bytes", self.intake_bytes), ("intake_slots", self.intake_slots)] {
            if !value.is_power_of_two() {
                return fail(format!("{name} = {value} is not a power of two"));
            }
        }
        if self.intake_bytes < 2 * self.block_bytes_max {
            return fail(format!(
                "intake_bytes = {} is less than two blocks of block_bytes_max = {}",
                self.intake_bytes, self.block_bytes_max
            ));
        }
        if self.cpus.as_ref().is_some_and(|cpus| cpus.len() > SHARDS_MAX) {
            return fail(format!("cpus names more than {SHARDS_MAX} CPUs"));
        }
        let shards = self.shards_wanted();
        let least = self.segments_least();
        if self.segments_max(shards) < least {
            return fail(format!(
                "wal_bytes_max must be at least {} = {shards} shards x {least} segments ({} reserve for the ring, \
                 {SEGMENTS_AHEAD} ahead, 2 in use) x segment_bytes {}",
                least * self.segment_bytes * shards as u64,
                self.reserve_segments(),
                self.segment_bytes
            ));
        }
        Ok(())
    }

    /// The smallest bound in segments that a shard can work with.
    pub(crate) fn segments_least(&self) -> u64 {
        self.reserve_segments() + SEGMENTS_AHEAD as u64 + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_together() {
        assert!(Config::new("x").check().is_ok());
        assert!(Config::new("x").shards(64).check().is_ok());
    }

    #[test]
    fn contradictions_name_the_option() {
        for (config, name) in [
            (Config::new("x").wal_level(3), "wal_level"),
            (Config::new("x").wal_fsync_period_ms(100), "wal_fsync_period_ms"),
            (Config::new("x").wal_level(2).wal_fsync_period_ms(180_001), "wal_fsync_period_ms"),
            (Config::new("x").intake_bytes(16 << 20), "intake_bytes"),
            (Config::new("x").intake_bytes(100 << 20), "intake_bytes"),
            (Config::new("x").block_bytes_max(17 << 20), "block_bytes_max"),
            (Config::new("x").segment_bytes(100), "segment_bytes"),
            (Config::new("x").shards(0), "shards"),
            (Config::new("x").wal_bytes_max(64 << 20), "wal_bytes_max"),
        ] {
            let error = config.check().expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn settings_map_to_policies() {
        assert_eq!(Config::new("x").sync_policy(), SyncPolicy::Level1);
        assert_eq!(Config::new("x").wal_level(2).sync_policy(), SyncPolicy::Periodic { ms: 3000 });
        assert_eq!(Config::new("x").wal_level(2).wal_fsync_period_ms(0).sync_policy(), SyncPolicy::Each);
    }
}
