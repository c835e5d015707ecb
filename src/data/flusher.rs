//! The flusher: hands synced blocks to the store, unit by unit, on threads of its own.
//!
//! A unit is what a shard has synced since the last one, at most `buffer_bytes` of payload: due after
//! so many bytes of log, after `flush_period_ms`, and at close. It is streamed from the log, so memory does not grow with a slow
//! store; a store that fails is asked again, and the log keeps everything until it has succeeded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::data::store::{Delivered, Store, StoreError, Unit};
use crate::error::Error;
use crate::io::rests::{BEHIND_CLIENTS_NICE, Hurry, cpu_time, rest, set_hurry, set_nice};
use crate::reader::LogReader;
use crate::shard::handle::ShardHandle;
use crate::shard::pace::FREE;
use crate::shard::waiters::Waited;
use crate::stats::StoreCounters;
use crate::types::{Position, Seq};

/// How often the writers' pace is looked at while a store takes blocks.
const LOOK_BYTES: u64 = 256 << 10;
/// How long a store that failed is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// When a shard's blocks are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushWhen {
    /// After so many bytes of log.
    pub bytes: u64,
    /// After so long.
    pub period: Duration,
    /// Bytes of log that a shard has room for: writers are slowed down before they are used up.
    pub log_bytes: u64,
}

/// The flusher's threads.
pub struct Flusher {
    closing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), StoreError>>>,
    /// The store itself, where parts of it are with the threads; touched again only at the close.
    whole: Mutex<Option<Box<dyn Store>>>,
}

impl Flusher {
    /// Starts a thread for each part that the store gives, or one for all shards. `from` is the store's
    /// progress in each shard.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start(
        shards: &Arc<[ShardHandle]>,
        from: &[Position],
        when: FlushWhen,
        counters: &Arc<StoreCounters>,
        mut store: Box<dyn Store>,
    ) -> Result<Self, Error> {
        let closing = Arc::new(AtomicBool::new(false));
        let parts: Option<Vec<Box<dyn Store>>> = shards.iter().map(|shard| store.for_shard(shard.shard)).collect();
        let (work, whole) = match parts {
            Some(parts) => (parts.into_iter().enumerate().map(|(at, part)| (at..at + 1, part)).collect(), Some(store)),
            None => (vec![(0..shards.len(), store)], None),
        };
        let mut threads = Vec::new();
        for (range, store) in work {
            let (shards, stop) = (Arc::clone(shards), Arc::clone(&closing));
            let (from, counters) = (from[range.clone()].to_vec(), Arc::clone(counters));
            let thread = std::thread::Builder::new()
                .name(format!("forebay-flush-{}", range.start))
                .spawn(move || run(&shards[range], &from, when, &counters, store, &stop))
                .map_err(Error::io("starting a flusher's thread"))?;
            threads.push(thread);
        }
        Ok(Self { closing, threads, whole: Mutex::new(whole) })
    }

    /// Flushes what is left, once, and ends.
    ///
    /// # Errors
    /// [`Error::Store`] where the store did not take it: the log still has it.
    pub fn close(self) -> Result<(), Error> {
        self.closing.store(true, Ordering::Release);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = match thread.join() {
                Ok(ended) => ended.map_err(|error| Error::Store(error.to_string())),
                Err(_) => Err(Error::Store("the store panicked; the log keeps what it did not take".to_owned())),
            };
            outcome = outcome.and(ended);
        }
        let whole = self.whole.into_inner().unwrap_or_else(PoisonError::into_inner);
        let closed = whole.map_or(Ok(()), |mut store| store.close());
        outcome.and(closed.map_err(|error| Error::Store(error.to_string())))
    }
}

/// One shard as the flusher sees it.
struct Source<'a> {
    shard: &'a ShardHandle,
    flushed: Position,
    /// Stands behind `flushed`; made anew after an error.
    reader: Option<LogReader>,
    /// When there began to be something to hand over.
    since: Option<Instant>,
    /// Bytes of log since the open that were handed over.
    taken_bytes: u64,
    /// How fast the store takes blocks, by its last flushes; 0: none yet.
    bytes_per_s: f64,
    failed: Option<Instant>,
}

fn run(
    shards: &[ShardHandle],
    from: &[Position],
    when: FlushWhen,
    counters: &StoreCounters,
    mut store: Box<dyn Store>,
    closing: &AtomicBool,
) -> Result<(), StoreError> {
    // Behind the writers: where both want the CPU, the log is the buffer between them.
    set_nice(BEHIND_CLIENTS_NICE).map_err(|error| format!("setting the flusher's priority: {error}"))?;
    let source = |(shard, &flushed)| Source {
        shard,
        flushed,
        reader: None,
        since: None,
        taken_bytes: 0,
        bytes_per_s: 0.0,
        failed: None,
    };
    let mut sources: Vec<Source<'_>> = shards.iter().zip(from).map(source).collect();
    loop {
        // Read before the sources are: what was accepted before the close is then seen.
        let last_turn = closing.load(Ordering::Acquire);
        let mut outcome = Ok(());
        for source in &mut sources {
            while outcome.is_ok() && source.is_due(when, last_turn) {
                let flushed = source.flush(store.as_mut(), when, last_turn);
                let count = if flushed.is_ok() { &counters.flushes } else { &counters.failed_flushes };
                count.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = flushed {
                    tracing::warn!(
                        "shard {}: the store did not take its blocks: {error}; trying again",
                        source.shard.shard
                    );
                    source.failed = Some(Instant::now());
                    source.reader = None;
                    // It may have got further than it said.
                    if let Ok(Some(at)) = store.progress(source.shard.shard) {
                        source.reached(at);
                    }
                    outcome = Err(error);
                }
            }
        }
        if last_turn {
            return outcome.and(store.close());
        }
        match sources.iter_mut().filter_map(|source| source.rest(when)).min() {
            Some(rest) => std::thread::park_timeout(rest),
            None => std::thread::park(),
        }
    }
}

impl Source<'_> {
    fn is_due(&mut self, when: FlushWhen, last_turn: bool) -> bool {
        if self.shard.ring.last_given() <= self.flushed.seq {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.failed.is_some_and(|failed| failed.elapsed() < AGAIN) && !last_turn {
            return false;
        }
        let is_wanted = self.shard.shared.wants_flushed(self.flushed.seq);
        last_turn || is_wanted || self.waiting_bytes() >= when.bytes || since.elapsed() >= when.period
    }

    /// Bytes of log that were not handed over yet.
    fn waiting_bytes(&self) -> u64 {
        self.shard.shared.stats().bytes.saturating_sub(self.taken_bytes)
    }

    /// How long this shard may be left alone; `None`: until its shard wakes this thread.
    fn rest(&mut self, when: FlushWhen) -> Option<Duration> {
        let shared = &self.shard.shared;
        if let Some(failed) = self.failed {
            return Some(AGAIN.saturating_sub(failed.elapsed()));
        }
        // In this order: what was accepted after the second look is logged after the first.
        let bytes = shared.stats().bytes;
        let is_idle = self.shard.ring.last_given() <= self.flushed.seq;
        let wake_at = if is_idle { bytes + 1 } else { self.taken_bytes + when.bytes };
        if !shared.wake_flusher_at(wake_at) {
            return Some(Duration::ZERO);
        }
        if is_idle {
            self.since = None;
            return None;
        }
        if shared.wants_flushed(self.flushed.seq) {
            return Some(Duration::ZERO);
        }
        let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        Some(when.period.saturating_sub(waited))
    }

    /// Hands over one unit of what there is up to now; synced first, at every level.
    fn flush(&mut self, store: &mut dyn Store, when: FlushWhen, last_turn: bool) -> Result<(), StoreError> {
        let (began, cpu) = (Instant::now(), cpu_time());
        let shared = &self.shard.shared;
        let bytes = shared.stats().bytes;
        let last = self.shard.ring.last_given();
        shared.want_synced(last);
        if shared.synced.wait(last, None) != Waited::Reached {
            return Err(self.shard.unknown().to_string().into());
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let folder = Arc::clone(&self.shard.folder);
                LogReader::new(self.shard.shard, folder, Arc::clone(shared), true, self.flushed)?
            }
        };
        let own = self.shard.own;
        let end = Position { epoch: own.epoch, nonce: own.nonce, seq: last };
        // While it takes blocks, too: beside many writers a flush may last long.
        let (known, before) = (self.bytes_per_s, self.taken_bytes);
        let pace = |taken: u64| {
            let bytes_per_s = if known > 0.0 { known } else { speed(taken, began, cpu) };
            let filled = shared.stats().bytes.saturating_sub(before) as f64 / when.log_bytes as f64;
            shared.pace.set(bytes_per_s, filled);
            set_hurry(if last_turn || filled > FREE { Hurry::Yes } else { Hurry::No });
        };
        pace(0);
        let (mut taken, mut looked) = (0, 0);
        let mut blocks = std::iter::from_fn(|| {
            rest();
            let next = next_upto(&mut reader, last);
            if let Some(Ok(delivered)) = &next {
                taken += delivered.block.payload.len() as u64;
                if taken - looked >= LOOK_BYTES {
                    looked = taken;
                    pace(taken);
                }
            }
            next
        });
        let mut unit = Unit::new(self.shard.shard, (self.flushed, end), when.bytes, &mut blocks);
        store.flush(&mut unit)?;
        let (upto, taken) = (unit.upto(), unit.bytes());
        if upto.seq <= self.flushed.seq {
            return Err("the store took nothing of its unit".into());
        }
        self.reached(upto);
        self.failed = None;
        if upto == end {
            self.since = None;
            self.taken_bytes = bytes;
        } else {
            self.taken_bytes = (self.taken_bytes + taken).min(bytes);
        }
        let bytes_per_s = speed(taken, began, cpu);
        self.bytes_per_s = if self.bytes_per_s > 0.0 { self.bytes_per_s.midpoint(bytes_per_s) } else { bytes_per_s };
        self.shard.shared.pace.set(self.bytes_per_s, self.waiting_bytes() as f64 / when.log_bytes as f64);
        self.reader = Some(reader);
        Ok(())
    }

    /// The store holds everything up to here.
    fn reached(&mut self, at: Position) {
        if at.seq > self.flushed.seq {
            self.flushed = at;
            self.shard.shared.store_flushed(at.seq);
        }
    }
}

/// How many bytes a second a store takes, which took so many since then. Beside fewer writers it would have
/// been faster: at most twice as fast, as far as is known.
fn speed(taken: u64, began: Instant, cpu: Duration) -> f64 {
    taken as f64 / (began.elapsed().as_secs_f64() / 2.0).max((cpu_time() - cpu).as_secs_f64())
}

fn next_upto(reader: &mut LogReader, upto: Seq) -> Option<Result<Delivered, StoreError>> {
    if reader.position().seq >= upto {
        return None;
    }
    match reader.next_upto(upto) {
        Ok(next) => next.map(Ok),
        Err(error) => Some(Err(error.into())),
    }
}
