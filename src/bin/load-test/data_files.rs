//! Reads the rows of a store's data files, for the proof: of the files that the manifest names, and no
//! other may lie beside them, since other programs read the folder as it is.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use forebay::data::decode::{Batch, DataReader, Value as Held};
use forebay::data::dir_tree::checksum;
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use forebay::Block;

    use super::*;
    use crate::args::{Args, Plan, Setting};
    use crate::engine::{EngineTarget, NAMESPACE};
    use crate::target::{Target, TargetWriter};
    use crate::verify::Verdict;
    use crate::verify_rows::{RowLedger, RowVerifier};

    const OPTIONS: &str =
        "--store parquet --verify --shards 2 --intake-bytes 1m --segment-bytes 1m --block-bytes-max 256k";

    fn plan() -> Plan {
        let words = std::iter::once("load-test").chain(OPTIONS.split_whitespace());
        Args::try_parse_from(words).expect("sound").job().expect("sound").plans.remove(0)
    }

    /// Writes blocks of every kind with two writers into a new store, and closes it.
    fn written(dir: &Path) -> Vec<RowLedger> {
        let target = EngineTarget::open(dir, &plan(), Setting::Level1, None).expect("opens");
        let mut ledgers = Vec::new();
        for writer in 0..2 {
            let mut end = target.writer().expect("a writer");
            let mut ledger = RowLedger::with_columns();
            for block in 0..20 {
                let lines: String = (0..30)
                    .map(|row| {
                        format!(
                            "m,id=d{writer},n=x\\ y f={row}.5,i=-{block}i,u={row}u,b=t,s=\"a\\\"b\" {block}{row:02}\n"
                        )
                    })
                    .collect();
                let other = format!("n,f=1 id=2,time=7i {block}\nm f={block}\nother time=f,s=\"\" -1\n");
                let raw = Block::raw("m", vec![block; 100]);
                for block in [Block::lines(lines).expect("sound"), Block::lines(other).expect("sound"), raw] {
                    ledger.submitted(&block);
                    ledger.acknowledged(end.append(block).expect("taken").expect("a receipt"));
                }
            }
            ledgers.push(ledger);
        }
        target.close().expect("closes");
        ledgers
    }

    fn verdict(dir: &Path, ledgers: &[RowLedger]) -> Result<Verdict> {
        let mut verifier = RowVerifier::new(ledgers, NAMESPACE, true);
        each_row(dir, &mut |row| verifier.see(row))?;
        Ok(verifier.finish())
    }

    #[test]
    fn every_type_of_value_comes_back_and_what_is_changed_on_disk_is_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        let ledgers = written(dir.path());
        let sound = verdict(dir.path(), &ledgers).expect("readable");
        assert!(sound.holds() && sound.columns.iter().all(|column| column.equal), "{sound:?}");
        assert_eq!((sound.verified, sound.rows), (2 * 20 * 3, Some(2 * 20 * (30 + 3 + 1))));
        let fewer = verdict(dir.path(), &ledgers[..1]).expect("readable");
        assert_eq!((fewer.verified, fewer.lost > 0 || fewer.wrong > 0), (60, true), "a writer nobody knows");

        let listing = list_files(dir.path()).expect("a list");
        let path = listing.root.join(listing.files[0].path());
        let kept = std::fs::read(&path).expect("a file");
        let told = |what: &str| {
            let error = verdict(dir.path(), &ledgers).expect_err(what);
            assert!(format!("{error:#}").contains(what), "{error:#}");
        };
        let beside = path.with_file_name("999999999999.parquet");
        std::fs::write(&beside, &kept).expect("written");
        told("does not name");
        std::fs::remove_file(&beside).expect("removed");
        let mut changed = kept.clone();
        changed[kept.len() / 2] ^= 1;
        std::fs::write(&path, changed).expect("written");
        told("its bytes are not those");
        std::fs::remove_file(&path).expect("removed");
        told("No such file");
        std::fs::write(&path, kept).expect("written");
        assert!(verdict(dir.path(), &ledgers).expect("readable").holds());
    }
}
