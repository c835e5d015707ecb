//! A shard's thread: pins itself, runs the driver, and turns a panic into a fault.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crate::error::Fault;
use crate::io::clock::MonotonicClock;
use crate::io::disk::{Disk, DiskOp, Done, OpId, Wait};
use crate::io::rests::Priority;
use crate::shard::consumer::{Consumer, WakeOn};
use crate::shard::core::Core;
use crate::shard::driver::{Driver, Intake, Retention};
use crate::shard::event::Look;
use crate::shard::ring::{Closed, Ring};
use crate::shard::shared::Shared;
use crate::types::{SegmentNo, Seq, ShardId};
use crate::wal::batch::{BatchBuilder, Push};

/// The nice value of a shard's thread while clients' blocks are taken, where the process may set it.
const SHARD_NICE: i32 = -15;

/// Everything that a shard's thread takes over.
pub struct ShardThread {
    /// The shard.
    pub shard: ShardId,
    /// Its core.
    pub core: Core,
    /// Its disk.
    pub disk: Box<dyn Disk + Send>,
    /// Its side of the ring.
    pub consumer: Consumer,
    /// The writers' side of the ring.
    pub ring: Arc<Ring>,
    /// What it shares.
    pub shared: Arc<Shared>,
    /// How long readers hold the log.
    pub retention: Retention,
    /// The CPU to pin to.
    pub cpu: Option<usize>,
}

impl ShardThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn spawn(self) -> io::Result<JoinHandle<()>> {
        Builder::new().name(format!("forebay-shard-{}", self.shard)).spawn(move || self.run())
    }

    fn run(self) {
        let Self { shard, core, disk, consumer, ring, shared, retention, cpu } = self;
        if let Some(cpu) = cpu {
            pin(shard, cpu);
        }
        // One shard serves many writers: at an equal share of its CPU it would be the slowest of them.
        // Without the privilege it stays at their priority, and a full ring makes them wait for it.
        let priority = Priority::new(SHARD_NICE);
        if !priority.may() {
            tracing::debug!("shard {shard} runs at its writers' priority: no privilege for nice {SHARD_NICE}");
        }
        let intake = RingIntake { consumer, ring: Arc::clone(&ring), shared: Arc::clone(&shared), priority };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            Driver::new(core, BoxedDisk(disk), MonotonicClock, intake, Arc::clone(&shared), retention).run();
        }));
        if ran.is_err() {
            let marks = shared.marks();
            let fault = Arc::new(Fault {
                shard,
                operation: "panic",
                segment: SegmentNo(0),
                offset: 0,
                unknown: marks.accepted.0.saturating_sub(marks.synced.0),
                cause: Arc::new(io::Error::other("the shard's thread panicked; its message is on stderr")),
            });
            ring.close(Closed::Fault(Arc::clone(&fault)));
            shared.fail(fault);
        }
        shared.end();
    }
}

/// Pins the calling thread and says so if the system did otherwise.
fn pin(shard: ShardId, cpu: usize) {
    let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    let mask = rustix::thread::sched_getaffinity(None);
    if !pinned || !mask.is_ok_and(|mask| mask.count() == 1 && mask.is_set(cpu)) {
        tracing::warn!("shard {shard} could not be pinned to CPU {cpu}; it runs unpinned");
    }
}

struct BoxedDisk(Box<dyn Disk + Send>);

impl Disk for BoxedDisk {
    fn submit(&mut self, id: OpId, op: DiskOp) {
        self.0.submit(id, op);
    }

    fn poll(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        self.0.poll(wait, done)
    }
}

/// The production intake: the consumer's side, and the ring itself for opening and closing it.
struct RingIntake {
    consumer: Consumer,
    ring: Arc<Ring>,
    shared: Arc<Shared>,
    priority: Priority,
}

impl Intake for RingIntake {
    fn look(&mut self) -> Look {
        self.consumer.look()
    }

    fn drain(&mut self, batch: &mut BatchBuilder, upto: Seq) -> Push {
        self.consumer.drain(batch, upto)
    }

    fn free(&mut self, upto: Seq) {
        self.consumer.free(upto);
    }

    fn prepare_sleep(&mut self, on: WakeOn) -> bool {
        self.consumer.prepare_sleep(on)
    }

    fn deadline_ns(&mut self) -> Option<u64> {
        let now = std::time::Instant::now();
        let deadline = self.consumer.tick(now).into_iter().chain(self.shared.shipping.tick(now)).min()?;
        Some(deadline.saturating_duration_since(now).as_nanos() as u64)
    }

    fn awake(&mut self) {
        self.consumer.awake();
        // A standby's shards hold nobody up but other sites.
        self.priority.see(!self.ring.is_fenced());
    }

    fn close(&mut self, why: Closed) {
        self.ring.close(why);
    }

    fn reopen(&mut self) {
        self.ring.reopen();
    }
}
