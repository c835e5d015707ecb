//! Merging data files of one part into one, in the order of their rows, in bounded memory. What comes from
//! one file in a row is copied at once.
//!
//! A client that had no answer sends its block again, and both may be there. Rows that are equal in
//! everything the client wrote, and were accepted by one store, are such repetitions if they come from
//! different blocks: those of the last block stay, the last by opening and number.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::Range;
use std::rc::Rc;

use parquet::errors::ParquetError;

use crate::data::decode::{Batch, Batches, DataReader, DecodeError, Value};
use crate::data::encode::{
    ColumnData, FileColumn, GROUP_ROWS_MAX, GROUP_TEXT_BYTES_MAX, Repeated, Role, TableWriter, Values, WriteOptions,
    Written,
};
use crate::data::format::{PartKind, PartName};
use crate::data::repeated::keep_last;
use crate::data::schema::ColumnType;
use crate::data::store::Wanted;
use crate::io::rests::rest;
use crate::types::{Epoch, Seq, ShardId, StoreId};

/// Rows with the same tags and time that are compared with each other, at most: a bound on memory.
const SAME_MAX: usize = 100_000;

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
    options: WriteOptions,
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
    let mut output =
        Output::new(TableWriter::new(out, part, columns.clone(), options.compression)?, &columns, options.repeated);
    while let Some((at, upto)) = next_run(&cursors, &order) {
        let cursor = &mut cursors[at];
        output.take(&cursor.batch, cursor.row..upto, &order)?;
        cursor.row = upto;
        if cursor.row == cursor.batch.rows() {
            match next_batch(&mut cursor.batches)? {
                Some(batch) => (cursor.batch, cursor.row) = (Rc::new(batch), 0),
                None => {
                    cursors.swap_remove(at);
                }
            }
        }
    }
    Ok(output.finish(&order)?)
}

/// Whether a file has any row of blocks that are wanted.
///
/// # Errors
/// [`MergeError`].
pub fn has_any(reader: DataReader, wanted: &Wanted) -> Result<bool, MergeError> {
    let columns: Vec<FileColumn> =
        reader.columns().iter().filter(|column| BLOCK_ROLES.contains(&column.role)).cloned().collect();
    let block_of = BlockOf::new(&columns, wanted);
    let mut batches = reader.batches(&columns);
    while let Some(batch) = next_batch(&mut batches)? {
        if (0..batch.rows()).any(|row| block_of.is_wanted(&batch, row)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies the rows of wanted blocks from a file into one of `part`. Its columns are called `to` there, in the order of
/// [`FileColumn::all`], and `from` in the file.
///
/// # Errors
/// [`MergeError`].
pub fn copy_wanted(
    part: &PartName,
    reader: DataReader,
    (from, to): (&[FileColumn], Vec<FileColumn>),
    wanted: &Wanted,
    out: impl Write + Send,
    options: WriteOptions,
) -> Result<Written, MergeError> {
    let block_of = BlockOf::new(from, wanted);
    let order = Order::new(&to, part.kind);
    let mut output = Output::new(TableWriter::new(out, part, to.clone(), options.compression)?, &to, options.repeated);
    let mut batches = reader.batches(from);
    while let Some(batch) = next_batch(&mut batches)? {
        let batch = Rc::new(batch);
        let mut row = 0;
        while row < batch.rows() {
            let (first, is_wanted) = (row, block_of.is_wanted(&batch, row));
            while row < batch.rows() && block_of.is_wanted(&batch, row) == is_wanted {
                row += 1;
            }
            if is_wanted {
                output.put(&batch, first..row)?;
            }
        }
    }
    Ok(output.finish(&order)?.0)
}

/// The columns that say which block a row is of.
const BLOCK_ROLES: [Role; 4] = [Role::Origin, Role::Shard, Role::Epoch, Role::Seq];

/// Where those stand among others, and which blocks are wanted.
struct BlockOf<'a> {
    places: [usize; 4],
    /// As their column has them.
    origins: Vec<(String, StoreId)>,
    wanted: &'a Wanted,
}

impl<'a> BlockOf<'a> {
    fn new(columns: &[FileColumn], wanted: &'a Wanted) -> Self {
        let place = |role: Role| columns.iter().position(|column| column.role == role).expect("every file has them");
        let origins: BTreeSet<StoreId> = wanted.ends.keys().map(|stream| stream.origin).collect();
        let origins = origins.into_iter().map(|origin| (origin.to_string(), origin)).collect();
        Self { places: BLOCK_ROLES.map(place), origins, wanted }
    }

    fn is_wanted(&self, batch: &Batch, row: usize) -> bool {
        let [origin, shard, epoch, seq] = self.places.map(|column| batch.value(column, row));
        let (Some(Value::Bytes(origin)), Some(Value::Integer(shard))) = (origin, shard) else { return false };
        let (Some(Value::Integer(epoch)), Some(Value::Integer(seq))) = (epoch, seq) else { return false };
        let known = self.origins.iter().find(|(text, _)| text.as_bytes() == origin);
        known.is_some_and(|(_, origin)| {
            self.wanted.has(*origin, ShardId(shard as u16), Epoch(epoch as u64), Seq(seq as u64))
        })
    }
}

fn next_batch(batches: &mut Batches) -> Result<Option<Batch>, DecodeError> {
    loop {
        rest();
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

impl Cursor {
    fn at(&self, row: usize) -> RowRef {
        RowRef { batch: Rc::clone(&self.batch), row }
    }
}

#[derive(Clone)]
struct RowRef {
    batch: Rc<Batch>,
    row: usize,
}

/// The cursor whose rows come next, and up to which row of its batch they do.
fn next_run(cursors: &[Cursor], order: &Order) -> Option<(usize, usize)> {
    // There are few files: looking at each of them is as fast as keeping them sorted.
    let (mut smallest, mut second): (Option<(usize, RowRef)>, Option<RowRef>) = (None, None);
    for (at, cursor) in cursors.iter().enumerate() {
        let here = cursor.at(cursor.row);
        match &smallest {
            Some((_, best)) if order.compare(&here, best) != Ordering::Less => {
                if second.as_ref().is_none_or(|second| order.compare(&here, second) == Ordering::Less) {
                    second = Some(here);
                }
            }
            _ => second = smallest.replace((at, here)).map(|(_, row)| row),
        }
    }
    let (at, first) = smallest?;
    let rows = first.batch.rows();
    let Some(second) = second else { return Some((at, rows)) };
    let is_before = |row: usize| order.compare_key(&RowRef { row, ..first.clone() }, &second) == Ordering::Less;
    // Steps that double, then halves: a run of n rows is found in log n looks.
    let (mut known, mut step) = (first.row, 1);
    while known + step < rows && is_before(known + step) {
        known += step;
        step *= 2;
    }
    let (mut low, mut high) = (known + 1, rows.min(known + step));
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) { low = middle + 1 } else { high = middle }
    }
    // The first row comes before all others in any case, if only by its identity.
    Some((at, low))
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

    /// Rows of one batch: the time, which stands last, mostly differs.
    #[inline]
    fn is_same_key(&self, batch: &Batch, one: usize, other: usize) -> bool {
        self.key.iter().rev().all(|&at| batch.value(at, one) == batch.value(at, other))
    }

    fn is_repeated(&self, one: &RowRef, other: &RowRef) -> bool {
        self.equal.iter().all(|&at| is_same(one.batch.value(at, one.row), other.batch.value(at, other.row)))
    }

    /// Equal for rows that may be repetitions.
    fn hash(&self, row: &RowRef) -> u64 {
        let mut state = DefaultHasher::new();
        for &at in &self.equal {
            match row.batch.value(at, row.row) {
                None => 0.hash(&mut state),
                Some(Value::Integer(value)) => (1, value).hash(&mut state),
                Some(Value::Unsigned(value)) => (2, value).hash(&mut state),
                Some(Value::Float(value)) => (3, value.to_bits()).hash(&mut state),
                Some(Value::Boolean(value)) => (4, value).hash(&mut state),
                Some(Value::Bytes(value)) => (5, value).hash(&mut state),
            }
        }
        state.finish()
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
    group: Vec<ColumnData>,
    rows: usize,
    text_bytes: usize,
    /// The last rows, all with the same tags and time; what follows may have them too.
    same: Vec<RowRef>,
    repeated: Repeated,
    dropped: u64,
}

impl<W: Write + Send> Output<W> {
    fn new(file: TableWriter<W>, columns: &[FileColumn], repeated: Repeated) -> Self {
        let group = columns.iter().map(empty_column).collect();
        Self { file, group, rows: 0, text_bytes: 0, same: Vec::new(), repeated, dropped: 0 }
    }

    /// Takes rows that come next.
    fn take(&mut self, batch: &Rc<Batch>, rows: Range<usize>, order: &Order) -> Result<(), ParquetError> {
        let mut at = rows.start;
        while at < rows.end {
            let next = RowRef { batch: Rc::clone(batch), row: at };
            if let Some(first) = self.same.first()
                && (self.same.len() == SAME_MAX || order.compare_key(first, &next) != Ordering::Equal)
            {
                self.put_same(order)?;
            }
            if self.same.is_empty() {
                // Rows up to the first whose successor is like it are like none.
                let last = rows.end - 1;
                let like = (at..last).find(|&row| order.is_same_key(batch, row, row + 1)).unwrap_or(last);
                self.put(batch, at..like)?;
                at = like;
            }
            self.same.push(RowRef { batch: Rc::clone(batch), row: at });
            at += 1;
        }
        Ok(())
    }

    /// Writes the rows of one key, without those that a later block repeats.
    fn put_same(&mut self, order: &Order) -> Result<(), ParquetError> {
        let mut rows = std::mem::take(&mut self.same);
        let before = rows.len();
        if self.repeated == Repeated::Drop {
            keep_last(
                &mut rows,
                |row| order.block(row),
                |row| order.hash(row),
                |one, other| order.is_repeated(one, other),
            );
            rows.sort_by(|one, other| order.compare(one, other));
        }
        self.dropped += (before - rows.len()) as u64;
        for RowRef { batch, row } in rows.drain(..) {
            self.put(&batch, row..row + 1)?;
        }
        self.same = rows;
        Ok(())
    }

    fn put(&mut self, batch: &Batch, mut rows: Range<usize>) -> Result<(), ParquetError> {
        while !rows.is_empty() {
            let mut upto = rows.end.min(rows.start + GROUP_ROWS_MAX - self.rows);
            let mut bytes = batch.text_bytes(rows.start..upto);
            while upto - rows.start > 1 && self.text_bytes + bytes > GROUP_TEXT_BYTES_MAX {
                upto = (rows.start + 1).midpoint(upto);
                bytes = batch.text_bytes(rows.start..upto);
            }
            for (at, column) in self.group.iter_mut().enumerate() {
                batch.copy(at, rows.start..upto, column);
            }
            self.rows += upto - rows.start;
            self.text_bytes += bytes;
            rows.start = upto;
            if self.rows == GROUP_ROWS_MAX || self.text_bytes >= GROUP_TEXT_BYTES_MAX {
                self.write_group()?;
            }
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        (self.rows, self.text_bytes) = (0, 0);
        self.file.write_group(&self.group)?;
        self.group.iter_mut().for_each(ColumnData::clear);
        Ok(())
    }

    /// Ends the file; also says how many rows were dropped.
    fn finish(mut self, order: &Order) -> Result<(Written, u64), ParquetError> {
        self.put_same(order)?;
        if self.rows > 0 {
            self.write_group()?;
        }
        Ok((self.file.finish()?, self.dropped))
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
