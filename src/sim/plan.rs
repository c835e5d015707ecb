//! What a seed decides before anything happens: settings, sizes, pace, and how each life ends.

use crate::config::SyncPolicy;
use crate::io::chance::Chance;
use crate::io::sim::Pace;
use crate::limits::{SEGMENT_HEADER_BYTES, SLOT_RESERVE_BYTES, VECTOR_SEGMENT_SHARE};
use crate::wal::log::LogBounds;

/// Bytes and slots of the simulated ring: the smallest that the format knows.
pub const RING_BYTES: u64 = 16 << 10;
/// Slots of the simulated ring.
pub const RING_SLOTS: u32 = 64;

/// Deaths in a row of a recovery that is caught in a crash loop.
pub const CRASH_LOOP: u32 = 30;

/// Limits that shrink a run; everything else of it stays as the seed has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Lives.
    pub lives_max: u32,
    /// Blocks in a life.
    pub blocks_max: u32,
    /// Writers.
    pub writers_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lives_max: u32::MAX, blocks_max: u32::MAX, writers_max: u32::MAX }
    }
}

/// The settings of one history.
#[derive(Clone, Debug)]
pub struct Plan {
    /// When acknowledgements wait.
    pub policy: SyncPolicy,
    /// Bytes that the device writes at once or not at all.
    pub unit: usize,
    /// A segment's length.
    pub segment_bytes: u64,
    /// A batch's size beyond which no block joins it.
    pub batch_bytes_max: usize,
    /// The longest block.
    pub block_bytes_max: u32,
    /// Segments.
    pub bounds: LogBounds,
    /// Writers.
    pub writers: u32,
    /// A writer's longest pause between two blocks, in microseconds.
    pub pause_us: u64,
    /// Percent of publications that are held up between taking a seq and filling the slot.
    pub hold_percent: u64,
    /// The store's longest pause between two reports, in microseconds.
    pub store_us: u64,
    /// The store tells at open how far it came, as one with data files does.
    pub store_remembers: bool,
    /// The disk.
    pub pace: Pace,
    /// How many lives.
    pub lives: u32,
    /// The most blocks of a life.
    pub blocks: u32,
    /// Percent of the blocks that come from another store, with an identity of their own.
    pub foreign_percent: u64,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(chance: &mut Chance, limits: Limits) -> Self {
        let policy = match chance.below(3) {
            0 => SyncPolicy::Level1,
            1 => SyncPolicy::Periodic { ms: chance.pick(&[1, 2, 5, 20, 100]) },
            _ => SyncPolicy::Each,
        };
        let segment_bytes = chance.pick(&[24, 32, 32, 48, 64]) << 10;
        let batch_bytes_max = chance.pick(&[4, 8, 8, 12]) << 10;
        let block_bytes_max = chance.pick(&[0, 40, 200, 200, 1_000, 1_000, 4_000, 7_000]);
        // A batch may be longer than asked where one block alone is.
        let longest = (batch_bytes_max as u64).max(u64::from(block_bytes_max).next_multiple_of(4096) + 4096);
        let room = segment_bytes - SEGMENT_HEADER_BYTES as u64 - longest - segment_bytes / VECTOR_SEGMENT_SHARE;
        let reserve = (RING_BYTES + u64::from(RING_SLOTS) * SLOT_RESERVE_BYTES).div_ceil(room) + 1;
        Self {
            policy,
            unit: chance.pick(&[512, 512, 4096, 16384]),
            segment_bytes,
            batch_bytes_max,
            block_bytes_max,
            bounds: LogBounds { segments_max: reserve + chance.within(4, 10), reserve },
            writers: (chance.within(1, 4) as u32).min(limits.writers_max),
            pause_us: chance.pick(&[5, 50, 500, 5_000]),
            hold_percent: chance.pick(&[0, 0, 5, 30]),
            store_us: chance.pick(&[500, 5_000, 50_000, 500_000]),
            store_remembers: chance.percent(50),
            pace: Pace {
                write_us: chance.pick(&[(10, 60), (20, 400), (500, 3_000)]),
                sync_us: chance.pick(&[(30, 100), (200, 2_000), (2_000, 8_000)]),
                make_us: chance.pick(&[(50, 500), (1_000, 20_000)]),
                stall_percent: chance.pick(&[0, 0, 0, 1]),
            },
            lives: (chance.within(2, 5) as u32).min(limits.lives_max),
            blocks: (chance.pick(&[4, 16, 40, 60, 200])).min(limits.blocks_max),
            foreign_percent: chance.fork(9).pick(&[0, 0, 30, 70]),
        }
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `kill -9`.
    Kill,
    /// `kill -9`, and the machine is restarted in order before the store is opened.
    KillAndReboot,
    /// The power fails.
    PowerCut,
    /// The engine is closed.
    Stop,
    /// The engine is closed, then the power fails.
    StopAndPowerCut,
}

/// What else happens in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// A write fails.
    WriteError(u64),
    /// A write is short.
    ShortWrite(u64),
    /// A sync fails, and the next would say OK.
    SyncError(u64),
    /// The process dies in a call of the segment maker.
    DieInCall(u64),
    /// The disk is full for a part of the life.
    Full,
    /// A write is acknowledged and never happens.
    LostWrite(u64),
    /// A write is acknowledged and happens elsewhere.
    MisdirectedWrite(u64),
    /// An operation takes seconds.
    Stall(u64),
    /// The monotonic clock jumps by hours, so many microseconds after the life's beginning.
    ClockJump(u64),
}

/// How many shards a store has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shards {
    /// One.
    #[default]
    One,
    /// Two or three, as the seed says.
    Several,
}

/// What `received_at` is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wall {
    /// A clock that jumps forward and back.
    #[default]
    Jumps,
    /// One that stands still.
    Stands,
}

/// One life.
#[derive(Clone, Copy, Debug)]
pub struct LifePlan {
    /// Blocks after which the end comes.
    pub blocks: u32,
    /// The end.
    pub end: End,
    /// Trouble.
    pub trouble: Trouble,
    /// How often the following recovery dies in a call.
    pub recovery_deaths: u32,
    /// A bit of what is stored flips behind the engine's back before the next recovery.
    pub rot: bool,
    /// Files are missing before the next recovery, or are others than they were.
    pub meddling: bool,
}

impl LifePlan {
    /// The plan of a seed's next life.
    #[must_use]
    pub fn new(chance: &mut Chance, plan: &Plan) -> Self {
        Self {
            blocks: chance.within(0, u64::from(plan.blocks)) as u32,
            end: chance.pick(&[
                End::Kill,
                End::Kill,
                End::Kill,
                End::KillAndReboot,
                End::PowerCut,
                End::PowerCut,
                End::PowerCut,
                End::Stop,
                End::StopAndPowerCut,
            ]),
            trouble: match chance.below(24) {
                0 => Trouble::WriteError(chance.below(40)),
                1 => Trouble::ShortWrite(chance.below(40)),
                2 => Trouble::SyncError(chance.below(20)),
                3 | 4 => Trouble::DieInCall(chance.below(40)),
                5 => Trouble::Full,
                6 => Trouble::LostWrite(chance.below(40)),
                7 => Trouble::MisdirectedWrite(chance.below(40)),
                8 => Trouble::Stall(chance.below(20)),
                9 => Trouble::ClockJump(chance.below(20_000)),
                10 => Trouble::WriteError(chance.below(40)),
                11 => Trouble::SyncError(chance.below(20)),
                12 => Trouble::DieInCall(chance.below(40)),
                _ => Trouble::None,
            },
            recovery_deaths: if chance.percent(2) { CRASH_LOOP } else { chance.pick(&[0, 0, 0, 1, 2]) },
            rot: chance.percent(8),
            meddling: chance.percent(12),
        }
    }
}
