//! The simulated storage device and its file system: what is durable, what is not yet, and what a
//! kill, a power cut or a fault makes of that. No traits here; `io/sim.rs` dresses it as a disk and a
//! folder.
//!
//! # The fault model
//! - A file is a row of atomic units (512, 4096 or 16384 bytes). A write that completed can be read;
//!   it is durable only after a sync that began after its completion. A sync of one file does nothing
//!   for another, nor for names.
//! - Names that were made, changed or removed are durable only after a sync of the folder.
//! - A power cut decides for each unit of each write that is not durable whether it arrived, in one of
//!   several manners ([`Fate`]), and likewise for names (in order, or each file by itself). A file
//!   that was never synced may have any length up to its own.
//! - A kill leaves what completed. A write in flight lands wholly, in part, not at all, or *later*,
//!   while the next process runs; until then its file stays locked, if the writer had locked it.
//! - A failed sync decides like a power cut for what it covered, and no later sync makes up for it.
//!   A failed or short write leaves any part behind.
//! - A device may acknowledge a write and never do it, or do it elsewhere ([`Strayed`]); syncs say nothing.
//! - Each operation that changes something may be the last of its process: it may have happened or not.

use std::io;

use crate::io::chance::Chance;
use crate::io::disk::Instant;
pub use crate::io::sim_names::Fate;
use crate::io::sim_names::Names;
use crate::limits::SECTOR_BYTES;

/// Faults to come; each is armed once. Counted from when it is armed, the next operation being 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// This write fails with EIO and leaves any part behind.
    pub write_error: Option<u64>,
    /// This write is short.
    pub write_short: Option<u64>,
    /// This sync fails with EIO.
    pub sync_error: Option<u64>,
    /// This operation of a [`Folder`](crate::io::disk::Folder) that changes something is the last of its process.
    pub last_call: Option<u64>,
    /// This write is acknowledged and never happens.
    pub write_lost: Option<u64>,
    /// This write is acknowledged and happens at another place.
    pub write_misdirected: Option<u64>,
    /// Files can be made no more.
    pub full: bool,
}

/// A folder of the medium, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderNo(pub usize);

/// A write that the device acknowledged, and did not do where it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strayed {
    /// The file that it was for.
    pub file: FileNo,
    /// Where in it, in bytes.
    pub at: usize,
    /// What should stand there.
    pub data: Vec<u8>,
    /// What stands there instead.
    pub instead: Vec<u8>,
    /// Where it went, if anywhere: the file, the offset, and what was written over.
    pub hit: Option<(FileNo, usize, Vec<u8>)>,
}

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileNo(usize);

/// Bugs that are planted into this world's disk or folder, to see that they are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A folder's sync does nothing.
    pub no_folder_sync: bool,
    /// A failed sync is tried again, and its success believed.
    pub retry_sync: bool,
    /// Locks are had for the asking.
    pub no_locks: bool,
    /// A write that should be durable when it ends is not.
    pub no_write_sync: bool,
}

/// A write that was submitted, known by number in the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteNo(u64);

#[derive(Clone, Debug)]
struct Pending {
    no: WriteNo,
    at: usize,
    data: Vec<u8>,
    /// When it completed, on the medium's own count of events.
    done: Option<u64>,
    /// Written by a process that was killed: calls until it lands.
    landing_in: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// The durable content; zero where nothing was written.
    durable: Vec<u8>,
    durable_len: usize,
    pending: Vec<Pending>,
    /// The process that holds the lock.
    lock: Option<u64>,
}

/// The device with folders on it.
#[derive(Clone, Debug)]
pub struct Medium {
    chance: Chance,
    /// The present, as the simulated clock has it.
    pub now: Instant,
    jumped_ns: u64,
    unit: usize,
    files: Vec<File>,
    folders: Vec<Names>,
    process: u64,
    /// How each process but the last ended; `None`: it was killed.
    ends: Vec<Option<Fate>>,
    crashed: bool,
    events: u64,
    writes: u64,
    landings: usize,
    /// What goes wrong next.
    pub faults: Faults,
    /// Planted bugs.
    pub flaws: Flaws,
    /// The write that strayed last.
    pub strayed: Option<Strayed>,
    trace: Option<String>,
}

impl Medium {
    /// An empty medium with atomic units of `unit` bytes, a multiple of 512.
    #[must_use]
    pub fn new(chance: Chance, unit: usize) -> Self {
        assert!(unit >= SECTOR_BYTES && unit.is_multiple_of(SECTOR_BYTES), "a unit is a row of sectors");
        Self {
            chance,
            now: Instant(0),
            jumped_ns: 0,
            unit,
            files: Vec::new(),
            folders: vec![Names::default()],
            process: 1,
            ends: Vec::new(),
            crashed: false,
            events: 0,
            writes: 0,
            landings: 0,
            faults: Faults::default(),
            flaws: Flaws::default(),
            strayed: None,
            trace: None,
        }
    }

    /// Bytes of an atomic unit.
    #[must_use]
    pub const fn unit(&self) -> usize {
        self.unit
    }

    /// The process that runs now; each kill and each cut begins another.
    #[must_use]
    pub const fn process(&self) -> u64 {
        self.process
    }

    /// How each process that is over ended, from the first on; `None`: it was killed, and the machine
    /// went on.
    #[must_use]
    pub fn ends(&self) -> &[Option<Fate>] {
        &self.ends
    }

    /// The process is dead and somebody must decide how.
    #[must_use]
    pub const fn is_crashed(&self) -> bool {
        self.crashed
    }

    /// Makes another folder.
    pub fn add_folder(&mut self) -> FolderNo {
        self.folders.push(Names::default());
        FolderNo(self.folders.len() - 1)
    }

    /// The present without the clock's jumps.
    #[must_use]
    pub const fn real_now(&self) -> Instant {
        Instant(self.now.0 - self.jumped_ns)
    }

    /// The monotonic clock jumps forward, as one does whose machine was stopped.
    pub fn jump(&mut self, by_ns: u64) {
        self.note(|| format!("the clock jumps by {} h", by_ns / 3_600_000_000_000));
        self.now.0 += by_ns;
        self.jumped_ns += by_ns;
    }

    /// From now on every event is noted.
    pub fn keep_trace(&mut self) {
        self.trace = Some(String::new());
    }

    /// Notes an event, if a trace is kept.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push_str(&format!("{:>12} {}\n", self.now.0 / 1_000, what()));
        }
    }

    /// The trace since this was called last.
    pub fn take_trace(&mut self) -> String {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Puts this before what is noted from now on, if a trace is kept.
    pub fn put_trace(&mut self, before: String) {
        if let Some(trace) = &mut self.trace {
            *trace = before;
        }
    }

    /// The trace so far.
    #[must_use]
    pub fn trace(&self) -> &str {
        self.trace.as_deref().unwrap_or_default()
    }

    /// An operation of this process: fails if that is dead. Writes of killed processes go on landing.
    pub(crate) fn enter(&mut self, process: u64) -> io::Result<()> {
        if self.crashed || process != self.process {
            return Err(dead());
        }
        self.events += 1;
        if self.landings > 0 {
            self.land();
        }
        Ok(())
    }

    /// The same for one that changes something; `false` if the process dies with it, having done it
    /// or not (that is for the caller to decide by [`coin`](Self::coin)).
    pub(crate) fn enter_change(&mut self, process: u64) -> io::Result<bool> {
        self.enter(process)?;
        match count_down(&mut self.faults.last_call) {
            true => {
                self.crashed = true;
                self.note(|| "the process dies in the next call".to_owned());
                Ok(false)
            }
            false => Ok(true),
        }
    }

    /// An operation that writes, outside this medium's files, fails now.
    pub(crate) fn write_fails(&mut self) -> bool {
        count_down(&mut self.faults.write_error)
    }

    /// The same for a sync.
    pub(crate) fn sync_fails(&mut self) -> bool {
        count_down(&mut self.faults.sync_error)
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.chance.percent(50)
    }

    /// All names of a folder with lengths.
    pub(crate) fn list(&self, folder: FolderNo) -> Vec<(String, u64)> {
        let names = self.folders[folder.0].iter();
        names.map(|(name, file)| (name.to_owned(), self.files[file].durable.len() as u64)).collect()
    }

    pub(crate) fn file(&self, folder: FolderNo, name: &str) -> io::Result<usize> {
        let file = self.folders[folder.0].find(name);
        file.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    /// Where a file is named, if it is.
    #[must_use]
    pub fn name_of(&self, FileNo(file): FileNo) -> Option<(FolderNo, &str)> {
        let mut folders = self.folders.iter().enumerate();
        folders.find_map(|(folder, names)| {
            let (name, _) = names.iter().find(|(_, named)| *named == file)?;
            Some((FolderNo(folder), name))
        })
    }

    pub(crate) fn lock(&mut self, file: usize) -> bool {
        let process = self.process;
        let file = &mut self.files[file];
        if file.lock.is_some_and(|holder| holder != process) && !self.flaws.no_locks {
            return false;
        }
        file.lock = Some(process);
        true
    }

    /// What a reader finds: durable bytes under those of completed writes.
    pub(crate) fn read(&self, file: usize, offset: usize, buf: &mut [u8]) -> usize {
        let file = &self.files[file];
        let count = file.durable.len().saturating_sub(offset).min(buf.len());
        if count == 0 {
            return 0;
        }
        buf[..count].copy_from_slice(&file.durable[offset..offset + count]);
        for write in file.pending.iter().filter(|write| write.done.is_some()) {
            let (from, to) = (write.at.max(offset), (write.at + write.data.len()).min(offset + count));
            if from < to {
                buf[from - offset..to - offset].copy_from_slice(&write.data[from - write.at..to - write.at]);
            }
        }
        count
    }

    pub(crate) fn create(&mut self, folder: FolderNo, name: &str, len: usize) -> io::Result<()> {
        if self.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.folders[folder.0].find(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = self.files.len();
        self.files.push(File { durable: vec![0; len], lock: Some(self.process), ..File::default() });
        self.folders[folder.0].set(name, file);
        Ok(())
    }

    /// Begins a write.
    pub(crate) fn begin_write(&mut self, file: usize, at: usize, data: Vec<u8>) -> io::Result<WriteNo> {
        if at + data.len() > self.files[file].durable.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a write beyond the end of a prepared file"));
        }
        self.writes += 1;
        let no = WriteNo(self.writes);
        self.files[file].pending.push(Pending { no, at, data, done: None, landing_in: None });
        Ok(no)
    }

    /// Ends a write: with success, or as the armed fault says.
    pub(crate) fn end_write(&mut self, file: usize, no: WriteNo) -> io::Result<()> {
        self.events += 1;
        let error = count_down(&mut self.faults.write_error);
        if error || count_down(&mut self.faults.write_short) {
            let keep = if error { Fate::Units } else { Fate::Prefix };
            self.tear(file, no, keep);
            let kind = if error { io::Error::from_raw_os_error(5) } else { io::ErrorKind::WriteZero.into() };
            return Err(kind);
        }
        if count_down(&mut self.faults.write_lost) {
            self.stray(file, no, Stray::Lost);
        } else if count_down(&mut self.faults.write_misdirected) {
            self.stray(file, no, Stray::Misdirected);
        }
        let events = self.events;
        if let Some(write) = self.files[file].pending.iter_mut().find(|write| write.no == no) {
            write.done = Some(events);
        }
        Ok(())
    }

    /// The device does not do this write where it should.
    fn stray(&mut self, file: usize, no: WriteNo, how: Stray) {
        let pending = &mut self.files[file].pending;
        let Some(index) = pending.iter().position(|write| write.no == no) else { return };
        let Pending { at, data, .. } = pending.remove(index);
        let mut instead = vec![0; data.len()];
        self.read(file, at, &mut instead);
        let named: Vec<usize> = self.folders.iter().flat_map(Names::iter).map(|(_, file)| file).collect();
        let other = if self.coin() { file } else { self.chance.pick(&named) };
        let units = (self.files[other].durable.len().saturating_sub(data.len())) / self.unit + 1;
        let to = self.chance.below(units as u64) as usize * self.unit;
        // Not over the place where it should stand, so that what it hit can be told from what it missed.
        let apart = other != file || to + data.len() <= at || at + data.len() <= to;
        let fits = to + data.len() <= self.files[other].durable.len() && apart;
        let hit = (how == Stray::Misdirected && fits).then(|| {
            let mut over = vec![0; data.len()];
            self.read(other, to, &mut over);
            self.files[other].durable[to..to + data.len()].copy_from_slice(&data);
            (FileNo(other), to, over)
        });
        let strayed = Strayed { file: FileNo(file), at, data, instead, hit };
        self.note(|| {
            let to = strayed.hit.as_ref().map(|(file, at, _)| (file.0, *at));
            format!("a write strayed: file {file} {at:#x}, went to {to:x?}")
        });
        self.strayed = Some(strayed);
    }

    /// The process dies in this write.
    pub(crate) fn die_in_write(&mut self, file: usize, no: WriteNo) {
        self.tear(file, no, Fate::Units);
    }

    /// Only a part of this write happens.
    fn tear(&mut self, file: usize, no: WriteNo, fate: Fate) {
        self.events += 1;
        let pending = &mut self.files[file].pending;
        let Some(index) = pending.iter().position(|write| write.no == no) else { return };
        let write = pending.remove(index);
        for part in parts(&mut self.chance, write, self.unit, fate) {
            pending.push(Pending { done: Some(self.events), ..part });
        }
    }

    /// A point in the order of events, for a sync that begins now.
    pub(crate) const fn begin_sync(&self) -> u64 {
        self.events
    }

    /// Ends a sync that began at `began`.
    pub(crate) fn end_sync(&mut self, file: usize, began: u64) -> io::Result<()> {
        self.settle(file, |write| write.done.is_some_and(|done| done <= began))?;
        self.files[file].durable_len = self.files[file].durable.len();
        Ok(())
    }

    /// Makes one completed write durable.
    pub(crate) fn harden(&mut self, file: usize, no: WriteNo) -> io::Result<()> {
        if self.flaws.no_write_sync {
            return Ok(());
        }
        self.settle(file, |write| write.no == no)
    }

    fn settle(&mut self, file: usize, covered: impl Fn(&Pending) -> bool) -> io::Result<()> {
        let failed = count_down(&mut self.faults.sync_error);
        let (covered, rest): (Vec<_>, Vec<_>) = self.files[file].pending.drain(..).partition(&covered);
        self.files[file].pending = rest;
        for write in covered {
            if !failed {
                self.files[file].durable[write.at..write.at + write.data.len()].copy_from_slice(&write.data);
                continue;
            }
            for part in parts(&mut self.chance, write, self.unit, Fate::Units) {
                self.files[file].durable[part.at..part.at + part.data.len()].copy_from_slice(&part.data);
            }
        }
        if failed {
            // What did not arrive is gone, and no later sync says so.
            return if self.flaws.retry_sync { Ok(()) } else { Err(io::Error::from_raw_os_error(5)) };
        }
        Ok(())
    }

    pub(crate) fn rename(&mut self, folder: FolderNo, from: &str, to: &str) -> io::Result<()> {
        let file = self.file(folder, from)?;
        self.folders[folder.0].rename(from, to, file);
        Ok(())
    }

    pub(crate) fn remove(&mut self, folder: FolderNo, name: &str) -> io::Result<()> {
        let file = self.file(folder, name)?;
        self.folders[folder.0].remove(name, file);
        Ok(())
    }

    pub(crate) fn sync_names(&mut self, folder: FolderNo) {
        if !self.flaws.no_folder_sync {
            self.folders[folder.0].sync();
        }
    }

    /// The process is killed.
    pub fn kill(&mut self) {
        self.process += 1;
        self.ends.push(None);
        self.crashed = false;
        self.events += 1;
        let unit = self.unit;
        for file in &mut self.files {
            if file.pending.iter().all(|write| write.done.is_some()) {
                file.lock = None;
                continue;
            }
            let mut kept = Vec::new();
            let mut later = false;
            for mut write in file.pending.drain(..) {
                if write.done.is_some() {
                    kept.push(write);
                    continue;
                }
                let fate = self.chance.below(4);
                match fate {
                    0 => {}
                    1 => kept.push(Pending { done: Some(self.events), ..write }),
                    2 => {
                        let parts = parts(&mut self.chance, write, unit, Fate::Units);
                        kept.extend(parts.into_iter().map(|part| Pending { done: Some(self.events), ..part }));
                    }
                    _ => {
                        write.landing_in = Some(self.chance.within(1, 60));
                        self.landings += 1;
                        later = true;
                        kept.push(write);
                    }
                }
            }
            file.pending = kept;
            if !later {
                file.lock = None;
            }
        }
        let (process, landings) = (self.process, self.landings);
        self.note(|| format!("kill: process {process} begins, {landings} writes still to land"));
    }

    /// Writes of killed processes come closer to landing; who holds a lock for them lets go.
    fn land(&mut self) {
        for file in &mut self.files {
            let mut landed = false;
            for write in &mut file.pending {
                let Some(calls) = write.landing_in else { continue };
                write.landing_in = calls.checked_sub(1);
                if write.landing_in.is_none() {
                    write.done = Some(self.events);
                    self.landings -= 1;
                    landed = true;
                }
            }
            if landed && file.lock.is_some_and(|holder| holder != self.process) {
                let more = file.pending.iter().any(|write| write.landing_in.is_some());
                file.lock = file.lock.filter(|_| more);
            }
        }
    }

    /// The power fails.
    pub fn cut_power(&mut self, fate: Fate) {
        self.process += 1;
        self.ends.push(Some(fate));
        self.crashed = false;
        self.landings = 0;
        let mut order: Vec<WriteNo> = self.files.iter().flat_map(|file| &file.pending).map(|write| write.no).collect();
        order.sort_unstable();
        let edge = if order.is_empty() { WriteNo(0) } else { self.chance.pick(&order) };
        for at in 0..self.files.len() {
            self.cut_file(at, fate, edge);
        }
        for names in &mut self.folders {
            names.cut(fate, &mut self.chance);
        }
        let process = self.process;
        self.note(|| format!("power cut ({fate:?}, {} writes not durable): process {process} begins", order.len()));
    }

    fn cut_file(&mut self, at: usize, fate: Fate, edge: WriteNo) {
        let file = &mut self.files[at];
        let (len, durable_len) = (file.durable.len(), file.durable_len);
        file.lock = None;
        for write in std::mem::take(&mut file.pending) {
            let by_edge = |before: bool| match (write.no.cmp(&edge), before) {
                (std::cmp::Ordering::Equal, _) => Fate::Units,
                (std::cmp::Ordering::Less, true) | (std::cmp::Ordering::Greater, false) => Fate::Kept,
                _ => Fate::Lost,
            };
            let fate = match fate {
                Fate::Kept if write.done.is_none() => Fate::Units,
                Fate::Prefix => by_edge(true),
                Fate::Suffix => by_edge(false),
                Fate::Writes => self.chance.pick(&[Fate::Kept, Fate::Lost]),
                other => other,
            };
            for part in parts(&mut self.chance, write, self.unit, fate) {
                file.durable[part.at..part.at + part.data.len()].copy_from_slice(&part.data);
            }
        }
        if durable_len < len && fate != Fate::Kept {
            // Never synced: the file may have ended anywhere.
            let end = if fate == Fate::Lost {
                durable_len
            } else {
                self.chance.within(durable_len as u64, len as u64) as usize
            };
            file.durable.truncate(end / self.unit * self.unit);
        }
        file.durable_len = file.durable.len();
    }

    /// Changes durable bytes behind everybody's back; false where the file does not reach so far.
    pub fn rot(&mut self, folder: FolderNo, name: &str, at: usize, change: impl FnOnce(&mut [u8])) -> bool {
        let Ok(file) = self.file(folder, name) else { return false };
        let reaches = at < self.files[file].durable.len();
        if reaches {
            change(&mut self.files[file].durable[at..]);
        }
        reaches
    }

    /// Puts another file in a file's place, or none, behind everybody's back: what was there. Nothing of
    /// it may be on its way to the device.
    pub fn replace(&mut self, folder: FolderNo, name: &str, content: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let was = self.file(folder, name).ok();
        let file = content.map(|durable| {
            self.files.push(File { durable_len: durable.len(), durable, ..File::default() });
            self.files.len() - 1
        });
        self.folders[folder.0].replace(name, file);
        was.map(|file| {
            let mut bytes = vec![0; self.files[file].durable.len()];
            self.read(file, 0, &mut bytes);
            bytes
        })
    }
}

/// How a write strays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stray {
    Lost,
    Misdirected,
}

/// The parts of a write that arrive.
fn parts(chance: &mut Chance, write: Pending, unit: usize, fate: Fate) -> Vec<Pending> {
    let first = write.at / unit;
    let last = (write.at + write.data.len()).div_ceil(unit);
    let count = last - first;
    let edge = chance.below(count as u64 + 1) as usize;
    let arrives = |chance: &mut Chance, index: usize| match fate {
        Fate::Lost => false,
        Fate::Kept | Fate::Writes => true,
        Fate::Units => chance.percent(50),
        Fate::Prefix => index < edge,
        Fate::Suffix => index >= edge,
        Fate::Heads => index == 0,
        Fate::Tails => index > 0,
    };
    if matches!(fate, Fate::Kept | Fate::Writes) {
        return vec![write];
    }
    let mut kept = Vec::new();
    for index in 0..count {
        if !arrives(chance, index) {
            continue;
        }
        let from = ((first + index) * unit).max(write.at);
        let to = ((first + index + 1) * unit).min(write.at + write.data.len());
        let data = write.data[from - write.at..to - write.at].to_vec();
        kept.push(Pending { no: write.no, at: from, data, done: write.done, landing_in: None });
    }
    kept
}

/// Counts an armed fault down; true when it is due.
pub(crate) const fn count_down(fault: &mut Option<u64>) -> bool {
    match fault {
        Some(0) => {
            *fault = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

pub(crate) fn dead() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the simulated process is dead")
}
