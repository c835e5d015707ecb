//! The shortest use: open, append, know that it is safe, close. The README shows the same lines.

use forebay::{Block, Config, Durability, Engine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // (2, 0): an append returns once its block survives a power cut.
    let engine = Engine::open(Config::new("data").wal_level(2).wal_fsync_period_ms(0))?;
    let writer = engine.writer("plant7")?; // cheap to clone; one or more per thread
    let receipt = writer.append(Block::raw("blobs", &b"any bytes"[..]))?;
    println!("block {} is safe", receipt.seq);

    // Line protocol is checked here; a ticket lets the thread go on meanwhile.
    let ticket = writer.submit(Block::lines("meters,groupid=1 current=10.3,voltage=219i\n")?)?;
    let receipt = ticket.wait()?;
    engine.wait(&receipt, Durability::Synced)?; // any receipt can be asked about, at any level
    println!("{:?}", engine.marks()[usize::from(receipt.stream.shard.0)]);
    Ok(engine.close()?) // writes, syncs and seals
}
