//! [`Maker`]: makes segments ready ahead of need, and recycles them.
//!
//! ```text
//! new-ID.tmp --fill, sync, rename--> spare-ID.wal --header, sync, rename--> N.wal
//!                                         ^------------- retire ---------------'
//! ```
//!
//! Promises: a segment's name always stands for a file whose header of just that use is synced;
//! the pair (file id, generation), from which stamps are made, is given out once; `filled_upto` is
//! never beyond what was written and synced. Each step is durable before the next begins, so a
//! crash leaves only files that [`Maker::adopt_leftovers`] can take over or remove.
//!
//! It decides on names and headers only. It knows no directory and draws no random numbers itself.
//! That nobody reads a segment any more when it is retired is up to the shard.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;

use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::limits::{GENERATION_MAX, PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::types::{FileId, Generation, SegmentNo, ShardId, StoreId};
use crate::wal::segment::{FileName, SegmentHeader, new_name, parse_name, segment_name, spare_name};
use crate::wal::verdict::{Stamp, Stamps};

/// One shard's spares, and what is known of the files that are in use as segments.
pub struct Maker {
    store: StoreId,
    shard: ShardId,
    segment_bytes: u64,
    spares_max: usize,
    spares: VecDeque<File>,
    segments: BTreeMap<SegmentNo, File>,
    draw: Box<dyn FnMut() -> u64 + Send>,
}

/// What must be remembered of a file from one use to the next.
#[derive(Clone, Copy, Debug)]
struct File {
    id: FileId,
    /// Of its present or latest use; 0 for a file that was only zero-filled.
    generation: u32,
    filled_upto: u32,
}

impl Maker {
    /// A maker of segments of `segment_bytes` for one shard. It keeps at most `spares_max` spares;
    /// `draw` gives the random numbers that become file ids.
    #[must_use]
    pub fn new(
        store: StoreId,
        shard: ShardId,
        segment_bytes: u64,
        spares_max: usize,
        draw: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        let (spares, segments) = (VecDeque::new(), BTreeMap::new());
        Self { store, shard, segment_bytes, spares_max, spares, segments, draw }
    }

    /// Spares at hand.
    #[must_use]
    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// At open: takes over every spare in the folder and removes interrupted fills.
    ///
    /// # Errors
    /// As the folder says; the same call may be made again.
    pub fn adopt_leftovers(&mut self, folder: &dyn Folder) -> io::Result<()> {
        let mut names = folder.list()?;
        names.sort_unstable();
        for (name, len) in names {
            match parse_name(&name) {
                FileName::New(_) => folder.remove(&name)?,
                FileName::Spare(id) => self.adopt_spare(folder, id, len)?,
                FileName::Segment(_) | FileName::Other => {}
            }
        }
        folder.sync_folder()
    }

    /// Takes over one spare of `len` bytes. It is removed where it cannot be used again: its
    /// header is unreadable though it was used, or older than its content, or of another store, shard,
    /// file or length, it was used too often, or there are enough. It is left alone while somebody else holds its lock.
    ///
    /// # Errors
    /// As the folder says.
    pub fn adopt_spare(&mut self, folder: &dyn Folder, id: FileId, len: u64) -> io::Result<()> {
        let name = spare_name(id);
        if self.spares.iter().any(|spare| spare.id == id) || !folder.try_lock(&name)? {
            return Ok(());
        }
        let mut start = AlignedBuf::new(SEGMENT_HEADER_BYTES + PAGE_BYTES);
        let count = folder.read(&name, 0, &mut start)?;
        let file = match SegmentHeader::decode(&start[..count.min(SEGMENT_HEADER_BYTES)]) {
            Ok(header) => {
                // A write that is lost unnoticed leaves an older header, and what was written under the lost one.
                let first = Stamps::new(&header).read(&start[SEGMENT_HEADER_BYTES..], SEGMENT_HEADER_BYTES);
                let is_ours = header.file_id == id && self.recyclable(&header) && first != Stamp::Unknown;
                is_ours.then(|| File::of(&header))
            }
            // It has been filled and never used: the first copy of its header alone may be torn.
            Err(_) => start[PAGE_BYTES..].iter().all(|byte| *byte == 0).then_some(File::filled(id)),
        };
        match file.filter(|_| len == self.segment_bytes && self.spares.len() < self.spares_max) {
            Some(file) => {
                self.spares.push_back(file);
                Ok(())
            }
            None => folder.remove(&name),
        }
    }

    /// At open: a segment that was found in the folder, so that it can be recycled once retired.
    /// One that is never mentioned here, its header being unreadable, is removed when retired.
    pub fn adopt_segment(&mut self, header: &SegmentHeader) {
        if self.recyclable(header) {
            self.segments.insert(header.segment, File::of(header));
        }
    }

    /// Makes a file ready under the segment's name: `wanted` with its file id, generation and
    /// `filled_upto` filled in is written to it and synced.
    ///
    /// # Errors
    /// As the folder says. The file in question is given up, and removed if that is possible.
    ///
    /// # Panics
    /// Where `wanted` is of another store, shard or length than this maker's.
    pub fn prepare(&mut self, folder: &dyn Folder, wanted: SegmentHeader) -> io::Result<SegmentHeader> {
        self.name(folder, wanted, |spare, header| {
            let mut pages = AlignedBuf::new(SEGMENT_HEADER_BYTES);
            pages.copy_from_slice(&header.encode());
            folder.write(spare, 0, &pages).and_then(|()| folder.sync(spare))
        })
    }

    /// The same for recovery, which may have no other file on a full disk: at any crash the spare can
    /// be taken over again. It costs a sync more.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    ///
    /// # Panics
    /// As [`prepare`](Self::prepare).
    pub fn prepare_again(&mut self, folder: &dyn Folder, wanted: SegmentHeader) -> io::Result<SegmentHeader> {
        self.name(folder, wanted, |spare, header| replace_header(folder, spare, header))
    }

    fn name(
        &mut self,
        folder: &dyn Folder,
        wanted: SegmentHeader,
        write: impl FnOnce(&str, &SegmentHeader) -> io::Result<()>,
    ) -> io::Result<SegmentHeader> {
        assert!(self.fits(&wanted), "segment {} is not of this maker's shard", wanted.segment);
        let file = match self.spares.pop_front() {
            Some(spare) => spare,
            None => self.make(folder)?,
        };
        let header = SegmentHeader {
            file_id: file.id,
            generation: Generation(file.generation + 1),
            filled_upto: file.filled_upto,
            ..wanted
        };
        let (spare, segment) = (spare_name(file.id), segment_name(header.segment));
        give_up(folder, &spare, write(&spare, &header).and_then(|()| folder.rename(&spare, &segment)))?;
        give_up(folder, &segment, folder.sync_folder())?;
        self.segments.insert(header.segment, File::of(&header));
        Ok(header)
    }

    /// Puts a segment whose log is not needed to use once more, under its own name: `wanted` with
    /// the file's next generation. `end` is where its log ended, everything before being synced. It
    /// needs no other file, so it works on a full disk; `None` where the file is worn out.
    ///
    /// At any crash one of the two copies of the header is whole: the old one or the new one.
    ///
    /// # Errors
    /// As the folder says.
    ///
    /// # Panics
    /// Where `wanted` is not for the same segment of this maker's shard.
    pub fn renew(
        &mut self,
        folder: &dyn Folder,
        old: &SegmentHeader,
        end: u32,
        wanted: SegmentHeader,
    ) -> io::Result<Option<SegmentHeader>> {
        assert!(self.fits(&wanted) && wanted.segment == old.segment, "segment {} cannot be renewed", wanted.segment);
        if !self.recyclable(old) {
            return Ok(None);
        }
        let header = SegmentHeader {
            file_id: old.file_id,
            generation: Generation(old.generation.0 + 1),
            filled_upto: old.filled_upto.max(end),
            ..wanted
        };
        replace_header(folder, &segment_name(header.segment), &header)?;
        self.segments.insert(header.segment, File::of(&header));
        Ok(Some(header))
    }

    /// Gives back a segment whose log ended at `end`, everything before being written and synced:
    /// it becomes a spare, or is removed where it cannot be used again or there are enough.
    ///
    /// # Errors
    /// As the folder says, and `WouldBlock` where somebody else holds the file's lock.
    pub fn retire(&mut self, folder: &dyn Folder, segment: SegmentNo, end: u32) -> io::Result<()> {
        let name = segment_name(segment);
        let known = self.segments.remove(&segment).filter(|_| self.spares.len() < self.spares_max);
        let Some(file) = known.filter(|file| file.generation < GENERATION_MAX) else {
            folder.remove(&name)?;
            return folder.sync_folder();
        };
        if !folder.try_lock(&name)? {
            let held = format!("{name} cannot be recycled: another process holds its lock");
            return Err(io::Error::new(io::ErrorKind::WouldBlock, held));
        }
        folder.rename(&name, &spare_name(file.id))?;
        // Only then may its header be written over: a power cut must not bring the old name back.
        folder.sync_folder()?;
        self.spares.push_back(File { filled_upto: file.filled_upto.max(end), ..file });
        Ok(())
    }

    /// A new file, zero-filled and synced, under a spare's name.
    fn make(&mut self, folder: &dyn Folder) -> io::Result<File> {
        let id = FileId((self.draw)());
        let (new, spare) = (new_name(id), spare_name(id));
        folder.create(&new, self.segment_bytes)?;
        give_up(folder, &new, folder.sync(&new).and_then(|()| folder.rename(&new, &spare)))?;
        give_up(folder, &spare, folder.sync_folder())?;
        Ok(File::filled(id))
    }

    fn fits(&self, header: &SegmentHeader) -> bool {
        (header.store, header.shard, header.segment_bytes) == (self.store, self.shard, self.segment_bytes)
    }

    fn recyclable(&self, header: &SegmentHeader) -> bool {
        self.fits(header) && header.generation.0 < GENERATION_MAX && u64::from(header.filled_upto) <= self.segment_bytes
    }
}

impl File {
    /// A file that was zero-filled and not used yet.
    const fn filled(id: FileId) -> Self {
        Self { id, generation: 0, filled_upto: 0 }
    }

    fn of(header: &SegmentHeader) -> Self {
        Self { id: header.file_id, generation: header.generation.0, filled_upto: header.filled_upto }
    }
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Maker({} spares, {} segments)", self.spares.len(), self.segments.len())
    }
}

/// Writes a header over another one, or over none: at any crash one of its two copies is the old one,
/// whole, or the new one.
fn replace_header(folder: &dyn Folder, name: &str, header: &SegmentHeader) -> io::Result<()> {
    let mut pages = AlignedBuf::new(SEGMENT_HEADER_BYTES);
    folder.read(name, 0, &mut pages)?;
    // The copy that is whole is written over last: an earlier attempt may have torn the other.
    let order = if SegmentHeader::decode_copy(&pages[..PAGE_BYTES]).is_ok() { [1, 0] } else { [0, 1] };
    pages.copy_from_slice(&header.encode());
    for at in order.map(|copy| copy * PAGE_BYTES) {
        folder.write(name, at as u64, &pages[at..at + PAGE_BYTES])?;
        #[cfg(feature = "sim")]
        if header.pin.is_some() && crate::planted::is_planted(crate::planted::Mutant::AcceptsBeforeHeader) {
            continue;
        }
        folder.sync(name)?;
    }
    Ok(())
}

/// After a failed step nobody knows what is in the file; it must never be used again.
fn give_up(folder: &dyn Folder, name: &str, step: io::Result<()>) -> io::Result<()> {
    step.inspect_err(|_| {
        // The first error is the one to report.
        let _ = folder.remove(name);
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard};

    use super::*;
    use crate::limits::SECTOR_BYTES;
    use crate::types::{Epoch, Nonce};

    const SEGMENT_BYTES: u64 = 1 << 20;
    const STORE: StoreId = StoreId([7; 16]);
    const SHARD: ShardId = ShardId(3);

    /// Folders in memory. Content is kept for the first pages only; the rest would stay zero.
    /// Names and content each have a state that a power cut keeps.
    #[derive(Clone, Default)]
    struct Tree {
        names: BTreeMap<String, usize>,
        contents: Vec<Vec<u8>>,
    }

    const KEPT_BYTES: usize = 6 * 4096;

    #[derive(Default)]
    struct Fake {
        now: Mutex<Tree>,
        safe: Mutex<Tree>,
        calls: AtomicUsize,
        fail: Option<Fail>,
        foreign_locks: BTreeSet<String>,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Fail {
        at: usize,
        effect: Effect,
        then: Then,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Effect {
        None,
        Whole,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Then {
        GoOn,
        Dead,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Cut {
        Kill,
        Power,
        PowerButNamesAreSafe,
        PowerButContentIsSafe,
    }

    impl Fake {
        fn now(&self) -> MutexGuard<'_, Tree> {
            self.now.lock().expect("whole")
        }

        fn safe(&self) -> MutexGuard<'_, Tree> {
            self.safe.lock().expect("whole")
        }

        /// Counts a call that changes something; says whether it happens and how it ends.
        fn change<T>(&self, what: impl FnOnce(&mut Tree) -> io::Result<T>) -> io::Result<T> {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            match self.fail {
                Some(fail) if call == fail.at => {
                    if fail.effect == Effect::Whole {
                        what(&mut self.now())?;
                    }
                    Err(io::ErrorKind::StorageFull.into())
                }
                Some(Fail { at, then: Then::Dead, .. }) if call > at => Err(io::ErrorKind::BrokenPipe.into()),
                _ => what(&mut self.now()),
            }
        }

        /// The folder as the next process finds it.
        fn reopened(&self, cut: Cut) -> Self {
            let (now, safe) = (self.now(), self.safe());
            let names = if matches!(cut, Cut::Kill | Cut::PowerButNamesAreSafe) { &now.names } else { &safe.names };
            let mut contents = if matches!(cut, Cut::Kill | Cut::PowerButContentIsSafe) {
                now.contents.clone()
            } else {
                safe.contents.clone()
            };
            contents.resize(now.contents.len(), Vec::new());
            let tree = Tree { names: names.clone(), contents };
            Self { now: Mutex::new(tree.clone()), safe: Mutex::new(tree), ..Self::default() }
        }
    }

    fn at(tree: &Tree, name: &str) -> io::Result<usize> {
        tree.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    impl Folder for Fake {
        fn list(&self) -> io::Result<Vec<(String, u64)>> {
            let tree = self.now();
            let len = |file: &usize| if tree.contents[*file].is_empty() { 0 } else { SEGMENT_BYTES };
            Ok(tree.names.iter().map(|(name, file)| (name.clone(), len(file))).collect())
        }
        fn try_lock(&self, name: &str) -> io::Result<bool> {
            at(&self.now(), name)?;
            Ok(!self.foreign_locks.contains(name))
        }
        fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            let tree = self.now();
            let content = &tree.contents[at(&tree, name)?];
            let content = content.get(offset as usize..).unwrap_or_default();
            let count = content.len().min(buf.len());
            buf[..count].copy_from_slice(&content[..count]);
            Ok(count)
        }
        fn create(&self, name: &str, len: u64) -> io::Result<()> {
            assert_eq!(len, SEGMENT_BYTES);
            self.change(|tree| {
                assert!(!tree.names.contains_key(name), "{name} is there already");
                tree.names.insert(name.to_owned(), tree.contents.len());
                tree.contents.push(vec![0; KEPT_BYTES]);
                Ok(())
            })
        }
        fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.change(|tree| {
                let file = at(tree, name)?;
                tree.contents[file][offset as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(())
            })
        }
        fn sync(&self, name: &str) -> io::Result<()> {
            self.change(|tree| {
                let (file, mut safe) = (at(tree, name)?, self.safe());
                safe.contents.resize(tree.contents.len(), Vec::new());
                safe.contents[file].clone_from(&tree.contents[file]);
                Ok(())
            })
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.change(|tree| {
                let file = at(tree, from)?;
                tree.names.remove(from);
                assert_eq!(tree.names.insert(to.to_owned(), file), None, "{to} was overwritten");
                Ok(())
            })
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.change(|tree| at(tree, name).map(|_| tree.names.remove(name)).map(|_| ()))
        }
        fn sync_folder(&self) -> io::Result<()> {
            self.change(|tree| {
                self.safe().names.clone_from(&tree.names);
                Ok(())
            })
        }
    }

    fn maker(ids: &Arc<AtomicU64>) -> Maker {
        let ids = Arc::clone(ids);
        Maker::new(STORE, SHARD, SEGMENT_BYTES, 2, Box::new(move || ids.fetch_add(1, Ordering::Relaxed)))
    }

    fn wanted(segment: u64) -> SegmentHeader {
        SegmentHeader {
            store: STORE,
            shard: SHARD,
            segment: SegmentNo(segment),
            epoch: Epoch(5),
            nonce: Nonce(6),
            file_id: FileId(0),
            generation: Generation(0),
            filled_upto: 0,
            segment_bytes: SEGMENT_BYTES,
            boot: [9; 16],
            pin: None,
            handled: Vec::new(),
        }
    }

    /// What holds after every successful preparation, over all processes that used the folder.
    #[derive(Default)]
    struct Seen(BTreeSet<(FileId, Generation)>);

    impl Seen {
        fn check(&mut self, folder: &Fake, header: &SegmentHeader) {
            assert!(self.0.insert((header.file_id, header.generation)), "given out twice: {header:?}");
            for tree in [&folder.now, &folder.safe] {
                let tree = tree.lock().expect("whole");
                let content = &tree.contents[at(&tree, &segment_name(header.segment)).expect("its name is there")];
                assert_eq!(SegmentHeader::decode(content).as_ref(), Ok(header));
                let filled = content.get(SEGMENT_HEADER_BYTES..header.filled_upto as usize).unwrap_or_default();
                let zeros = filled.chunks(SECTOR_BYTES).filter(|sector| sector[4..].contains(&0)).count();
                assert_eq!(zeros, 0, "zero before filled_upto: {header:?}");
            }
        }
    }

    /// Writes and syncs a log that ends at `end`, as a shard would before it retires the segment.
    fn fill(folder: &Fake, segment: u64, end: u32) -> io::Result<()> {
        let name = segment_name(SegmentNo(segment));
        let mut header = [0; SEGMENT_HEADER_BYTES];
        folder.read(&name, 0, &mut header)?;
        let stamp = SegmentHeader::decode(&header).expect("a header").stamp();
        let mut sectors = vec![1; end as usize - SEGMENT_HEADER_BYTES];
        sectors.chunks_mut(SECTOR_BYTES).for_each(|sector| sector[..4].copy_from_slice(&stamp.to_le_bytes()));
        folder.write(&name, SEGMENT_HEADER_BYTES as u64, &sectors)?;
        folder.sync(&name)
    }

    /// Several uses of several files: new, recycled, and more spares than are kept.
    fn history(folder: &Fake, maker: &mut Maker, seen: &mut Seen, first: u64) -> io::Result<()> {
        maker.adopt_leftovers(folder)?;
        let mut prepare = |maker: &mut Maker, segment: u64| {
            maker.prepare(folder, wanted(first + segment)).inspect(|header| seen.check(folder, header))
        };
        for segment in 0..3 {
            prepare(maker, segment)?;
        }
        fill(folder, first, 16384)?;
        maker.retire(folder, SegmentNo(first), 16384)?;
        let recycled = prepare(maker, 3)?;
        fill(folder, first + 3, 12288)?;
        for (segment, end) in [(3, 12288), (1, 8192), (2, 8192)] {
            maker.retire(folder, SegmentNo(first + segment), end)?;
        }
        assert!(recycled.filled_upto == 16384 || recycled.generation.0 > 2, "{recycled:?}");
        prepare(maker, 4).map(|_| ())
    }

    fn run_with(fail: Option<Fail>, cut: Cut) -> usize {
        let (ids, mut seen) = (Arc::new(AtomicU64::new(1)), Seen::default());
        let mut folder = Fake { fail, ..Fake::default() };
        let mut first = maker(&ids);
        let ended = history(&folder, &mut first, &mut seen, 1);
        assert!(
            fail.is_none() == ended.is_ok() || fail.is_some_and(|fail| fail.at >= folder.calls.load(Ordering::Relaxed)),
            "{ended:?}"
        );
        let calls = folder.calls.load(Ordering::Relaxed);
        if fail.is_some_and(|fail| fail.then == Then::GoOn) {
            // The process lives on, as after a full disk that has room again.
            for segment in 50..53 {
                let header = first.prepare(&folder, wanted(segment)).expect("it goes on");
                seen.check(&folder, &header);
            }
        }
        folder = folder.reopened(cut);
        for segment in folder.list().expect("listed") {
            if let FileName::Segment(segment) = parse_name(&segment.0) {
                let name = segment_name(segment);
                let mut page = [0; SEGMENT_HEADER_BYTES];
                folder.read(&name, 0, &mut page).expect("read");
                assert_eq!(SegmentHeader::decode(&page).map(|header| header.segment), Ok(segment), "{fail:?} {cut:?}");
            }
        }
        history(&folder, &mut maker(&ids), &mut seen, 100).expect("the next process works");
        let names = folder.list().expect("listed");
        assert!(!names.iter().any(|(name, _)| matches!(parse_name(name), FileName::New(_))), "{names:?}");
        let spares = names.iter().filter(|(name, _)| matches!(parse_name(name), FileName::Spare(_))).count();
        assert!(spares <= 2, "{fail:?} {cut:?}: {names:?}");
        calls
    }

    #[test]
    fn recoverable_after_a_crash_at_every_step() {
        let calls = run_with(None, Cut::Kill);
        assert!(calls > 30, "{calls}");
        for at in 0..calls {
            for effect in [Effect::None, Effect::Whole] {
                for cut in [Cut::Kill, Cut::Power, Cut::PowerButNamesAreSafe, Cut::PowerButContentIsSafe] {
                    run_with(Some(Fail { at, effect, then: Then::Dead }), cut);
                }
            }
        }
    }

    #[test]
    fn goes_on_after_a_failure_at_every_step() {
        for at in 0..run_with(None, Cut::Kill) {
            for effect in [Effect::None, Effect::Whole] {
                run_with(Some(Fail { at, effect, then: Then::GoOn }), Cut::Kill);
            }
        }
    }

    fn with_spare(header: &SegmentHeader) -> Fake {
        let folder = Fake::default();
        let mut content = header.encode();
        content.resize(KEPT_BYTES, 0);
        let names = BTreeMap::from([(spare_name(FileId(8)), 0)]);
        *folder.now() = Tree { names, contents: vec![content] };
        folder
    }

    #[test]
    fn spares_that_are_foreign_unreadable_or_worn_out_are_removed() {
        let sound = SegmentHeader { file_id: FileId(8), generation: Generation(4), ..wanted(9) };
        let adopted = |folder: &Fake| {
            let mut maker = maker(&Arc::new(AtomicU64::new(100)));
            maker.adopt_leftovers(folder).expect("adopted");
            (maker.spares(), folder.list().expect("listed").len())
        };
        assert_eq!(adopted(&with_spare(&sound)), (1, 1));
        let last = SegmentHeader { generation: Generation(GENERATION_MAX - 1), ..sound.clone() };
        assert_eq!(adopted(&with_spare(&last)), (1, 1));
        for unfit in [
            SegmentHeader { store: StoreId([8; 16]), ..sound.clone() },
            SegmentHeader { shard: ShardId(4), ..sound.clone() },
            SegmentHeader { file_id: FileId(9), ..sound.clone() },
            SegmentHeader { segment_bytes: 2 << 20, ..sound.clone() },
            SegmentHeader { filled_upto: (1 << 20) + 1, ..sound.clone() },
            SegmentHeader { generation: Generation(GENERATION_MAX), ..sound.clone() },
        ] {
            assert_eq!(adopted(&with_spare(&unfit)), (0, 0), "{unfit:?}");
        }
        for (generation, there) in [(1, 1), (3, 1), (4, 1), (5, 0), (6, 0)] {
            let used = with_spare(&sound);
            let stamp = SegmentHeader { generation: Generation(generation), ..sound.clone() }.stamp();
            used.now().contents[0][SEGMENT_HEADER_BYTES..][..4].copy_from_slice(&stamp.to_le_bytes());
            assert_eq!(adopted(&used), (there, there), "written in generation {generation}, and the header has 4");
        }
        let unreadable = with_spare(&sound);
        unreadable.now().contents[0][PAGE_BYTES..SEGMENT_HEADER_BYTES].fill(0);
        assert_eq!(adopted(&unreadable), (1, 1), "one copy is enough");
        unreadable.now().contents[0][7] ^= 1;
        assert_eq!(adopted(&unreadable), (1, 1), "torn before its first use");
        unreadable.now().contents[0][SEGMENT_HEADER_BYTES] = 1;
        assert_eq!(adopted(&unreadable), (0, 0), "a used file whose generation is not known");
    }

    #[test]
    fn no_file_is_recycled_before_its_lock_was_had() {
        let header = SegmentHeader { file_id: FileId(8), generation: Generation(4), ..wanted(9) };
        let mut folder = with_spare(&header);
        folder.foreign_locks = BTreeSet::from([spare_name(FileId(8)), segment_name(SegmentNo(1))]);
        let mut maker = maker(&Arc::new(AtomicU64::new(100)));
        maker.adopt_leftovers(&folder).expect("adopted");
        assert_eq!((maker.spares(), folder.list().expect("listed").len()), (0, 1), "left alone");
        maker.prepare(&folder, wanted(1)).expect("prepared");
        let held = maker.retire(&folder, SegmentNo(1), 8192).expect_err("somebody else holds it");
        assert_eq!(held.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(maker.spares(), 0);
    }

    #[test]
    fn segments_found_at_open_are_recycled_and_unknown_ones_removed() {
        let ids = Arc::new(AtomicU64::new(1));
        let folder = Fake::default();
        let mut first = maker(&ids);
        let header = first.prepare(&folder, wanted(1)).expect("prepared");
        first.prepare(&folder, wanted(2)).expect("prepared");
        let mut second = maker(&ids);
        second.adopt_segment(&header);
        fill(&folder, 1, 12288).expect("filled");
        second.retire(&folder, SegmentNo(1), 12288).expect("retired");
        second.retire(&folder, SegmentNo(2), 8192).expect("retired");
        assert_eq!(folder.list().expect("listed"), [(spare_name(header.file_id), SEGMENT_BYTES)]);
        let again = second.prepare(&folder, wanted(3)).expect("prepared");
        assert_eq!((again.file_id, again.generation, again.filled_upto), (header.file_id, Generation(2), 12288));
        assert_ne!(again.stamp(), header.stamp());
    }
}
