//! A store of one's own: rows of line protocol and raw blocks go into SQLite, each exactly once.
//!
//! The one rule: data and progress become durable in one atomic step, here a transaction. After a
//! crash the engine asks for the progress and hands over what stands behind it, nothing else; so the
//! tables need no unique key. `tests/own_store.rs` kills a process with this store again and again.

use std::path::Path;

use forebay::BlockKind;
use forebay::serve::lines::{self, FieldValue, Line};
use forebay::store::{Delivered, Home, Store, StoreError, Unit};
use forebay::types::{Epoch, Nonce, Position, Seq, ShardId};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Map, Value};

/// `synchronous = FULL` syncs the journal at each commit: the engine trims its log behind a commit.
const SETUP: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS owner (store TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS progress (
        shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, nonce INTEGER NOT NULL, seq INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS points (
        epoch INTEGER NOT NULL, shard INTEGER NOT NULL, seq INTEGER NOT NULL, row INTEGER NOT NULL,
        namespace TEXT NOT NULL, measurement TEXT NOT NULL, time INTEGER NOT NULL,
        tags TEXT NOT NULL, fields TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS blobs (
        epoch INTEGER NOT NULL, shard INTEGER NOT NULL, seq INTEGER NOT NULL,
        namespace TEXT NOT NULL, name TEXT NOT NULL, received_at INTEGER NOT NULL, payload BLOB NOT NULL);
";

/// A database of one engine. SQLite has one writer at a time, so one store serves all shards.
pub struct Sqlite {
    database: Connection,
}

impl Sqlite {
    /// The database in this file; made if it is not there.
    pub fn new(path: &Path) -> rusqlite::Result<Self> {
        let database = Connection::open(path)?;
        database.execute_batch(SETUP)?;
        Ok(Self { database })
    }
}

impl Store for Sqlite {
    /// Progress says nothing about the log of another engine.
    fn open(&mut self, home: &Home<'_>) -> Result<(), StoreError> {
        let this = home.store.to_string();
        let owner: Option<String> =
            self.database.query_row("SELECT store FROM owner", [], |row| row.get(0)).optional()?;
        match owner {
            None => self.database.execute("INSERT INTO owner VALUES (?1)", [this]).map(drop).map_err(StoreError::from),
            Some(owner) if owner == this => Ok(()),
            Some(owner) => Err(format!("the database belongs to store {owner}, this is {this}").into()),
        }
    }

    fn progress(&mut self, shard: ShardId) -> Result<Option<Position>, StoreError> {
        let select = "SELECT epoch, nonce, seq FROM progress WHERE shard = ?1";
        let numbers = |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?].map(i64::cast_unsigned));
        let found = self.database.query_row(select, [shard.0], numbers).optional()?;
        Ok(found.map(|[epoch, nonce, seq]| Position { epoch: Epoch(epoch), nonce: Nonce(nonce), seq: Seq(seq) }))
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        // An early return drops the transaction, and nothing of the unit is in the database.
        let transaction = self.database.transaction()?;
        for delivered in unit.by_ref() {
            insert(&transaction, &delivered?)?;
        }
        let upto = unit.upto();
        let numbers = [upto.epoch.0, upto.nonce.0, upto.seq.0].map(u64::cast_signed);
        let progress = params![unit.shard().0, numbers[0], numbers[1], numbers[2]];
        transaction.execute("REPLACE INTO progress VALUES (?1, ?2, ?3, ?4)", progress)?;
        Ok(transaction.commit()?)
    }
}

fn insert(transaction: &Transaction<'_>, delivered: &Delivered) -> Result<(), StoreError> {
    let (receipt, block) = (&delivered.receipt, &delivered.block);
    // The identity of the block, the same in every store that ever holds it.
    let (epoch, shard, seq) =
        (receipt.stream.epoch.0.cast_signed(), receipt.stream.shard.0, receipt.seq.0.cast_signed());
    let (namespace, received_at) = (&delivered.namespace, delivered.received_at_ns);
    if block.kind() == BlockKind::Raw {
        let mut blob = transaction.prepare_cached("INSERT INTO blobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        blob.execute(params![epoch, shard, seq, namespace, block.table(), received_at, block.payload()])?;
        return Ok(());
    }
    let mut point = transaction.prepare_cached("INSERT INTO points VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    for (row, line) in (0i64..).zip(lines::lines(block.payload())) {
        let line = line?;
        let time = line.time().unwrap_or(received_at);
        let (tags, fields) = (tags(&line).to_string(), fields(&line).to_string());
        point.execute(params![epoch, shard, seq, row, namespace, line.measurement(), time, tags, fields])?;
    }
    Ok(())
}

fn tags(line: &Line<'_>) -> Value {
    line.tags().map(|(key, value)| (key.into_owned(), Value::from(value))).collect::<Map<_, _>>().into()
}

fn fields(line: &Line<'_>) -> Value {
    let value = |value| match value {
        FieldValue::Float(number) => Value::from(number),
        FieldValue::Integer(number) => Value::from(number),
        FieldValue::Unsigned(number) => Value::from(number),
        FieldValue::Boolean(truth) => Value::from(truth),
        FieldValue::Text(text) => Value::from(text),
    };
    line.fields().map(|(key, field)| (key.into_owned(), value(field))).collect::<Map<_, _>>().into()
}
