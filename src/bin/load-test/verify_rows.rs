//! The proof for data files: every acknowledged row is in them once, as it was written, and nothing that
//! was never submitted.
//!
//! A writer remembers of each block its receipt, how many rows it has, and the sum of the hashes of its
//! rows; a row's hash covers its place in the block, its table, its time, and every key, type and value. In
//! the files each row says which block it is of and which row of it, so a missing row and one that stands
//! there twice are seen as such, and a changed one by the sum.

use std::collections::HashMap;

use forebay::types::{Epoch, Seq, ShardId, StoreId, mix64};
use forebay::{Block, BlockKind, Receipt};

use crate::columns::{Columns, Value, each_value};
use crate::verify::Verdict;
use crate::workload::hash_of;

/// A block as data files name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// The store that accepted it.
    pub origin: StoreId,
    /// The shard that did.
    pub shard: ShardId,
    /// The opening in which it did.
    pub epoch: Epoch,
    /// The block's number there.
    pub seq: Seq,
}

impl From<Receipt> for BlockId {
    fn from(receipt: Receipt) -> Self {
        let stream = receipt.stream;
        Self { origin: stream.origin, shard: stream.shard, epoch: stream.epoch, seq: receipt.seq }
    }
}

/// A row of a data file.
#[derive(Clone, Copy, Debug)]
pub struct DataRow<'a> {
    /// The block that it came in.
    pub block: BlockId,
    /// Its place in that block, from 0.
    pub row: u32,
    /// When the block was accepted, in nanoseconds since 1970.
    pub received_at_ns: i64,
    /// The writer's namespace.
    pub namespace: &'a str,
    /// The table.
    pub table: &'a str,
    /// What it holds.
    pub content: Content<'a>,
}

/// What a row of a data file holds.
#[derive(Clone, Copy, Debug)]
// Only data files have rows to look at.
#[cfg_attr(not(feature = "parquet"), expect(dead_code))]
pub enum Content<'a> {
    /// A raw block.
    Raw(&'a [u8]),
    /// A line.
    Line {
        /// Nanoseconds since 1970.
        time_ns: i64,
        /// The name of each column that is not null, and its value.
        values: &'a [(&'a str, Value<'a>)],
    },
}

/// What one writer remembers of its blocks.
#[derive(Clone, Debug, Default)]
pub struct RowLedger {
    sent: Vec<Sent>,
    /// The first so many of them were acknowledged.
    acked: usize,
    /// Their columns, where those are asked for.
    columns: Option<Columns>,
}

#[derive(Clone, Debug)]
struct Sent {
    rows: u32,
    /// The sum of the hashes of its rows.
    hash: u64,
    /// Rows that had no time of their own, in order.
    timeless: Box<[u32]>,
    receipt: Option<Receipt>,
}

impl RowLedger {
    /// A ledger that counts columns as well.
    pub fn with_columns() -> Self {
        Self { columns: Some(Columns::default()), ..Self::default() }
    }

    /// Takes the next block, before it is submitted.
    pub fn submitted(&mut self, block: &Block) {
        let mut sent = Sent { rows: block.rows(), hash: 0, timeless: Box::default(), receipt: None };
        if block.kind() == BlockKind::Raw {
            sent.hash = Hasher::raw(block.table(), block.payload()).end(0);
            return self.sent.push(sent);
        }
        let mut timeless = Vec::new();
        for (row, line) in forebay::serve::lines::lines(block.payload()).enumerate() {
            let line = line.expect("a block of lines was checked when it was made");
            let table = line.measurement();
            let mut hasher = Hasher::line(&table, line.time());
            each_value(&line, &mut |key, value| {
                hasher.value(key, value);
                if let Some(columns) = &mut self.columns {
                    columns.add(&table, key, value);
                }
            });
            match (line.time(), &mut self.columns) {
                (None, _) => timeless.push(row as u32),
                (Some(time_ns), Some(columns)) => columns.add_time(&table, time_ns),
                (Some(_), None) => {}
            }
            sent.hash = sent.hash.wrapping_add(hasher.end(row as u32));
        }
        sent.timeless = timeless.into();
        self.sent.push(sent);
    }

    /// The next block was acknowledged.
    pub fn acknowledged(&mut self, receipt: Receipt) {
        self.sent[self.acked].receipt = Some(receipt);
        self.acked += 1;
    }

    fn unacked(&self) -> &[Sent] {
        &self.sent[self.acked..]
    }
}

/// A row's hash, whatever the order of its values.
struct Hasher {
    sum: u64,
}

impl Hasher {
    fn line(table: &str, time_ns: Option<i64>) -> Self {
        let table = mix64(1, hash_of(table.as_bytes()));
        Self { sum: time_ns.map_or(table, |time_ns| mix64(table, time_ns as u64)) }
    }

    fn raw(table: &str, payload: &[u8]) -> Self {
        Self { sum: mix64(mix64(2, hash_of(table.as_bytes())), hash_of(payload)) }
    }

    fn value(&mut self, key: &str, value: Value<'_>) {
        self.sum = self.sum.wrapping_add(value.hash(key));
    }

    fn end(&self, row: u32) -> u64 {
        mix64(mix64(3, self.sum), row.into())
    }
}

/// The key whose values stand in this column: `<key>`, or `<key>@<type>`.
fn key_of<'a>(column: &'a str, value: &Value<'_>) -> &'a str {
    column.strip_suffix(value.word()).and_then(|key| key.strip_suffix('@')).unwrap_or(column)
}

/// Compares the rows of data files with what was written.
pub struct RowVerifier<'a> {
    ledgers: &'a [RowLedger],
    namespace: &'a str,
    /// The store was new: whatever is in it must be of this run.
    new_store: bool,
    found: HashMap<BlockId, Found<'a>>,
    /// A bit for each acknowledged row.
    seen: Vec<u64>,
    /// Rows and hash sums of blocks that nobody was told of.
    unknown: HashMap<BlockId, (u64, u64)>,
    columns: Option<Columns>,
    verdict: Verdict,
}

/// What was found of an acknowledged block.
struct Found<'a> {
    sent: &'a Sent,
    /// Its first bit.
    first: usize,
    rows: u32,
    hash: u64,
    received_at_ns: Option<i64>,
    wrong: Option<String>,
}

impl<'a> RowVerifier<'a> {
    /// For what these writers wrote into this namespace.
    pub fn new(ledgers: &'a [RowLedger], namespace: &'a str, new_store: bool) -> Self {
        let mut verdict = Verdict::default();
        let mut found = HashMap::new();
        let mut bits = 0;
        for (writer, ledger) in ledgers.iter().enumerate() {
            let mut before: Option<Receipt> = None;
            for (counter, sent) in ledger.sent[..ledger.acked].iter().enumerate() {
                let receipt = sent.receipt.expect("an acknowledged block has its receipt");
                if before.is_some_and(|before| before.stream != receipt.stream || before.seq >= receipt.seq) {
                    verdict.problem(|| format!("block {counter} of writer {writer} stands before the one before it"));
                }
                before = Some(receipt);
                let new = Found { sent, first: bits, rows: 0, hash: 0, received_at_ns: None, wrong: None };
                if found.insert(BlockId::from(receipt), new).is_some() {
                    verdict.problem(|| format!("block {counter} of writer {writer} has the place of another one"));
                }
                bits += sent.rows as usize;
            }
        }
        let columns = ledgers.iter().any(|ledger| ledger.columns.is_some()).then(Columns::default);
        let seen = vec![0; bits.div_ceil(64)];
        Self { ledgers, namespace, new_store, found, seen, unknown: HashMap::new(), columns, verdict }
    }

    /// Takes the next row of the data files, in any order.
    pub fn see(&mut self, row: &DataRow<'_>) {
        let Some(found) = self.found.get_mut(&row.block) else {
            return self.see_unknown(row);
        };
        let place = found.first + row.row as usize;
        let (word, bit) = (place / 64, 1_u64 << (place % 64));
        let mut wrong = None;
        if row.row >= found.sent.rows {
            wrong = Some(format!("has a row {}, of {}", row.row, found.sent.rows));
        } else if self.seen[word] & bit != 0 {
            wrong = Some(format!("has its row {} twice", row.row));
        } else {
            self.seen[word] |= bit;
            found.rows += 1;
        }
        if row.namespace != self.namespace {
            wrong.get_or_insert_with(|| format!("stands in the namespace '{}'", row.namespace));
        }
        if *found.received_at_ns.get_or_insert(row.received_at_ns) != row.received_at_ns {
            wrong.get_or_insert_with(|| "has rows that were received at different times".to_owned());
        }
        let timeless = found.sent.timeless.binary_search(&row.row).is_ok();
        if let Content::Line { time_ns, .. } = row.content
            && timeless
            && time_ns != row.received_at_ns
        {
            wrong.get_or_insert_with(|| format!("has a time in row {} that nobody gave it", row.row));
        }
        found.hash = found.hash.wrapping_add(hash(row, timeless));
        if let Some(wrong) = wrong {
            found.wrong.get_or_insert(wrong);
        }
        self.count(row, timeless);
    }

    fn see_unknown(&mut self, row: &DataRow<'_>) {
        // In an older store only what bears this run's openings is of this run.
        let of_this_run = |id: &BlockId| (id.origin, id.epoch) == (row.block.origin, row.block.epoch);
        if self.new_store || self.found.keys().next().is_some_and(of_this_run) {
            let unknown = self.unknown.entry(row.block).or_default();
            *unknown = (unknown.0 + 1, unknown.1.wrapping_add(hash(row, false)));
            self.count(row, false);
        }
    }

    fn count(&mut self, row: &DataRow<'_>, timeless: bool) {
        let (Some(columns), Content::Line { time_ns, values }) = (&mut self.columns, row.content) else { return };
        values.iter().for_each(|(column, value)| columns.add(row.table, key_of(column, value), *value));
        if !timeless {
            columns.add_time(row.table, time_ns);
        }
    }

    /// The verdict, once all files were seen.
    pub fn finish(mut self) -> Verdict {
        let mut rows = 0;
        for (writer, ledger) in self.ledgers.iter().enumerate() {
            for (counter, sent) in ledger.sent[..ledger.acked].iter().enumerate() {
                let receipt = sent.receipt.expect("an acknowledged block has its receipt");
                let Some(found) = self.found.get(&receipt.into()) else { continue };
                rows += u64::from(found.rows);
                let name = || {
                    format!("block {counter} of writer {writer} (shard {}, seq {})", receipt.stream.shard, receipt.seq)
                };
                if let Some(wrong) = &found.wrong {
                    self.verdict.problem(|| format!("{} {wrong}", name()));
                } else if found.rows < sent.rows {
                    self.verdict.lost += 1;
                    self.verdict.tell(|| format!("{}: {} of its {} rows are there", name(), found.rows, sent.rows));
                } else if found.hash != sent.hash {
                    self.verdict.problem(|| format!("{}: its rows are not what was written", name()));
                } else {
                    self.verdict.verified += 1;
                }
            }
        }
        let mut unacked: Vec<&Sent> = self.ledgers.iter().flat_map(RowLedger::unacked).collect();
        let all_acked = unacked.is_empty();
        for (id, (rows, hash)) in &self.unknown {
            // What was not acknowledged may be there all the same, whole and once.
            let is_it =
                |sent: &&Sent| u64::from(sent.rows) == *rows && (sent.hash == *hash || !sent.timeless.is_empty());
            match unacked.iter().position(is_it) {
                Some(at) => drop(unacked.swap_remove(at)),
                None => self.verdict.problem(|| format!("a block of {rows} rows was never submitted: {id:?}")),
            }
        }
        self.verdict.rows = Some(rows);
        if let Some(columns) = self.columns.take().filter(|_| all_acked) {
            let mut input = Columns::default();
            self.ledgers.iter().filter_map(|ledger| ledger.columns.as_ref()).for_each(|own| input.merge(own));
            self.verdict.columns = input.compare(&columns);
            for column in self.verdict.columns.clone().iter().filter(|column| !column.equal) {
                self.verdict.problem(|| format!("column {} of table {} differs", column.column, column.table));
            }
        }
        self.verdict
    }
}

/// A row's hash, without its time where that was given by the store.
fn hash(row: &DataRow<'_>, timeless: bool) -> u64 {
    let hasher = match row.content {
        Content::Raw(payload) => Hasher::raw(row.table, payload),
        Content::Line { time_ns, values } => {
            let mut hasher = Hasher::line(row.table, (!timeless).then_some(time_ns));
            values.iter().for_each(|(column, value)| hasher.value(key_of(column, value), *value));
            hasher
        }
    };
    hasher.end(row.row)
}

#[cfg(test)]
pub mod tests {
    use forebay::serve::lines::lines;
    use forebay::types::{Nonce, Stream};

    use super::*;

    /// A value that is its own.
    #[derive(Clone, Debug)]
    enum Owned {
        Tag(String),
        Float(f64),
        Integer(i64),
        Unsigned(u64),
        Boolean(bool),
        Text(String),
    }

    /// Time and values.
    type OwnedLine = (i64, Vec<(String, Owned)>);

    /// A row that is its own: what a data file would hold.
    #[derive(Clone, Debug)]
    pub struct OwnedRow {
        block: BlockId,
        row: u32,
        received_at_ns: i64,
        namespace: String,
        table: String,
        payload: Vec<u8>,
        line: Option<OwnedLine>,
    }

    impl OwnedRow {
        /// Shows it as a reader of data files would.
        pub fn show(&self, see: &mut dyn FnMut(&DataRow<'_>)) {
            let values: Vec<(&str, Value<'_>)> = self
                .line
                .iter()
                .flat_map(|(_, values)| values)
                .map(|(name, value)| {
                    let value = match value {
                        Owned::Tag(text) => Value::Tag(text),
                        Owned::Float(value) => Value::Float(*value),
                        Owned::Integer(value) => Value::Integer(*value),
                        Owned::Unsigned(value) => Value::Unsigned(*value),
                        Owned::Boolean(value) => Value::Boolean(*value),
                        Owned::Text(text) => Value::Text(text),
                    };
                    (name.as_str(), value)
                })
                .collect();
            let content = match &self.line {
                None => Content::Raw(&self.payload),
                Some((time_ns, _)) => Content::Line { time_ns: *time_ns, values: &values },
            };
            see(&DataRow {
                block: self.block,
                row: self.row,
                received_at_ns: self.received_at_ns,
                namespace: &self.namespace,
                table: &self.table,
                content,
            });
        }
    }

    /// The rows of a block that was accepted.
    pub fn rows_of(receipt: Receipt, received_at_ns: i64, namespace: &str, block: &Block) -> Vec<OwnedRow> {
        let row = |row: usize, table: &str, line| OwnedRow {
            block: receipt.into(),
            row: row as u32,
            received_at_ns,
            namespace: namespace.into(),
            table: table.into(),
            payload: block.payload().to_vec(),
            line,
        };
        if block.kind() == BlockKind::Raw {
            return vec![row(0, block.table(), None)];
        }
        let line = |(at, line): (usize, Result<forebay::serve::lines::Line<'_>, _>)| {
            let line = line.expect("sound");
            let mut values = Vec::new();
            each_value(&line, &mut |key, value| {
                let owned = match value {
                    Value::Tag(text) => Owned::Tag(text.into()),
                    Value::Float(value) => Owned::Float(value),
                    Value::Integer(value) => Owned::Integer(value),
                    Value::Unsigned(value) => Owned::Unsigned(value),
                    Value::Boolean(value) => Owned::Boolean(value),
                    Value::Text(text) => Owned::Text(text.into()),
                };
                values.push((key.to_owned(), owned));
            });
            values.reverse();
            row(at, &line.measurement(), Some((line.time().unwrap_or(received_at_ns), values)))
        };
        lines(block.payload()).enumerate().map(line).collect()
    }

    const RECEIVED_NS: i64 = 77;

    fn receipt(shard: u16, seq: u64) -> Receipt {
        let stream = Stream { origin: StoreId([9; 16]), shard: ShardId(shard), epoch: Epoch(1), nonce: Nonce(5) };
        Receipt { stream, seq: Seq(seq) }
    }

    fn block(text: &str) -> Block {
        Block::lines(text.to_owned()).expect("sound")
    }

    /// Two writers with two blocks each, all of three rows, the last one not acknowledged; and what a
    /// store would hold of it.
    fn written() -> (Vec<RowLedger>, Vec<OwnedRow>) {
        let texts = [
            "m,t=a f=1,g=1i 1\nm,t=b f=2,g=2i 2\nm,t=a f=3,s=\"x\" 3\n",
            "m f=1 4\nm f=1\nn,t=c f=1u 6\n",
            "m f=1 7\nm f=1 8\nm f=1 9\n",
            "m f=t 10\nm f=1 11\nm f=1 12\n",
        ];
        let (mut ledgers, mut rows) = (Vec::new(), Vec::new());
        for writer in 0..2 {
            let mut ledger = RowLedger::with_columns();
            for counter in 0..2 {
                let block = block(texts[2 * writer + counter]);
                let receipt = receipt(writer as u16, 10 + 3 * counter as u64);
                ledger.submitted(&block);
                if (writer, counter) != (1, 1) {
                    ledger.acknowledged(receipt);
                    rows.extend(rows_of(receipt, RECEIVED_NS, "ns", &block));
                }
            }
            ledgers.push(ledger);
        }
        (ledgers, rows)
    }

    fn verdict(ledgers: &[RowLedger], rows: &[OwnedRow], new_store: bool) -> Verdict {
        let mut verifier = RowVerifier::new(ledgers, "ns", new_store);
        rows.iter().for_each(|row| row.show(&mut |row| verifier.see(row)));
        let verdict = verifier.finish();
        assert_eq!(verdict.holds(), verdict.problems.is_empty(), "{verdict:?}");
        verdict
    }

    /// Verified, lost and wrong blocks once the rows were changed like this.
    fn after(change: impl FnOnce(&mut Vec<OwnedRow>)) -> (u64, u64, u64) {
        let (ledgers, mut rows) = written();
        change(&mut rows);
        let verdict = verdict(&ledgers, &rows, true);
        (verdict.verified, verdict.lost, verdict.wrong)
    }

    #[test]
    fn every_acknowledged_row_once_is_right_in_any_order() {
        assert_eq!(after(|_| {}), (3, 0, 0));
        assert_eq!(after(|rows| rows.reverse()), (3, 0, 0));
        let (ledgers, rows) = written();
        assert_eq!(verdict(&ledgers, &rows, true).rows, Some(9));
    }

    #[test]
    fn a_missing_row_and_a_missing_block_are_lost_blocks() {
        assert_eq!(after(|rows| drop(rows.remove(4))), (2, 1, 0));
        assert_eq!(after(|rows| drop(rows.drain(..3))), (2, 1, 0));
        assert_eq!(after(|rows| rows.clear()), (0, 3, 0));
    }

    #[test]
    fn a_row_twice_or_beyond_its_block_is_wrong() {
        assert_eq!(after(|rows| rows.push(rows[8].clone())), (2, 0, 1));
        // Twice, and another one missing: the count alone would not tell.
        assert_eq!(after(|rows| rows[0] = rows[1].clone()), (2, 0, 1));
        assert_eq!(after(|rows| rows[2].row = 3), (2, 0, 1));
        assert_eq!(after(|rows| rows.extend(rows.clone())), (0, 0, 3));
    }

    #[test]
    fn whatever_is_changed_in_a_row_is_wrong() {
        let line = |rows: &mut Vec<OwnedRow>, change: fn(&mut OwnedLine)| {
            change(rows[0].line.as_mut().expect("a line"));
        };
        assert_eq!(after(|rows| line(rows, |line| line.0 += 1)), (2, 0, 1));
        assert_eq!(after(|rows| line(rows, |line| drop(line.1.pop()))), (2, 0, 1));
        assert_eq!(after(|rows| line(rows, |line| line.1[0].1 = Owned::Unsigned(1))), (2, 0, 1));
        assert_eq!(after(|rows| line(rows, |line| line.1[1].1 = Owned::Float(1.0 + f64::EPSILON))), (2, 0, 1));
        assert_eq!(after(|rows| line(rows, |line| line.1[0].0 = "h".into())), (2, 0, 1));
        assert_eq!(after(|rows| line(rows, |line| line.1.push(("new".into(), Owned::Boolean(false))))), (2, 0, 1));
        assert_eq!(after(|rows| rows[0].table = "n".into()), (2, 0, 1));
        assert_eq!(after(|rows| rows[0].namespace = "other".into()), (2, 0, 1));
        assert_eq!(after(|rows| rows[0].received_at_ns += 1), (2, 0, 1));
        // Two rows of a block that changed places, and of two blocks.
        assert_eq!(after(|rows| (rows[0].row, rows[1].row) = (1, 0)), (2, 0, 1));
        assert_eq!(after(|rows| (rows[0].block, rows[6].block) = (rows[6].block, rows[0].block)), (1, 0, 2));
    }

    #[test]
    fn a_row_without_a_time_has_that_of_its_receipt() {
        let (_, rows) = written();
        assert_eq!(rows[4].line.as_ref().map(|line| line.0), Some(RECEIVED_NS));
        assert_eq!(after(|rows| rows[4].line.as_mut().expect("a line").0 += 1), (2, 0, 1));
        assert_eq!(after(|rows| rows[3].line.as_mut().expect("a line").0 = RECEIVED_NS), (2, 0, 1));
    }

    #[test]
    fn a_column_for_another_type_is_that_keys() {
        let rename = |rows: &mut Vec<OwnedRow>, to: &str| rows[0].line.as_mut().expect("a line").1[0].0 = to.to_owned();
        assert_eq!(after(|rows| rename(rows, "g@integer")), (3, 0, 0));
        assert_eq!(after(|rows| rename(rows, "g@float")), (2, 0, 1));
        assert_eq!(key_of("a@float@float", &Value::Float(0.0)), "a@float");
        assert_eq!(key_of("a", &Value::Float(0.0)), "a");
    }

    #[test]
    fn a_block_that_was_not_acknowledged_may_be_there_whole() {
        let last = rows_of(receipt(1, 13), RECEIVED_NS, "ns", &block("m f=t 10\nm f=1 11\nm f=1 12\n"));
        assert_eq!(after(|rows| rows.extend(last.clone())), (3, 0, 0));
        assert_eq!(after(|rows| rows.extend(last[1..].to_vec())), (3, 0, 1));
        let twice = rows_of(receipt(1, 14), RECEIVED_NS, "ns", &block("m f=t 10\nm f=1 11\nm f=1 12\n"));
        assert_eq!(after(|rows| rows.extend(last.into_iter().chain(twice))), (3, 0, 1));
    }

    #[test]
    fn a_block_that_was_never_submitted_is_wrong_unless_the_store_is_older() {
        let strange = rows_of(receipt(0, 11), RECEIVED_NS, "ns", &block("m f=9 10\n"));
        assert_eq!(after(|rows| rows.extend(strange.clone())), (3, 0, 1));
        let mut older = strange.clone();
        older[0].block.epoch = Epoch(0);
        assert_eq!(after(|rows| rows.extend(older.clone())), (3, 0, 1));
        let (ledgers, mut rows) = written();
        rows.extend(older);
        assert_eq!(verdict(&ledgers, &rows, false).wrong, 0);
        rows.extend(strange);
        assert_eq!(verdict(&ledgers, &rows, false).wrong, 1);
    }

    #[test]
    fn a_writers_blocks_must_stand_in_its_order() {
        for (second, wrong) in [(receipt(0, 2), 0), (receipt(0, 1), 2), (receipt(1, 3), 1)] {
            let mut ledger = RowLedger::default();
            let mut rows = Vec::new();
            for receipt in [receipt(0, 1), second] {
                let block = Block::raw("blobs", vec![receipt.seq.0 as u8; 10]);
                ledger.submitted(&block);
                ledger.acknowledged(receipt);
                rows.extend(rows_of(receipt, RECEIVED_NS, "ns", &block));
            }
            let verdict = verdict(&[ledger], &rows, true);
            assert!(verdict.wrong >= wrong && (wrong > 0 || verdict.verified == 2), "{verdict:?}");
        }
    }

    #[test]
    fn raw_blocks_are_told_by_their_bytes() {
        let mut ledger = RowLedger::default();
        let written = Block::raw("blobs", vec![1; 100]);
        ledger.submitted(&written);
        ledger.acknowledged(receipt(0, 1));
        let found = |block: &Block| {
            let verdict =
                verdict(std::slice::from_ref(&ledger), &rows_of(receipt(0, 1), RECEIVED_NS, "ns", block), true);
            (verdict.verified, verdict.lost, verdict.wrong)
        };
        assert_eq!(found(&written), (1, 0, 0));
        assert_eq!(found(&Block::raw("blobs", vec![1; 99])), (0, 0, 1));
        assert_eq!(found(&Block::raw("other", vec![1; 100])), (0, 0, 1));
        assert_eq!(found(&block("blobs f=1")), (0, 0, 1));
    }

    #[test]
    fn columns_are_compared_where_everything_was_acknowledged() {
        let (ledgers, rows) = written();
        assert!(verdict(&ledgers, &rows, true).columns.is_empty());
        let ledgers = &ledgers[..1];
        let of_first: Vec<_> = rows[..6].to_vec();
        let columns = verdict(ledgers, &of_first, true).columns;
        let told: Vec<_> =
            columns.iter().map(|column| format!("{}.{}:{}", column.table, column.column, column.kind)).collect();
        assert_eq!(
            told,
            [
                "m.f:float",
                "m.g:integer",
                "m.s:string",
                "m.t:tag",
                "m.time:integer",
                "n.f:unsigned",
                "n.t:tag",
                "n.time:integer"
            ]
        );
        assert!(columns.iter().all(|column| column.equal && column.input == column.files));
        let fewer = verdict(ledgers, &of_first[1..], true);
        assert_eq!(fewer.columns.iter().filter(|column| !column.equal).count(), 4);
    }
}
