//! Reading data files back, batch by batch: for merging, and for tools that check them.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parquet::basic::{LogicalType, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;
use parquet::schema::types::Type;

use crate::data::encode::{ColumnData, FileColumn, IDENTITY, PAYLOAD, Role, TIME, Values};
use crate::data::format::PartKind;
use crate::data::schema::ColumnType;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 4096;

/// Why a file cannot be read as a data file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}", path = .path.display())]
pub struct DecodeError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what helps.
    pub why: String,
}

/// An open data file.
pub struct DataReader {
    path: PathBuf,
    file: SerializedFileReader<File>,
    kind: PartKind,
    columns: Vec<FileColumn>,
}

impl DataReader {
    /// Reads what a file says of itself.
    ///
    /// # Errors
    /// [`DecodeError`]: it is damaged, or was not written by this crate.
    pub fn open(file: File, path: &Path) -> Result<Self, DecodeError> {
        let fail = |why: String| DecodeError { path: path.to_owned(), why };
        let file = SerializedFileReader::new(file)
            .map_err(|error| fail(format!("{error}; restore it from a backup, or remove it")))?;
        let metadata = file.metadata().file_metadata();
        let notes = metadata.key_value_metadata().map_or(&[][..], Vec::as_slice);
        let note = |key: &str| {
            notes.iter().find(|note| note.key == key).and_then(|note| note.value.as_deref()).unwrap_or_default()
        };
        let kind = match (note("forebay.format"), note("forebay.kind")) {
            ("1", "lines") => PartKind::Lines,
            ("1", "raw") => PartKind::Raw,
            (format, kind) => {
                return Err(fail(format!(
                    "format '{format}' of kind '{kind}' is none that this version writes; move it out of the data folder"
                )));
            }
        };
        let tags: Vec<String> =
            serde_json::from_str(note("forebay.tags")).map_err(|error| fail(format!("its list of tags: {error}")))?;
        let columns = metadata.schema_descr().root_schema().get_fields();
        let columns = columns
            .iter()
            .map(|column| file_column(column, kind, &tags).ok_or_else(|| column.name().to_owned()))
            .collect::<Result<Vec<_>, String>>()
            .map_err(|name| fail(format!("its column '{name}' has a type that no data file has")))?;
        let sound = IDENTITY.iter().all(|(role, _)| columns.iter().any(|column| column.role == *role));
        if !sound {
            return Err(fail("it lacks columns that every data file has".to_owned()));
        }
        Ok(Self { path: path.to_owned(), file, kind, columns })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its rows were.
    #[must_use]
    pub const fn kind(&self) -> PartKind {
        self.kind
    }

    /// Its columns, in their order.
    #[must_use]
    pub fn columns(&self) -> &[FileColumn] {
        &self.columns
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        u64::try_from(self.file.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// The smallest and the largest value of these columns, as the file's statistics say; `None` where they do not.
    #[must_use]
    pub fn bounds(&self, role: Role) -> Option<(Bound, Bound)> {
        let at = self.columns.iter().position(|column| column.role == role)?;
        let groups = self.file.metadata().row_groups().iter();
        let of_group = |group: &RowGroupMetaData| match group.column(at).statistics()? {
            Statistics::Int32(of) => {
                Some((Bound::Number((*of.min_opt()?).into()), Bound::Number((*of.max_opt()?).into())))
            }
            Statistics::Int64(of) => Some((Bound::Number(*of.min_opt()?), Bound::Number(*of.max_opt()?))),
            Statistics::ByteArray(of) => {
                Some((Bound::Text(of.min_opt()?.data().to_vec()), Bound::Text(of.max_opt()?.data().to_vec())))
            }
            _ => None,
        };
        let bounds: Vec<(Bound, Bound)> = groups.map(of_group).collect::<Option<_>>()?;
        let (min, max): (Vec<Bound>, Vec<Bound>) = bounds.into_iter().unzip();
        Some((min.into_iter().min()?, max.into_iter().max()?))
    }

    /// Its rows in batches, with these columns in this order; a column that it lacks is null in all rows.
    #[must_use]
    pub fn batches(self, columns: &[FileColumn]) -> Batches {
        let place = |column: &FileColumn| self.columns.iter().position(|own| own == column);
        let places = columns.iter().map(place).collect();
        Batches { reader: self, places, next_group: 0, left: 0, open: Vec::new() }
    }
}

fn file_column(column: &Type, kind: PartKind, tags: &[String]) -> Option<FileColumn> {
    if !column.is_primitive() {
        return None;
    }
    let name = column.name();
    let fixed = IDENTITY.iter().find(|(_, known)| *known == name).map(|(role, _)| *role);
    let role = match (fixed, kind) {
        (Some(role), _) => role,
        (None, PartKind::Raw) if name == PAYLOAD => Role::Payload,
        (None, PartKind::Raw) => return None,
        (None, PartKind::Lines) if name == TIME => Role::Time,
        (None, PartKind::Lines) if tags.iter().any(|tag| tag == name) => Role::Tag,
        (None, PartKind::Lines) => Role::Field,
    };
    let of = match (role, column.get_physical_type(), column.get_basic_info().logical_type_ref()) {
        (Role::Tag, Physical::BYTE_ARRAY, _) => ColumnType::Tag,
        (Role::Field, Physical::DOUBLE, _) => ColumnType::Float,
        (Role::Field, Physical::INT64, Some(LogicalType::Integer(int))) if !int.is_signed => ColumnType::Unsigned,
        (Role::Field, Physical::INT64, _) => ColumnType::Integer,
        (Role::Field, Physical::BOOLEAN, _) => ColumnType::Boolean,
        (Role::Field, Physical::BYTE_ARRAY, _) => ColumnType::String,
        (Role::Time | Role::ReceivedAt | Role::Epoch | Role::Seq, Physical::INT64, _)
        | (Role::Shard | Role::Row, Physical::INT32, _)
        | (Role::Origin | Role::Payload, Physical::BYTE_ARRAY, _) => ColumnType::Integer,
        _ => return None,
    };
    Some(FileColumn { role, name: name.into(), of })
}

/// A bound on the values of a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Of numbers.
    Number(i64),
    /// Of texts.
    Text(Vec<u8>),
}

/// The rows of a [`DataReader`], in order.
pub struct Batches {
    reader: DataReader,
    places: Vec<Option<usize>>,
    next_group: usize,
    /// Rows left in the row group.
    left: usize,
    open: Vec<Option<ColumnReader>>,
}

/// Some rows of a file.
#[derive(Debug)]
pub struct Batch {
    rows: usize,
    columns: Vec<Option<BatchColumn>>,
}

#[derive(Debug)]
struct BatchColumn {
    values: Values,
    /// The number of each row's value, from 1; 0: null. `None`: all rows have one.
    of_row: Option<Vec<u32>>,
    /// 64-bit integers without a sign.
    unsigned: bool,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Times, and integers of any size.
    Integer(i64),
    /// An unsigned field.
    Unsigned(u64),
    /// A float field.
    Float(f64),
    /// A boolean field.
    Boolean(bool),
    /// A tag, a text, a raw block's bytes.
    Bytes(&'a [u8]),
}

impl Batches {
    /// The next rows; `None` behind the last.
    ///
    /// # Errors
    /// [`DecodeError`]: the file is damaged.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, DecodeError> {
        self.read().map_err(|error| DecodeError {
            path: self.reader.path.clone(),
            why: format!("{error}; restore it from a backup, or remove it"),
        })
    }

    fn read(&mut self) -> Result<Option<Batch>, ParquetError> {
        while self.left == 0 {
            if self.next_group == self.reader.file.num_row_groups() {
                return Ok(None);
            }
            let group = self.reader.file.get_row_group(self.next_group)?;
            self.next_group += 1;
            self.left = usize::try_from(group.metadata().num_rows())
                .map_err(|_| ParquetError::General("a row group with a negative number of rows".to_owned()))?;
            let open = self.places.iter().map(|place| place.map(|place| group.get_column_reader(place)).transpose());
            self.open = open.collect::<Result<_, _>>()?;
        }
        let rows = self.left.min(BATCH_ROWS);
        let mut columns = Vec::with_capacity(self.open.len());
        for (reader, place) in self.open.iter_mut().zip(&self.places) {
            let (Some(reader), Some(place)) = (reader, place) else {
                columns.push(None);
                continue;
            };
            let column = &self.reader.columns[*place];
            let (values, present) = read_column(reader, rows)?;
            let of_row = column.is_optional().then(|| numbers(&present)).flatten();
            let count = of_row.as_ref().map_or(rows, |_| present.iter().filter(|level| **level > 0).count());
            if (column.is_optional() && present.len() != rows) || values.len() != count {
                return Err(ParquetError::General(format!("column '{}' ends before its row group does", column.name)));
            }
            columns.push(Some(BatchColumn { values, of_row, unsigned: column.of == ColumnType::Unsigned }));
        }
        self.left -= rows;
        Ok(Some(Batch { rows, columns }))
    }
}

/// The number of each row's value from 1, and 0 for rows without one; `None` where all have one.
fn numbers(present: &[i16]) -> Option<Vec<u32>> {
    if present.iter().all(|level| *level > 0) {
        return None;
    }
    let mut number = 0;
    let one = |level: &i16| {
        let here = u32::from(*level > 0);
        number += here;
        number * here
    };
    Some(present.iter().map(one).collect())
}

fn read_column(reader: &mut ColumnReader, rows: usize) -> Result<(Values, Vec<i16>), ParquetError> {
    match reader {
        ColumnReader::BoolColumnReader(reader) => read_values(reader, rows, Values::Boolean),
        ColumnReader::Int32ColumnReader(reader) => read_values(reader, rows, Values::Int32),
        ColumnReader::Int64ColumnReader(reader) => read_values(reader, rows, Values::Int64),
        ColumnReader::DoubleColumnReader(reader) => read_values(reader, rows, Values::Double),
        ColumnReader::ByteArrayColumnReader(reader) => read_values(reader, rows, Values::Bytes),
        _ => Err(ParquetError::General("a column of a type that no data file has".to_owned())),
    }
}

fn read_values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    wrap: impl FnOnce(Vec<T::T>) -> Values,
) -> Result<(Values, Vec<i16>), ParquetError> {
    let (mut values, mut present) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut read = 0;
    while read < rows {
        let (records, _, _) = reader.read_records(rows - read, Some(&mut present), None, &mut values)?;
        if records == 0 {
            break;
        }
        read += records;
    }
    Ok((wrap(values), present))
}

impl Values {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Int64(values) => values.len(),
            Self::Int32(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Boolean(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Int64(values) => values.clear(),
            Self::Int32(values) => values.clear(),
            Self::Double(values) => values.clear(),
            Self::Boolean(values) => values.clear(),
            Self::Bytes(values) => values.clear(),
        }
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ColumnData {
    /// Empties it; the memory stays.
    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.present.clear();
    }
}

impl Batch {
    /// Its rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// A row's value in a column, counted as asked for; `None`: null.
    #[must_use]
    #[inline]
    pub fn value(&self, column: usize, row: usize) -> Option<Value<'_>> {
        let column = self.columns[column].as_ref()?;
        let at = match &column.of_row {
            None => row,
            Some(of_row) => (of_row[row] as usize).checked_sub(1)?,
        };
        Some(match &column.values {
            Values::Int64(values) if column.unsigned => Value::Unsigned(values[at].cast_unsigned()),
            Values::Int64(values) => Value::Integer(values[at]),
            Values::Int32(values) => Value::Integer(i64::from(values[at])),
            Values::Double(values) => Value::Float(values[at]),
            Values::Boolean(values) => Value::Boolean(values[at]),
            Values::Bytes(values) => Value::Bytes(values[at].data()),
        })
    }

    /// Adds the values of rows in a column to those of a row group.
    pub(crate) fn copy(&self, column: usize, rows: Range<usize>, to: &mut ColumnData) {
        let upto = to.present.len() + rows.len();
        let Some(column) = &self.columns[column] else { return to.present.resize(upto, 0) };
        let range = match &column.of_row {
            None => {
                to.present.resize(upto, 1);
                rows
            }
            Some(of_row) => {
                let numbers = &of_row[rows];
                to.present.extend(numbers.iter().map(|number| i16::from(*number > 0)));
                // They go up from row to row.
                let mut here = numbers.iter().filter(|number| **number > 0).map(|number| *number as usize);
                let Some(first) = here.next() else { return };
                first - 1..here.next_back().unwrap_or(first)
            }
        };
        match (&column.values, &mut to.values) {
            (Values::Int64(values), Values::Int64(to)) => to.extend_from_slice(&values[range]),
            (Values::Int32(values), Values::Int32(to)) => to.extend_from_slice(&values[range]),
            (Values::Double(values), Values::Double(to)) => to.extend_from_slice(&values[range]),
            (Values::Boolean(values), Values::Boolean(to)) => to.extend_from_slice(&values[range]),
            (Values::Bytes(values), Values::Bytes(to)) => to.extend_from_slice(&values[range]),
            _ => unreachable!("columns are the same by name and type"),
        }
    }

    /// Bytes of the texts in rows.
    pub(crate) fn text_bytes(&self, rows: Range<usize>) -> usize {
        let of = |column: usize, row: usize| match self.value(column, row) {
            Some(Value::Bytes(text)) => text.len(),
            _ => 0,
        };
        let is_text =
            |at: &usize| self.columns[*at].as_ref().is_some_and(|column| matches!(column.values, Values::Bytes(_)));
        let texts = (0..self.columns.len()).filter(is_text);
        texts.map(|column| rows.clone().map(|row| of(column, row)).sum::<usize>()).sum()
    }
}
