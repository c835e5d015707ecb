//! Writing Parquet files: what every column is, how it is encoded, and the row groups of a file.
//!
//! ```text
//! time | tags, by name | fields, by name | _received_at _origin _shard _epoch _seq _row
//! ```
//! Files of raw blocks have the identity columns and `payload`. Rows are sorted by tags (null first), time
//! and identity. Pages have checksums; that of the whole file stands in the manifest.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;
use parquet::basic::{Compression as Codec, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::column::writer::{ColumnCloseResult, ColumnWriter, ColumnWriterImpl, get_column_writer};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescPtr, ColumnPath, Type, TypePtr};
use smol_str::SmolStr;

use crate::data::format::{PartKind, PartName};
use crate::data::pages::Pages;
use crate::data::schema::ColumnType;
use crate::io::rests::rest;

/// Rows of a row group, at most.
pub const GROUP_ROWS_MAX: usize = 1 << 17;
/// A row group ends once the texts in it have so many bytes.
pub const GROUP_TEXT_BYTES_MAX: usize = 32 << 20;
/// Rows of a column that are gathered or encoded between two rests, at most.
pub const PIECE_ROWS: usize = 4096;
/// How often each value occurs, on average, from which on a column of numbers gets a dictionary.
const REPEATING: usize = 8;
/// The version of the layout, in the files' key-value metadata.
const FORMAT: &str = "1";

/// How pages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// zstd at level 1.
    #[default]
    Zstd,
    /// LZ4.
    Lz4,
    /// Not at all.
    None,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "zstd" => Ok(Self::Zstd),
            "lz4" => Ok(Self::Lz4),
            "none" => Ok(Self::None),
            _ => Err(format!("'{text}' is not one of zstd, lz4, none")),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::None => "none",
        })
    }
}

/// What becomes of rows that a client's retry repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeated {
    /// Those of the last block stay.
    #[default]
    Drop,
    /// All stay: two equal rows are taken for two.
    Keep,
}

/// How files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// How pages are compressed.
    pub compression: Compression,
    /// What becomes of repeated rows.
    pub repeated: Repeated,
}

/// What a column is for. The order is that of a file's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The row's time.
    Time,
    /// A tag.
    Tag,
    /// A field.
    Field,
    /// When the block was accepted.
    ReceivedAt,
    /// The store that accepted it.
    Origin,
    /// The shard that accepted it.
    Shard,
    /// The opening.
    Epoch,
    /// The block's number.
    Seq,
    /// The row's number in its block.
    Row,
    /// A raw block's bytes.
    Payload,
}

/// The columns that every file has at its end, with their names.
pub const IDENTITY: [(Role, &str); 6] = [
    (Role::ReceivedAt, "_received_at"),
    (Role::Origin, "_origin"),
    (Role::Shard, "_shard"),
    (Role::Epoch, "_epoch"),
    (Role::Seq, "_seq"),
    (Role::Row, "_row"),
];
/// The name of the column of times.
pub const TIME: &str = "time";
/// The name of the column of raw blocks' bytes.
pub const PAYLOAD: &str = "payload";

/// A column of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileColumn {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub name: SmolStr,
    /// What tags and fields hold; of no meaning for the others.
    pub of: ColumnType,
}

impl FileColumn {
    /// The columns of a file with these tags and fields, in their order.
    #[must_use]
    pub fn all(kind: PartKind, tags_and_fields: impl IntoIterator<Item = (SmolStr, ColumnType)>) -> Vec<Self> {
        let fixed = |(role, name): (Role, &str)| Self { role, name: name.into(), of: ColumnType::Integer };
        let mut columns: Vec<Self> = IDENTITY.into_iter().map(fixed).collect();
        match kind {
            PartKind::Raw => columns.push(fixed((Role::Payload, PAYLOAD))),
            PartKind::Lines => {
                columns.push(fixed((Role::Time, TIME)));
                columns.extend(tags_and_fields.into_iter().map(|(name, of)| {
                    let role = if of == ColumnType::Tag { Role::Tag } else { Role::Field };
                    Self { role, name, of }
                }));
            }
        }
        columns.sort();
        columns
    }

    /// Rows may have no value in it.
    #[must_use]
    pub const fn is_optional(&self) -> bool {
        matches!(self.role, Role::Tag | Role::Field)
    }

    fn schema(&self) -> Result<TypePtr, ParquetError> {
        let (physical, logical) = match self.role {
            Role::Time | Role::ReceivedAt => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::NANOS))),
            Role::Origin | Role::Tag => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Role::Shard | Role::Row => (Physical::INT32, None),
            Role::Epoch | Role::Seq => (Physical::INT64, None),
            Role::Payload => (Physical::BYTE_ARRAY, None),
            Role::Field => match self.of {
                ColumnType::Float => (Physical::DOUBLE, None),
                ColumnType::Integer => (Physical::INT64, None),
                ColumnType::Unsigned => (Physical::INT64, Some(LogicalType::integer(64, false))),
                ColumnType::Boolean => (Physical::BOOLEAN, None),
                ColumnType::String | ColumnType::Tag => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            },
        };
        let repetition = if self.is_optional() { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let built = Type::primitive_type_builder(&self.name, physical)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .build()?;
        Ok(Arc::new(built))
    }

    /// Differences between neighbours are mostly smaller than a dictionary.
    const fn is_delta(&self) -> bool {
        matches!(self.role, Role::Time | Role::ReceivedAt | Role::Seq | Role::Row)
    }
}

/// Values of one column of a row group, without its nulls.
#[derive(Clone, Debug)]
pub enum Values {
    /// Times, numbers.
    Int64(Vec<i64>),
    /// Small numbers.
    Int32(Vec<i32>),
    /// Floats.
    Double(Vec<f64>),
    /// Truth values.
    Boolean(Vec<bool>),
    /// Texts and bytes.
    Bytes(Vec<ByteArray>),
}

/// One column of a row group.
#[derive(Clone, Debug)]
pub struct ColumnData {
    /// Its values.
    pub values: Values,
    /// Where a column is optional: 1 for each row with a value, 0 for each without.
    pub present: Vec<i16>,
}

impl ColumnData {
    /// Makes room for so many rows in all.
    pub fn reserve(&mut self, rows: usize) {
        match &mut self.values {
            Values::Int64(values) => values.reserve(rows),
            Values::Int32(values) => values.reserve(rows),
            Values::Double(values) => values.reserve(rows),
            Values::Boolean(values) => values.reserve(rows),
            Values::Bytes(values) => values.reserve(rows),
        }
        self.present.reserve(rows);
    }

    /// Appends rows of the same column.
    pub fn append(&mut self, mut other: Self) {
        match (&mut self.values, &mut other.values) {
            (Values::Int64(all), Values::Int64(more)) => all.append(more),
            (Values::Int32(all), Values::Int32(more)) => all.append(more),
            (Values::Double(all), Values::Double(more)) => all.append(more),
            (Values::Boolean(all), Values::Boolean(more)) => all.append(more),
            (Values::Bytes(all), Values::Bytes(more)) => all.append(more),
            _ => unreachable!("a column's values are of one type"),
        }
        self.present.append(&mut other.present);
    }
}

/// What was written to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC-32 of its bytes.
    pub crc: u32,
    /// The smallest time of its rows, in nanoseconds since 1970.
    pub time_min: i64,
    /// The largest.
    pub time_max: i64,
}

/// A Parquet file that is being written, row group by row group.
pub struct TableWriter<W: Write + Send> {
    writer: SerializedFileWriter<Summed<W>>,
    properties: WriterPropertiesPtr,
    /// For times of acceptance in a group of blocks with many rows: each of them stands there many times.
    repeating: WriterPropertiesPtr,
    columns: Vec<FileColumn>,
    rows: u64,
    times: (i64, i64),
}

impl<W: Write + Send> TableWriter<W> {
    /// Begins a file of a part with these columns, in the order of [`FileColumn::all`].
    ///
    /// # Errors
    /// As the output says.
    pub fn new(
        out: W,
        part: &PartName,
        columns: Vec<FileColumn>,
        compression: Compression,
    ) -> Result<Self, ParquetError> {
        let fields: Vec<TypePtr> = columns.iter().map(FileColumn::schema).collect::<Result<_, _>>()?;
        let schema = Type::group_type_builder("rows").with_fields(fields).build()?;
        let out = Summed { out, sum: crc32fast::Hasher::new(), bytes: 0 };
        let properties_for = |is_delta: fn(&FileColumn) -> bool| {
            properties(part, &columns, compression, is_delta).map(WriterPropertiesPtr::from)
        };
        let properties = properties_for(FileColumn::is_delta)?;
        let repeating = properties_for(|column| column.is_delta() && column.role != Role::ReceivedAt)?;
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::clone(&properties))?;
        Ok(Self { writer, properties, repeating, columns, rows: 0, times: (i64::MAX, i64::MIN) })
    }

    /// Writes a row group: the data of every column, in order.
    ///
    /// # Errors
    /// As the output says, or where the data are not those of the columns.
    pub fn write_group(&mut self, data: &[ColumnData]) -> Result<(), ParquetError> {
        let schema = self.writer.schema_descr().columns().to_vec();
        let mut group = self.writer.next_row_group()?;
        for ((column, data), descr) in self.columns.iter().zip(data).zip(schema) {
            let is_repeating = column.role == Role::ReceivedAt && is_repeating(&data.values);
            let properties = if is_repeating { &self.repeating } else { &self.properties };
            let (pages, closed) = encode(column, data, descr, properties)?;
            group.append_column(&pages, closed)?;
            let tells_time = if self.columns[0].role == Role::Time { Role::Time } else { Role::ReceivedAt };
            if let (true, Values::Int64(times)) = (column.role == tells_time, &data.values) {
                self.rows += times.len() as u64;
                let (min, max) = self.times;
                self.times = times.iter().fold((min, max), |(min, max), time| (min.min(*time), max.max(*time)));
            }
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// As the output says.
    pub fn finish(mut self) -> Result<Written, ParquetError> {
        self.writer.finish()?;
        self.writer.flush()?;
        let Summed { sum, bytes, .. } = self.writer.inner();
        let (time_min, time_max) = self.times;
        Ok(Written { rows: self.rows, bytes: *bytes, crc: sum.clone().finalize(), time_min, time_max })
    }
}

/// Whether each value stands there many times, so that a dictionary and its numbers are smaller than differences.
fn is_repeating(values: &Values) -> bool {
    let Values::Int64(values) = values else { return false };
    let mut known = HashSet::new();
    values.iter().all(|value| !known.insert(*value) || known.len() * REPEATING <= values.len())
}

/// Encodes one column of a row group.
fn encode(
    column: &FileColumn,
    data: &ColumnData,
    descr: ColumnDescPtr,
    properties: &WriterPropertiesPtr,
) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
    let mut pages = Vec::new();
    let mut writer = get_column_writer(descr, Arc::clone(properties), Box::new(Pages::new(&mut pages)));
    let present = column.is_optional().then_some(data.present.as_slice());
    match (&data.values, &mut writer) {
        (Values::Int64(values), ColumnWriter::Int64ColumnWriter(writer)) => write(writer, values, present),
        (Values::Int32(values), ColumnWriter::Int32ColumnWriter(writer)) => write(writer, values, present),
        (Values::Double(values), ColumnWriter::DoubleColumnWriter(writer)) => write(writer, values, present),
        (Values::Boolean(values), ColumnWriter::BoolColumnWriter(writer)) => write(writer, values, present),
        (Values::Bytes(values), ColumnWriter::ByteArrayColumnWriter(writer)) => write(writer, values, present),
        _ => return Err(ParquetError::General(format!("column '{}' has values of another type", column.name))),
    }?;
    let closed = writer.close()?;
    Ok((pages.into(), closed))
}

/// Writes a column's values piece by piece, with rests between them.
fn write<T: DataType>(
    writer: &mut ColumnWriterImpl<'_, T>,
    mut values: &[T::T],
    present: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(present) = present else {
        for piece in values.chunks(PIECE_ROWS) {
            rest();
            writer.write_batch(piece, None, None)?;
        }
        return Ok(());
    };
    for present in present.chunks(PIECE_ROWS) {
        rest();
        let written = writer.write_batch(values, Some(present), None)?;
        values = &values[written..];
    }
    Ok(())
}

fn properties(
    part: &PartName,
    columns: &[FileColumn],
    compression: Compression,
    is_delta: fn(&FileColumn) -> bool,
) -> Result<WriterProperties, ParquetError> {
    let codec = match compression {
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(1)?),
        Compression::Lz4 => Codec::LZ4_RAW,
        Compression::None => Codec::UNCOMPRESSED,
    };
    let tags: Vec<&str> =
        columns.iter().filter(|column| column.role == Role::Tag).map(|column| column.name.as_str()).collect();
    let kind = match part.kind {
        PartKind::Lines => "lines",
        PartKind::Raw => "raw",
    };
    let note = |key: &str, value: &str| KeyValue::new(format!("forebay.{key}"), value.to_owned());
    let notes = vec![
        note("format", FORMAT),
        note("kind", kind),
        note("namespace", &part.namespace),
        note("table", &part.table),
        note("tags", &serde_json::to_string(&tags).expect("texts")),
    ];
    // Raw blocks stand in the order of their identity; rows of lines by tags and time first.
    let sorted = columns.iter().enumerate().filter(|(_, column)| matches!(column.role, Role::Tag | Role::Time));
    let sorting: Vec<SortingColumn> =
        sorted.map(|(at, _)| SortingColumn { column_idx: at as i32, descending: false, nulls_first: true }).collect();
    // Tags come after the time in a file, and before it in its order.
    let (time, mut sorting): (Vec<_>, Vec<_>) =
        sorting.into_iter().partition(|of| columns[of.column_idx as usize].role == Role::Time);
    sorting.extend(time);
    let mut builder = WriterProperties::builder()
        .set_compression(codec)
        .set_created_by(concat!("forebay ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(GROUP_ROWS_MAX))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(64))
        .set_column_index_truncate_length(Some(64))
        .set_key_value_metadata(Some(notes));
    if !sorting.is_empty() {
        builder = builder.set_sorting_columns(Some(sorting));
    }
    for column in columns {
        let path = ColumnPath::from(column.name.as_str());
        if is_delta(column) {
            builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        } else if column.role == Role::Payload {
            builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    Ok(builder.build())
}

/// Passes bytes on, and sums them.
struct Summed<W> {
    out: W,
    sum: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.sum.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
