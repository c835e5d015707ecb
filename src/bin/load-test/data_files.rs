//! Reads the rows of a store's data files, for the proof: of the files that the manifest names, and no
//! other may lie beside them, since other programs read the folder as it is.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use forebay::data::decode::{Batch, DataReader, Value as Held, checksum};
use forebay::data::encode::{FileColumn, Role};
use forebay::data::format::DataFile;
use forebay::data::schema::ColumnType;
use forebay::engine::tools::list_files;
use forebay::types::{Epoch, Seq, ShardId, StoreId};

use crate::columns::Value;
use crate::verify_rows::{BlockId, Content, DataRow};

/// Shows every row of the store in this folder, which is closed.
///
/// # Errors
/// Where the manifest or a file cannot be read, a file is not what the manifest says, or one lies there that
/// it does not name.
pub fn each_row(dir: &Path, see: &mut dyn FnMut(&DataRow<'_>)) -> Result<()> {
    let listing = list_files(dir)?;
    let paths: HashSet<PathBuf> = listing.files.iter().map(|file| listing.root.join(file.path())).collect();
    nothing_else(&listing.root, &paths)?;
    for file in &listing.files {
        let path = listing.root.join(file.path());
        rows_of(&path, file, see).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

fn nothing_else(folder: &Path, named: &HashSet<PathBuf>) -> Result<()> {
    let read = || format!("{}", folder.display());
    for entry in fs::read_dir(folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.is_dir() {
            nothing_else(&path, named)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            ensure!(named.contains(&path), "{}: a data file that the manifest does not name", path.display());
        }
    }
    Ok(())
}

fn rows_of(path: &Path, named: &DataFile, see: &mut dyn FnMut(&DataRow<'_>)) -> Result<()> {
    let file = File::open(path)?;
    let found = checksum(&file)?;
    ensure!(found == (named.crc, named.bytes), "its bytes are not those that the manifest names");
    let reader = DataReader::open(File::open(path)?, path)?;
    ensure!(reader.rows() == named.rows, "it has {} rows; the manifest says {}", reader.rows(), named.rows);
    let columns = reader.columns().to_vec();
    let places = Places::of(&columns)?;
    let mut batches = reader.batches(&columns);
    while let Some(batch) = batches.next_batch()? {
        let mut values = Vec::with_capacity(columns.len());
        for row in 0..batch.rows() {
            values.clear();
            places.show(&batch, row, &columns, named, &mut values, see)?;
        }
    }
    Ok(())
}

/// Where the columns are that are no tags and fields.
struct Places {
    received_at: usize,
    origin: usize,
    shard: usize,
    epoch: usize,
    seq: usize,
    row: usize,
    /// The time of a line, or the bytes of a raw block.
    held: usize,
    is_raw: bool,
}

impl Places {
    fn of(columns: &[FileColumn]) -> Result<Self> {
        let find = |role| columns.iter().position(|column| column.role == role);
        let place = |role| find(role).with_context(|| format!("it lacks a column: {role:?}"));
        let payload = find(Role::Payload);
        Ok(Self {
            received_at: place(Role::ReceivedAt)?,
            origin: place(Role::Origin)?,
            shard: place(Role::Shard)?,
            epoch: place(Role::Epoch)?,
            seq: place(Role::Seq)?,
            row: place(Role::Row)?,
            held: payload.map_or_else(|| place(Role::Time), Ok)?,
            is_raw: payload.is_some(),
        })
    }

    fn show<'b>(
        &self,
        batch: &'b Batch,
        row: usize,
        columns: &'b [FileColumn],
        file: &DataFile,
        values: &mut Vec<(&'b str, Value<'b>)>,
        see: &mut dyn FnMut(&DataRow<'_>),
    ) -> Result<()> {
        let content = if self.is_raw {
            let Some(Held::Bytes(payload)) = batch.value(self.held, row) else { bail!("row {row} has no payload") };
            Content::Raw(payload)
        } else {
            for (at, column) in columns.iter().enumerate() {
                if let (Role::Tag | Role::Field, Some(held)) = (column.role, batch.value(at, row)) {
                    values.push((&column.name, value(column.of, held)?));
                }
            }
            Content::Line { time_ns: number(batch, self.held, row)?, values }
        };
        see(&DataRow {
            block: BlockId {
                origin: self.origin(batch, row)?,
                shard: ShardId(number(batch, self.shard, row)?.try_into()?),
                epoch: Epoch(number(batch, self.epoch, row)?.try_into()?),
                seq: Seq(number(batch, self.seq, row)?.try_into()?),
            },
            row: number(batch, self.row, row)?.try_into()?,
            received_at_ns: number(batch, self.received_at, row)?,
            namespace: &file.part.namespace,
            table: &file.part.table,
            content,
        });
        Ok(())
    }

    /// A store's id from its text: 32 hex digits and four hyphens.
    fn origin(&self, batch: &Batch, row: usize) -> Result<StoreId> {
        let Some(Held::Bytes(text)) = batch.value(self.origin, row) else { bail!("row {row} has no origin") };
        let mut digits = text.iter().filter(|byte| **byte != b'-').map(|byte| char::from(*byte).to_digit(16));
        let mut id = [0; 16];
        for byte in &mut id {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                bail!("row {row}: its origin '{}' is no store's id", text.escape_ascii())
            };
            *byte = (high << 4 | low) as u8;
        }
        Ok(StoreId(id))
    }
}

fn number(batch: &Batch, column: usize, row: usize) -> Result<i64> {
    match batch.value(column, row) {
        Some(Held::Integer(number)) => Ok(number),
        other => bail!("row {row}, column {column}: {other:?} where a number must be"),
    }
}

fn value(of: ColumnType, held: Held<'_>) -> Result<Value<'_>> {
    let text = |bytes| std::str::from_utf8(bytes).context("a text that is not UTF-8");
    Ok(match (of, held) {
        (ColumnType::Tag, Held::Bytes(bytes)) => Value::Tag(text(bytes)?),
        (ColumnType::String, Held::Bytes(bytes)) => Value::Text(text(bytes)?),
        (ColumnType::Float, Held::Float(value)) => Value::Float(value),
        (ColumnType::Integer, Held::Integer(value)) => Value::Integer(value),
        (ColumnType::Unsigned, Held::Unsigned(value)) => Value::Unsigned(value),
        (ColumnType::Boolean, Held::Boolean(value)) => Value::Boolean(value),
        (of, held) => bail!("{held:?} in a column of type {of}"),
    })
}
