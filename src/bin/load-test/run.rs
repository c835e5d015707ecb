//! One run: writers' threads against a [`Target`], and the watch that measures them.
//!
//! Warm-up and measurement are two laps with a pause between them in which everything is synced; so
//! the measured time, which counts to the final sync, owes nothing to the warm-up. A closed loop
//! starts a block when one was acknowledged; an open loop when its schedule says so, and then the
//! latency counts from there, however late the block could start.

use std::collections::VecDeque;
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use crossbeam_utils::CachePadded;
use forebay::Receipt;
use hdrhistogram::Histogram;

use crate::args::{Plan, StoreKind, Workload};
use crate::input::{Piece, deal};
use crate::interrupt::Interrupt;
use crate::meters::Meters;
use crate::progress::Progress;
use crate::stats::histogram_ns;
use crate::target::{Counts, Target, TargetWriter};
use crate::verify::Ledger;
use crate::verify_rows::RowLedger;
use crate::watch::{Pace, Timeline, Watched};
use crate::workload::{Source, hash_of};

/// One in so many ready-made blocks is timed while it is taken; others are timed each.
const MAKING_SAMPLE: u64 = 4096;
/// How often the watch looks.
const WATCH: Duration = Duration::from_millis(20);
/// Pieces of input that wait for one writer.
const PIECES_AHEAD: usize = 2;
/// A writer needs little stack.
const STACK_BYTES: usize = 256 << 10;
/// A run over a log that is held ends when that is this full.
const HELD_LOG_SHARE: f64 = 0.75;

/// What a run found.
#[derive(Debug)]
pub struct Measured {
    /// From the first block to the end of the final sync.
    pub seconds: f64,
    /// Acknowledged blocks, their rows and bytes.
    pub done: Done,
    /// From the start of each block to its ack, in nanoseconds.
    pub service: Histogram<u64>,
    /// From the intended start of each block to its ack, in nanoseconds; of an open loop.
    pub corrected: Option<Histogram<u64>>,
    /// Counts when the measurement began, and when it had ended.
    pub counts: (Counts, Counts),
    /// The share of all cores' time that went into making and checking blocks.
    pub making_share: f64,
    /// The share of the time in which writers waited for the store: as a shard took nothing, because its log was
    /// full, or for their turns, because it became so.
    pub store_wait_share: f64,
    /// With a store: the most bytes that the log's segments had.
    pub wal_peak_bytes: u64,
    /// How evenly it went.
    pub pace: Pace,
    /// The same in short steps.
    pub timeline: Timeline,
    /// Seconds from the final sync to the end of the close, in which the store took the rest.
    pub close_seconds: f64,
    /// Blocks of the least and of the most served writer.
    pub served: (u64, u64),
    /// Why it ended before its time.
    pub ended_early: Option<String>,
    /// What each writer did, warm-up included.
    pub ledgers: Vec<Ledger>,
    /// What each writer remembers for the proof of data files; empty without one.
    pub rows: Vec<RowLedger>,
}

/// Blocks, rows and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Blocks.
    pub blocks: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

/// A run that failed, and what was acknowledged before.
#[derive(Debug, thiserror::Error)]
#[error("{cause:#}. {blocks} blocks with {rows} rows were acknowledged before that", blocks = .done.blocks, rows = .done.rows)]
pub struct Failed {
    /// Why.
    pub cause: anyhow::Error,
    /// What is there nevertheless.
    pub done: Done,
}

/// What the writers share with the watch.
struct Shared<'a> {
    plan: &'a Plan,
    stop: AtomicBool,
    bytes: Vec<CachePadded<AtomicU64>>,
    failed: Mutex<Option<anyhow::Error>>,
}

impl Shared<'_> {
    fn fail(&self, cause: anyhow::Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn failed(&self) -> Option<anyhow::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn acked_bytes(&self) -> u64 {
        self.bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }
}

/// Runs the plan once. `run` names this run in verified blocks; `hold` says for what the log is held.
///
/// # Errors
/// The first thing that failed, with what was acknowledged before.
pub fn measure<T: Target>(
    target: &T,
    plan: &Plan,
    run: Option<u64>,
    hold: Option<&'static str>,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<Measured, Failed> {
    let mut receivers: Vec<Option<Receiver<Piece>>> = (0..plan.writers).map(|_| None).collect();
    let mut dealer = None;
    if let Workload::Input(path, rows) = &plan.workload {
        let mut senders = Vec::with_capacity(plan.writers);
        for receiver in &mut receivers {
            let (sender, end) = sync_channel(PIECES_AHEAD);
            senders.push(sender);
            *receiver = Some(end);
        }
        let max = plan.sizes.block_bytes_max.unwrap_or(16 << 20) as usize;
        dealer = Some(move || deal(path, *rows, max, &senders));
    }
    let writers = plan.writers as u32;
    // From now on: in a store that is used again, too, no row comes twice.
    let start_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64 * 1_000_000;
    let made = receivers.into_iter().enumerate().map(|(number, receiver)| {
        let source = match (&plan.workload, receiver) {
            (_, Some(pieces)) => Source::Input(pieces),
            (Workload::Meters(rows), _) => Source::Meters(Meters::new(*rows, (number as u32, writers), start_ns)),
            (Workload::Raw(bytes), _) => Source::raw(*bytes as usize, number as u32, run),
            (Workload::Input(..), None) => unreachable!("each writer of an input has a receiver"),
        };
        Ok(Lane { number, writer: target.writer()?, source, tally: Tally::new(plan, run.is_some()) })
    });
    let before_any = |cause| Failed { cause, done: Done::default() };
    let mut lanes = made.collect::<Result<Vec<_>>>().map_err(before_any)?;
    let mut over = None;
    let mut watched = Watched::default();
    if plan.warmup > 0.0 && dealer.is_none() {
        let warm = Lap { seconds: plan.warmup, bytes_min: 0, hold, interrupt };
        over = warm.go(target, plan, &mut lanes, progress, None::<fn() -> Result<()>>)?.0;
        over = over.map(|why| format!("{why}, already in the warm-up"));
        target.sync().map_err(before_any)?;
        lanes.iter_mut().for_each(|lane| lane.tally.forget_figures(plan));
    }
    let before = target.counts();
    let started = Instant::now();
    let seconds = if dealer.is_some() { f64::INFINITY } else { plan.seconds };
    let ended_early = if over.is_none() {
        let lap = Lap { seconds, bytes_min: plan.bytes_min, hold, interrupt };
        let dealer = dealer.map(|deal| move || deal().map_err(anyhow::Error::from));
        let (early, found) = lap.go(target, plan, &mut lanes, progress, dealer)?;
        watched = found;
        early
    } else {
        over
    };
    let tallies: Vec<Tally> = lanes.into_iter().map(|lane| lane.tally).collect();
    let done = sum(&tallies);
    target.sync().map_err(|cause| Failed { cause, done })?;
    let seconds = started.elapsed().as_secs_f64();
    let after = target.counts();
    let paced = (after.paced_ms - before.paced_ms) / 1e3 / seconds / plan.writers as f64;
    let store_wait_share = watched.waits.share().max(paced);
    let measured = gather(tallies, seconds, (before, after), ended_early);
    let (wal_peak_bytes, pace, timeline) =
        (watched.waits.wal_peak_bytes, watched.pace.figures(), watched.steps.figures());
    Ok(Measured { store_wait_share, wal_peak_bytes, pace, timeline, ..measured })
}

fn sum(tallies: &[Tally]) -> Done {
    tallies.iter().fold(Done::default(), |all, tally| Done {
        blocks: all.blocks + tally.done.blocks,
        rows: all.rows + tally.done.rows,
        bytes: all.bytes + tally.done.bytes,
    })
}

fn gather(tallies: Vec<Tally>, seconds: f64, counts: (Counts, Counts), ended_early: Option<String>) -> Measured {
    let done = sum(&tallies);
    let blocks = || tallies.iter().map(|tally| tally.done.blocks);
    let served = (blocks().min().unwrap_or(0), blocks().max().unwrap_or(0));
    let making: f64 = tallies
        .iter()
        .filter(|tally| tally.samples > 0)
        .map(|tally| tally.making_ns as f64 / tally.samples as f64 * tally.done.blocks as f64)
        .sum();
    let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
    let mut service = histogram_ns();
    let mut corrected = None;
    let mut ledgers = Vec::with_capacity(tallies.len());
    let mut rows = Vec::new();
    for tally in tallies {
        service.add(&tally.service).expect("same bounds");
        if let Some(own) = tally.corrected {
            corrected.get_or_insert_with(histogram_ns).add(own).expect("same bounds");
        }
        ledgers.push(tally.ledger);
        rows.extend(tally.rows);
    }
    let making_share = making / 1e9 / seconds / cores;
    let (store_wait_share, wal_peak_bytes, close_seconds) = (0.0, 0, 0.0);
    let (pace, timeline) = (Pace::default(), Timeline::default());
    Measured {
        seconds,
        done,
        service,
        corrected,
        counts,
        making_share,
        store_wait_share,
        wal_peak_bytes,
        pace,
        timeline,
        close_seconds,
        served,
        ended_early,
        ledgers,
        rows,
    }
}

/// A stretch of time in which all writers write.
struct Lap<'a> {
    seconds: f64,
    bytes_min: u64,
    hold: Option<&'static str>,
    interrupt: &'a Interrupt,
}

impl Lap<'_> {
    /// Returns when all writers have stopped and all their blocks are acknowledged; with the reason
    /// if that was early, and with what was seen meanwhile.
    fn go<T: Target>(
        &self,
        target: &T,
        plan: &Plan,
        lanes: &mut [Lane<T::Writer>],
        progress: &Progress,
        dealer: Option<impl FnOnce() -> Result<()> + Send>,
    ) -> Result<(Option<String>, Watched), Failed> {
        let shared = Shared {
            plan,
            stop: AtomicBool::new(false),
            bytes: lanes.iter().map(|_| CachePadded::default()).collect(),
            failed: Mutex::new(None),
        };
        let started = Instant::now();
        let watched = thread::scope(|scope| {
            let shared = &shared;
            let mut writers = Vec::with_capacity(lanes.len());
            for lane in lanes.iter_mut() {
                let name = format!("writer-{}", lane.number);
                let builder = thread::Builder::new().name(name).stack_size(STACK_BYTES);
                match builder.spawn_scoped(scope, move || lane.go(shared, started)) {
                    Ok(writer) => writers.push(writer),
                    Err(error) => {
                        shared.fail(anyhow::Error::from(error).context("cannot start a writer's thread"));
                        break;
                    }
                }
            }
            if let Some(dealer) = dealer {
                scope.spawn(move || dealer().map_err(|cause| shared.fail_later(cause)));
            }
            let watched = self.watch(target, shared, progress, started, || writers.iter().all(|w| w.is_finished()));
            shared.stop.store(true, Ordering::Relaxed);
            writers.iter().for_each(|writer| writer.thread().unpark());
            watched
        });
        match shared.failed() {
            None => Ok(watched),
            Some(cause) => {
                let blocks = lanes.iter().map(|lane| lane.tally.ledger.acked).sum();
                let rows = lanes.iter().map(|lane| lane.tally.done.rows).sum();
                let bytes = lanes.iter().map(|lane| lane.tally.done.bytes).sum();
                Err(Failed { cause, done: Done { blocks, rows, bytes } })
            }
        }
    }

    fn watch<T: Target>(
        &self,
        target: &T,
        shared: &Shared<'_>,
        progress: &Progress,
        started: Instant,
        finished: impl Fn() -> bool,
    ) -> (Option<String>, Watched) {
        let mut watched = Watched::default();
        let early = loop {
            let spent = started.elapsed().as_secs_f64();
            let rest = Duration::from_secs_f64((self.seconds - spent).clamp(0.0005, WATCH.as_secs_f64()));
            thread::sleep(rest);
            let bytes = shared.acked_bytes();
            let spent = started.elapsed().as_secs_f64();
            progress.at(spent, bytes);
            watched.pace.look(spent, bytes);
            watched.steps.look(spent, bytes);
            if finished() || shared.stop.load(Ordering::Relaxed) {
                break None;
            }
            if self.interrupt.has_come() {
                break Some("interrupted".into());
            }
            if shared.plan.store == StoreKind::Parquet {
                watched.waits.look(&target.counts());
            }
            if let Some(what) = self.hold {
                let (used, max) = target.counts().wal_bytes;
                if used as f64 >= max as f64 * HELD_LOG_SHARE {
                    break Some(format!("the log, held for {what}, is 3/4 full ({used} of {max} bytes)"));
                }
            }
            if spent >= self.seconds && bytes >= self.bytes_min {
                break None;
            }
        };
        (early, watched)
    }
}

impl Shared<'_> {
    /// Notes what is wrong with the input, without stopping the writers: they take what was dealt before.
    fn fail_later(&self, cause: anyhow::Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
    }
}

/// One writer with its blocks and figures.
struct Lane<W> {
    number: usize,
    writer: W,
    source: Source,
    tally: Tally,
}

/// One writer's figures.
struct Tally {
    done: Done,
    service: Histogram<u64>,
    corrected: Option<Histogram<u64>>,
    making_ns: u64,
    samples: u64,
    /// Whether hashes of blocks are kept.
    hashes: bool,
    ledger: Ledger,
    /// In a run whose data files are to be proven.
    rows: Option<RowLedger>,
}

impl Tally {
    fn new(plan: &Plan, verified: bool) -> Self {
        Self {
            done: Done::default(),
            service: histogram_ns(),
            corrected: plan.rate.map(|_| histogram_ns()),
            making_ns: 0,
            samples: 0,
            hashes: verified && plan.store == StoreKind::None && !matches!(plan.workload, Workload::Raw(_)),
            ledger: Ledger::default(),
            rows: (verified && plan.store == StoreKind::Parquet).then(|| match plan.workload {
                Workload::Input(..) => RowLedger::with_columns(),
                Workload::Raw(_) | Workload::Meters(_) => RowLedger::default(),
            }),
        }
    }

    fn forget_figures(&mut self, plan: &Plan) {
        let (ledger, rows) = (std::mem::take(&mut self.ledger), self.rows.take());
        let hashes = self.hashes;
        *self = Self { ledger, rows, hashes, ..Self::new(plan, false) };
    }
}

/// A block that is not acknowledged yet.
#[derive(Clone, Copy)]
struct Started {
    intended: Option<Instant>,
    at: Instant,
    rows: u32,
    bytes: usize,
}

impl<W: TargetWriter> Lane<W> {
    fn go(&mut self, shared: &Shared<'_>, started: Instant) {
        // The schedule of an open loop should not be late by the kernel's usual 50 us.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let outcome = match (shared.plan.rate, shared.plan.in_flight) {
            (None, 1) => self.closed(shared),
            (rate, in_flight) => {
                self.scheduled(shared, rate.map(|rate| self.schedule(shared, started, rate)), in_flight)
            }
        };
        // Whoever deals the input must not wait for this writer any more.
        self.source.end_input();
        if let Err(cause) = outcome {
            shared.fail(cause);
        }
    }

    /// One block at a time, each started when the one before is acknowledged.
    fn closed(&mut self, shared: &Shared<'_>) -> Result<()> {
        let mut at = Instant::now();
        while !shared.stop.load(Ordering::Relaxed) {
            let Some((block, started)) = self.make(at)? else { return Ok(()) };
            let receipt = self.writer.append(block)?;
            at = Instant::now();
            self.acked(shared, started, at, receipt);
        }
        Ok(())
    }

    fn schedule(&self, shared: &Shared<'_>, started: Instant, rate: f64) -> Schedule {
        let every = shared.plan.writers as f64 / rate;
        Schedule { first: started + Duration::from_secs_f64(self.number as f64 / rate), every, next: 0 }
    }

    /// Several blocks at a time, or at fixed times, or both.
    fn scheduled(&mut self, shared: &Shared<'_>, mut schedule: Option<Schedule>, in_flight: usize) -> Result<()> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut under_way: VecDeque<(W::Ticket, Started)> = VecDeque::with_capacity(in_flight);
        let mut at_end = false;
        loop {
            while let Some((ticket, started)) = under_way.front_mut() {
                let Poll::Ready(outcome) = Pin::new(ticket).poll(&mut context) else { break };
                let receipt = outcome?;
                let started = *started;
                under_way.pop_front();
                self.acked(shared, started, Instant::now(), receipt);
            }
            at_end |= shared.stop.load(Ordering::Relaxed);
            if at_end && under_way.is_empty() {
                return Ok(());
            }
            if at_end || under_way.len() == in_flight {
                thread::park();
                continue;
            }
            let now = Instant::now();
            let intended = schedule.as_ref().map(Schedule::due);
            if let Some(wait) = intended.and_then(|due| due.checked_duration_since(now)).filter(|wait| !wait.is_zero())
            {
                thread::park_timeout(wait);
                continue;
            }
            let Some((block, mut started)) = self.make(now)? else {
                at_end = true;
                continue;
            };
            started.intended = intended;
            if let Some(schedule) = &mut schedule {
                schedule.next += 1;
            }
            match self.writer.submit(block)? {
                Ok(ticket) => under_way.push_back((ticket, started)),
                Err(block) => {
                    // No room: wait for it as an append does. What is under way was accepted before.
                    let receipt = self.writer.append(block)?;
                    let end = Instant::now();
                    for (ticket, started) in under_way.drain(..) {
                        let receipt = wait_for(ticket, &mut context)?;
                        self.tally.take(shared, self.number, started, Instant::now(), receipt);
                    }
                    self.acked(shared, started, end, receipt);
                }
            }
        }
    }

    /// The next block. Its latency begins at `at`, a moment ago, or once it is made if that is work:
    /// at level 1 looking at the clock twice a block would be much of what is measured.
    #[inline(always)]
    fn make(&mut self, at: Instant) -> Result<Option<(forebay::Block, Started)>> {
        let ready_made = self.source.is_ready_made();
        let timed = !ready_made || self.tally.ledger.submitted.is_multiple_of(MAKING_SAMPLE);
        // Reading the clock takes longer than taking a ready-made block: what that costs is measured too.
        let (reading_ns, before_ns) = if timed { (thread_cpu_ns(), thread_cpu_ns()) } else { (0, 0) };
        let Some(block) = self.source.next()? else { return Ok(None) };
        if timed {
            let with_reading_ns = thread_cpu_ns().saturating_sub(before_ns);
            self.tally.making_ns += with_reading_ns.saturating_sub(before_ns - reading_ns);
            self.tally.samples += 1;
        }
        self.tally.ledger.submitted += 1;
        if self.tally.hashes {
            self.tally.ledger.hashes.push(hash_of(block.payload()));
        }
        if let Some(rows) = &mut self.tally.rows {
            rows.submitted(&block);
        }
        let at = if ready_made { at } else { Instant::now() };
        let started = Started { intended: None, at, rows: block.rows(), bytes: block.payload().len() };
        Ok(Some((block, started)))
    }

    #[inline(always)]
    fn acked(&mut self, shared: &Shared<'_>, started: Started, end: Instant, receipt: Option<Receipt>) {
        self.tally.take(shared, self.number, started, end, receipt);
    }
}

impl Tally {
    #[inline(always)]
    fn take(&mut self, shared: &Shared<'_>, writer: usize, started: Started, end: Instant, receipt: Option<Receipt>) {
        let ns = |from: Instant| end.saturating_duration_since(from).as_nanos() as u64;
        self.service.saturating_record(ns(started.at));
        if let (Some(corrected), Some(intended)) = (&mut self.corrected, started.intended) {
            corrected.saturating_record(ns(intended));
        }
        self.ledger.acked += 1;
        if let (Some(rows), Some(receipt)) = (&mut self.rows, receipt) {
            rows.acknowledged(receipt);
        }
        self.done.blocks += 1;
        self.done.rows += u64::from(started.rows);
        self.done.bytes += started.bytes as u64;
        shared.bytes[writer].store(self.done.bytes, Ordering::Relaxed);
    }
}

/// Time that this thread has spent on a CPU.
fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn wait_for<T>(mut ticket: impl Future<Output = Result<T>> + Unpin, context: &mut Context<'_>) -> Result<T> {
    loop {
        match Pin::new(&mut ticket).poll(context) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park(),
        }
    }
}

/// When the blocks of an open loop are due.
struct Schedule {
    first: Instant,
    /// Seconds between two blocks.
    every: f64,
    next: u64,
}

impl Schedule {
    fn due(&self) -> Instant {
        self.first + Duration::from_secs_f64(self.every * self.next as f64)
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Setting};
    use crate::baseline::PlainFile;

    fn measured(options: &str, run: Option<u64>) -> Result<Measured, Failed> {
        let words = std::iter::once("load-test").chain(options.split_whitespace());
        let plan = Args::try_parse_from(words).expect("sound options").job().expect("a sound plan").plans.remove(0);
        let dir = tempfile::tempdir().expect("a folder");
        let file = PlainFile::create(&dir.path().join("file"), plan.settings[0]).expect("a file");
        assert_eq!(plan.settings[0], Setting::Level1);
        measure(&file, &plan, run, None, &Progress::hidden(), &Interrupt::default())
    }

    #[test]
    fn a_closed_loop_counts_what_was_acknowledged_after_the_warm_up() {
        let found = measured("--writers 4 --seconds 0.2 --warmup 0.1 --block-bytes 100", None).expect("ran");
        let total: u64 = found.ledgers.iter().map(|ledger| ledger.acked).sum();
        assert!(found.done.blocks > 0 && found.done.blocks < total, "{} of {total}", found.done.blocks);
        assert_eq!((found.done.bytes, found.done.rows), (found.done.blocks * 100, found.done.blocks));
        assert_eq!(found.service.len(), found.done.blocks);
        assert!(found.corrected.is_none());
        assert!(found.seconds >= 0.2 && found.seconds < 5.0, "{}", found.seconds);
        let line: u64 = found.timeline.bytes.iter().sum();
        assert!(line > 0 && line <= found.done.bytes, "{line} of {}", found.done.bytes);
        let in_file = found.counts.1.blocks_written - found.counts.0.blocks_written;
        assert_eq!(in_file, found.done.blocks);
        assert!(found.counts.1.sync_us.len() > found.counts.0.sync_us.len(), "the final sync counts");
    }

    #[test]
    fn an_open_loop_keeps_its_rate_and_times_from_the_intended_start() {
        let found = measured("--writers 4 --seconds 0.5 --warmup 0 --rate 400/s --in-flight 2", None).expect("ran");
        // At each moment no more was due, however late the run ended.
        let due = 400.0 * found.seconds + 4.0;
        let blocks = found.done.blocks;
        assert!(blocks >= 100 && blocks as f64 <= due, "{blocks} blocks of {due}");
        let corrected = found.corrected.expect("an open loop");
        assert_eq!(corrected.len(), found.done.blocks);
        assert!(corrected.max() >= found.service.max());
    }

    #[test]
    fn several_blocks_in_flight_are_all_acknowledged() {
        let found = measured("--writers 2 --seconds 0.1 --warmup 0.1 --in-flight 8", Some(7)).expect("ran");
        assert!(found.done.blocks > 0);
        assert!(found.ledgers.iter().all(|ledger| ledger.acked == ledger.submitted));
    }

    #[test]
    fn a_run_goes_on_until_its_bytes_are_moved() {
        let found = measured("--writers 2 --seconds 0.01 --warmup 0 --bytes 8m", None).expect("ran");
        assert!(found.done.bytes >= 8 << 20, "{}", found.done.bytes);
    }

    #[test]
    fn an_input_is_written_once() {
        let input = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nyc-weather-2000.lp");
        for in_flight in [1, 4] {
            let options = format!("--input {input} --rows-per-block 30 --in-flight {in_flight} --store none");
            let found = measured(&options, Some(1)).expect("ran");
            assert_eq!((found.done.rows, found.done.blocks), (2000, 67));
            assert_eq!(found.ledgers.iter().map(|ledger| ledger.hashes.len()).sum::<usize>(), 67);
        }
    }

    #[test]
    fn a_bad_line_ends_the_run_and_keeps_what_was_acknowledged() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("bad.lp");
        let mut text = "m f=1\n".repeat(500);
        text += "m f=x\n";
        std::fs::write(&path, text).expect("written");
        let failed = measured(&format!("--input {} --rows-per-block 100", path.display()), None).expect_err("bad");
        assert!(failed.to_string().contains("line 501, column 5"), "{failed}");
        assert!(failed.done.rows <= 500);
    }
}
