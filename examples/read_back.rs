//! Reading back after a crash. The program appends at level 1, where no append waits for fsync, and
//! kills itself without a word; started again, it reads what had been acknowledged.
//!
//! `cargo run --example read_back [FOLDER]`, twice

use forebay::{Block, Config, Cursor, Engine, store};

const BLOCKS: u32 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    // The log alone, as a queue: nothing is trimmed until a reader has taken over.
    let engine = Engine::open_with(Config::new(dir).hold_for_subscriber(true), Box::new(store::Null))?;
    for shard in &engine.report().shards {
        println!("shard {}: {} blocks came from the intake ring", shard.shard, shard.replayed_blocks);
    }
    // All that is there; without `until_end` a subscription waits for more.
    let mut found = 0;
    for delivered in engine.subscribe(Cursor::start())?.until_end() {
        let delivered = delivered?;
        assert_eq!(delivered.namespace, "plant7");
        found += 1;
    }
    println!("{found} blocks read back");
    if found > 0 {
        return Ok(engine.close()?);
    }
    let writer = engine.writer("plant7")?;
    for number in 0..BLOCKS {
        writer.append(Block::raw("blobs", number.to_le_bytes().to_vec()))?;
    }
    println!("{BLOCKS} blocks acknowledged; killed");
    std::process::abort();
}
