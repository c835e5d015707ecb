//! Collects the rows of blocks, column by column, for data files.
//!
//! Rows are parted by namespace, table, kind and UTC day: each [`Part`] becomes one file. A line without a
//! time has that of its block's receipt. What is the same for many rows is kept once: the tags of a series
//! (all lines of a part whose tags are spelled alike), and the identity of a block. A column keeps no value
//! and no byte for rows in which it is null.
//!
//! Promised: memory and time grow with the bytes that were added, however many columns, tables or days
//! there are. How a column is called is up to the caller; so is when it is enough.

use std::collections::HashMap;
use std::hash::BuildHasher;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use smol_str::SmolStr;

use crate::data::format::{PartKind, PartName, day_of};
use crate::data::schema::ColumnType;
use crate::data::store::Delivered;
use crate::serve::lines::{FieldValue, LineError, Row, read_value, sound_rows, unescape, value_type};
use crate::types::{BlockKind, Epoch, Seq, ShardId, StoreId};

/// Names the column of a key: namespace, table, key, type.
pub type Resolve<'a> = dyn FnMut(&str, &str, &str, ColumnType) -> SmolStr + 'a;

/// Rows of blocks, in parts.
#[derive(Debug, Default)]
pub struct Rows {
    parts: Vec<Part>,
    namespaces: HashMap<SmolStr, Namespace>,
    tables: Vec<Table>,
    rows: u64,
    bytes: u64,
}

/// The tables of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    name: SmolStr,
    /// By the measurement as it is spelled in lines.
    by_text: HashMap<SmolStr, usize>,
    by_name: HashMap<SmolStr, usize>,
    raw: HashMap<SmolStr, usize>,
    /// The table of the row before, and how it was spelled.
    last: Option<(SmolStr, usize)>,
}

/// What the parts of one table share: how its columns are called.
#[derive(Debug, Default)]
struct Table {
    name: SmolStr,
    parts: HashMap<i32, usize>,
    last: Option<(i32, usize)>,
    columns: HashMap<(SmolStr, ColumnType), SmolStr>,
}

/// Rows of one namespace, table, kind and day.
#[derive(Debug)]
pub struct Part {
    pub(crate) namespace: SmolStr,
    pub(crate) table: SmolStr,
    pub(crate) day: i32,
    /// What a row is: block, place in it, time, series. Empty series for raw blocks.
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) block: Vec<u32>,
    pub(crate) row: Vec<u32>,
    pub(crate) times: Vec<i64>,
    pub(crate) held: Held,
}

/// What the rows of a part hold.
#[derive(Debug)]
pub(crate) enum Held {
    Lines(Box<LineRows>),
    Raw(Vec<Bytes>),
}

/// A block that rows came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockId {
    pub origin: StoreId,
    pub shard: ShardId,
    pub epoch: Epoch,
    pub seq: Seq,
    pub received_at: i64,
}

/// Tags and fields.
#[derive(Debug, Default)]
pub(crate) struct LineRows {
    /// The series of each row.
    pub row_series: Vec<u32>,
    pub series: Vec<Series>,
    /// Series by their tags as lines spell them, and all those texts.
    by_text: HashTable<u32>,
    spelled: String,
    hasher: DefaultHashBuilder,
    /// The tags of all series: column and value's end in `texts`.
    pub tags: Vec<(u32, usize)>,
    pub texts: Vec<u8>,
    pub tag_columns: Vec<SmolStr>,
    pub fields: Vec<Column>,
    places: HashMap<(SmolStr, ColumnType), u32>,
    /// Fields of rows before as they are spelled, mostly in the order in which they come next.
    hints: Vec<Hint>,
}

#[derive(Debug)]
struct Hint {
    key: SmolStr,
    of: ColumnType,
    column: u32,
}

/// The tags of a series: where they begin in `tags` and `texts`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Series {
    pub tags: usize,
    pub texts: usize,
    /// The end of its text in `spelled`; it begins where that of the series before ends.
    spelled: usize,
    /// The series that came after it the last time: clients mostly keep an order.
    next: u32,
}

/// A field's values; those of rows in which it is null are not there.
#[derive(Debug)]
pub(crate) struct Column {
    pub name: SmolStr,
    pub of: ColumnType,
    pub values: FieldValues,
    /// The rows of the values; `None` as long as value number n is that of row n.
    pub rows: Option<Vec<u32>>,
}

/// Values of a field.
#[derive(Debug)]
pub(crate) enum FieldValues {
    Float(Vec<f64>),
    /// Unsigned ones too, by their bits.
    Integer(Vec<i64>),
    Boolean(Vec<bool>),
    /// All texts, and the end of each.
    Text(Vec<u8>, Vec<usize>),
}

/// Beside values: memory of a part, a series, a column and a block, roughly.
const PART_BYTES: u64 = 1024;
const SERIES_BYTES: u64 = 96;
const COLUMN_BYTES: u64 = 512;
const BLOCK_BYTES: u64 = size_of::<BlockId>() as u64;
const ROW_BYTES: u64 = 20;
/// So many hints are looked at for a field, and so many are kept.
const HINTS_AHEAD: usize = 4;
const HINTS_MAX: usize = 256;

impl Rows {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the rows of a block. `resolve` is asked once for every key and type that is new in its table;
    /// it must name a different column for each.
    ///
    /// # Errors
    /// The payload of a block of lines is not sound; it was when it was accepted. Some of its rows may have
    /// been added: these `Rows` are of no more use.
    pub fn add(&mut self, delivered: &Delivered, resolve: &mut Resolve<'_>) -> Result<(), LineError> {
        let Delivered { receipt, received_at_ns, block, namespace, .. } = delivered;
        let stream = receipt.stream;
        let (origin, shard, epoch) = (stream.origin, stream.shard, stream.epoch);
        let id = BlockId { origin, shard, epoch, seq: receipt.seq, received_at: *received_at_ns };
        let mut names = self
            .namespaces
            .remove(namespace.as_str())
            .unwrap_or_else(|| Namespace { name: namespace.as_str().into(), ..Namespace::default() });
        let added = match block.kind() {
            BlockKind::Raw => {
                self.add_raw(&mut names, id, delivered);
                Ok(())
            }
            BlockKind::Lines => self.add_lines(&mut names, id, block.payload(), resolve),
        };
        self.namespaces.insert(names.name.clone(), names);
        added
    }

    fn add_raw(&mut self, names: &mut Namespace, id: BlockId, delivered: &Delivered) {
        let name = delivered.block.table();
        let table = match names.raw.get(name) {
            Some(&table) => table,
            None => {
                self.tables.push(Table { name: name.into(), ..Table::default() });
                *names.raw.entry(name.into()).or_insert(self.tables.len() - 1)
            }
        };
        let at = self.part(&names.name, table, day_of(id.received_at), || Held::Raw(Vec::new()));
        let part = &mut self.parts[at];
        part.begin(id, 0, id.received_at);
        if let Held::Raw(payloads) = &mut part.held {
            payloads.push(delivered.block.clone().into_payload());
        }
        self.rows += 1;
        self.bytes += ROW_BYTES + BLOCK_BYTES + (size_of::<Bytes>() + delivered.block.payload().len()) as u64;
    }

    fn add_lines(
        &mut self,
        names: &mut Namespace,
        id: BlockId,
        text: &[u8],
        resolve: &mut Resolve<'_>,
    ) -> Result<(), LineError> {
        for (row, line) in (0..).zip(sound_rows(text)) {
            let line = line?;
            let time = line.time().unwrap_or(id.received_at);
            let table = self.table(names, &line);
            let at = self.part(&names.name, table, day_of(time), || Held::Lines(Box::default()));
            let (part, table) = (&mut self.parts[at], &mut self.tables[table]);
            let is_new_block = part.begin(id, row, time);
            self.bytes += ROW_BYTES + if is_new_block { BLOCK_BYTES } else { 0 };
            let row = part.times.len() - 1;
            if let Held::Lines(held) = &mut part.held {
                let mut name = |key: &str, of| table.column(&names.name, key, of, resolve);
                self.bytes += held.add(row as u32, &line, &mut name);
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// The table of a line.
    #[inline]
    fn table(&mut self, names: &mut Namespace, line: &Row<'_>) -> usize {
        let text = line.measurement_text();
        if let Some((last, table)) = &names.last
            && last == text
        {
            return *table;
        }
        let table = match names.by_text.get(text) {
            Some(&table) => table,
            None => {
                let name = SmolStr::from(line.measurement());
                let next = self.tables.len();
                let table = *names.by_name.entry(name.clone()).or_insert(next);
                if table == next {
                    self.tables.push(Table { name, ..Table::default() });
                }
                *names.by_text.entry(text.into()).or_insert(table)
            }
        };
        names.last = Some((text.into(), table));
        table
    }

    /// The part of a table for a day.
    #[inline]
    fn part(&mut self, namespace: &SmolStr, table: usize, day: i32, held: impl FnOnce() -> Held) -> usize {
        let table = &mut self.tables[table];
        if let Some((last, at)) = table.last
            && last == day
        {
            return at;
        }
        let at = *table.parts.entry(day).or_insert_with(|| {
            let (namespace, table) = (namespace.clone(), table.name.clone());
            let (blocks, block, row, times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            self.parts.push(Part { namespace, table, day, blocks, block, row, times, held: held() });
            self.bytes += PART_BYTES;
            self.parts.len() - 1
        });
        table.last = Some((day, at));
        at
    }

    /// Rows that were added.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Memory that they take, in bytes, roughly.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many parts, and so files, there are.
    #[must_use]
    pub const fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The parts, in the order in which they came up; none is empty.
    #[must_use]
    pub fn into_parts(self) -> Vec<Part> {
        self.parts
    }
}

impl Table {
    fn column(&mut self, namespace: &str, key: &str, of: ColumnType, resolve: &mut Resolve<'_>) -> SmolStr {
        let named = self.columns.entry((key.into(), of));
        named.or_insert_with(|| resolve(namespace, &self.name, key, of)).clone()
    }
}

impl Part {
    /// What it holds rows of.
    #[must_use]
    pub fn name(&self) -> PartName {
        let kind = match self.held {
            Held::Lines(_) => PartKind::Lines,
            Held::Raw(_) => PartKind::Raw,
        };
        PartName { namespace: self.namespace.to_string(), table: self.table.to_string(), kind, day: self.day }
    }

    /// Values of the fields with these names.
    pub fn count_values(&self, of: impl Fn(&str) -> bool) -> u64 {
        match &self.held {
            Held::Lines(rows) => {
                rows.fields.iter().filter(|field| of(&field.name)).map(|field| field.values.len() as u64).sum()
            }
            Held::Raw(_) => 0,
        }
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.times.len() as u64
    }

    /// Begins a row of a block; whether it is the block's first here.
    #[inline]
    fn begin(&mut self, id: BlockId, row: u32, time: i64) -> bool {
        let is_new = self.blocks.last() != Some(&id);
        if is_new {
            self.blocks.push(id);
        }
        self.block.push(self.blocks.len() as u32 - 1);
        self.row.push(row);
        self.times.push(time);
        is_new
    }
}

/// The tags of a series as its first line spelled them.
#[inline]
fn spelling<'a>(series: &[Series], spelled: &'a str, number: u32) -> &'a str {
    let number = number as usize;
    let start = if number == 0 { 0 } else { series[number - 1].spelled };
    &spelled[start..series[number].spelled]
}

impl LineRows {
    /// Adds tags and fields of a row; the memory that they take.
    #[inline]
    fn add(&mut self, row: u32, line: &Row<'_>, name: &mut dyn FnMut(&str, ColumnType) -> SmolStr) -> u64 {
        let before = self.series.len();
        let series = self.series(line, name);
        self.row_series.push(series);
        let mut bytes = if self.series.len() > before { SERIES_BYTES + 3 * line.tags_text().len() as u64 } else { 0 };
        let mut fields = line.fields();
        let mut place = 0;
        while let Some((key, value)) = fields.next_raw() {
            let of = value_type(value.as_bytes());
            // What this row leaves out is passed over.
            let ahead = self.hints.get(place..).unwrap_or_default().iter().take(HINTS_AHEAD);
            let column = match ahead.clone().position(|hint| hint.of == of && *hint.key == *key) {
                Some(skipped) => {
                    place += skipped;
                    self.hints[place].column
                }
                None => {
                    let before = self.fields.len();
                    let column = self.field(place, key, of, name);
                    bytes += if self.fields.len() > before { COLUMN_BYTES } else { 0 };
                    column
                }
            };
            place += 1;
            bytes += self.fields[column as usize].push(row, read_value(value));
        }
        bytes
    }

    /// The number of a line's series.
    #[inline]
    fn series(&mut self, line: &Row<'_>, name: &mut dyn FnMut(&str, ColumnType) -> SmolStr) -> u32 {
        let text = line.tags_text();
        let last = self.row_series.last().map(|last| *last as usize);
        let next = last.map_or(0, |last| self.series[last].next);
        if last.is_some() && spelling(&self.series, &self.spelled, next) == text {
            return next;
        }
        let found = self.find_series(text, line, name);
        if let Some(last) = last {
            self.series[last].next = found;
        }
        found
    }

    fn find_series(&mut self, text: &str, line: &Row<'_>, name: &mut dyn FnMut(&str, ColumnType) -> SmolStr) -> u32 {
        let hash = self.hasher.hash_one(text);
        if let Some(&series) = self.by_text.find(hash, |&other| spelling(&self.series, &self.spelled, other) == text) {
            return series;
        }
        let (tags, texts) = (self.tags.len(), self.texts.len());
        for (key, value) in line.tags() {
            let column = match self.places.get(&(SmolStr::from(&*key), ColumnType::Tag)) {
                Some(&column) => column,
                None => {
                    self.tag_columns.push(name(&key, ColumnType::Tag));
                    let column = self.tag_columns.len() as u32 - 1;
                    self.places.insert((key.into(), ColumnType::Tag), column);
                    column
                }
            };
            self.texts.extend_from_slice(value.as_bytes());
            self.tags.push((column, self.texts.len()));
        }
        self.spelled.push_str(text);
        let number = self.series.len() as u32;
        self.series.push(Series { tags, texts, spelled: self.spelled.len(), next: 0 });
        let rehash = |other: &u32| self.hasher.hash_one(spelling(&self.series, &self.spelled, *other));
        self.by_text.insert_unique(hash, number, rehash);
        number
    }

    /// The column of a field that no hint led to.
    #[cold]
    fn field(
        &mut self,
        place: usize,
        text: &str,
        of: ColumnType,
        name: &mut dyn FnMut(&str, ColumnType) -> SmolStr,
    ) -> u32 {
        let key = SmolStr::from(unescape(text));
        let column = *self.places.entry((key.clone(), of)).or_insert_with(|| {
            self.fields.push(Column::new(name(&key, of), of));
            self.fields.len() as u32 - 1
        });
        self.hints.insert(place.min(self.hints.len()), Hint { key: text.into(), of, column });
        self.hints.truncate(HINTS_MAX);
        column
    }
}

impl Column {
    const fn new(name: SmolStr, of: ColumnType) -> Self {
        let values = match of {
            ColumnType::Float => FieldValues::Float(Vec::new()),
            ColumnType::Integer | ColumnType::Unsigned => FieldValues::Integer(Vec::new()),
            ColumnType::Boolean => FieldValues::Boolean(Vec::new()),
            ColumnType::String | ColumnType::Tag => FieldValues::Text(Vec::new(), Vec::new()),
        };
        Self { name, of, values, rows: None }
    }

    /// Adds the value of a row, which is of the column's type; the memory that it takes.
    #[inline]
    fn push(&mut self, row: u32, value: FieldValue<'_>) -> u64 {
        let count = self.values.len() as u32;
        match &mut self.rows {
            Some(rows) => rows.push(row),
            None if count == row => {}
            None => self.rows = Some((0..count).chain([row]).collect()),
        }
        let sparse = if self.rows.is_some() { 4 } else { 0 };
        sparse
            + match (&mut self.values, value) {
                (FieldValues::Float(values), FieldValue::Float(value)) => put(values, value),
                (FieldValues::Integer(values), FieldValue::Integer(value)) => put(values, value),
                (FieldValues::Integer(values), FieldValue::Unsigned(value)) => put(values, value.cast_signed()),
                (FieldValues::Boolean(values), FieldValue::Boolean(value)) => put(values, value),
                (FieldValues::Text(texts, ends), FieldValue::Text(value)) => {
                    texts.extend_from_slice(value.as_bytes());
                    put(ends, texts.len()) + value.len() as u64
                }
                _ => unreachable!("a column is found by its type"),
            }
    }
}

#[inline]
fn put<T>(values: &mut Vec<T>, value: T) -> u64 {
    values.push(value);
    size_of::<T>() as u64
}

impl FieldValues {
    /// How many there are.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Integer(values) => values.len(),
            Self::Boolean(values) => values.len(),
            Self::Text(_, ends) => ends.len(),
        }
    }
}
