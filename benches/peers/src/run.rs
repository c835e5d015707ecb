//! One run of one engine: a closed loop of writers, first to warm up, then measured up to the end of a
//! final sync.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::blocks::Blocks;
use crate::disk;
use crate::peer::{Engine, Options, Peer, PeerWriter};

/// Latencies beyond this are counted as this: ten minutes, in nanoseconds.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Peers may need more than Forebay's writers.
const STACK_BYTES: usize = 1 << 20;

/// What a run found.
pub struct Measured {
    /// From the first block to the end of the final sync.
    pub seconds: f64,
    /// Acknowledged blocks of each writer.
    pub blocks: Vec<u64>,
    /// From the start of each block to its ack, in nanoseconds.
    pub ack_ns: Histogram<u64>,
    /// Flushes of the disk meanwhile.
    pub flushes: Option<u64>,
}

/// How long writers write.
#[derive(Clone, Copy)]
pub enum Until {
    /// For so many seconds.
    Seconds(f64),
    /// Until each has written so many blocks.
    Blocks(u64),
}

/// Opens the engine in an empty folder and measures it.
///
/// # Errors
/// The first thing that failed.
pub fn measure(engine: Engine, options: Options<'_>, writers: u32, warmup: f64, seconds: f64) -> Result<Measured> {
    let peer = engine.open(options).context("open")?;
    let mut lanes = lanes(&*peer, writers, options.block_bytes, false)?;
    // What was filled ahead, and what a run before this one left.
    disk::settle(options.dir)?;
    if warmup > 0.0 {
        lap(&mut lanes, Until::Seconds(warmup))?;
        peer.sync().context("sync after the warm-up")?;
        lanes.iter_mut().for_each(Lane::forget_figures);
    }
    let flushes = disk::flushes(options.dir);
    let started = Instant::now();
    lap(&mut lanes, Until::Seconds(seconds))?;
    peer.sync().context("final sync")?;
    let seconds = started.elapsed().as_secs_f64();
    let flushes = disk::flushes(options.dir).zip(flushes).map(|(after, before)| after - before);
    let mut ack_ns = histogram();
    for lane in &lanes {
        ack_ns.add(&lane.ack_ns)?;
    }
    Ok(Measured { seconds, blocks: lanes.iter().map(|lane| lane.blocks).collect(), ack_ns, flushes })
}

/// Opens the engine in an empty folder and writes `blocks` marked blocks with each writer. Returns as the last
/// one is acknowledged, without a sync and with the engine open: the caller kills the process.
///
/// # Errors
/// The first thing that failed.
pub fn write(engine: Engine, options: Options<'_>, writers: u32, blocks: u64) -> Result<Box<dyn Peer>> {
    let peer = engine.open(options).context("open")?;
    let mut lanes = lanes(&*peer, writers, options.block_bytes, true)?;
    lap(&mut lanes, Until::Blocks(blocks))?;
    drop(lanes);
    Ok(peer)
}

struct Lane<'a> {
    writer: Box<dyn PeerWriter + 'a>,
    next: u64,
    blocks: u64,
    ack_ns: Histogram<u64>,
}

impl Lane<'_> {
    fn forget_figures(&mut self) {
        self.blocks = 0;
        self.ack_ns.reset();
    }

    fn go(&mut self, until: Until, stop: &AtomicBool) -> Result<()> {
        let mut started = Instant::now();
        loop {
            match until {
                Until::Blocks(count) if self.blocks >= count => return Ok(()),
                _ if stop.load(Ordering::Relaxed) => return Ok(()),
                _ => {}
            }
            self.writer.append(self.next)?;
            let ended = Instant::now();
            self.next += 1;
            self.blocks += 1;
            self.ack_ns.saturating_record((ended - started).as_nanos() as u64);
            // Nothing is made in between: the next block starts as the last one was acknowledged.
            started = ended;
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("sound bounds")
}

fn lanes(peer: &dyn Peer, writers: u32, block_bytes: usize, marked: bool) -> Result<Vec<Lane<'_>>> {
    let lane = |number| {
        let writer = peer.writer(Blocks::new(number, block_bytes, marked))?;
        Ok(Lane { writer, next: 0, blocks: 0, ack_ns: histogram() })
    };
    (0..writers).map(lane).collect()
}

/// Lets all writers write until then, and until all their blocks are acknowledged.
fn lap(lanes: &mut [Lane<'_>], until: Until) -> Result<()> {
    let (stop, running) = (AtomicBool::new(false), AtomicU64::new(lanes.len() as u64));
    let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let begin = Barrier::new(lanes.len() + 1);
    thread::scope(|scope| -> Result<()> {
        for lane in lanes {
            let (stop, running, failed, begin) = (&stop, &running, &failed, &begin);
            let builder = thread::Builder::new().stack_size(STACK_BYTES);
            let spawned = builder.spawn_scoped(scope, move || {
                begin.wait();
                if let Err(error) = lane.go(until, stop) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    stop.store(true, Ordering::Relaxed);
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
            // The others would wait at the barrier for ever.
            spawned.unwrap_or_else(|error| fail(&format!("cannot start a writer's thread: {error}")));
        }
        begin.wait();
        if let Until::Seconds(seconds) = until {
            let end = Instant::now() + Duration::from_secs_f64(seconds);
            while !stop.load(Ordering::Relaxed) && running.load(Ordering::Relaxed) > 0 && Instant::now() < end {
                thread::sleep((end - Instant::now()).min(Duration::from_millis(20)));
            }
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    })?;
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(1)
}
