//! Waiting for a mark to pass a seq. (Skeleton.)
use std::task::{Context, Poll};
use std::time::Instant;

use crate::types::Seq;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The mark is there.
    Reached,
    /// The deadline passed.
    TimedOut,
    /// The mark will never move again.
    Failed,
}

/// A mark that only grows, and those who wait for it.
pub struct Mark {}

/// Where a future stands among those who wait for a [`Mark`].
#[derive(Debug, Default)]
pub struct Parked {}

impl Mark {
    /// A mark that stands at `at`.
    #[must_use]
    pub fn new(at: Seq) -> Self {
        let _ = at;
        todo!()
    }
    /// Where it stands.
    #[must_use]
    pub fn at(&self) -> Seq {
        todo!()
    }
    /// Moves it (never back) and wakes whom it passed.
    pub fn advance(&self, to: Seq) {
        let _ = to;
        todo!()
    }
    /// It will never move again: wakes all, now and later.
    pub fn fail(&self) {
        todo!()
    }
    /// Waits until it has reached `seq`.
    pub fn wait(&self, seq: Seq, deadline: Option<Instant>) -> Waited {
        let _ = (seq, deadline);
        todo!()
    }
    /// The same for a future; never `TimedOut`. Call [`unpark`](Self::unpark) when giving up.
    pub fn poll(&self, seq: Seq, parked: &mut Parked, cx: &mut Context<'_>) -> Poll<Waited> {
        let _ = (seq, parked, cx);
        todo!()
    }
    /// Forgets a future that gave up.
    pub fn unpark(&self, parked: &mut Parked) {
        let _ = parked;
        todo!()
    }
}
