//! Measuring a disk: closed loops of the operations that a shard asks for, on a file of a segment's kind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::IoChoice;
use crate::engine::open::{boot_id, open_disk};
use crate::error::Error;
use crate::io::buf::AlignedBuf;
use crate::io::clock::random_u64;
use crate::io::disk::{Disk, DiskOp, Done, OpId, Outcome, Wait};
use crate::io::folder::DirFolder;
use crate::io::maker::Maker;
use crate::io::waker::Waker;
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::probe::device::{Device, flushes};
use crate::types::{Epoch, FileId, Generation, Nonce, SegmentNo, ShardId, StoreId};
use crate::wal::segment::SegmentHeader;

/// A write that is durable sooner than this in the median, in microseconds, reached no device.
pub const FLUSH_US_MIN: f64 = 20.0;
/// Of the file that is written over and over, in bytes.
const FILE_BYTES: u64 = 256 << 20;
const SEGMENT: SegmentNo = SegmentNo(1);
/// Sizes of durable writes, in bytes, from the smallest batch to the largest by default.
const SIZES: [usize; 5] = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const IN_FLIGHT: [usize; 4] = [1, 2, 4, 8];
/// Measurements that share the time.
const POINTS: u32 = (SIZES.len() * IN_FLIGHT.len()) as u32 + 4;

/// How to probe.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder on the disk in question; it gets a folder for the probe's files, which are removed again.
    pub dir: PathBuf,
    /// What writes.
    pub io: IoChoice,
    /// How long all measurements take together; the file is made before, which takes its time too.
    pub time: Duration,
}

/// One closed loop of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Bytes of each.
    pub bytes: u64,
    /// So many at a time.
    pub in_flight: u64,
    /// How many ended.
    pub operations: u64,
    /// In so many seconds.
    pub seconds: f64,
    /// Microseconds that half of them took at most.
    pub us_p50: f64,
    /// Microseconds that 99 % of them took at most.
    pub us_p99: f64,
}

impl Point {
    /// Bytes a second.
    #[must_use]
    pub fn bytes_per_s(&self) -> f64 {
        self.operations as f64 * self.bytes as f64 / self.seconds
    }

    /// The mean time of one, in seconds: of a closed loop that is what the rate comes from.
    #[must_use]
    pub fn mean_s(&self) -> f64 {
        self.seconds * self.in_flight as f64 / self.operations as f64
    }
}

/// Whether a flush looks like one. Only a power cut proves that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flush {
    /// It takes time, and the device counts it where it counts at all.
    Plausible,
    /// The kernel sees no volatile cache in the device, so it sends no flush.
    NotNeeded,
    /// The device has a volatile cache and was sent no flush.
    NotSent,
    /// It is faster than any device.
    TooFast,
}

/// What a disk did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// `uring` or `pwrite`.
    pub io: String,
    /// The device.
    pub device: Device,
    /// Whether its flush looks real.
    pub flush: Flush,
    /// Flushes that the device counted while `overwrite` ran, other programs' among them.
    pub flushes_counted: Option<u64>,
    /// 4 KiB written over what is there, each followed by fdatasync.
    pub overwrite: Point,
    /// 4 KiB appended to a file that grows, each followed by fdatasync; through the page cache.
    pub append: Point,
    /// Direct writes of 1 MiB in sequence that nobody syncs, by how many are in flight.
    pub write: Vec<Point>,
    /// Direct writes in sequence, each durable by itself, by size and by how many are in flight.
    pub write_synced: Vec<Point>,
}

/// Measures the disk that holds `options.dir`.
///
/// # Errors
/// [`Error::Io`] with what was being done; the probe's files are removed all the same.
pub fn probe(options: &Options) -> Result<Probe, Error> {
    let folder = Folder::make(&options.dir)?;
    let (mut bench, io) = Bench::start(&folder.0, options.io)?;
    let time = options.time / POINTS;
    let mut write = Vec::new();
    for in_flight in [1, 4] {
        write.push(bench.writes(1 << 20, in_flight, time, Kind::Write)?);
        // What it left behind must not be what the next one waits for.
        bench.sync()?;
    }
    let before = flushes(&options.dir);
    let overwrite = bench.overwrite(4 << 10, time)?;
    let flushes_counted = before.zip(flushes(&options.dir)).map(|(before, after)| after.saturating_sub(before));
    let append = append(&folder.0, 4 << 10, time)?;
    let mut write_synced = Vec::new();
    for bytes in SIZES {
        for in_flight in IN_FLIGHT {
            write_synced.push(bench.writes(bytes, in_flight, time, Kind::WriteSynced)?);
        }
    }
    let device = Device::below(&options.dir);
    let flush = judge(&device, &overwrite, flushes_counted);
    Ok(Probe { io: io.to_owned(), device, flush, flushes_counted, overwrite, append, write, write_synced })
}

fn judge(device: &Device, overwrite: &Point, counted: Option<u64>) -> Flush {
    if device.write_cache.as_deref() == Some("write through") {
        Flush::NotNeeded
    } else if overwrite.us_p50 < FLUSH_US_MIN {
        Flush::TooFast
    } else if counted.is_some_and(|counted| counted < overwrite.operations / 2) {
        Flush::NotSent
    } else {
        Flush::Plausible
    }
}

/// A folder that is removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn make(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(format!("forebay-probe-{}-{:08x}", std::process::id(), random_u64() as u32));
        fs::create_dir(&path).map_err(Error::io(format!("making {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} stays behind: {error}", self.0.display());
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Write,
    WriteSynced,
}

/// A disk with one file, and where the next write goes.
struct Bench {
    disk: Box<dyn Disk + Send>,
    next_op: u64,
    at: usize,
}

impl Bench {
    fn start(dir: &Path, choice: IoChoice) -> Result<(Self, &'static str), Error> {
        let folder = Arc::new(DirFolder::open(dir).map_err(Error::io(format!("opening {}", dir.display())))?);
        let store = StoreId::default();
        let maker = Maker::new(store, ShardId(0), FILE_BYTES, 1, Box::new(random_u64));
        let waker = Waker::new().map_err(Error::io("making an eventfd"))?;
        let (disk, io) = open_disk(choice, folder, maker, &[], waker)?;
        let mut bench = Self { disk, next_op: 0, at: SEGMENT_HEADER_BYTES };
        let header = SegmentHeader {
            store,
            shard: ShardId(0),
            segment: SEGMENT,
            epoch: Epoch(1),
            nonce: Nonce(random_u64()),
            file_id: FileId(0),
            generation: Generation(0),
            filled_upto: 0,
            segment_bytes: FILE_BYTES,
            boot: boot_id()?,
            pin: None,
            handled: Vec::new(),
        };
        bench.submit(DiskOp::Prepare { header: Box::new(header) });
        bench.one()?;
        Ok((bench, io))
    }

    fn submit(&mut self, op: DiskOp) -> OpId {
        self.next_op += 1;
        self.disk.submit(OpId(self.next_op), op);
        OpId(self.next_op)
    }

    /// What has ended; at least one.
    fn ended(&mut self, done: &mut Vec<Done>) -> Result<(), Error> {
        while done.is_empty() {
            self.disk.poll(Wait::Event, done).map_err(Error::io("polling the disk"))?;
        }
        for end in done {
            if let Outcome::Failed(cause) = &mut end.outcome {
                let cause = std::mem::replace(cause, io::ErrorKind::Other.into());
                return Err(Error::io("writing the probe's file")(cause));
            }
        }
        Ok(())
    }

    fn one(&mut self) -> Result<Option<AlignedBuf>, Error> {
        let mut done = Vec::new();
        self.ended(&mut done)?;
        Ok(done.pop().and_then(|end| end.buf))
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.submit(DiskOp::Sync { segment: SEGMENT });
        self.one().map(drop)
    }

    fn write(&mut self, buf: AlignedBuf, kind: Kind) -> OpId {
        if self.at + buf.len() > FILE_BYTES as usize {
            self.at = SEGMENT_HEADER_BYTES;
        }
        let (segment, offset) = (SEGMENT, self.at as u32);
        self.at += buf.len();
        self.submit(match kind {
            Kind::Write => DiskOp::Write { segment, offset, buf },
            Kind::WriteSynced => DiskOp::WriteSynced { segment, offset, buf },
        })
    }

    fn writes(&mut self, bytes: usize, in_flight: usize, time: Duration, kind: Kind) -> Result<Point, Error> {
        let began = Instant::now();
        let mut started: Vec<(OpId, Instant)> = Vec::with_capacity(in_flight);
        let mut took: Vec<u64> = Vec::new();
        for _ in 0..in_flight {
            started.push((self.write(filled(bytes), kind), Instant::now()));
        }
        let mut done = Vec::new();
        while !started.is_empty() {
            self.ended(&mut done)?;
            for end in done.drain(..) {
                let at = started.iter().position(|(id, _)| *id == end.id).expect("an operation under way");
                took.push(started.swap_remove(at).1.elapsed().as_nanos() as u64);
                if began.elapsed() < time {
                    let buf = end.buf.expect("a write's buffer comes home");
                    started.push((self.write(buf, kind), Instant::now()));
                }
            }
        }
        Ok(point(bytes, in_flight, began.elapsed(), took))
    }

    fn overwrite(&mut self, bytes: usize, time: Duration) -> Result<Point, Error> {
        let began = Instant::now();
        let (mut took, mut buf) = (Vec::new(), filled(bytes));
        while took.is_empty() || began.elapsed() < time {
            let started = Instant::now();
            self.write(buf, Kind::Write);
            buf = self.one()?.expect("a write's buffer comes home");
            self.sync()?;
            took.push(started.elapsed().as_nanos() as u64);
        }
        Ok(point(bytes, 1, began.elapsed(), took))
    }
}

fn append(dir: &Path, bytes: usize, time: Duration) -> Result<Point, Error> {
    let path = dir.join("append");
    let failed = || Error::io(format!("appending to {}", path.display()));
    let mut file: File = OpenOptions::new().create_new(true).append(true).open(&path).map_err(failed())?;
    let (began, mut took, buf) = (Instant::now(), Vec::new(), filled(bytes));
    while took.is_empty() || began.elapsed() < time {
        let started = Instant::now();
        file.write_all(&buf).and_then(|()| file.sync_data()).map_err(failed())?;
        took.push(started.elapsed().as_nanos() as u64);
    }
    Ok(point(bytes, 1, began.elapsed(), took))
}

/// No zeros: a device may not write those at all.
fn filled(bytes: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::new(bytes);
    buf.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random_u64().to_le_bytes()));
    buf
}

fn point(bytes: usize, in_flight: usize, time: Duration, mut took: Vec<u64>) -> Point {
    took.sort_unstable();
    let us = |share: usize| took[(took.len() - 1) * share / 100] as f64 / 1e3;
    Point {
        bytes: bytes as u64,
        in_flight: in_flight as u64,
        operations: took.len() as u64,
        seconds: time.as_secs_f64(),
        us_p50: us(50),
        us_p99: us(99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_judged_by_its_time_its_device_and_its_count() {
        let of = |us_p50| Point { bytes: 4096, in_flight: 1, operations: 100, seconds: 1.0, us_p50, us_p99: us_p50 };
        let device = |cache: Option<&str>| Device { write_cache: cache.map(str::to_owned), ..Device::default() };
        let back = device(Some("write back"));
        for (device, us, counted, flush) in [
            (&back, 90.0, Some(100), Flush::Plausible),
            (&back, 90.0, None, Flush::Plausible),
            (&device(None), 90.0, None, Flush::Plausible),
            (&back, 90.0, Some(3), Flush::NotSent),
            (&back, 3.0, Some(100), Flush::TooFast),
            (&device(None), 3.0, None, Flush::TooFast),
            (&device(Some("write through")), 3.0, Some(0), Flush::NotNeeded),
        ] {
            assert_eq!(judge(device, &of(us), counted), flush, "{device:?} {us} {counted:?}");
        }
    }
}
