//! What the engine is compared with: one plain file, `write(2)` under a lock.
//!
//! At (2,0) each block is followed by fdatasync, under the lock too; at (2,P) a thread calls
//! fdatasync every P milliseconds; at level 1 nobody does before the end of the run.

use std::fs::{File, OpenOptions};
use std::future::{Ready, ready};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use forebay::{Block, Receipt};
use hdrhistogram::Histogram;
use serde_json::json;

use crate::args::Setting;
use crate::stats::histogram_us;
use crate::target::{Counts, Target, TargetWriter};

/// One plain file.
pub struct PlainFile {
    shared: Arc<Shared>,
    timer: Option<JoinHandle<()>>,
}

struct Shared {
    each: bool,
    state: Mutex<State>,
    stop: Condvar,
    /// A descriptor of its own, so that the timer's fdatasync does not hold the lock.
    syncer: File,
}

struct State {
    file: File,
    blocks: u64,
    unsynced: Unsynced,
    max: Unsynced,
    max_ms: f64,
    sync_us: Histogram<u64>,
    failed: Option<String>,
    stopping: bool,
}

#[derive(Clone, Copy, Default)]
struct Unsynced {
    bytes: u64,
    since: Option<Instant>,
}

impl PlainFile {
    /// Makes the file, which must not be there.
    ///
    /// # Errors
    /// As the file system says.
    pub fn create(path: &Path, setting: Setting) -> Result<Self> {
        let name = || format!("cannot make {}", path.display());
        let file = OpenOptions::new().append(true).create_new(true).open(path).with_context(name)?;
        let syncer = file.try_clone().with_context(name)?;
        let state = State {
            file,
            blocks: 0,
            unsynced: Unsynced::default(),
            max: Unsynced::default(),
            max_ms: 0.0,
            sync_us: histogram_us(),
            failed: None,
            stopping: false,
        };
        let each = setting == Setting::Level2(0);
        let shared = Arc::new(Shared { each, state: Mutex::new(state), stop: Condvar::new(), syncer });
        let timer = match setting {
            Setting::Level2(ms) if ms > 0 => {
                let shared = Arc::clone(&shared);
                Some(std::thread::spawn(move || shared.sync_every(Duration::from_millis(ms))))
            }
            _ => None,
        };
        Ok(Self { shared, timer })
    }
}

impl Drop for PlainFile {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.stop.notify_all();
        if let Some(timer) = self.timer.take() {
            let _ = timer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, block: &Block) -> Result<()> {
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            anyhow::bail!("{failed}");
        }
        state.file.write_all(block.payload()).context("write")?;
        state.blocks += 1;
        state.unsynced.bytes += block.payload().len() as u64;
        if self.each {
            let started = Instant::now();
            state.file.sync_data().context("fdatasync")?;
            state.synced(started);
        } else if state.unsynced.since.is_none() {
            state.unsynced.since = Some(Instant::now());
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let covered = self.lock().take_unsynced();
        let started = Instant::now();
        let outcome = self.syncer.sync_data();
        let mut state = self.lock();
        state.cover(covered);
        if let Err(error) = outcome {
            state.failed = Some(format!("fdatasync: {error}"));
            return Err(error).context("fdatasync");
        }
        state.synced(started);
        Ok(())
    }

    fn sync_every(&self, period: Duration) {
        let mut due = Instant::now() + period;
        loop {
            let mut state = self.lock();
            while !state.stopping && Instant::now() < due {
                let rest = due.saturating_duration_since(Instant::now());
                state = self.stop.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.stopping {
                return;
            }
            let idle = state.unsynced.bytes == 0;
            drop(state);
            if !idle && self.sync().is_err() {
                return;
            }
            due = (due + period).max(Instant::now());
        }
    }
}

impl State {
    fn take_unsynced(&mut self) -> Unsynced {
        self.max.bytes = self.max.bytes.max(self.unsynced.bytes);
        std::mem::take(&mut self.unsynced)
    }

    fn cover(&mut self, covered: Unsynced) {
        self.max.bytes = self.max.bytes.max(covered.bytes + self.unsynced.bytes);
        let ms = covered.since.map_or(0.0, |since| since.elapsed().as_secs_f64() * 1e3);
        self.max_ms = self.max_ms.max(ms);
    }

    fn synced(&mut self, started: Instant) {
        if self.unsynced.since.is_none() {
            self.unsynced.bytes = 0;
        }
        self.sync_us.saturating_record(started.elapsed().as_micros() as u64);
    }
}

impl Target for PlainFile {
    type Writer = PlainWriter;

    fn writer(&self) -> Result<PlainWriter> {
        Ok(PlainWriter { shared: Arc::clone(&self.shared) })
    }

    fn sync(&self) -> Result<()> {
        self.shared.sync()
    }

    fn counts(&self) -> Counts {
        let state = self.shared.lock();
        Counts {
            io: "write".into(),
            shards: 1,
            cpus: Vec::new(),
            batches: state.blocks,
            blocks_written: state.blocks,
            sync_us: state.sync_us.clone(),
            unsynced_max_bytes: state.max.bytes,
            unsynced_max_ms: state.max_ms,
            wal_bytes: (0, u64::MAX),
            stalls: 0,
            paced_ms: 0.0,
            accepted: Vec::new(),
            flushed: Vec::new(),
            marks: json!([]),
        }
    }
}

/// A writer of a [`PlainFile`].
pub struct PlainWriter {
    shared: Arc<Shared>,
}

impl TargetWriter for PlainWriter {
    type Ticket = Ready<Result<Option<Receipt>>>;

    fn append(&mut self, block: Block) -> Result<Option<Receipt>> {
        self.shared.append(&block).map(|()| None)
    }

    fn submit(&mut self, block: Block) -> Result<std::result::Result<Self::Ticket, Block>> {
        Ok(Ok(ready(self.shared.append(&block).map(|()| None))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(setting: Setting, pause: Duration) -> (Counts, u64) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        let file = PlainFile::create(&path, setting).expect("a file");
        let mut writer = file.writer().expect("a writer");
        for _ in 0..10 {
            writer.append(Block::raw("t", vec![7; 100])).expect("written");
        }
        std::thread::sleep(pause);
        let counts = file.counts();
        drop(file);
        (counts, std::fs::metadata(&path).expect("the file").len())
    }

    #[test]
    fn syncs_as_the_setting_says() {
        let (level_1, bytes) = written(Setting::Level1, Duration::ZERO);
        assert_eq!((level_1.sync_us.len(), level_1.blocks_written, bytes), (0, 10, 1000));
        let (each, _) = written(Setting::Level2(0), Duration::ZERO);
        assert_eq!(each.sync_us.len(), 10);
        let (periodic, _) = written(Setting::Level2(20), Duration::from_millis(200));
        assert!((1..10).contains(&periodic.sync_us.len()), "{} syncs", periodic.sync_us.len());
        assert!(periodic.unsynced_max_bytes > 0 && periodic.unsynced_max_ms > 0.0);
    }

    #[test]
    fn an_existing_file_is_not_touched() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        std::fs::write(&path, "mine").expect("written");
        assert!(PlainFile::create(&path, Setting::Level1).is_err());
        assert_eq!(std::fs::read(&path).expect("read"), b"mine");
    }
}
