//! What must hold of data files: the rows that were flushed, and the comparison of a settled folder
//! with them.
//!
//! A row is named by its shard, the seq of its block, and its place in it; which part it belongs to
//! follows from the name, and a file's content is a text of names. So a file says itself what is in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::data::catalog::Catalog;
use crate::data::files::{FilesError, Settled};
use crate::data::format::{DataFile, FileNo, PartKind, PartName, Record};
use crate::data::manifest::ManifestError;
use crate::io::sim_tree::SharedTree;
use crate::recover::OpenError;
use crate::types::{ShardId, mix64};

/// A row: the shard, the seq of its block, its place in the block.
pub type Row = (u16, u64, u8);

/// The rows of a block.
pub fn rows_of(shard: u16, seq: u64) -> impl Iterator<Item = Row> {
    let count = mix64(seq, 7) % 3 + 1;
    (0..count as u8).map(move |at| (shard, seq, at))
}

/// The part of a row, where there are so many.
#[must_use]
pub fn part_of(row: Row, parts: u64) -> PartName {
    let part = mix64(mix64(u64::from(row.0), row.1), u64::from(row.2)) % parts;
    let kind = if part.is_multiple_of(2) { PartKind::Lines } else { PartKind::Raw };
    PartName { namespace: "n".to_owned(), table: format!("t{}", part / 3), kind, day: (part % 3) as i32 }
}

/// The content of a file with these rows.
#[must_use]
pub fn content(rows: &BTreeSet<Row>) -> Vec<u8> {
    let line = |&(shard, seq, at): &Row| format!("{shard} {seq} {at} {:016x}\n", mix64(seq, u64::from(at)));
    rows.iter().map(line).collect::<String>().into_bytes()
}

/// The rows of a file, if it is whole.
#[must_use]
pub fn rows_in(bytes: &[u8]) -> Option<BTreeSet<Row>> {
    let mut rows = BTreeSet::new();
    for line in std::str::from_utf8(bytes).ok()?.lines() {
        let mut words = line.split(' ');
        rows.insert((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?));
    }
    (content(&rows) == bytes).then_some(rows)
}

/// A transaction, and what it does to the rows.
#[derive(Clone, Debug, Default)]
pub struct Deed {
    /// For the manifest.
    pub record: Record,
    /// The shard's blocks up to here are in it.
    pub flushed: Option<(u16, u64)>,
    /// Rows that go.
    pub removes: BTreeSet<Row>,
}

/// The history.
#[derive(Debug, Default)]
pub struct FilesModel {
    /// Up to where each shard is flushed.
    flushed: BTreeMap<u16, u64>,
    /// Up to where it may be, if the last transaction counts.
    doubtful: BTreeMap<u16, u64>,
    /// The rows that must be there.
    rows: BTreeSet<Row>,
    /// Rows that are there all together or not at all.
    all_or_none: Vec<BTreeSet<Row>>,
    /// Files that somebody removed or shortened, with their rows.
    by_hand: BTreeMap<String, BTreeSet<Row>>,
    /// What files that counted had in them.
    contents: BTreeMap<FileNo, u32>,
    /// Paths that are to be there before anything is settled.
    pub named: BTreeSet<String>,
    /// Paths that are not to be there.
    gone: BTreeSet<String>,
    columns: BTreeMap<String, bool>,
}

impl FilesModel {
    /// Up to where a shard is flushed.
    #[must_use]
    pub fn flushed(&self, shard: u16) -> u64 {
        self.flushed.get(&shard).copied().unwrap_or_default()
    }

    /// Somebody removed or shortened a file.
    pub fn by_hand(&mut self, path: String, rows: BTreeSet<Row>) {
        self.named.remove(&path);
        self.by_hand.insert(path, rows);
    }

    /// Somebody was there before.
    #[must_use]
    pub fn is_by_hand(&self, path: &str) -> bool {
        self.by_hand.contains_key(path)
    }

    /// What was in a file that somebody removed or shortened.
    #[must_use]
    pub fn rows_by_hand(&self, path: &str) -> Option<&BTreeSet<Row>> {
        self.by_hand.get(path)
    }

    /// These may go, all together.
    pub fn may_go(&mut self, rows: BTreeSet<Row>) {
        self.all_or_none.push(rows);
    }

    /// Before a transaction: these names are not sure any more.
    pub fn begin(&mut self, catalog: &Catalog, deed: &Deed) -> Vec<String> {
        let removed = deed.record.remove.iter().chain(&deed.record.forget);
        let paths: Vec<String> = removed.filter_map(|no| catalog.files.get(no)).map(DataFile::path).collect();
        for path in &paths {
            self.named.remove(path);
        }
        paths
    }

    /// A transaction is carried out.
    pub fn done(&mut self, deed: &Deed, removed: Vec<String>) {
        self.named.extend(deed.record.add.iter().map(DataFile::path));
        self.gone.extend(removed.into_iter().filter(|_| deed.record.forget.is_empty()));
        self.counts(deed);
    }

    /// A transaction counts.
    fn counts(&mut self, deed: &Deed) {
        for file in &deed.record.add {
            self.contents.insert(file.no, file.crc);
        }
        if let Some((shard, upto)) = deed.flushed {
            let from = self.flushed(shard) + 1;
            self.rows.extend((from..=upto).flat_map(|seq| rows_of(shard, seq)));
            self.flushed.insert(shard, upto);
        }
        self.columns.extend(deed.record.columns.iter().map(|column| (column.key.clone(), true)));
        self.rows = self.rows.difference(&deed.removes).copied().collect();
    }

    /// A transaction failed; what the catalog says of it is what the flusher goes by.
    pub fn failed(&mut self, catalog: &Catalog, deed: &Deed, error: &FilesError) {
        let Record { add, remove, forget, .. } = &deed.record;
        let added = add.iter().all(|file| catalog.files.contains_key(&file.no));
        let removed = remove.iter().chain(forget).all(|no| !catalog.files.contains_key(no));
        let goes_on = deed.flushed.is_none_or(|(shard, upto)| progress(catalog, shard) == upto);
        if added && removed && goes_on {
            return self.counts(deed);
        }
        let certain = match error {
            FilesError::Manifest(ManifestError::Log(OpenError::Io { source, .. })) => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            _ => true,
        };
        if certain {
            return;
        }
        self.doubtful.extend(deed.flushed);
        for column in &deed.record.columns {
            self.columns.entry(column.key.clone()).or_insert(false);
        }
        if !deed.removes.is_empty() {
            self.all_or_none.push(deed.removes.clone());
        }
    }

    /// Everything that was begun is finished.
    pub fn settled(&mut self, catalog: &Catalog, settled: &Settled) {
        self.named = catalog.files.values().map(DataFile::path).collect();
        self.named.retain(|path| !settled.missing.contains(path) && !self.by_hand.contains_key(path));
    }

    /// What a finished commit promises, before anybody settles anything: the final names are there,
    /// the replaced ones are not.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_names(&self, tree: &SharedTree) -> Result<(), String> {
        let there = tree.paths();
        if let Some(path) = self.named.iter().find(|path| !there.contains(*path)) {
            return Err(format!("{path} was committed and does not have its name"));
        }
        match self.gone.iter().find(|path| there.contains(*path)) {
            Some(path) => Err(format!("{path} was replaced and is there again")),
            None => Ok(()),
        }
    }

    /// What settling found must be what somebody did.
    ///
    /// # Errors
    /// A false report.
    pub fn check_report(&self, settled: &Settled) -> Result<(), String> {
        if let Some(path) = settled.unknown.first() {
            return Err(format!("{path} is not in the manifest"));
        }
        if let Some(path) = settled.missing.iter().find(|path| !self.by_hand.contains_key(*path)) {
            return Err(format!("{path} is missing, and nobody removed it"));
        }
        match settled.damaged.iter().find(|path| !self.by_hand.contains_key(*path)) {
            Some(path) => Err(format!("{path} has another length, and nobody shortened it")),
            None => Ok(()),
        }
    }

    /// The damage of the manifest was salvaged: what is left is what counts.
    pub fn salvaged(&mut self, catalog: &Catalog, tree: &SharedTree, settled: &Settled) {
        let contents = std::mem::take(&mut self.contents);
        let by_hand = std::mem::take(&mut self.by_hand);
        *self = Self { contents, by_hand, ..Self::default() };
        for path in &settled.missing {
            // Its removal is in a transaction that was lost; on a full disk it is not forgotten yet.
            self.by_hand.entry(path.clone()).or_default();
        }
        for file in catalog.files.values() {
            let path = file.path();
            let rows = tree.read(&path).filter(|bytes| bytes.len() as u64 == file.bytes);
            self.rows.extend(rows.and_then(|bytes| rows_in(&bytes)).unwrap_or_default());
            // The number may be of a transaction that was lost.
            self.contents.insert(file.no, file.crc);
        }
        self.flushed = catalog.progress.iter().map(|(shard, at)| (shard.0, at.seq.0)).collect();
        // The numbers behind may be given again, and blocks of lost transactions are flushed again.
        self.contents.retain(|no, _| *no < catalog.next_file);
        let counts: BTreeSet<String> = catalog.files.values().map(DataFile::path).collect();
        self.by_hand.retain(|path, _| counts.contains(path));
        for rows in self.by_hand.values_mut() {
            rows.retain(|row| row.1 <= self.flushed.get(&row.0).copied().unwrap_or_default());
        }
    }

    /// There are rows of blocks that are not flushed yet.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.rows.iter().any(|row| row.1 > self.flushed(row.0))
    }

    /// Compares a settled folder with the history, and goes on from what is there. Returns the rows.
    ///
    /// # Errors
    /// The first promise that does not hold.
    pub fn check(&mut self, catalog: &Catalog, tree: &SharedTree, settled: &Settled) -> Result<usize, String> {
        let mut seen: BTreeMap<Row, FileNo> = BTreeMap::new();
        let mut paths = tree.paths();
        for file in catalog.files.values() {
            let path = file.path();
            paths.remove(&path);
            if let Some(crc) = self.contents.insert(file.no, file.crc)
                && crc != file.crc
            {
                return Err(format!("the number of {path} was given twice"));
            }
            if file.no >= catalog.next_file {
                return Err(format!("the number of {path} will be given again"));
            }
            if settled.missing.contains(&path) || settled.damaged.contains(&path) {
                continue;
            }
            let bytes = tree.read(&path).ok_or_else(|| format!("{path} is not there"))?;
            let rows = rows_in(&bytes).filter(|_| crc32fast::hash(&bytes) == file.crc);
            let rows = rows.ok_or_else(|| format!("{path} holds other bytes than were written to it"))?;
            for row in rows {
                if let Some(other) = seen.insert(row, file.no) {
                    return Err(format!("row {row:?} is in {path} and in file {}", other.0));
                }
            }
        }
        paths.retain(|path| !self.by_hand.contains_key(path));
        if let Some(path) = paths.first() {
            return Err(format!("{path} was left"));
        }
        self.check_progress(catalog)?;
        self.check_rows(&seen, settled)?;
        for (key, sure) in std::mem::take(&mut self.columns) {
            let known = catalog.columns.keys().any(|column| column.2 == key);
            if sure && !known {
                return Err(format!("the column {key} is forgotten"));
            }
            if known {
                self.columns.insert(key, true);
            }
        }
        Ok(self.rows.len())
    }

    /// Progress is where it was, or where a transaction in doubt has brought it.
    fn check_progress(&mut self, catalog: &Catalog) -> Result<(), String> {
        let doubtful = std::mem::take(&mut self.doubtful);
        let shards: BTreeSet<u16> = self.flushed.keys().chain(doubtful.keys()).copied().collect();
        for shard in shards {
            let (now, before) = (progress(catalog, shard), self.flushed(shard));
            if now != before && doubtful.get(&shard) != Some(&now) {
                return Err(format!("shard {shard} was flushed up to {before}, the catalog says {now}"));
            }
            let of_shard = |(key, upto): (&(ShardId, _), _)| (key.0.0 == shard).then_some(upto);
            let streams: Vec<u64> =
                catalog.streams.iter().map(|(key, upto)| (key, upto.seq)).filter_map(of_shard).collect();
            if streams.iter().max().copied().unwrap_or_default() != now {
                return Err(format!("shard {shard}: streams up to {streams:?}, progress {now}"));
            }
            self.rows.extend((before + 1..=now).flat_map(|seq| rows_of(shard, seq)));
            self.flushed.insert(shard, now);
        }
        Ok(())
    }

    fn check_rows(&mut self, seen: &BTreeMap<Row, FileNo>, settled: &Settled) -> Result<(), String> {
        for path in settled.missing.iter().chain(&settled.damaged) {
            let lost = self.by_hand.get(path).cloned().unwrap_or_default();
            self.rows = self.rows.difference(&lost).copied().collect();
        }
        // That rows of a file are not there which somebody removed says nothing about a transaction that was
        // to remove them too.
        let by_hand: BTreeSet<Row> = self.by_hand.values().flatten().copied().collect();
        for group in std::mem::take(&mut self.all_or_none) {
            let group: BTreeSet<Row> = group.intersection(&self.rows).copied().collect();
            let (there, gone): (BTreeSet<Row>, BTreeSet<Row>) = group.iter().partition(|row| seen.contains_key(row));
            if there.is_empty() {
                self.rows = self.rows.difference(&group).copied().collect();
            } else if !gone.is_subset(&by_hand) {
                return Err(format!("{} of {} rows of one transaction are there", there.len(), group.len()));
            }
        }
        if let Some(row) = self.rows.iter().find(|row| !seen.contains_key(row)) {
            return Err(format!("row {row:?} is lost"));
        }
        match seen.iter().find(|(row, _)| !self.rows.contains(row)) {
            Some((row, no)) => Err(format!("row {row:?} in file {} is not to be there", no.0)),
            None => Ok(()),
        }
    }
}

fn progress(catalog: &Catalog, shard: u16) -> u64 {
    catalog.progress.get(&ShardId(shard)).map_or(0, |at| at.seq.0)
}
