//! Atomics, locks and futexes as the intake ring and the waiters use them: the standard library's,
//! or under `--cfg forebay_model` those of a model checker that explores the interleavings
//! (`scripts/model.sh`).

#[cfg(not(all(test, forebay_model)))]
mod imp {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};
    use std::time::Instant;

    use rustix::io::Errno;
    use rustix::thread::futex;

    /// A word that threads can sleep on.
    #[derive(Debug, Default)]
    pub(crate) struct Futex(AtomicU32);

    impl Futex {
        /// The word.
        pub(crate) fn load(&self) -> u32 {
            self.0.load(Ordering::SeqCst)
        }

        /// Changes the word, so that nobody falls asleep on its old value.
        pub(crate) fn bump(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }

        /// Sleeps while the word is `seen`; false where the deadline passed. Wakes for no reason too.
        /// Only a wake whose bits meet `bits` (not 0) counts.
        pub(crate) fn wait(&self, seen: u32, bits: u32, deadline: Option<Instant>) -> bool {
            let timeout = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
                None => None,
                Some(None) => return false,
                Some(Some(left)) => {
                    // FUTEX_WAIT_BITSET takes a point in monotonic time.
                    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                    let nanos = now.tv_nsec as u64 + u64::from(left.subsec_nanos());
                    Some(futex::Timespec {
                        tv_sec: now.tv_sec.saturating_add_unsigned(left.as_secs() + nanos / 1_000_000_000),
                        tv_nsec: (nanos % 1_000_000_000) as _,
                    })
                }
            };
            let bits = bits.try_into().expect("bits are not 0");
            let ended = futex::wait_bitset(&self.0, futex::Flags::PRIVATE, seen, timeout.as_ref(), bits);
            !matches!(ended, Err(Errno::TIMEDOUT))
        }

        /// Wakes all who sleep with one of these bits: one system call.
        pub(crate) fn wake(&self, bits: u32) {
            if let Ok(bits) = bits.try_into() {
                // It fails only for a word that is not mapped.
                let _ = futex::wake_bitset(&self.0, futex::Flags::PRIVATE, i32::MAX as u32, bits);
            }
        }
    }

    /// A place where the model may switch threads; nothing here.
    #[inline(always)]
    pub(crate) fn point() {}
}

#[cfg(all(test, forebay_model))]
mod imp {
    pub(crate) use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
    use std::time::Instant;

    use shuttle::rand::Rng;

    /// A word that threads can sleep on.
    #[derive(Debug, Default)]
    pub(crate) struct Futex {
        word: Mutex<u32>,
        changed: shuttle::sync::Condvar,
    }

    impl Futex {
        pub(crate) fn load(&self) -> u32 {
            *self.word.lock().unwrap()
        }

        pub(crate) fn bump(&self) {
            *self.word.lock().unwrap() += 1;
        }

        /// A deadline may pass at once, whatever it is; where there is none it never does.
        pub(crate) fn wait(&self, seen: u32, _: u32, deadline: Option<Instant>) -> bool {
            if deadline.is_some() && shuttle::rand::thread_rng().gen_bool(0.5) {
                return false;
            }
            let word = self.word.lock().unwrap();
            if *word == seen {
                // One sleep, not a loop: who sleeps looks again.
                drop(self.changed.wait(word).unwrap());
            }
            true
        }

        pub(crate) fn wake(&self, bits: u32) {
            if bits != 0 {
                // Held, as the kernel holds the word's bucket.
                let _word = self.word.lock().unwrap();
                self.changed.notify_all();
            }
        }
    }

    /// A place where the model may switch threads.
    pub(crate) fn point() {
        shuttle::thread::yield_now();
    }
}

pub(crate) use imp::*;

/// Locks; what a panic left behind a lock here is still sound.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A way to be wrong, so that the model can show that it would notice.
#[cfg(all(test, forebay_model))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// None.
    Sound,
    /// The seq is taken and the slot filled before the bytes are there.
    PublishedBeforeTheCopy,
    /// The publisher's look at `asleep` passes its own publication, as without the fence.
    NoFence,
    /// The shard sleeps without looking again.
    NoSecondLook,
    /// A dropped claim leaves nothing.
    NoVoid,
    /// Who joins the line does not look at the room again.
    NoLookInLine,
    /// Who joins the line does not see that the ring is fenced.
    NoFenceInLine,
    /// Room is given back to claimers when it is drained.
    FreedWhileReadable,
}

#[cfg(all(test, forebay_model))]
thread_local! {
    /// What rings that are made on this thread from now on do wrong.
    pub(crate) static MUTANT: std::cell::Cell<Mutant> = const { std::cell::Cell::new(Mutant::Sound) };
}

#[cfg(all(test, forebay_model))]
impl Mutant {
    /// The planted one.
    pub(crate) fn now() -> Self {
        MUTANT.get()
    }
}
