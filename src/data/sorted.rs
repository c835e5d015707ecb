//! A part's rows in the order of their file: sorted by tags, time and identity, without those that a later
//! block repeats, row group by row group.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use smol_str::SmolStr;

use crate::data::encode::{
    ColumnData, FileColumn, GROUP_ROWS_MAX, GROUP_TEXT_BYTES_MAX, PIECE_ROWS, Repeated, Role, TableWriter, Values,
    WriteOptions, Written,
};
use crate::data::repeated::keep_last;
use crate::data::rows::{Column, FieldValues, Held, LineRows, Part};
use crate::data::schema::ColumnType;
use crate::io::rests::rest;
use crate::types::StoreId;

impl Part {
    /// Writes the part as a Parquet file; also says how many rows were dropped as repeated.
    ///
    /// # Errors
    /// As the output says.
    pub fn write(self, out: impl Write + Send, options: WriteOptions) -> Result<(Written, u64), ParquetError> {
        let name = self.name();
        let blocks = self.block_ranks();
        let (columns, tags, order) = match &self.held {
            Held::Lines(rows) => {
                let tags = Tags::new(rows);
                let order = order(&self, &blocks, Some((&tags.rank, &rows.row_series)));
                let tag_columns = tags.columns.iter().map(|name| (name.clone(), ColumnType::Tag));
                let fields = rows.fields.iter().map(|field| (field.name.clone(), field.of));
                (FileColumn::all(name.kind, tag_columns.chain(fields)), Some(tags), order)
            }
            Held::Raw(_) => (FileColumn::all(name.kind, []), None, order(&self, &blocks, None)),
        };
        let mut part = Sorted::new(&self, tags, order);
        let dropped = if options.repeated == Repeated::Drop { part.drop_repeated(&blocks) } else { 0 };
        let mut file = TableWriter::new(out, &name, columns.clone(), options.compression)?;
        for range in part.groups() {
            let group: Vec<ColumnData> = columns.iter().map(|column| part.column(column, range.clone())).collect();
            file.write_group(&group)?;
        }
        Ok((file.finish()?, dropped))
    }

    /// The place of each block in the order of identities.
    fn block_ranks(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.blocks.len() as u32).collect();
        order.sort_by_key(|&at| self.blocks[at as usize]);
        let mut ranks = vec![0; order.len()];
        for (rank, at) in (0..).zip(order) {
            ranks[at as usize] = rank;
        }
        ranks
    }
}

/// The tags of all series of a part.
struct Tags {
    /// Columns, sorted by name.
    columns: Vec<SmolStr>,
    /// The tags of all series, each with the place of its column; sorted by that within a series.
    all: Vec<(u32, ByteArray)>,
    /// Where each series begins in `all`, and the end.
    starts: Vec<usize>,
    /// The place of each series in the order of tags; equal for equal tags.
    rank: Vec<u32>,
}

impl Tags {
    fn new(rows: &LineRows) -> Self {
        let mut by_name: Vec<u32> = (0..rows.tag_columns.len() as u32).collect();
        by_name.sort_by_key(|&column| &rows.tag_columns[column as usize]);
        let mut place = vec![0; by_name.len()];
        for (at, &column) in (0..).zip(&by_name) {
            place[column as usize] = at;
        }
        let texts = Bytes::copy_from_slice(&rows.texts);
        // One copy of each text: equal ones are found equal by their address, and kept once.
        let mut known: HashMap<&[u8], ByteArray> = HashMap::new();
        let (mut all, mut starts) = (Vec::with_capacity(rows.tags.len()), vec![0]);
        for (at, series) in rows.series.iter().enumerate() {
            let next = rows.series.get(at + 1).map_or(rows.tags.len(), |next| next.tags);
            let mut from = series.texts;
            for &(column, end) in &rows.tags[series.tags..next] {
                let text =
                    known.entry(&rows.texts[from..end]).or_insert_with(|| ByteArray::from(texts.slice(from..end)));
                all.push((place[column as usize], text.clone()));
                from = end;
            }
            all[series.tags..].sort_by_key(|(place, _)| *place);
            starts.push(all.len());
        }
        let columns = by_name.iter().map(|&column| rows.tag_columns[column as usize].clone()).collect();
        let mut this = Self { columns, all, starts, rank: Vec::new() };
        let mut order: Vec<usize> = (0..rows.series.len()).collect();
        order.sort_by(|&one, &other| compare_tags(this.of(one), this.of(other)));
        let mut rank = vec![0; order.len()];
        let mut last = 0;
        for pair in order.windows(2) {
            last += u32::from(compare_tags(this.of(pair[0]), this.of(pair[1])) != Ordering::Equal);
            rank[pair[1]] = last;
        }
        this.rank = rank;
        this
    }

    /// The tags of a series.
    fn of(&self, series: usize) -> &[(u32, ByteArray)] {
        &self.all[self.starts[series]..self.starts[series + 1]]
    }
}

/// The order of two series' tags: column by column, no value before any.
fn compare_tags(one: &[(u32, ByteArray)], other: &[(u32, ByteArray)]) -> Ordering {
    for ((place, text), (other_place, other_text)) in one.iter().zip(other) {
        // The one whose next tag is further on has none in the nearer column.
        let ordering = other_place.cmp(place).then_with(|| text.data().cmp(other_text.data()));
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    one.len().cmp(&other.len())
}

/// The rows in the order of the file: by series, time, block and place in the block.
fn order(part: &Part, blocks: &[u32], series: Option<(&[u32], &[u32])>) -> Vec<u32> {
    let count = part.times.len();
    let key = |row: &u32| {
        let row = *row as usize;
        (part.times[row], blocks[part.block[row] as usize], part.row[row])
    };
    let Some((rank, row_series)) = series else {
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_by_key(|&row| (blocks[part.block[row as usize] as usize], part.row[row as usize]));
        return order;
    };
    // Rows of one rank are brought together first; they then mostly stand in order already.
    let ranks = rank.iter().max().map_or(0, |last| *last as usize + 1);
    let mut starts = vec![0u32; ranks + 1];
    for &series in row_series {
        starts[rank[series as usize] as usize + 1] += 1;
    }
    for at in 0..ranks {
        starts[at + 1] += starts[at];
    }
    let mut order = vec![0; count];
    let mut next = starts.clone();
    for (row, &series) in (0..).zip(row_series) {
        let place = &mut next[rank[series as usize] as usize];
        order[*place as usize] = row;
        *place += 1;
    }
    for bounds in starts.windows(2) {
        let same = &mut order[bounds[0] as usize..bounds[1] as usize];
        if !same.is_sorted_by_key(key) {
            same.sort_by_key(key);
        }
    }
    order
}

/// A part with its order.
struct Sorted<'a> {
    part: &'a Part,
    tags: Option<Tags>,
    order: Vec<u32>,
    /// The origin of each block.
    origins: Vec<ByteArray>,
    fields: HashMap<(&'a str, ColumnType), Field<'a>>,
}

/// A field, and where the value of each row is.
struct Field<'a> {
    column: &'a Column,
    places: Places<'a>,
    texts: Bytes,
}

/// Where the values of rows are.
enum Places<'a> {
    /// The value of row n is number n; rows behind the last have none.
    Plain,
    /// The number of each row's value, from 1; 0: it has none.
    OfRow(Vec<u32>),
    /// The rows that have one, of a field that few rows have: memory stays in proportion to its values.
    Few(&'a [u32]),
}

/// Rows for each value of a field from which on these are few.
const FEW: usize = 16;

impl<'a> Sorted<'a> {
    fn new(part: &'a Part, tags: Option<Tags>, order: Vec<u32>) -> Self {
        let mut texts: HashMap<StoreId, ByteArray> = HashMap::new();
        let text = |origin: StoreId| ByteArray::from(origin.to_string().as_str());
        let origins = part.blocks.iter().map(|block| block.origin);
        let origins = origins.map(|origin| texts.entry(origin).or_insert_with(|| text(origin)).clone()).collect();
        let rows = part.times.len();
        let fields = match &part.held {
            Held::Raw(_) => HashMap::new(),
            Held::Lines(held) => {
                let field = |column: &'a Column| {
                    let places = match &column.rows {
                        None => Places::Plain,
                        Some(few) if few.len() < rows / FEW => Places::Few(few),
                        Some(some) => {
                            let mut of_row = vec![0; rows];
                            for (number, row) in (1..).zip(some) {
                                of_row[*row as usize] = number;
                            }
                            Places::OfRow(of_row)
                        }
                    };
                    let texts = match &column.values {
                        FieldValues::Text(texts, _) => Bytes::copy_from_slice(texts),
                        _ => Bytes::new(),
                    };
                    ((column.name.as_str(), column.of), Field { column, places, texts })
                };
                held.fields.iter().map(field).collect()
            }
        };
        Self { part, tags, order, origins, fields }
    }

    /// Drops rows that a later block repeats; how many.
    fn drop_repeated(&mut self, blocks: &[u32]) -> u64 {
        let (part, before) = (self.part, self.order.len());
        let (Held::Lines(held), Some(tags), true) = (&part.held, &self.tags, part.blocks.len() > 1) else { return 0 };
        let key = |row: &u32| (tags.rank[held.row_series[*row as usize] as usize], part.times[*row as usize]);
        let is_alike = |pair: &[u32]| key(&pair[0]) == key(&pair[1]);
        // Mostly there are none.
        let Some(first) = self.order.windows(2).position(is_alike) else { return 0 };
        let block = |row: &u32| &part.blocks[part.block[*row as usize] as usize];
        let fields: Vec<&Field<'_>> = self.fields.values().collect();
        let mut order = self.order[..first].to_vec();
        for alike in self.order[first..].chunk_by(|one, other| key(one) == key(other)) {
            if let [alone] = alike {
                order.push(*alone);
                continue;
            }
            let mut rows = alike.to_vec();
            keep_last(
                &mut rows,
                |row| (block(row).epoch, block(row).seq, block(row).shard, block(row).origin),
                |row| {
                    let mut state = DefaultHasher::new();
                    fields.iter().for_each(|field| field.hash(*row as usize, &mut state));
                    state.finish()
                },
                |one, other| {
                    block(one).origin == block(other).origin
                        && fields.iter().all(|field| field.is_same(*one as usize, *other as usize))
                },
            );
            rows.sort_by_key(|row| (blocks[part.block[*row as usize] as usize], part.row[*row as usize]));
            order.extend(rows);
        }
        self.order = order;
        (before - self.order.len()) as u64
    }

    /// The rows of each row group, as ranges of the order.
    fn groups(&self) -> Vec<Range<usize>> {
        let is_text = |field: &&Field<'_>| matches!(field.column.values, FieldValues::Text(..));
        let texts: Vec<&Field<'_>> = self.fields.values().filter(is_text).collect();
        let mut groups = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, &row) in self.order.iter().enumerate() {
            let row_bytes = self.text_bytes(&texts, row as usize);
            if at - start == GROUP_ROWS_MAX || (at > start && bytes + row_bytes > GROUP_TEXT_BYTES_MAX) {
                groups.push(start..at);
                (start, bytes) = (at, 0);
            }
            bytes += row_bytes;
        }
        groups.push(start..self.order.len());
        groups
    }

    /// Bytes of a row's texts, those of tags aside.
    fn text_bytes(&self, fields: &[&Field<'_>], row: usize) -> usize {
        match &self.part.held {
            Held::Raw(payloads) => payloads[row].len(),
            Held::Lines(_) => fields.iter().filter_map(|field| field.text(row)).map(|text| text.len()).sum(),
        }
    }

    /// A column of a row group, gathered piece by piece, with rests between them.
    fn column(&self, column: &FileColumn, range: Range<usize>) -> ColumnData {
        let piece = |start: usize| {
            rest();
            self.piece(column, start..range.end.min(start + PIECE_ROWS))
        };
        let mut pieces = range.clone().step_by(PIECE_ROWS).map(piece);
        let mut whole = pieces.next().unwrap_or_else(|| self.piece(column, range.clone()));
        whole.reserve(range.len());
        pieces.for_each(|piece| whole.append(piece));
        whole
    }

    fn piece(&self, column: &FileColumn, range: Range<usize>) -> ColumnData {
        let part = self.part;
        let rows = self.order[range].iter().map(|row| *row as usize);
        let blocks = rows.clone().map(|row| &part.blocks[part.block[row] as usize]);
        let values = match column.role {
            Role::Time => Values::Int64(rows.map(|row| part.times[row]).collect()),
            Role::ReceivedAt => Values::Int64(blocks.map(|block| block.received_at).collect()),
            Role::Epoch => Values::Int64(blocks.map(|block| block.epoch.0.cast_signed()).collect()),
            Role::Seq => Values::Int64(blocks.map(|block| block.seq.0.cast_signed()).collect()),
            Role::Shard => Values::Int32(blocks.map(|block| i32::from(block.shard.0)).collect()),
            Role::Row => Values::Int32(rows.map(|row| part.row[row].cast_signed()).collect()),
            Role::Origin => Values::Bytes(rows.map(|row| self.origins[part.block[row] as usize].clone()).collect()),
            Role::Payload => match &part.held {
                Held::Raw(payloads) => Values::Bytes(rows.map(|row| ByteArray::from(payloads[row].clone())).collect()),
                Held::Lines(_) => Values::Bytes(Vec::new()),
            },
            Role::Tag => return self.tag(&column.name, rows),
            Role::Field => return self.fields[&(column.name.as_str(), column.of)].data(rows),
        };
        ColumnData { values, present: Vec::new() }
    }

    fn tag(&self, name: &str, rows: impl Iterator<Item = usize>) -> ColumnData {
        let (mut texts, mut present) = (Vec::new(), Vec::new());
        if let (Some(tags), Held::Lines(held)) = (&self.tags, &self.part.held)
            && let Some(at) = tags.columns.iter().position(|column| column == name)
        {
            let mut last: (u32, Option<&ByteArray>) = (u32::MAX, None);
            for row in rows {
                // Rows of one series mostly stand together.
                let series = held.row_series[row];
                if last.0 != series {
                    let tags = tags.of(series as usize);
                    let found = tags.binary_search_by_key(&at, |(place, _)| *place as usize);
                    last = (series, found.ok().map(|found| &tags[found].1));
                }
                present.push(i16::from(last.1.is_some()));
                texts.extend(last.1.cloned());
            }
        }
        ColumnData { values: Values::Bytes(texts), present }
    }
}

impl Field<'_> {
    /// The number of a row's value.
    #[inline]
    fn number(&self, row: usize) -> Option<usize> {
        match &self.places {
            Places::Plain => (row < self.column.values.len()).then_some(row),
            Places::OfRow(of_row) => (of_row[row] as usize).checked_sub(1),
            Places::Few(rows) => rows.binary_search(&(row as u32)).ok(),
        }
    }

    fn text(&self, row: usize) -> Option<Bytes> {
        let FieldValues::Text(_, ends) = &self.column.values else { return None };
        let number = self.number(row)?;
        let start = if number == 0 { 0 } else { ends[number - 1] };
        Some(self.texts.slice(start..ends[number]))
    }

    /// Feeds a row's value, or that it has none, to a hash.
    fn hash(&self, row: usize, state: &mut DefaultHasher) {
        let number = self.number(row);
        number.is_some().hash(state);
        match (number, &self.column.values) {
            (None, _) => {}
            (Some(at), FieldValues::Float(values)) => values[at].to_bits().hash(state),
            (Some(at), FieldValues::Integer(values)) => values[at].hash(state),
            (Some(at), FieldValues::Boolean(values)) => values[at].hash(state),
            (Some(_), FieldValues::Text(..)) => self.text(row).hash(state),
        }
    }

    /// Two rows have the same bits here, or both nothing.
    fn is_same(&self, one: usize, other: usize) -> bool {
        match (self.number(one), self.number(other), &self.column.values) {
            (None, None, _) => true,
            (Some(a), Some(b), FieldValues::Float(values)) => values[a].to_bits() == values[b].to_bits(),
            (Some(a), Some(b), FieldValues::Integer(values)) => values[a] == values[b],
            (Some(a), Some(b), FieldValues::Boolean(values)) => values[a] == values[b],
            (Some(_), Some(_), FieldValues::Text(..)) => self.text(one) == self.text(other),
            _ => false,
        }
    }

    fn data(&self, rows: impl Iterator<Item = usize> + Clone) -> ColumnData {
        let present = rows.clone().map(|row| i16::from(self.number(row).is_some())).collect();
        let numbers = rows.clone().filter_map(|row| self.number(row));
        let values = match &self.column.values {
            FieldValues::Float(values) => Values::Double(numbers.map(|at| values[at]).collect()),
            FieldValues::Integer(values) => Values::Int64(numbers.map(|at| values[at]).collect()),
            FieldValues::Boolean(values) => Values::Boolean(numbers.map(|at| values[at]).collect()),
            FieldValues::Text(..) => {
                Values::Bytes(rows.filter_map(|row| self.text(row)).map(ByteArray::from).collect())
            }
        };
        ColumnData { values, present }
    }
}
