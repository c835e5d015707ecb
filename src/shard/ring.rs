//! The intake ring: writers publish blocks into it, the shard drains them. (Skeleton.)
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::error::Fault;
use crate::shard::core::Look;
use crate::types::Seq;
use crate::wal::batch::{BatchBuilder, Push};
use crate::wal::entry::EncodedEntry;
use crate::wal::intake::RingHeader;

/// Wakes a sleeping shard.
pub trait Wake: Send + Sync {
    /// Ends the shard's present or next sleep.
    fn wake(&self);
}

/// Why a ring takes nothing.
#[derive(Clone, Debug)]
pub enum Closed {
    /// The shard stopped at an I/O error.
    Fault(Arc<Fault>),
    /// Only the reserve is left; the ring opens again by itself.
    StoreFull,
    /// The engine is closing.
    Closing,
}

/// Why a block was not published.
#[derive(Clone, Debug)]
pub enum Refused {
    /// There is no room at present.
    Full,
    /// No room came before the deadline.
    Deadline,
    /// The ring takes nothing.
    Closed(Closed),
    /// It can never fit.
    TooLarge,
    /// The call came from a forked child.
    Forked,
}

/// The writers' side of a ring.
pub struct Ring {}

impl Ring {
    /// Makes or takes over the ring file at `path` for a new epoch: synced when this returns. Falls
    /// back to [`in_memory`](Self::in_memory) (with a small file that says so) where the file
    /// system's mappings cannot be trusted.
    ///
    /// # Errors
    /// What the system said.
    pub fn create(path: &Path, header: &RingHeader, wake: Arc<dyn Wake>) -> io::Result<(Arc<Self>, Consumer)> {
        let _ = (path, header, wake);
        todo!()
    }
    /// A ring in plain memory.
    ///
    /// # Errors
    /// What the system said.
    pub fn in_memory(header: &RingHeader, wake: Arc<dyn Wake>) -> io::Result<(Arc<Self>, Consumer)> {
        let _ = (header, wake);
        todo!()
    }
    /// What is published here survives the process.
    #[must_use]
    pub fn is_shared_file(&self) -> bool {
        todo!()
    }
    /// The last seq that was given.
    #[must_use]
    pub fn last_given(&self) -> Seq {
        todo!()
    }
    /// Publishes a block, or refuses it at once.
    ///
    /// # Errors
    /// [`Refused`]; nothing was published.
    pub fn try_publish(&self, entry: &mut EncodedEntry, payload: &[u8]) -> Result<Seq, Refused> {
        let _ = (entry, payload);
        todo!()
    }
    /// Publishes a block; waits in line for room until the deadline.
    ///
    /// # Errors
    /// [`Refused`], but never `Full`; nothing was published.
    pub fn publish_by(&self, entry: &mut EncodedEntry, payload: &[u8], deadline: Instant) -> Result<Seq, Refused> {
        let _ = (entry, payload, deadline);
        todo!()
    }
    /// A place in line for a future: see [`QueueTicket::poll`].
    #[must_use]
    pub fn queue_ticket(self: &Arc<Self>, deadline: Instant) -> QueueTicket {
        let _ = deadline;
        todo!()
    }
    /// From here on no claim succeeds; who waits in line is refused. A later reason replaces
    /// `StoreFull`, and nothing replaces a fault or closing.
    pub fn close(&self, why: Closed) {
        let _ = why;
        todo!()
    }
    /// Opens the ring again, if it was closed for `StoreFull`.
    pub fn reopen(&self) {
        todo!()
    }
    /// Why the ring is closed, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        todo!()
    }
}

/// A future's place in line; dropping it leaves the line.
pub struct QueueTicket {}

impl QueueTicket {
    /// Publishes the block as soon as there is room, in the line's order.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        entry: &mut EncodedEntry,
        payload: &[u8],
    ) -> Poll<Result<Seq, Refused>> {
        let _ = (cx, entry, payload);
        todo!()
    }
}

/// When a sleeping shard wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeOn {
    /// At the next publication.
    Publication,
    /// When the ring is a quarter full.
    Quarter,
}

/// The shard's side of a ring; there is one.
pub struct Consumer {}

impl Consumer {
    /// Looks for what was published since.
    pub fn look(&mut self) -> Look {
        todo!()
    }
    /// A published entry that is not freed: header and payload.
    #[must_use]
    pub fn entry(&self, seq: Seq) -> Option<(&[u8], &[u8])> {
        let _ = seq;
        todo!()
    }
    /// Copies entries into a batch, from where the last drain ended up to `upto` (looked at before):
    /// `Taken` where all are in, else why it stopped; the batch's `next_seq` says how far it came.
    pub fn drain(&mut self, batch: &mut BatchBuilder, upto: Seq) -> Push {
        let _ = (batch, upto);
        todo!()
    }
    /// Gives back the room of everything up to `upto` (it is written), and serves who waits in line.
    pub fn free(&mut self, upto: Seq) {
        let _ = upto;
        todo!()
    }
    /// Before a sleep: true where the shard may sleep, and a publication (or a quarter) will call
    /// the [`Wake`]; false where there is something to do. Call [`awake`](Self::awake) afterwards.
    pub fn prepare_sleep(&mut self, on: WakeOn) -> bool {
        let _ = on;
        todo!()
    }
    /// After a sleep.
    pub fn awake(&mut self) {
        todo!()
    }
    /// Serves deadlines of futures in line; before each sleep. The sleep must end at the answer.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        todo!()
    }
    /// Claims that are not published yet. After `close`, once this is 0 the last `look` saw all.
    pub fn unpublished(&mut self) -> u32 {
        todo!()
    }
}
