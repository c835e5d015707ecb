//! How other threads end a disk's wait: an eventfd, and a list of results beside it.
//!
//! A wake is never lost: it ends the present [`poll`](crate::io::disk::Disk::poll), or else the
//! next one. Whoever drives a disk looks at all its inputs after every poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Ends the wait of the one disk that it was made for; shared as `Arc<Waker>`.
#[derive(Debug)]
pub struct Waker {
    // Without NONBLOCK: a read of it that is armed in a ring then stays until there is something to read.
    fd: OwnedFd,
}

impl Waker {
    /// A waker for one disk.
    ///
    /// # Errors
    /// Where the process is out of file descriptors.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { fd: eventfd(0, EventfdFlags::CLOEXEC)? }))
    }

    /// Ends the disk's wait, or its next one. One system call; any thread; never waits.
    pub fn wake(&self) {
        // It could fail only with a full counter, and then the wake is already pending.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &1u64.to_ne_bytes()));
    }

    /// Takes back a wake that is known to be pending.
    pub(crate) fn consume(&self) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut [0u8; 8]))?;
        Ok(())
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a disk's own threads have finished. They wake the disk only if it sleeps.
///
/// Its length is bounded by the operations that were submitted.
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    waker: Arc<Waker>,
}

struct State<T> {
    items: Vec<T>,
    asleep: bool,
}

impl<T> Inbox<T> {
    pub(crate) fn new(waker: Arc<Waker>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { items: Vec::new(), asleep: false }), waker })
    }

    pub(crate) fn push(&self, item: T) {
        let mut state = self.lock();
        state.items.push(item);
        let wake = std::mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.waker.wake();
        }
    }

    /// Takes everything; from now on the disk counts as awake.
    pub(crate) fn take(&self) -> Vec<T> {
        let mut state = self.lock();
        state.asleep = false;
        std::mem::take(&mut state.items)
    }

    /// Declares that the disk is about to wait; `false` if there is something to take instead.
    pub(crate) fn sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.items.is_empty();
        state.asleep
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here panics half-way, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn pending(waker: &Waker) -> bool {
        let mut fds = [PollFd::new(waker, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") == 1
    }

    #[test]
    fn wakes_stay_pending_and_are_taken_together() {
        let waker = Waker::new().expect("an eventfd");
        assert!(!pending(&waker));
        waker.wake();
        waker.wake();
        assert!(pending(&waker));
        waker.consume().expect("consume");
        assert!(!pending(&waker));
    }

    #[test]
    fn inbox_wakes_only_a_sleeper_and_only_once() {
        let waker = Waker::new().expect("an eventfd");
        let inbox = Inbox::new(Arc::clone(&waker));
        inbox.push(1);
        assert!(!pending(&waker), "nobody slept");
        assert!(!inbox.sleep(), "there was something to take");
        assert_eq!(inbox.take(), [1]);
        assert!(inbox.sleep());
        inbox.push(2);
        assert!(pending(&waker));
        waker.consume().expect("consume");
        inbox.push(3);
        assert!(!pending(&waker), "already woken");
        assert_eq!(inbox.take(), [2, 3]);
    }
}
