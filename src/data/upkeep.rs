//! What becomes of data files after they were written: small ones are merged, old ones removed.
//!
//! In an open engine a thread of the lowest priority does it after flushes, for at most a share of the
//! time. A merge replaces files of one part by one file, in one commit: a crash leaves the old ones or the
//! new one. What cannot be read is left alone and reported.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::data::catalog::Catalog;
use crate::data::decode::DataReader;
use crate::data::dir_tree::checksum;
use crate::data::files::FilesError;
use crate::data::format::{DataFile, FileNo, PartName, Record, day_of};
use crate::data::merge::merge;
use crate::data::parquet_files::Files;
use crate::data::store::StoreError;
use crate::io::rests::{Hurry, set_hurry, set_nice};

/// A file of at least this many bytes is large enough, and left alone.
const LARGE_BYTES: u64 = 64 << 20;
/// A merge takes in at most so many bytes.
const MERGE_BYTES_MAX: u64 = 128 << 20;
/// A merge takes in at most so many files: each of them needs memory for its pages.
const MERGE_FILES_MAX: usize = 32;
/// In the background, files of about one size are merged once there are so many of a part.
const TIER_FILES: usize = 8;
/// Upper bounds of what counts as about one size, in bytes.
const TIERS: [u64; 3] = [1 << 20, 8 << 20, LARGE_BYTES];
/// The nice value of the thread.
const NICE: i32 = 19;
/// How often the age of files is looked at.
const RETENTION_PERIOD: Duration = Duration::from_secs(600);

/// What is done to files beside writing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepOptions {
    /// The share of the time that merging may take, in percent; 0: none is done.
    pub merge_percent: u32,
    /// Files whose day ended so many days ago are removed; default: never.
    pub data_retention_days: Option<u32>,
}

impl Default for UpkeepOptions {
    fn default() -> Self {
        Self { merge_percent: 10, data_retention_days: None }
    }
}

/// Which files are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeWhat {
    /// All small files of a part, as soon as there are two.
    EverySmall,
    /// Files of about one size, once there are many: so a row is written only a few times.
    Tiers,
}

/// What merging did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The folder of the part; empty for a sum of several.
    pub folder: String,
    /// Files that are gone.
    pub files_before: u64,
    /// Files that stand for them.
    pub files_after: u64,
    /// Rows in those.
    pub rows: u64,
    /// Rows that a client's retry had repeated, and that were dropped.
    pub rows_dropped: u64,
    /// Bytes of the files that are gone.
    pub bytes_before: u64,
    /// Bytes of those that stand for them.
    pub bytes_after: u64,
}

impl Merged {
    fn add(&mut self, other: &Self) {
        self.files_before += other.files_before;
        self.files_after += other.files_after;
        self.rows += other.rows;
        self.rows_dropped += other.rows_dropped;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
    }
}

/// Merges until there is nothing left to merge. `told` hears of each merge.
///
/// # Errors
/// What prevented a commit. A file that cannot be read is reported and left alone.
pub fn merge_all(files: &Files, what: MergeWhat, told: &mut dyn FnMut(&Merged)) -> Result<Merged, StoreError> {
    let never = AtomicBool::new(false);
    let mut merging = Merging { files, stop: &never, unreadable: BTreeSet::new() };
    let mut total = Merged::default();
    while let Some(merged) = merging.step(what)? {
        told(&merged);
        total.add(&merged);
    }
    Ok(total)
}

struct Merging<'a> {
    files: &'a Files,
    stop: &'a AtomicBool,
    /// Files that could not be read; not looked at again.
    unreadable: BTreeSet<FileNo>,
}

impl Merging<'_> {
    /// One merge, if there is one to do.
    fn step(&mut self, what: MergeWhat) -> Result<Option<Merged>, StoreError> {
        loop {
            // What a commit left undone has not its name yet, and is not gone.
            self.files.settle()?;
            let Some(inputs) = pick(self.files.lock().catalog(), &self.unreadable, what) else { return Ok(None) };
            let mut readers = Vec::new();
            for input in &inputs {
                match self.open(input)? {
                    Some(reader) => readers.push(reader),
                    None => break,
                }
            }
            if readers.len() == inputs.len() {
                return self.merge(&inputs, readers).map(Some);
            }
        }
    }

    /// A file to read; `None` where that is not possible now or ever.
    fn open(&mut self, input: &DataFile) -> Result<Option<DataReader>, StoreError> {
        let path = self.files.root().join(input.path());
        let opened = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!("{} is gone, as if deleted by hand; its rows are lost", path.display());
                self.files.lock().forget(&[input.path()])?;
                return Ok(None);
            }
            Err(error) => Err(error.to_string()),
            Ok(file) => read_whole(file, &path, input),
        };
        opened.map(Some).or_else(|error| {
            tracing::warn!("{} cannot be merged and is left alone: {error}", path.display());
            self.unreadable.insert(input.no);
            Ok(None)
        })
    }

    fn merge(&mut self, inputs: &[DataFile], readers: Vec<DataReader>) -> Result<Merged, StoreError> {
        let mut dropped = 0;
        let mut merged = Merged {
            folder: inputs[0].part.folder(),
            files_before: inputs.len() as u64,
            bytes_before: inputs.iter().map(|input| input.bytes).sum(),
            ..Merged::default()
        };
        self.files.commit_new(
            |new| {
                new.write(inputs[0].part.clone(), |out| {
                    let out = Stoppable { out, stop: self.stop };
                    let (written, rows_dropped) = merge(&inputs[0].part, readers, out, self.files.options())?;
                    dropped = rows_dropped;
                    Ok(written)
                })
            },
            |add| {
                merged.files_after = add.len() as u64;
                merged.rows = add.iter().map(|file| file.rows).sum();
                merged.bytes_after = add.iter().map(|file| file.bytes).sum();
                Record { add, remove: inputs.iter().map(|input| input.no).collect(), ..Record::default() }
            },
        )?;
        merged.rows_dropped = dropped;
        self.files.counters().merges.fetch_add(1, Ordering::Relaxed);
        self.files.counters().repeated_rows.fetch_add(dropped, Ordering::Relaxed);
        Ok(merged)
    }
}

/// A file that is what it was when it was committed, every byte of it.
fn read_whole(file: File, path: &Path, input: &DataFile) -> Result<DataReader, String> {
    match checksum(&file) {
        Ok(found) if found == (input.crc, input.bytes) => {}
        Ok(_) => return Err("its bytes are not those that were committed; restore it from a backup".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    DataReader::open(file, path).map_err(|error| error.to_string())
}

/// The next files to merge, of one part.
fn pick(catalog: &Catalog, unreadable: &BTreeSet<FileNo>, what: MergeWhat) -> Option<Vec<DataFile>> {
    let mut groups: BTreeMap<(&PartName, usize), Vec<&DataFile>> = BTreeMap::new();
    for file in catalog.files.values().filter(|file| !unreadable.contains(&file.no)) {
        let Some(tier) = TIERS.iter().position(|below| file.bytes < *below) else { continue };
        let tier = if what == MergeWhat::Tiers { tier } else { 0 };
        groups.entry((&file.part, tier)).or_default().push(file);
    }
    let least = if what == MergeWhat::Tiers { TIER_FILES } else { 2 };
    let mut group = groups.into_values().find(|group| group.len() >= least)?;
    group.sort_by_key(|file| (file.bytes, file.no));
    let mut bytes = 0;
    let fitting = group.iter().take(MERGE_FILES_MAX).take_while(|file| {
        bytes += file.bytes;
        bytes <= MERGE_BYTES_MAX
    });
    let count = fitting.count();
    (count >= 2).then(|| group[..count].iter().map(|file| (*file).clone()).collect())
}

/// Files whose day ended more than so many days before this one.
fn expired(catalog: &Catalog, today: i32, days: u32) -> Vec<FileNo> {
    let old = |file: &&DataFile| i64::from(file.part.day) + i64::from(days) < i64::from(today);
    catalog.files.values().filter(old).map(|file| file.no).collect()
}

/// Ends a merge when the engine closes.
struct Stoppable<'a, W> {
    out: W,
    stop: &'a AtomicBool,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("the engine closes"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The thread that looks after the files of an open engine.
pub struct Upkeep {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Upkeep {
    /// Starts it, if there is anything for it to do.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start(files: Arc<Files>, options: UpkeepOptions) -> Result<Option<Self>, StoreError> {
        if options.merge_percent == 0 && options.data_retention_days.is_none() {
            return Ok(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("forebay-upkeep".to_owned())
            .spawn(move || look_after(&files, options, &stopped))
            .map_err(FilesError::io("starting the thread that merges data files"))?;
        Ok(Some(Self { stop, thread }))
    }

    /// Ends it. A merge that is under way is given up.
    ///
    /// # Errors
    /// Where it panicked; no commit is lost by that.
    pub fn end(self) -> Result<(), StoreError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().map_err(|_| "the thread that merges data files panicked".into())
    }
}

fn look_after(files: &Files, options: UpkeepOptions, stop: &AtomicBool) {
    // Without it the thread would only be less polite.
    let _ = set_nice(NICE);
    set_hurry(Hurry::No);
    files.unpark_after_commits(std::thread::current());
    let mut merging = Merging { files, stop, unreadable: BTreeSet::new() };
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let done = step(&mut merging, options);
        let busy = began.elapsed();
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match done {
            Ok(true) => pause(busy * (100 / options.merge_percent.clamp(1, 100)).saturating_sub(1), stop),
            Ok(false) if options.data_retention_days.is_some() => std::thread::park_timeout(RETENTION_PERIOD),
            Ok(false) => std::thread::park(),
            Err(error) => {
                tracing::warn!("data files were not merged: {error}; trying again in a minute");
                pause(Duration::from_secs(60), stop);
            }
        }
    }
}

/// Sleeps so long, but not beyond the end.
fn pause(time: Duration, stop: &AtomicBool) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now())
        && !stop.load(Ordering::Relaxed)
    {
        std::thread::park_timeout(left);
    }
}

/// Removes what is too old and merges once; whether there may be more to do.
fn step(merging: &mut Merging<'_>, options: UpkeepOptions) -> Result<bool, StoreError> {
    if let Some(days) = options.data_retention_days {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let today = day_of(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let remove = expired(merging.files.lock().catalog(), today, days);
        if !remove.is_empty() {
            tracing::info!("{} data files are older than {days} days and are removed", remove.len());
            merging.files.settle()?;
            merging.files.lock().commit(Record { remove, ..Record::default() })?;
        }
    }
    if options.merge_percent == 0 {
        return Ok(false);
    }
    Ok(merging.step(MergeWhat::Tiers)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::format::PartKind;

    fn catalog(files: &[(u64, i32)]) -> Catalog {
        let mut catalog = Catalog::default();
        for (no, &(bytes, day)) in files.iter().enumerate() {
            let part = PartName { namespace: "n".into(), table: "t".into(), kind: PartKind::Lines, day };
            let no = FileNo(no as u64);
            catalog.files.insert(no, DataFile { no, part, rows: 1, bytes, crc: 0, time_min: 0, time_max: 0 });
        }
        catalog
    }

    fn picked(files: &[(u64, i32)], what: MergeWhat) -> Vec<u64> {
        let none = BTreeSet::new();
        pick(&catalog(files), &none, what).unwrap_or_default().iter().map(|file| file.no.0).collect()
    }

    #[test]
    fn only_small_files_of_one_day_are_merged_and_never_one_alone() {
        use MergeWhat::EverySmall;
        assert_eq!(picked(&[(10, 1), (10, 2)], EverySmall), [0u64; 0]);
        assert_eq!(picked(&[(20, 1), (10, 2), (10, 1)], EverySmall), [2, 0]);
        assert_eq!(picked(&[(LARGE_BYTES, 1), (10, 1), (LARGE_BYTES - 1, 1)], EverySmall), [1, 2]);
        let many: Vec<_> = (0..100).map(|_| (10, 1)).collect();
        assert_eq!(picked(&many, EverySmall).len(), MERGE_FILES_MAX);
        let heavy: Vec<_> = (0..9).map(|_| (LARGE_BYTES - 1, 1)).collect();
        assert_eq!(picked(&heavy, EverySmall).len(), 2, "no more than fit the largest merge");
    }

    #[test]
    fn in_the_background_many_files_of_about_one_size_are_merged() {
        use MergeWhat::Tiers;
        let seven: Vec<_> = (0..7).map(|_| (10, 1)).chain([(2 << 20, 1)]).collect();
        assert_eq!(picked(&seven, Tiers), [0u64; 0]);
        let eight: Vec<_> = (0..8).map(|_| (10, 1)).chain([(2 << 20, 1)]).collect();
        assert_eq!(picked(&eight, Tiers), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_day_is_kept_for_so_many_days_after_it_ended() {
        let catalog = catalog(&[(1, 10), (1, 11), (1, 20)]);
        assert_eq!(expired(&catalog, 20, 9), [FileNo(0)]);
        assert_eq!(expired(&catalog, 20, 0), [FileNo(0), FileNo(1)]);
    }
}
