//! Group commit for peers that leave it to their users: who comes while a commit runs waits, and the first of
//! those who waited commits for all of them.

use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::{Result, anyhow};

/// Collects items of many threads for one commit.
pub struct Group<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

struct State<T> {
    pending: Vec<T>,
    /// The group that `pending` belongs to.
    group: u64,
    /// Groups below this one are committed.
    committed: u64,
    leading: bool,
    failed: Option<String>,
}

impl<T> Group<T> {
    /// Nothing pending.
    pub fn new() -> Self {
        let state = State { pending: Vec::new(), group: 0, committed: 0, leading: false, failed: None };
        Self { state: Mutex::new(state), ended: Condvar::new() }
    }

    /// Returns when a commit that holds `item` has ended. One of the callers runs `commit` for all who wait.
    ///
    /// # Errors
    /// What the commit said, to everybody from then on.
    pub fn join(&self, item: T, commit: impl FnOnce(Vec<T>) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.group;
        state.pending.push(item);
        while state.leading && state.committed <= mine {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.committed <= mine && state.failed.is_none() {
            state.leading = true;
            state.group += 1;
            let items = std::mem::take(&mut state.pending);
            drop(state);
            let outcome = commit(items);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.failed = outcome.err().map(|error| format!("{error:#}"));
            state.leading = false;
            state.committed = mine + 1;
            self.ended.notify_all();
        }
        state.failed.as_ref().map_or(Ok(()), |failed| Err(anyhow!("{failed}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_item_is_committed_once_and_before_its_thread_goes_on() {
        let group = Group::new();
        let (commits, seen) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (group, commits, seen) = (&group, &commits, &seen);
                scope.spawn(move || {
                    for number in 0..200 {
                        let commit = |items: Vec<(i32, i32)>| {
                            commits.fetch_add(1, Ordering::Relaxed);
                            seen.lock().expect("sound").extend(items);
                            Ok(())
                        };
                        group.join((thread, number), commit).expect("committed");
                        assert!(seen.lock().expect("sound").contains(&(thread, number)));
                    }
                });
            }
        });
        let mut seen = seen.into_inner().expect("sound");
        assert_eq!(seen.len(), 1600);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1600);
        assert!((1..=1600).contains(&commits.into_inner()));
    }

    #[test]
    fn a_failed_commit_is_told_to_all_later_ones() {
        let group = Group::new();
        assert!(group.join((), |_| Err(anyhow!("gone"))).is_err());
        let error = group.join((), |_| panic!("not tried again")).expect_err("failed");
        assert_eq!(error.to_string(), "gone");
    }
}
