//! Rests and priorities: a thread that works in the background lets others run, before the scheduler makes it.
//!
//! Whoever has the CPU keeps it until its slice is over: milliseconds, while a write to the log takes a
//! fraction of one. Nice values do not change that. A thread that has no hurry therefore runs under
//! `SCHED_IDLE`, where any thread of its group comes first at once. The kernel's workers, which complete the
//! log's writes, are of another group; for them it also sleeps a moment after each piece of work,
//! wherever it calls [`rest`]. Threads that never said that they have no hurry are not touched.
//!
//! Who works for other sites always has something of a hurry: it only [stands behind](stand_behind_clients) those that
//! serve clients of this one.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// The nice value of threads that do not take in blocks of clients.
pub const BEHIND_CLIENTS_NICE: i32 = 5;
/// CPU time between two rests, in microseconds.
const WORK: Duration = Duration::from_micros(250);
/// How long a rest is at least, in microseconds. The kernel adds some 50.
const REST: Duration = Duration::from_micros(50);

/// Whether a thread rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurry {
    /// It rests: what it does can wait.
    No,
    /// It does not: somebody waits for it.
    Yes,
}

thread_local! {
    /// The CPU time at which the thread rests next.
    static NEXT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Sets the nice value of this thread.
///
/// # Errors
/// Where the process may not set it.
pub fn set_nice(nice: i32) -> std::io::Result<()> {
    Ok(setpriority_process(Some(gettid()), nice)?)
}

/// Puts this thread behind those that serve clients: it works for other sites. It runs with a lower priority and, where it
/// wakes up, interrupts nobody; it never starves, and those that it starts are behind clients, too.
pub fn stand_behind_clients() {
    // Without it the thread would only be less polite.
    let _ = set_policy(NormalThreadSchedulePolicy::Batch);
    let _ = set_nice(BEHIND_CLIENTS_NICE);
}

/// The priority of a thread that serves clients at times.
#[derive(Debug)]
pub struct Priority {
    /// The nice value where it does.
    nice: i32,
    /// The process may set it.
    may: bool,
    serves: bool,
}

impl Priority {
    /// Of this thread, which serves clients for now and is to have this nice value while it does.
    #[must_use]
    pub fn new(nice: i32) -> Self {
        let may = set_nice(nice).is_ok();
        Self { nice, may, serves: true }
    }

    /// The process may set the nice value that is wanted. Where it may not, nothing is ever changed: who had become
    /// nicer could not go back.
    #[must_use]
    pub const fn may(&self) -> bool {
        self.may
    }

    /// Serves clients from here on, or does not.
    #[inline]
    pub fn see(&mut self, serves: bool) {
        if serves == self.serves {
            return;
        }
        self.serves = serves;
        if !self.may {
            return;
        }
        if serves {
            let _ = set_policy(NormalThreadSchedulePolicy::Other);
            let _ = set_nice(self.nice);
        } else {
            stand_behind_clients();
        }
    }
}

/// Says whether this thread rests from now on.
pub fn set_hurry(hurry: Hurry) {
    let (next, policy) = match hurry {
        Hurry::Yes => (None, NormalThreadSchedulePolicy::Other),
        Hurry::No => (Some(cpu_time() + WORK), NormalThreadSchedulePolicy::Idle),
    };
    if next.is_some() != NEXT.get().is_some() {
        NEXT.set(next);
        if may_return() {
            set_policy(policy);
        }
    }
}

/// Changes this thread's policy, not its nice value; whether it could.
fn set_policy(policy: NormalThreadSchedulePolicy) -> bool {
    let nice = getpriority_process(Some(gettid()));
    let policy = ThreadSchedulePolicy::Normal(policy);
    let is_set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy).is_ok();
    // The call above sets a nice value too.
    is_set && nice.is_ok_and(|nice| set_nice(nice).is_ok())
}

/// Whether a thread of this process may leave `SCHED_IDLE` again: not without the privilege to lower its nice
/// value. Who has it not never enters, and rests all the same.
fn may_return() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let try_it = || set_policy(NormalThreadSchedulePolicy::Idle) && set_policy(NormalThreadSchedulePolicy::Other);
        // A thread that cannot return is left to end.
        std::thread::Builder::new().spawn(try_it).is_ok_and(|thread| thread.join().unwrap_or(false))
    })
}

/// Rests, if this thread does and has worked since its last rest.
#[inline]
pub fn rest() {
    if let Some(next) = NEXT.get() {
        let now = cpu_time();
        if now >= next {
            std::thread::sleep(REST);
            NEXT.set(Some(now + WORK));
        }
    }
}

/// CPU time of this thread so far.
#[must_use]
pub fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Works for 20 ms of CPU time; how often it rested.
    fn rests() -> u32 {
        let (end, mut count) = (cpu_time() + Duration::from_millis(20), 0);
        while cpu_time() < end {
            let before = Instant::now();
            let next = NEXT.get();
            rest();
            if NEXT.get() != next {
                assert!(before.elapsed() >= REST);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_thread_without_hurry_rests_after_each_piece_of_work_and_others_never() {
        assert_eq!(rests(), 0);
        set_hurry(Hurry::No);
        let count = rests();
        assert!((1..=80).contains(&count), "{count} rests in 20 ms of CPU time");
        set_hurry(Hurry::Yes);
        assert_eq!(rests(), 0);
    }

    #[test]
    fn a_thread_stands_behind_clients_while_it_serves_none() {
        let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        let stands = move || {
            let policy = thread_priority::thread_schedule_policy().expect("this thread's policy");
            (policy == batch, getpriority_process(Some(gettid())).expect("a nice value"))
        };
        std::thread::spawn(move || {
            let mut priority = Priority::new(-15);
            let (_, at_first) = stands();
            assert_eq!(at_first == -15, priority.may());
            for serves in [true, false, false, true, true, false] {
                priority.see(serves);
                let behind = priority.may() && !serves;
                assert_eq!(stands(), (behind, if behind { BEHIND_CLIENTS_NICE } else { at_first }));
            }
            stand_behind_clients();
            assert_eq!(std::thread::spawn(stands).join().expect("no panic"), (true, BEHIND_CLIENTS_NICE));
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_thread_without_hurry_is_idle_where_it_may_return_and_keeps_its_nice_value() {
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let policy = || thread_priority::thread_schedule_policy().expect("this thread's policy");
        std::thread::spawn(move || {
            setpriority_process(Some(gettid()), 7).expect("nicer than before");
            for hurry in [Hurry::No, Hurry::No, Hurry::Yes, Hurry::Yes, Hurry::No] {
                set_hurry(hurry);
                assert_eq!(policy() == idle, hurry == Hurry::No && may_return(), "{hurry:?}");
                assert_eq!(getpriority_process(Some(gettid())), Ok(7), "{hurry:?}");
            }
        })
        .join()
        .expect("no panic");
    }
}
