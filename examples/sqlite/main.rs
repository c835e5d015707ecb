//! Blocks go into SQLite through a store of one's own, `store.rs` beside this file: the part to copy.
//!
//! `cargo run --example sqlite [-- FOLDER]`

mod store;

use std::path::PathBuf;

use forebay::{Block, Config, Durability, Engine};
use rusqlite::Connection;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "data".to_owned()));
    std::fs::create_dir_all(&dir)?;
    let path = dir.join("blocks.sqlite");
    let config = Config::new(dir.join("engine")).shards(1).flush_period_ms(100);
    let engine = Engine::open_with(config, Box::new(store::Sqlite::new(&path)?))?;
    let writer = engine.writer("plant7")?;
    for hour in 0..10 {
        let line =
            |meter| format!("meters,groupid={meter} current={hour}.5,voltage=219i {}\n", hour * 3_600_000_000_000i64);
        writer.append(Block::lines((1..=10).map(line).collect::<String>())?)?;
    }
    // `Flushed`: it is in the database and no longer depends on the log.
    writer.append_with(Block::raw("notes", "the night shift was quiet"), Durability::Flushed)?;
    println!("appended 10 blocks with 100 rows of meters and 1 raw block");
    engine.close()?;

    let database = Connection::open(&path)?;
    let count = |select: &str| database.query_row(select, [], |row| row.get::<_, i64>(0));
    let rows = count("SELECT count(*) FROM points")?;
    let blobs = count("SELECT count(*) FROM blobs")?;
    let volts = count("SELECT sum(fields ->> 'voltage') FROM points WHERE tags ->> 'groupid' = '7'")?;
    println!("{} holds {rows} rows and {blobs} raw blocks; the voltages of meter 7 add up to {volts}", path.display());
    Ok(())
}
