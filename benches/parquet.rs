//! What data files cost: rows a second from line protocol to a Parquet file, on one core, and the size.
//!
//! `cargo bench --bench parquet` takes 1,000,000 rows of the meters table, of 10,000 meters; without
//! `--bench` (as the tests run it) a few. `--keep DIR` leaves the files there, to be compared with those
//! of other writers. Prints one JSON line for each compression.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use forebay::data::encode::{Compression, WriteOptions};
use forebay::data::rows::Rows;
use forebay::store::Delivered;
use forebay::types::{Chain, Epoch, Nonce, Seq, ShardId, StoreId, Stream, mix64};
use forebay::{Block, Position, Receipt};

const ROWS_IN_A_BLOCK: u64 = 1000;
const METERS: u64 = 10_000;

fn block(seq: u64) -> Delivered {
    use std::fmt::Write;
    let mut text = String::new();
    for row in 0..ROWS_IN_A_BLOCK {
        let number = (seq - 1) * ROWS_IN_A_BLOCK + row;
        let (meter, noise) = (number % METERS, mix64(7, number));
        let (current, voltage) = (8.0 + (noise % 1000) as f64 / 200.0, 200 + (noise >> 20) % 50);
        let phase = ((noise >> 40) % 100) as f64 / 100.0;
        let time = 1_601_714_285_000_000_000 + number / METERS * 1_000_000_000;
        let (group, city) = (meter % 10 + 1, meter / 10 % 10);
        writeln!(
            text,
            "meters,id=d{meter},groupid={group},location=California.City{city} \
             current={current},voltage={voltage}i,phase={phase} {time}"
        )
        .expect("a string grows");
    }
    let stream = Stream { origin: StoreId([7; 16]), shard: ShardId(0), epoch: Epoch(1), nonce: Nonce(1) };
    Delivered {
        receipt: Receipt { stream, seq: Seq(seq) },
        shard: ShardId(0),
        position: Position { epoch: Epoch(1), nonce: Nonce(1), seq: Seq(seq) },
        chain: Chain(0),
        namespace: "bench".to_owned(),
        received_at_ns: 1_700_000_000_000_000_000 + seq as i64 * 100_000,
        block: Block::lines(text).expect("sound"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let full = args.iter().any(|arg| arg == "--bench");
    let keep = args.iter().position(|arg| arg == "--keep").map(|at| PathBuf::from(&args[at + 1]));
    let blocks: Vec<Delivered> = (1..=if full { 1000 } else { 3 }).map(block).collect();
    for compression in [Compression::Zstd, Compression::Lz4, Compression::None] {
        let began = Instant::now();
        let mut rows = Rows::new();
        for block in &blocks {
            rows.add(block, &mut |_, _, key, _| key.into()).expect("sound");
        }
        let (count, memory, added) = (rows.rows(), rows.bytes(), began.elapsed());
        let began = Instant::now();
        let mut bytes = 0;
        for part in rows.into_parts() {
            let out: Box<dyn Write + Send> = match &keep {
                Some(dir) => {
                    let path = dir.join(format!("{}-{compression}.parquet", part.name().day));
                    Box::new(BufWriter::new(File::create(path).expect("a file")))
                }
                None => Box::new(std::io::sink()),
            };
            bytes += part.write(out, WriteOptions { compression, ..WriteOptions::default() }).expect("written").0.bytes;
        }
        let encoded = began.elapsed();
        println!(
            "{{\"schema\":\"forebay.parquet/1\",\"compression\":\"{compression}\",\"rows\":{count},\"add_ns\":{:.0},\
             \"encode_ns\":{:.0},\"memory_per_row\":{:.1},\"bytes_per_row\":{:.2}}}",
            added.as_nanos() as f64 / count as f64,
            encoded.as_nanos() as f64 / count as f64,
            memory as f64 / count as f64,
            bytes as f64 / count as f64
        );
    }
}
