//! What happens to data files while a store lives: flushes, merges, retention, and what somebody does by
//! hand.
//!
//! It goes round the real [`DataFiles`] as `data/parquet_files.rs` and `data/upkeep.rs` do: files are
//! settled while nobody writes one, written, committed, and where that fails the catalog is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use crate::data::files::{DataFiles, FilesError};
use crate::data::format::{DataFile, FileNo, PartName, Record, SchemaColumn, ShardProgress, StreamUpto};
use crate::data::tree::Tree;
use crate::io::chance::Chance;
use crate::io::sim::SharedMedium;
use crate::io::sim_tree::SharedTree;
use crate::planted::{Mutant, is_planted};
use crate::sim::files_check::{Deed, FilesModel, Row, content, part_of, rows_in, rows_of};
use crate::types::{Chain, Epoch, Nonce, Seq, ShardId, StoreId, Stream, mix64};

/// The store.
pub const STORE: StoreId = StoreId(*b"simulated store.");

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

/// What a seed decides before anything happens.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub unit: usize,
    pub segment_bytes: u64,
    pub shards: u16,
    pub parts: u64,
    pub lives: u32,
    pub actions: u32,
}

/// Written files that wait for their commit.
pub struct Held {
    pub deed: Deed,
    pub is_merge: bool,
}

/// The machine, and what should be on it.
pub struct World {
    pub plan: Plan,
    pub seed: Chance,
    pub chance: Chance,
    pub medium: SharedMedium,
    pub tree: SharedTree,
    pub model: FilesModel,
    pub held: Vec<Held>,
    pub boot: u64,
    pub life: u32,
    /// Bits of the manifest were flipped: an opening may refuse.
    pub rotten: bool,
    /// A salvage was cut short: what it has said already it need not say again.
    pub salvaging: bool,
    pub summary: FilesSummary,
}

impl World {
    pub fn note(&self, what: impl FnOnce() -> String) {
        self.medium.lock().note(what);
    }

    pub fn is_dead(&self) -> bool {
        self.medium.lock().is_crashed()
    }

    pub fn act(&mut self, files: &mut DataFiles) -> Result<(), String> {
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
    pub fn flush(&mut self, files: &mut DataFiles, shard: u16, blocks: u64) -> Result<(), String> {
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
    pub fn merge(&mut self, files: &mut DataFiles, count: usize) -> Result<(), String> {
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

    pub fn retain(&mut self, files: &mut DataFiles, remove: Vec<FileNo>) -> Result<(), String> {
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
    pub fn commit_held(&mut self, files: &mut DataFiles) -> Result<(), String> {
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
}
