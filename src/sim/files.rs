//! One history of the data files and their manifest, from one seed: flushes of several shards side by
//! side, merges, retention, files that somebody removes by hand; kills, power cuts, I/O errors and full
//! disks in between, and openings that are cut short themselves. After each opening everything is held
//! against the history.
//!
//! It runs the real [`DataFiles`] and [`Manifest`]; what goes round them here is what `data/parquet_files.rs`
//! and `data/upkeep.rs` do: files are settled while nobody writes one, written, committed, and where
//! that fails the catalog is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::config::OnDamage;
use crate::data::files::{DataFiles, FilesError, Settled};
use crate::data::format::{DataFile, FileNo, PartName, Record, SchemaColumn, ShardProgress, StreamUpto};
use crate::data::manifest::{MANIFEST_SHARD, Manifest, ManifestError, ManifestSetup};
use crate::data::tree::Tree;
use crate::io::chance::Chance;
use crate::io::disk::Folder;
use crate::io::medium::{Fate, Faults, Flaws, Medium};
use crate::io::sim::SharedMedium;
use crate::io::sim_tree::SharedTree;
use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::planted::{Mutant, is_planted, plant};
use crate::recover::{Kept, OpenError, Quarantine};
use crate::sim::files_check::{Deed, FilesModel, Row, content, part_of, rows_in, rows_of};
use crate::sim::plan::CRASH_LOOP;
use crate::sim::world::{Run, Tracing, Violation};
use crate::types::{Chain, Epoch, Nonce, Seq, ShardId, StoreId, Stream, mix64};
use crate::wal::batch::Place;
use crate::wal::segment::{FileName, SegmentHeader, parse_name};
use crate::wal::verdict::{Check, Stamps, check};

const STORE: StoreId = StoreId(*b"simulated store.");
const ATTEMPTS_MAX: u32 = 200;

/// What a history amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesSummary {
    /// Lives.
    pub lives: u64,
    /// Openings that came to their end.
    pub openings: u64,
    /// Openings that were cut short.
    pub cut_openings: u64,
    /// Transactions that were carried out.
    pub commits: u64,
    /// Merges among them.
    pub merges: u64,
    /// Transactions that failed, or died.
    pub failed: u64,
    /// Files that somebody removed or shortened.
    pub by_hand: u64,
    /// Damages of the manifest that were refused.
    pub refused: u64,
    /// Those that could be salvaged.
    pub salvaged: u64,
    /// Rows found, summed over the openings.
    pub rows: u64,
    /// A number that depends on everything found.
    pub digest: u64,
}

impl FilesSummary {
    /// Adds another history.
    pub fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.openings += other.openings;
        self.cut_openings += other.cut_openings;
        self.commits += other.commits;
        self.merges += other.merges;
        self.failed += other.failed;
        self.by_hand += other.by_hand;
        self.refused += other.refused;
        self.salvaged += other.salvaged;
        self.rows += other.rows;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// Runs a history of data files.
///
/// # Errors
/// The first promise that did not hold.
pub fn run_files(run: &Run) -> Result<(FilesSummary, String), Box<Violation>> {
    plant(run.mutant);
    let mut world = World::new(run);
    // A panic of the engine is a violation like any other.
    let result = catch_unwind(AssertUnwindSafe(|| world.history())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    plant(None);
    let trace = world.medium.lock().trace().to_owned();
    match result {
        Ok(()) => Ok((world.summary, trace)),
        Err(what) => {
            Err(Box::new(Violation { seed: run.seed, life: world.life, what: format!("data files: {what}"), trace }))
        }
    }
}

/// What a seed decides before anything happens.
#[derive(Clone, Copy, Debug)]
struct Plan {
    unit: usize,
    segment_bytes: u64,
    shards: u16,
    parts: u64,
    lives: u32,
    actions: u32,
}

/// Written files that wait for their commit.
struct Held {
    deed: Deed,
    is_merge: bool,
}

struct World {
    plan: Plan,
    seed: Chance,
    chance: Chance,
    medium: SharedMedium,
    tree: SharedTree,
    model: FilesModel,
    held: Vec<Held>,
    boot: u64,
    life: u32,
    /// Bits of the manifest were flipped: an opening may refuse.
    rotten: bool,
    /// A salvage was cut short: what it has said already it need not say again.
    salvaging: bool,
    summary: FilesSummary,
}

struct Bin;

impl Quarantine for Bin {
    fn keep(&mut self, _: Kept<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

/// What an opening came to.
type OpenedFiles = (DataFiles, Settled, usize);

impl World {
    fn new(run: &Run) -> Self {
        let seed = Chance::new(mix64(run.seed, 0xf11e));
        let mut chance = seed.fork(1);
        let plan = Plan {
            unit: chance.pick(&[512, 4096]),
            segment_bytes: chance.pick(&[16, 16, 24, 32, 64]) << 10,
            shards: (chance.within(1, 3) as u32).min(run.limits.writers_max.max(1)) as u16,
            parts: chance.within(1, 8),
            lives: (chance.within(1, 6) as u32).min(run.limits.lives_max),
            actions: (chance.pick(&[3, 10, 25, 60])).min(run.limits.blocks_max),
        };
        let mut medium = Medium::new(seed.fork(2), plan.unit);
        medium.flaws = Flaws {
            no_folder_sync: is_planted(Mutant::NoFolderSync),
            retry_sync: is_planted(Mutant::RetrySync),
            no_locks: is_planted(Mutant::RecycleWithoutLock),
            no_write_sync: is_planted(Mutant::AckBeforeSync),
        };
        if run.trace == Tracing::On {
            medium.keep_trace();
            medium.note(|| format!("data files, seed {} {plan:?}", run.seed));
        }
        let medium = SharedMedium::new(medium);
        let tree = SharedTree::new(medium.clone(), seed.fork(3));
        Self {
            plan,
            chance,
            seed,
            medium,
            tree,
            model: FilesModel::default(),
            held: Vec::new(),
            boot: 1,
            life: 0,
            rotten: false,
            salvaging: false,
            summary: FilesSummary::default(),
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.medium.lock().note(what);
    }

    fn is_dead(&self) -> bool {
        self.medium.lock().is_crashed()
    }

    fn history(&mut self) -> Result<(), String> {
        for life in 0..self.plan.lives {
            self.life = life;
            // Each life has numbers of its own, so that a shorter history is a prefix of a longer one.
            self.chance = self.seed.fork(u64::from(life) + 100);
            let deaths = if self.chance.percent(3) { CRASH_LOOP } else { self.chance.pick(&[0, 0, 0, 1, 2]) };
            let Some(mut files) = self.open(deaths)? else { return Ok(()) };
            self.arm();
            for _ in 0..self.chance.within(0, u64::from(self.plan.actions)) {
                if self.is_dead() {
                    break;
                }
                self.act(&mut files)?;
            }
            drop(files);
            self.summary.lives += 1;
            self.end()?;
            if self.chance.percent(8) {
                self.rot();
            }
        }
        self.life = self.plan.lives;
        self.open(0)?;
        // Once more, as one that nobody uses is opened: nothing changes.
        self.medium.lock().kill();
        self.open(0).map(|_| ())
    }

    /// What goes wrong in a life.
    fn arm(&mut self) {
        let mut faults = Faults::default();
        match self.chance.below(8) {
            0 | 1 => faults.last_call = Some(self.chance.below(300)),
            2 => faults.write_error = Some(self.chance.below(80)),
            3 => faults.sync_error = Some(self.chance.below(80)),
            4 => faults.full = true,
            _ => {}
        }
        self.note(|| format!("life with {faults:?}"));
        self.medium.lock().faults = faults;
    }

    /// The life is over.
    fn end(&mut self) -> Result<(), String> {
        self.held.clear();
        let full = self.medium.lock().faults.full && self.chance.percent(70);
        self.medium.lock().faults = Faults { full, ..Faults::default() };
        self.crash();
        self.model.check_names(&self.tree)
    }

    fn crash(&mut self) {
        let end = self.chance.percent(50).then(|| self.chance.pick(&Fate::ALL));
        self.crash_in(end);
    }

    /// A power cut, or a kill.
    fn crash_in(&mut self, end: Option<Fate>) {
        match end {
            None => self.medium.lock().kill(),
            Some(fate) => {
                self.medium.lock().cut_power(fate);
                self.boot += 1;
            }
        }
    }

    /// Opens the files, dying `deaths` times on the way, and checks what it finds. `None` where damage
    /// was refused for good.
    fn open(&mut self, mut deaths: u32) -> Result<Option<DataFiles>, String> {
        let mut on_damage = OnDamage::Refuse;
        if self.summary.openings > 0 && deaths == CRASH_LOOP && self.chance.percent(50) {
            self.medium.lock().faults.full = true;
        }
        for _ in 0..ATTEMPTS_MAX {
            let calls = self.chance.pick(&[8, 30, 60]);
            self.medium.lock().faults.last_call = (deaths > 0).then(|| self.chance.below(calls));
            let opened = self.try_open(on_damage);
            if self.is_dead() {
                deaths = deaths.saturating_sub(1);
                self.salvaging |= on_damage == OnDamage::Salvage;
                self.summary.cut_openings += 1;
                self.crash();
                continue;
            }
            self.medium.lock().faults.last_call = None;
            match opened {
                Ok((files, settled, damages)) => {
                    self.opened(&files, &settled, damages, on_damage)?;
                    self.medium.lock().faults.full = false;
                    if self.model.is_ahead() {
                        // The salvage has lost a flush, and kept a later merge of its files: those blocks
                        // would be flushed once more.
                        return Ok(None);
                    }
                    return Ok(Some(files));
                }
                Err(FilesError::Manifest(ManifestError::Log(OpenError::Damaged(damaged))))
                    if self.rotten && on_damage == OnDamage::Refuse =>
                {
                    self.note(|| format!("refused: {damaged}"));
                    self.summary.refused += 1;
                    on_damage = OnDamage::Salvage;
                }
                Err(FilesError::Manifest(error @ ManifestError::Records(_))) if self.rotten => {
                    self.note(|| format!("refused for good: {error}"));
                    return Ok(None);
                }
                Err(error) => return Err(format!("not opened: {error}")),
            }
        }
        Err("the files cannot be opened".to_owned())
    }

    fn try_open(&mut self, on_damage: OnDamage) -> Result<OpenedFiles, FilesError> {
        let mut draw = self.chance.fork(4);
        let setup = ManifestSetup {
            store: STORE,
            boot: u128::from(self.boot).to_le_bytes(),
            on_damage,
            nonce: Nonce(self.chance.next_u64()),
            segment_bytes: self.plan.segment_bytes,
        };
        let folder = Arc::new(self.medium.folder());
        let draw = Box::new(move || draw.next_u64());
        let (manifest, report) = Manifest::open(folder, &setup, &mut |_| Box::new(Bin), draw)?;
        let mut files = DataFiles::new(Arc::new(self.tree.tree()), manifest);
        let settled = files.settle()?;
        self.note(|| format!("settled: {settled:?}"));
        if on_damage == OnDamage::Salvage {
            // They go to quarantine.
            settled.unknown.iter().for_each(|path| self.tree.remove_by_hand(path));
            let synced = self.tree.tree().sync_folders(&settled.unknown);
            synced.map_err(FilesError::io("syncing the folders of data files"))?;
        }
        if !settled.missing.is_empty() && (on_damage == OnDamage::Salvage || self.model.check_report(&settled).is_ok())
        {
            let rows: BTreeSet<Row> =
                settled.missing.iter().filter_map(|path| self.model.rows_by_hand(path)).flatten().copied().collect();
            self.model.may_go(rows);
            match files.forget(&settled.missing) {
                Err(error) if error.is_no_space() => {}
                other => other?,
            }
        }
        Ok((files, settled, report.damage.len()))
    }

    fn opened(
        &mut self,
        files: &DataFiles,
        settled: &Settled,
        damages: usize,
        on_damage: OnDamage,
    ) -> Result<(), String> {
        if on_damage == OnDamage::Salvage {
            if damages == 0 && !std::mem::take(&mut self.salvaging) {
                return Err("salvaged without a word".to_owned());
            }
            self.summary.salvaged += 1;
            self.model.salvaged(files.catalog(), &self.tree, settled);
        } else {
            self.model.check_report(settled)?;
        }
        let rows = self.model.check(files.catalog(), &self.tree, settled)?;
        self.model.settled(files.catalog(), settled);
        self.check_size(files)?;
        self.note(|| format!("opened: {rows} rows in {} files", files.catalog().files.len()));
        self.summary.openings += 1;
        self.summary.rows += rows as u64;
        for word in [rows as u64, files.catalog().files.len() as u64, files.catalog().next_file.0] {
            self.summary.digest = mix64(self.summary.digest, word);
        }
        Ok(())
    }

    /// The manifest's length is in proportion to its state.
    fn check_size(&self, files: &DataFiles) -> Result<(), String> {
        let names = self.medium.folder().list().map_err(|error| error.to_string())?;
        let room = self.plan.segment_bytes as usize - SEGMENT_HEADER_BYTES;
        let state: usize = files.catalog().anew(0, room / 2).len() + 1;
        let bound = 10 + 4 * state;
        if names.len() > bound {
            return Err(format!("{} files of the manifest for a state of at most {state}: {names:?}", names.len()));
        }
        Ok(())
    }

    fn act(&mut self, files: &mut DataFiles) -> Result<(), String> {
        match self.chance.below(100) {
            0..50 => {
                let shard = self.chance.below(u64::from(self.plan.shards)) as u16;
                if self.held.iter().any(|held| held.deed.flushed.is_some_and(|(of, _)| of == shard)) {
                    return self.commit_held(files);
                }
                let blocks = self.chance.within(1, 6);
                self.flush(files, shard, blocks)?;
            }
            50..65 => return self.commit_held(files),
            65..82 => {
                let count = self.chance.within(2, 5) as usize;
                self.merge(files, count)?;
            }
            82..88 => {
                let nos: Vec<FileNo> = files.catalog().files.keys().copied().collect();
                let chosen: Vec<FileNo> = nos.into_iter().filter(|_| self.chance.percent(25)).take(4).collect();
                self.retain(files, chosen)?;
            }
            88..93 => self.meddle(files),
            93..96 => {
                let full = self.chance.percent(40);
                self.note(|| format!("full: {full}"));
                self.medium.lock().faults.full = full;
            }
            _ => self.settle(files)?,
        }
        if self.chance.percent(70) {
            self.commit_held(files)?;
        }
        Ok(())
    }

    /// Settles what failed half-way, once nobody writes a file; false where that failed too.
    fn settle(&mut self, files: &mut DataFiles) -> Result<(), String> {
        while !self.held.is_empty() {
            self.commit_held(files)?;
        }
        match files.settle() {
            Ok(settled) => {
                self.note(|| format!("settled: {settled:?}"));
                self.model.settled(files.catalog(), &settled);
                self.model.check_report(&settled)
            }
            Err(error) => {
                self.note(|| format!("not settled: {error}"));
                Ok(())
            }
        }
    }

    /// As before each write of files: true where one may go on.
    fn is_ready(&mut self, files: &mut DataFiles) -> Result<bool, String> {
        if files.is_unsettled() {
            self.settle(files)?;
        }
        Ok(!files.is_unsettled() && !self.is_dead())
    }

    /// Writes a shard's next blocks to files.
    fn flush(&mut self, files: &mut DataFiles, shard: u16, blocks: u64) -> Result<(), String> {
        if !self.is_ready(files)? {
            return Ok(());
        }
        let from = self.model.flushed(shard);
        let upto = from + blocks;
        let mut parts: BTreeMap<PartName, BTreeSet<Row>> = BTreeMap::new();
        for row in (from + 1..=upto).flat_map(|seq| rows_of(shard, seq)) {
            parts.entry(part_of(row, self.plan.parts)).or_default().insert(row);
        }
        let Some(add) = self.write(files, parts) else { return Ok(()) };
        let stream = Stream { origin: STORE, shard: ShardId(shard), epoch: Epoch(1 + upto / 40), nonce: Nonce(1) };
        let streams = vec![StreamUpto::new(stream, Seq(upto), Chain(upto))];
        let progress = vec![ShardProgress { shard, epoch: stream.epoch.0, nonce: 1, seq: upto, streams }];
        let mut columns = Vec::new();
        if upto < 60 && upto.is_multiple_of(3) {
            let key = format!("{}-{shard}-{upto}", "k".repeat((mix64(upto, 3) % 200) as usize));
            columns.push(SchemaColumn { namespace: "n".into(), table: "t0".into(), key, kind: "float".into() });
        }
        let record = Record { add, progress, columns, ..Record::default() };
        self.held
            .push(Held { deed: Deed { record, flushed: Some((shard, upto)), ..Deed::default() }, is_merge: false });
        Ok(())
    }

    /// Puts the rows of several files of a part into one.
    fn merge(&mut self, files: &mut DataFiles, count: usize) -> Result<(), String> {
        if self.held.iter().any(|held| held.is_merge) || !self.is_ready(files)? {
            return Ok(());
        }
        let mut parts: BTreeMap<&PartName, Vec<&DataFile>> = BTreeMap::new();
        for file in files.catalog().files.values() {
            parts.entry(&file.part).or_default().push(file);
        }
        parts.retain(|_, files| files.len() > 1);
        if parts.is_empty() {
            return Ok(());
        }
        let chosen = self.chance.below(parts.len() as u64) as usize;
        let (part, inputs) = parts.into_iter().nth(chosen).expect("one of them");
        let (part, inputs): (_, Vec<DataFile>) = (part.clone(), inputs.into_iter().take(count).cloned().collect());
        let mut rows = BTreeSet::new();
        for input in &inputs {
            let path = input.path();
            let Some(bytes) = self.tree.read(&path) else {
                // Somebody removed it.
                return self.forget(files, input);
            };
            if crc32fast::hash(&bytes) != input.crc {
                return if self.model.is_by_hand(&path) { Ok(()) } else { Err(format!("{path} is damaged")) };
            }
            rows.extend(rows_in(&bytes).unwrap_or_default());
        }
        let Some(add) = self.write(files, [(part, rows)].into()) else { return Ok(()) };
        let remove = inputs.iter().map(|input| input.no).collect();
        let record = Record { add, remove, ..Record::default() };
        self.held.push(Held { deed: Deed { record, ..Deed::default() }, is_merge: true });
        Ok(())
    }

    fn forget(&mut self, files: &mut DataFiles, file: &DataFile) -> Result<(), String> {
        let path = file.path();
        let Some(rows) = self.model.rows_by_hand(&path).cloned() else {
            return Err(format!("{path} is not there, and nobody removed it"));
        };
        self.note(|| format!("forget {path}"));
        let record = Record { forget: vec![file.no], ..Record::default() };
        let deed = Deed { record, removes: rows, ..Deed::default() };
        self.carry(files, &deed, |files| files.forget(&[path]));
        Ok(())
    }

    fn retain(&mut self, files: &mut DataFiles, remove: Vec<FileNo>) -> Result<(), String> {
        if remove.is_empty() || self.held.iter().any(|held| held.is_merge) || !self.is_ready(files)? {
            return Ok(());
        }
        let mut removes = BTreeSet::new();
        for path in remove.iter().filter_map(|no| files.catalog().files.get(no)).map(DataFile::path) {
            let rows = self.tree.read(&path).and_then(|bytes| rows_in(&bytes));
            match self.model.rows_by_hand(&path) {
                Some(rows) => removes.extend(rows.iter().copied()),
                None => removes.extend(rows.unwrap_or_default()),
            }
        }
        let deed = Deed { record: Record { remove, ..Record::default() }, removes, flushed: None };
        self.carry(files, &deed, |files| files.commit(deed.record.clone()));
        Ok(())
    }

    /// Somebody removes or shortens a file by hand.
    fn meddle(&mut self, files: &DataFiles) {
        let live: Vec<&DataFile> = files.catalog().files.values().collect();
        if live.is_empty() {
            return;
        }
        let path = self.chance.pick(&live).path();
        let Some(rows) = self.tree.read(&path).and_then(|bytes| rows_in(&bytes)) else { return };
        let shorten = self.chance.percent(30);
        self.note(|| format!("by hand: {path} is {}", if shorten { "shortened" } else { "removed" }));
        if shorten {
            self.tree.shorten_by_hand(&path, 10);
        } else {
            self.tree.remove_by_hand(&path);
        }
        self.model.by_hand(path, rows);
        self.summary.by_hand += 1;
    }

    /// Writes files under temporary names; nothing stays where that fails.
    fn write(&mut self, files: &mut DataFiles, parts: BTreeMap<PartName, BTreeSet<Row>>) -> Option<Vec<DataFile>> {
        let tree = self.tree.tree();
        let mut written = Vec::new();
        let mut begun = Vec::new();
        for (part, rows) in parts {
            let no = files.next_no();
            begun.push(no);
            let bytes = content(&rows);
            let write = || {
                let mut file = tree.create(&no.tmp_path())?;
                bytes.chunks(200).try_for_each(|chunk| file.write_all(chunk))?;
                if is_planted(Mutant::FileNotSynced) {
                    return Ok(());
                }
                file.sync()
            };
            if let Err(error) = write() {
                self.note(|| format!("not written: {error}"));
                for no in begun {
                    let _ = tree.remove(&no.tmp_path());
                }
                return None;
            }
            let (count, crc) = (rows.len() as u64, crc32fast::hash(&bytes));
            let bytes = bytes.len() as u64;
            written.push(DataFile { no, part, rows: count, bytes, crc, time_min: 0, time_max: 0 });
        }
        Some(written)
    }

    /// Commits the oldest files that wait for it.
    fn commit_held(&mut self, files: &mut DataFiles) -> Result<(), String> {
        if self.held.is_empty() {
            return Ok(());
        }
        let Held { deed, is_merge } = self.held.remove(0);
        let before = self.summary.commits;
        self.carry(files, &deed, |files| files.commit(deed.record.clone()));
        self.summary.merges += u64::from(is_merge && self.summary.commits > before);
        Ok(())
    }

    fn carry(
        &mut self,
        files: &mut DataFiles,
        deed: &Deed,
        commit: impl FnOnce(&mut DataFiles) -> Result<(), FilesError>,
    ) {
        let removed = self.model.begin(files.catalog(), deed);
        match commit(files) {
            Ok(()) => {
                self.summary.commits += 1;
                self.note(|| format!("committed: {:?}, files {:?}", deed.flushed, files.catalog().files.keys()));
                self.model.done(deed, removed);
            }
            Err(error) => {
                self.summary.failed += 1;
                self.note(|| format!("commit of {:?} failed: {error}", deed.flushed));
                self.model.failed(files.catalog(), deed, &error);
            }
        }
    }

    /// Flips a bit of a batch of the manifest, or of what stands behind the last.
    fn rot(&mut self) {
        let folder = self.medium.folder();
        let mut names: Vec<(String, u64)> = folder.list().unwrap_or_default();
        names.retain(|(name, _)| matches!(parse_name(name), FileName::Segment(_)));
        if names.is_empty() {
            return;
        }
        let (name, bytes) = names[self.chance.below(names.len() as u64) as usize].clone();
        let mut content = vec![0; bytes as usize];
        let Ok(count) = folder.read(&name, 0, &mut content) else { return };
        let Ok(header) = SegmentHeader::decode(&content[..count]) else { return };
        debug_assert_eq!(header.shard, MANIFEST_SHARD);
        let stamps = Stamps::new(&header);
        let mut end = SEGMENT_HEADER_BYTES;
        while end + PAGE_BYTES <= count {
            match check(&content[end..count], &Place::new(&header, end as u32), &stamps) {
                Check::Sound(batch) => end += batch.length as usize,
                _ => break,
            }
        }
        let from = if self.chance.percent(80) && end > SEGMENT_HEADER_BYTES { SEGMENT_HEADER_BYTES } else { 0 };
        let at = self.chance.within(from as u64, end as u64 - 1) as usize;
        let bit = self.chance.below(8);
        self.medium.lock().rot(&name, at, |bytes| bytes[0] ^= 1 << bit);
        self.note(|| format!("rot: {name} {at:#x} bit {bit}"));
        self.rotten = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store, flushed twice by two shards, merged, its oldest files removed, closed, opened, flushed.
    fn script(world: &mut World) -> Result<(), String> {
        let Some(mut files) = attempt(world)? else { return Ok(()) };
        for (shard, blocks) in [(0, 4), (1, 3), (0, 2), (1, 2)] {
            world.flush(&mut files, shard, blocks)?;
            world.commit_held(&mut files)?;
        }
        world.merge(&mut files, 4)?;
        world.commit_held(&mut files)?;
        let oldest = files.catalog().files.keys().take(2).copied().collect();
        world.retain(&mut files, oldest)?;
        drop(files);
        if world.is_dead() {
            return Ok(());
        }
        world.crash_in(None);
        let Some(mut files) = attempt(world)? else { return Ok(()) };
        world.flush(&mut files, 0, 3)?;
        world.commit_held(&mut files)
    }

    /// One attempt to open; `None` if the process died.
    fn attempt(world: &mut World) -> Result<Option<DataFiles>, String> {
        match world.try_open(OnDamage::Refuse) {
            _ if world.is_dead() => Ok(None),
            Ok((files, settled, damages)) => {
                world.opened(&files, &settled, damages, OnDamage::Refuse)?;
                Ok(Some(files))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn small_world() -> World {
        let mut world = World::new(&Run::default());
        world.plan = Plan { unit: 512, segment_bytes: 16 << 10, shards: 2, parts: 2, lives: 1, actions: 0 };
        world
    }

    #[test]
    fn a_crash_at_each_step_loses_nothing_and_shows_nothing_twice() {
        for end in Fate::ALL.into_iter().map(Some).chain([None]) {
            let mut deaths = 0;
            for last_call in 0.. {
                let mut world = small_world();
                world.medium.lock().faults.last_call = Some(last_call);
                let what = |what: String| panic!("death in call {last_call}, then {end:?}: {what}");
                script(&mut world).unwrap_or_else(what);
                let died = world.is_dead();
                deaths += u64::from(died);
                world.held.clear();
                world.medium.lock().faults = Faults::default();
                world.crash_in(end);
                world.model.check_names(&world.tree).unwrap_or_else(what);
                let mut files =
                    world.open(0).unwrap_or_else(|wrong| panic!("{last_call}, {end:?}: {wrong}")).expect("open");
                world.flush(&mut files, 1, 2).unwrap_or_else(what);
                world.commit_held(&mut files).unwrap_or_else(what);
                world.crash_in(end);
                world.open(0).unwrap_or_else(|wrong| panic!("{last_call}, {end:?}, once more: {wrong}"));
                if !died {
                    assert_eq!(world.summary.failed, 0);
                    break;
                }
            }
            assert!(deaths > 100, "{deaths} deaths");
        }
    }

    #[test]
    fn a_row_longer_than_a_segment_is_refused_and_nothing_has_changed() {
        let mut world = small_world();
        let mut files = world.open(0).expect("opens").expect("a new store");
        let column = |key: usize| {
            let (namespace, table, kind) = ("n".to_owned(), "t".to_owned(), "float".to_owned());
            let columns = vec![SchemaColumn { namespace, table, key: "k".repeat(key), kind }];
            Record { columns, ..Record::default() }
        };
        let error = files.commit(column(9_000)).expect_err("too long");
        assert!(matches!(error, FilesError::Manifest(ManifestError::LongRow(_))), "{error}");
        for key in (6_000..7_200).step_by(7) {
            files.settle().expect("settled");
            match files.commit(column(key)) {
                Ok(()) | Err(FilesError::Manifest(ManifestError::LongRow(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert!(files.catalog().columns.len() > 20);
    }
}
