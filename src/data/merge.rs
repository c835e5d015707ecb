//! Merging data files of one part into one, row by row in their order, in bounded memory.
//!
//! A client that had no answer sends its block again, and both may be there. Rows that are equal in
//! everything the client wrote, and were accepted by one store, are such repetitions if they come from
//! different blocks: those of the last block stay, the last by opening and number.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io::Write;
use std::rc::Rc;

use parquet::errors::ParquetError;

use crate::data::decode::{Batch, Batches, DataReader, DecodeError, Value};
use crate::data::encode::{
    ColumnData, Compression, FileColumn, GROUP_ROWS_MAX, GROUP_TEXT_BYTES_MAX, Role, TableWriter, Values, Written,
};
use crate::data::format::{PartKind, PartName};
use crate::data::schema::ColumnType;

/// Rows with the same tags and time that are compared with each other, at most: a bound on memory.
const SAME_MAX: usize = 10_000;

/// Why files could not be merged; they are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// One of them cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The output.
    #[error("writing the merged file: {0}")]
    Encode(#[from] ParquetError),
    /// They do not belong together.
    #[error("{0}")]
    Mixed(String),
}

/// Merges files of `part` into one; also says how many rows were dropped as repeated.
///
/// # Errors
/// [`MergeError`].
pub fn merge(
    part: &PartName,
    readers: Vec<DataReader>,
    out: impl Write + Send,
    compression: Compression,
) -> Result<(Written, u64), MergeError> {
    if let Some(other) = readers.iter().find(|reader| reader.kind() != part.kind) {
        return Err(MergeError::Mixed(format!("{}: raw blocks and lines cannot be merged", other.path().display())));
    }
    let columns: BTreeSet<FileColumn> = readers.iter().flat_map(|reader| reader.columns().iter().cloned()).collect();
    let columns: Vec<FileColumn> = columns.into_iter().collect();
    if let Some(pair) = columns.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(MergeError::Mixed(format!("column '{}' is of two types", pair[0].name)));
    }
    let order = Order::new(&columns, part.kind);
    let mut cursors = Vec::new();
    for reader in readers {
        let mut batches = reader.batches(&columns);
        if let Some(batch) = next_batch(&mut batches)? {
            cursors.push(Cursor { batches, batch: Rc::new(batch), row: 0 });
        }
    }
    let mut output = Output::new(TableWriter::new(out, part, columns.clone(), compression)?, &columns);
    let mut dropped = 0;
    let mut same: Vec<RowRef> = Vec::new();
    while let Some(next) = next_row(&mut cursors, &order)? {
        if let Some(first) = same.first()
            && (same.len() == SAME_MAX || order.compare_key(first, &next) != Ordering::Equal)
        {
            dropped += output.take(&mut same, &order)?;
        }
        same.push(next);
    }
    dropped += output.take(&mut same, &order)?;
    Ok((output.finish()?, dropped))
}

fn next_batch(batches: &mut Batches) -> Result<Option<Batch>, DecodeError> {
    loop {
        match batches.next_batch()? {
            Some(batch) if batch.rows() == 0 => {}
            other => return Ok(other),
        }
    }
}

/// A file, and the row in it that comes next.
struct Cursor {
    batches: Batches,
    batch: Rc<Batch>,
    row: usize,
}

#[derive(Clone)]
struct RowRef {
    batch: Rc<Batch>,
    row: usize,
}

/// The smallest row of all cursors.
fn next_row(cursors: &mut Vec<Cursor>, order: &Order) -> Result<Option<RowRef>, DecodeError> {
    // There are few files: looking at each of them is as fast as keeping them sorted.
    let row_of = |cursor: &Cursor| RowRef { batch: Rc::clone(&cursor.batch), row: cursor.row };
    let mut smallest: Option<(usize, RowRef)> = None;
    for (at, cursor) in cursors.iter().enumerate() {
        let here = row_of(cursor);
        if smallest.as_ref().is_none_or(|(_, best)| order.compare(&here, best) == Ordering::Less) {
            smallest = Some((at, here));
        }
    }
    let Some((at, row)) = smallest else { return Ok(None) };
    let cursor = &mut cursors[at];
    cursor.row += 1;
    if cursor.row == cursor.batch.rows() {
        match next_batch(&mut cursor.batches)? {
            Some(batch) => (cursor.batch, cursor.row) = (Rc::new(batch), 0),
            None => {
                cursors.swap_remove(at);
            }
        }
    }
    Ok(Some(row))
}

/// Which columns decide what.
struct Order {
    /// Tags and time.
    key: Vec<usize>,
    /// Identity, behind the key.
    identity: Vec<usize>,
    /// What makes rows of one key repetitions: fields and origin.
    equal: Vec<usize>,
    /// What tells blocks of one store apart and says which is later: opening, number, shard.
    block: [usize; 3],
}

impl Order {
    fn new(columns: &[FileColumn], kind: PartKind) -> Self {
        let of = |roles: &[Role]| -> Vec<usize> {
            let places = |role: &Role| {
                let role = *role;
                columns.iter().enumerate().filter(move |(_, column)| column.role == role).map(|(at, _)| at)
            };
            roles.iter().flat_map(places).collect()
        };
        let identity = of(&[Role::Origin, Role::Shard, Role::Epoch, Role::Seq, Role::Row]);
        let block = [identity[2], identity[3], identity[1]];
        match kind {
            PartKind::Lines => {
                Self { key: of(&[Role::Tag, Role::Time]), equal: of(&[Role::Field, Role::Origin]), identity, block }
            }
            // Raw blocks are ordered by identity alone, and each is unlike any other.
            PartKind::Raw => Self { key: identity.clone(), equal: Vec::new(), identity: Vec::new(), block },
        }
    }

    fn compare(&self, one: &RowRef, other: &RowRef) -> Ordering {
        let columns = self.key.iter().chain(&self.identity);
        compare(columns, one, other)
    }

    fn compare_key(&self, one: &RowRef, other: &RowRef) -> Ordering {
        compare(self.key.iter(), one, other)
    }

    fn is_repeated(&self, one: &RowRef, other: &RowRef) -> bool {
        self.equal.iter().all(|&at| is_same(one.batch.value(at, one.row), other.batch.value(at, other.row)))
    }

    fn block(&self, row: &RowRef) -> [i64; 3] {
        self.block.map(|at| match row.batch.value(at, row.row) {
            Some(Value::Integer(number)) => number,
            _ => 0,
        })
    }
}

fn compare<'a>(columns: impl Iterator<Item = &'a usize>, one: &RowRef, other: &RowRef) -> Ordering {
    for &at in columns {
        let ordering = match (one.batch.value(at, one.row), other.batch.value(at, other.row)) {
            (Some(Value::Bytes(one)), Some(Value::Bytes(other))) => one.cmp(other),
            (Some(Value::Integer(one)), Some(Value::Integer(other))) => one.cmp(&other),
            // No value comes first.
            (one, other) => one.is_some().cmp(&other.is_some()),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    Ordering::Equal
}

/// The same bits: what a client sends again is not merely as large.
fn is_same(one: Option<Value<'_>>, other: Option<Value<'_>>) -> bool {
    match (one, other) {
        (Some(Value::Float(one)), Some(Value::Float(other))) => one.to_bits() == other.to_bits(),
        (one, other) => one == other,
    }
}

/// The merged file, and its row group so far.
struct Output<W: Write + Send> {
    file: TableWriter<W>,
    empty: Vec<ColumnData>,
    group: Vec<ColumnData>,
    rows: usize,
    text_bytes: usize,
}

impl<W: Write + Send> Output<W> {
    fn new(file: TableWriter<W>, columns: &[FileColumn]) -> Self {
        let empty: Vec<ColumnData> = columns.iter().map(empty_column).collect();
        Self { file, group: empty.clone(), empty, rows: 0, text_bytes: 0 }
    }

    /// Writes rows of one key, without those that a later block repeats; how many these were.
    fn take(&mut self, same: &mut Vec<RowRef>, order: &Order) -> Result<u64, ParquetError> {
        let before = same.len();
        if before > 1 {
            // Those of later blocks first, so that each row is compared with what stays only.
            let mut kept: Vec<RowRef> = Vec::new();
            same.sort_by_key(|row| std::cmp::Reverse(order.block(row)));
            for row in same.drain(..) {
                let block = order.block(&row);
                let again = |later: &&RowRef| order.block(later) != block && order.is_repeated(later, &row);
                if kept.iter().find(again).is_none() {
                    kept.push(row);
                }
            }
            kept.sort_by(|one, other| order.compare(one, other));
            *same = kept;
        }
        let dropped = before - same.len();
        for row in same.drain(..) {
            self.put(&row)?;
        }
        Ok(dropped as u64)
    }

    fn put(&mut self, row: &RowRef) -> Result<(), ParquetError> {
        for (at, column) in self.group.iter_mut().enumerate() {
            let is_there = row.batch.copy(at, row.row, &mut column.values);
            column.present.push(i16::from(is_there));
            if let Values::Bytes(texts) = &column.values
                && is_there
            {
                self.text_bytes += texts.last().map_or(0, |text| text.len());
            }
        }
        self.rows += 1;
        if self.rows == GROUP_ROWS_MAX || self.text_bytes >= GROUP_TEXT_BYTES_MAX {
            self.write_group()?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let group = std::mem::replace(&mut self.group, self.empty.clone());
        (self.rows, self.text_bytes) = (0, 0);
        self.file.write_group(&group)
    }

    fn finish(mut self) -> Result<Written, ParquetError> {
        if self.rows > 0 {
            self.write_group()?;
        }
        self.file.finish()
    }
}

fn empty_column(column: &FileColumn) -> ColumnData {
    let values = match (column.role, column.of) {
        (Role::Time | Role::ReceivedAt | Role::Epoch | Role::Seq, _)
        | (Role::Field, ColumnType::Integer | ColumnType::Unsigned) => Values::Int64(Vec::new()),
        (Role::Shard | Role::Row, _) => Values::Int32(Vec::new()),
        (Role::Field, ColumnType::Float) => Values::Double(Vec::new()),
        (Role::Field, ColumnType::Boolean) => Values::Boolean(Vec::new()),
        (Role::Tag | Role::Origin | Role::Payload | Role::Field, _) => Values::Bytes(Vec::new()),
    };
    ColumnData { values, present: Vec::new() }
}
