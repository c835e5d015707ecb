//! A store of one's own: the engine hands it blocks, and trims its log behind what the store holds.
//!
//! The one rule: data and progress become durable in one atomic step. This store keeps a text file
//! per shard, the progress in its first line, and replaces the whole file by a rename: fit for an
//! example. After a crash the file is the old one or the new one, so each block is in it once.
//!
//! `cargo run --example own_store [FOLDER]`

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use forebay::store::{Store, StoreError, Unit};
use forebay::types::{Epoch, Nonce, Position, Seq, ShardId};
use forebay::{Block, Config, Durability, Engine};

/// One file per shard: `epoch nonce seq`, then a line for each block.
struct TextFiles {
    dir: PathBuf,
}

impl TextFiles {
    fn path(&self, shard: ShardId) -> PathBuf {
        self.dir.join(format!("shard-{shard}.txt"))
    }

    /// The file's text; empty where there is none yet.
    fn text(&self, shard: ShardId) -> Result<String, StoreError> {
        match fs::read_to_string(self.path(shard)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => Ok(other?),
        }
    }
}

impl Store for TextFiles {
    fn progress(&mut self, shard: ShardId) -> Result<Option<Position>, StoreError> {
        let text = self.text(shard)?;
        let Some(first) = text.lines().next() else { return Ok(None) };
        let numbers: Vec<u64> = first.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let &[epoch, nonce, seq] = numbers.as_slice() else { return Err("the first line is no position".into()) };
        Ok(Some(Position { epoch: Epoch(epoch), nonce: Nonce(nonce), seq: Seq(seq) }))
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        let before = self.text(unit.shard())?;
        let mut rows: String = before.split_inclusive('\n').skip(1).collect();
        for delivered in unit.by_ref() {
            let delivered = delivered?;
            let words = String::from_utf8_lossy(delivered.block.payload());
            writeln!(rows, "{} {} {words}", delivered.receipt.stream.epoch, delivered.receipt.seq)?;
        }
        let upto = unit.upto();
        let text = format!("{} {} {}\n{rows}", upto.epoch, upto.nonce, upto.seq);
        let (path, temporary) = (self.path(unit.shard()), self.path(unit.shard()).with_extension("tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        // A rename is durable once its folder is synced.
        Ok(File::open(&self.dir)?.sync_all()?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "data".to_owned()));
    let files = dir.join("files");
    fs::create_dir_all(&files)?;
    let config = Config::new(dir.join("store")).shards(1).flush_period_ms(100);
    let engine = Engine::open_with(config, Box::new(TextFiles { dir: files.clone() }))?;
    let writer = engine.writer("plant7")?;
    for number in 0..10 {
        writer.append(Block::raw("notes", format!("note {number}")))?;
    }
    // `Flushed`: it no longer depends on the log.
    writer.append_with(Block::raw("notes", "the last note"), Durability::Flushed)?;
    let lines = fs::read_to_string(files.join("shard-0.txt"))?.lines().count() - 1;
    println!("{lines} blocks are in the store");
    Ok(engine.close()?)
}
