//! [`Catalog`]: what the manifest's records add up to. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::data::format::{DataFile, FileNo, Record, SchemaColumn, ShardProgress, StreamUpto};
use crate::limits::NUMBER_MAX;
use crate::types::{Position, SegmentNo, ShardId, Stream};

/// Text of a record beside its rows at most, in bytes.
const RECORD_BYTES: usize = 200;

/// Files, columns and progress after a number of transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The files that hold the rows.
    pub files: BTreeMap<FileNo, DataFile>,
    /// Files that no longer count, and may still be there.
    pub doomed: BTreeMap<FileNo, DataFile>,
    /// The type of each key, by namespace, table and key.
    pub columns: BTreeMap<(String, String, String), String>,
    /// How far the files hold each shard.
    pub progress: BTreeMap<ShardId, Position>,
    /// How far they hold each stream.
    pub streams: BTreeMap<(ShardId, Stream), StreamUpto>,
    /// How far streams were taken over in files of other stores.
    pub adopted: BTreeMap<Stream, StreamUpto>,
    /// The number of the next file.
    pub next_file: FileNo,
}

/// What the records of a manifest say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The state after the last whole transaction.
    pub catalog: Catalog,
    /// The segment in which the last whole state begins: nothing before it is needed.
    pub from: Option<SegmentNo>,
    /// The segment in which the last whole transaction ends: nothing behind it says anything.
    pub upto: Option<SegmentNo>,
}

/// The records of a manifest, as they come.
#[derive(Debug, Default)]
pub struct Reading {
    found: Found,
    parts: Vec<Record>,
    /// The segment in which the transaction that is read begins.
    first: SegmentNo,
    /// The records begin in the middle of a transaction.
    headless: bool,
    /// Records were lost to damage that was salvaged.
    holed: bool,
    /// The present transaction lost its beginning to it.
    orphaned: bool,
}

impl Reading {
    /// Records before the next one are lost to damage that was salvaged: what they had begun is dropped,
    /// and what they said is not known.
    pub fn hole(&mut self) {
        self.parts.clear();
        (self.holed, self.orphaned) = (true, true);
    }

    /// Takes in the next record, which stands in this segment.
    ///
    /// # Errors
    /// What is wrong with it: text that is no record, or parts that are not in order.
    pub fn take(&mut self, segment: SegmentNo, payload: &[u8]) -> Result<(), String> {
        let record: Record = serde_json::from_slice(payload)
            .map_err(|error| format!("a record of the manifest is unreadable: {error}"))?;
        if record.part == 0 {
            // A transaction that was cut short.
            self.parts.clear();
            self.first = segment;
            self.orphaned = false;
        } else if self.orphaned {
            return Ok(());
        } else if self.parts.is_empty() && self.found.from.is_none() {
            // What it belongs to was given back with the segments before.
            self.headless = true;
            return Ok(());
        }
        let listed = record.add.iter().chain(&record.doomed).map(|file| file.no.0.saturating_add(1));
        if let Some(next) = listed.chain([record.next_file.0]).find(|next| *next > NUMBER_MAX) {
            return Err(format!("the data file before number {next} has a number that none can have"));
        }
        let same = self.parts.first().is_none_or(|first| first.transaction == record.transaction);
        if record.part as usize != self.parts.len() || !same {
            return Err(format!("part {} of a transaction follows part {}", record.part, self.parts.len()));
        }
        let last = record.last;
        self.parts.push(record);
        if last {
            if self.parts[0].anew {
                self.found.from = Some(self.first);
            }
            self.found.upto = Some(segment);
            self.found.catalog.apply(&self.parts);
            self.parts.clear();
        }
        Ok(())
    }

    /// What they say; `None` where the records do not begin with a whole state, though there are any and
    /// none were lost to damage.
    #[must_use]
    pub fn finish(self) -> Option<Found> {
        let none = self.found.catalog == Catalog::default() && !self.headless;
        (self.found.from.is_some() || none || self.holed).then_some(self.found)
    }
}

impl Catalog {
    /// Takes in a whole transaction.
    pub fn apply(&mut self, parts: &[Record]) {
        if parts.iter().any(|part| part.anew) {
            *self = Self::default();
        }
        for part in parts {
            self.next_file = self.next_file.max(part.next_file);
            for file in &part.add {
                self.next_file = self.next_file.max(FileNo(file.no.0 + 1));
                self.files.insert(file.no, file.clone());
            }
            for no in &part.remove {
                if let Some(file) = self.files.remove(no) {
                    self.doomed.insert(*no, file);
                }
            }
            for no in &part.forget {
                self.files.remove(no);
            }
            for file in &part.doomed {
                self.next_file = self.next_file.max(FileNo(file.no.0 + 1));
                self.doomed.insert(file.no, file.clone());
            }
            for SchemaColumn { namespace, table, key, kind } in &part.columns {
                let key = (namespace.clone(), table.clone(), key.clone());
                self.columns.entry(key).or_insert_with(|| kind.clone());
            }
            for upto in &part.adopted {
                if let Some(stream) = upto.stream() {
                    self.adopted.insert(stream, upto.clone());
                }
            }
            for at in &part.progress {
                let shard = ShardId(at.shard);
                self.progress.insert(shard, at.position());
                for upto in &at.streams {
                    if let Some(stream) = upto.stream() {
                        self.streams.insert((shard, stream), upto.clone());
                    }
                }
            }
        }
    }

    /// The whole state as one transaction of this number that begins anew, in records as [`parts`]
    /// makes them.
    #[must_use]
    pub fn anew(&self, transaction: u64, bytes_max: usize) -> Vec<Record> {
        let column = |((namespace, table, key), kind): (&(String, String, String), &String)| SchemaColumn {
            namespace: namespace.clone(),
            table: table.clone(),
            key: key.clone(),
            kind: kind.clone(),
        };
        let progress = self.progress.iter().map(|(shard, at)| {
            let of_shard = self.streams.iter().filter(|((of, _), _)| of == shard);
            ShardProgress {
                shard: shard.0,
                epoch: at.epoch.0,
                nonce: at.nonce.0,
                seq: at.seq.0,
                streams: of_shard.map(|(_, upto)| upto.clone()).collect(),
            }
        });
        let whole = Record {
            transaction,
            anew: true,
            next_file: self.next_file,
            add: self.files.values().cloned().collect(),
            doomed: self.doomed.values().cloned().collect(),
            columns: self.columns.iter().map(column).collect(),
            progress: progress.collect(),
            adopted: self.adopted.values().cloned().collect(),
            ..Record::default()
        };
        parts(whole, bytes_max)
    }
}

/// A transaction as records of at most `bytes_max` of text, but for a row that is longer by itself.
#[must_use]
pub fn parts(whole: Record, bytes_max: usize) -> Vec<Record> {
    let Record { transaction, anew, next_file, .. } = whole;
    let empty = Record { transaction, next_file, ..Record::default() };
    let mut cut = Cutter { done: Vec::new(), bytes: RECORD_BYTES, current: empty, bytes_max };
    for file in whole.add {
        cut.record_for(&file).add.push(file);
    }
    for no in whole.remove {
        cut.record_for(&no).remove.push(no);
    }
    for no in whole.forget {
        cut.record_for(&no).forget.push(no);
    }
    for file in whole.doomed {
        cut.record_for(&file).doomed.push(file);
    }
    for column in whole.columns {
        cut.record_for(&column).columns.push(column);
    }
    for stream in whole.adopted {
        cut.record_for(&stream).adopted.push(stream);
    }
    for mut shard in whole.progress {
        let streams = std::mem::take(&mut shard.streams);
        cut.record_for(&shard).progress.push(shard.clone());
        for stream in streams {
            // The row of a shard with many streams is repeated for each portion of them.
            let record = cut.record_for(&(&shard, &stream));
            match record.progress.last_mut() {
                Some(last) if last.shard == shard.shard => last.streams.push(stream),
                _ => record.progress.push(ShardProgress { streams: vec![stream], ..shard.clone() }),
            }
        }
    }
    let mut parts = cut.done;
    parts.push(cut.current);
    let last = parts.len() - 1;
    for (at, part) in parts.iter_mut().enumerate() {
        *part = Record { part: at as u32, last: at == last, anew: anew && at == 0, ..std::mem::take(part) };
    }
    parts
}

/// Cuts rows into records.
struct Cutter {
    done: Vec<Record>,
    current: Record,
    /// Bytes of its text, or a few more.
    bytes: usize,
    bytes_max: usize,
}

impl Cutter {
    /// The record that takes this row.
    fn record_for(&mut self, row: &impl Serialize) -> &mut Record {
        let bytes = serde_json::to_vec(row).expect("plain fields").len() + 1;
        if self.bytes + bytes > self.bytes_max && self.bytes > RECORD_BYTES {
            let Record { transaction, next_file, .. } = self.current;
            let next = Record { transaction, next_file, ..Record::default() };
            self.done.push(std::mem::replace(&mut self.current, next));
            self.bytes = RECORD_BYTES;
        }
        self.bytes += bytes;
        &mut self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::format::{PartKind, PartName};
    use crate::types::{Chain, Epoch, Nonce, Seq, StoreId};

    fn file(no: u64) -> DataFile {
        let part = PartName { namespace: "n".into(), table: "t".into(), kind: PartKind::Lines, day: 3 };
        DataFile { no: FileNo(no), part, rows: no, bytes: 10, crc: 7, time_min: 1, time_max: 2 }
    }

    fn large() -> Catalog {
        let mut catalog = Catalog { next_file: FileNo(9_000), ..Catalog::default() };
        catalog.files = (0..2_500).map(|no| (FileNo(no), file(no))).collect();
        catalog.doomed = (3_000..4_100).map(|no| (FileNo(no), file(no))).collect();
        catalog.columns = (0..1_001).map(|n| (("n".into(), "t".into(), format!("k{n}")), "float".into())).collect();
        for shard in [ShardId(0), ShardId(1)] {
            catalog.progress.insert(shard, Position { epoch: Epoch(2), nonce: Nonce(3), seq: Seq(4) });
            for epoch in 0..1_500 {
                let stream = Stream { origin: StoreId([1; 16]), shard, epoch: Epoch(epoch), nonce: Nonce(0) };
                catalog.streams.insert((shard, stream), StreamUpto::new(stream, Seq(1), Chain(2)));
            }
        }
        catalog
    }

    #[test]
    fn a_number_that_no_file_can_have_is_refused_and_a_removed_ones_is_not_given_again() {
        for (no, sound) in [(NUMBER_MAX, false), (u64::MAX, false), (NUMBER_MAX - 1, true)] {
            let record = Record { last: true, anew: true, add: vec![file(no)], ..Record::default() };
            let text = serde_json::to_vec(&record).expect("plain fields");
            assert_eq!(Reading::default().take(SegmentNo(1), &text).is_ok(), sound, "{no}");
        }
        let mut catalog = Catalog::default();
        catalog.apply(&[Record { anew: true, doomed: vec![file(7)], ..Record::default() }]);
        assert_eq!(catalog.next_file, FileNo(8));
    }

    fn read(records: &[Record]) -> Option<Catalog> {
        let mut reading = Reading::default();
        for record in records {
            let text = serde_json::to_vec(record).expect("plain fields");
            assert!(text.len() <= 100_000, "a record of {} bytes", text.len());
            reading.take(SegmentNo(1), &text).expect("a record");
        }
        reading.finish().map(|found| found.catalog)
    }

    #[test]
    fn the_whole_state_survives_its_records_in_bounded_parts() {
        let catalog = large();
        assert_eq!(read(&catalog.anew(1, 4_000)).as_ref(), Some(&catalog));
        assert_eq!(read(&Catalog::default().anew(1, 4_000)), Some(Catalog::default()));
    }

    #[test]
    fn a_transaction_counts_as_a_whole_or_not_at_all() {
        let before = Catalog { next_file: FileNo(1), ..Catalog::default() };
        let after = large();
        let mut records = before.anew(1, 4_000);
        let whole = after.anew(2, 100_000);
        for cut in 0..whole.len() {
            let mut cut_short = records.clone();
            cut_short.extend_from_slice(&whole[..cut]);
            assert_eq!(read(&cut_short).as_ref(), Some(&before), "after {cut} parts");
        }
        records.extend_from_slice(&whole[..2]);
        records.extend(whole);
        assert_eq!(read(&records), Some(after));
    }

    #[test]
    fn records_that_begin_in_the_middle_are_no_state() {
        let later = Record { last: true, add: vec![file(3)], ..Record::default() };
        assert_eq!(read(&[later]), None);
        let mut reading = Reading::default();
        assert!(reading.take(SegmentNo(1), b"not json").is_err());
        let tail = &large().anew(1, 4_000)[1..];
        assert_eq!(read(tail), None);
    }

    #[test]
    fn the_rest_of_an_older_state_before_the_present_one_is_passed_over() {
        let (older, present) = (large(), Catalog { next_file: FileNo(1), ..Catalog::default() });
        let mut records = older.anew(1, 4_000).split_off(2);
        records.extend(present.anew(2, 4_000));
        assert_eq!(read(&records), Some(present));
    }

    #[test]
    fn a_hole_costs_the_transactions_that_it_hits_and_no_other() {
        let text = |record: &Record| serde_json::to_vec(record).expect("plain fields");
        let (before, between) = (Catalog { next_file: FileNo(1), ..Catalog::default() }, large().anew(2, 4_000));
        let last = Record { last: true, add: vec![file(9_500)], next_file: FileNo(9_501), ..Record::default() };
        assert!(between.len() > 3);
        // Of the state at the beginning, or of the transaction behind it.
        for (first, lost) in [(before.anew(1, 4_000), 0..1), (before.anew(1, 4_000), 1..between.len())] {
            let mut reading = Reading::default();
            let all: Vec<&Record> = first.iter().chain(&between).chain([&last]).collect();
            for (at, record) in all.iter().enumerate() {
                match at {
                    at if at + 1 == lost.end || (at == 1 && lost.end > 1) => reading.hole(),
                    at if lost.contains(&at) => {}
                    _ => reading.take(SegmentNo(1), &text(record)).expect("a record"),
                }
            }
            let found = reading.finish().expect("a state");
            assert_eq!(found.catalog.files.contains_key(&FileNo(1)), lost.end == 1, "what was whole");
            assert!(found.catalog.files.contains_key(&FileNo(9_500)), "what came behind");
        }
    }

    #[test]
    fn parts_of_two_transactions_are_not_one() {
        let mut reading = Reading::default();
        let (one, other) = (large().anew(1, 4_000), large().anew(2, 4_000));
        let text = |record: &Record| serde_json::to_vec(record).expect("plain fields");
        reading.take(SegmentNo(1), &text(&one[0])).expect("a beginning");
        assert!(reading.take(SegmentNo(1), &text(&other[1])).is_err());
        let mut began = Reading::default();
        began.take(SegmentNo(1), &text(&Catalog::default().anew(1, 4_000)[0])).expect("a state");
        assert!(began.take(SegmentNo(1), &text(&one[1])).is_err());
    }
}
