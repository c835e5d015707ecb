//! Rows as they are written, sorted and merged, against a model: any lines, in any number of files.

#![cfg(feature = "parquet")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use forebay::data::decode::{Batch, DataReader, DecodeError, Value};
use forebay::data::encode::{Compression, FileColumn, Repeated, Role, WriteOptions};
use forebay::data::merge::merge;
use forebay::data::rows::Rows;
use forebay::serve::lines::{FieldValue, lines};
use forebay::store::Delivered;
use forebay::types::{Chain, Epoch, Nonce, Seq, ShardId, StoreId, Stream};
use forebay::{Block, Position, Receipt};
use proptest::prelude::*;

/// Tags in the order of their names, time, shard, epoch, seq, row: the order of a file.
type Order = (Vec<Option<String>>, i64, u16, u64, u64, i64);
/// What a client wrote in a row beside tags and time.
type Fields = BTreeMap<String, String>;

const PLAIN: WriteOptions = WriteOptions { compression: Compression::None, repeated: Repeated::Drop };
const TAGS: [&str; 3] = ["a", "b", "c"];

/// A line with few different tags and times, so that many rows meet; some fields left out, in any order.
fn line() -> impl Strategy<Value = String> {
    let tag = |name: &'static str| prop::option::of((0..2u8).prop_map(move |value| format!(",{name}=v{value}")));
    let fields = prop::sample::subsequence(
        vec!["f=1.5", "f=-0.5", "i=7i", "i=8i", "s=\"te\\\"xt\"", "s=\"\"", "t=t", "u=9u", "x\\ y=1", "z=2"],
        1..6,
    );
    (tag("b"), tag("a"), tag("c"), fields.prop_shuffle(), 0..3i64).prop_filter_map(
        "twice",
        |(b, a, c, fields, time)| {
            let keys: BTreeSet<&str> = fields.iter().filter_map(|field| field.split('=').next()).collect();
            let tags: String = [b, a, c].into_iter().flatten().collect();
            (keys.len() == fields.len()).then(|| format!("m{tags} {} {time}\n", fields.join(",")))
        },
    )
}

/// Blocks, each with the file that it goes to; some of them sent again, to any file.
fn blocks() -> impl Strategy<Value = Vec<(String, usize)>> {
    let block = (prop::collection::vec(line(), 1..12).prop_map(|lines| lines.concat()), 0..4usize);
    (prop::collection::vec(block, 1..12), prop::collection::vec((any::<prop::sample::Index>(), 0..4usize), 0..4))
        .prop_map(|(mut blocks, again)| {
            for (which, file) in again {
                let text = which.get(&blocks).0.clone();
                blocks.push((text, file));
            }
            blocks
        })
}

fn delivered(text: &str, seq: u64) -> Delivered {
    // Two shards and two openings, whose numbers overlap.
    let (shard, epoch) = (ShardId((seq % 2) as u16), Epoch(1 + seq / 7));
    let stream = Stream { origin: StoreId([7; 16]), shard, epoch, nonce: Nonce(1) };
    Delivered {
        receipt: Receipt { stream, seq: Seq(seq) },
        shard,
        position: Position { epoch, nonce: Nonce(1), seq: Seq(seq) },
        chain: Chain(0),
        namespace: "n".to_owned(),
        received_at_ns: 5,
        block: Block::lines(text.to_owned()).expect("sound"),
    }
}

/// What the line says, as [`read`] finds it in a file.
fn model(all: &[(String, usize)]) -> Vec<(Order, Fields)> {
    let mut rows = Vec::new();
    for (seq, (text, _)) in (1..).zip(all) {
        let block = delivered(text, seq);
        let stream = block.receipt.stream;
        for (at, line) in (0..).zip(lines(text.as_bytes())) {
            let line = line.expect("sound");
            let tags: BTreeMap<String, String> = line.tags().map(|(key, value)| (key.into(), value.into())).collect();
            let fields = line.fields().map(|(key, value)| {
                let value = match value {
                    FieldValue::Float(value) => format!("{value:?}"),
                    FieldValue::Integer(value) => format!("{value}i"),
                    FieldValue::Unsigned(value) => format!("{value}u"),
                    FieldValue::Boolean(value) => format!("{value}"),
                    FieldValue::Text(value) => format!("'{value}'"),
                };
                (key.into_owned(), value)
            });
            let tags = TAGS.map(|name| tags.get(name).cloned()).to_vec();
            let order = (tags, line.time().expect("a time"), stream.shard.0, stream.epoch.0, seq, at);
            rows.push((order, fields.collect()));
        }
    }
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    rows
}

/// The rows without those that a later block, by epoch, seq and shard, repeats.
fn without_repeated(rows: &[(Order, Fields)]) -> Vec<(Order, Fields)> {
    let block = |order: &Order| (order.3, order.4, order.2);
    let is_repeated = |(order, fields): &&(Order, Fields)| {
        rows.iter().any(|(other, same)| {
            (&other.0, other.1, same) == (&order.0, order.1, fields) && block(other) > block(order)
        })
    };
    rows.iter().filter(|row| !is_repeated(row)).cloned().collect()
}

fn value(batch: &Batch, columns: &[FileColumn], at: usize, row: usize) -> Option<String> {
    Some(match batch.value(at, row)? {
        Value::Integer(value) if columns[at].role == Role::Field => format!("{value}i"),
        Value::Integer(value) => format!("{value}"),
        Value::Unsigned(value) => format!("{value}u"),
        Value::Float(value) => format!("{value:?}"),
        Value::Boolean(value) => format!("{value}"),
        Value::Bytes(value) if columns[at].role == Role::Field => format!("'{}'", String::from_utf8_lossy(value)),
        Value::Bytes(value) => String::from_utf8_lossy(value).into_owned(),
    })
}

/// A file's rows, in the order in which they stand.
fn read(path: &Path) -> Vec<(Order, Fields)> {
    try_read(path).expect("a sound file")
}

fn try_read(path: &Path) -> Result<Vec<(Order, Fields)>, DecodeError> {
    let reader = DataReader::open(File::open(path).expect("a file"), path)?;
    let columns = reader.columns().to_vec();
    let by_role = |role| columns.iter().position(|column| column.role == role).expect("an identity column");
    let identity = [Role::Time, Role::Shard, Role::Epoch, Role::Seq, Role::Row].map(by_role);
    let (mut rows, mut batches) = (Vec::new(), reader.batches(&columns));
    while let Some(batch) = batches.next_batch()? {
        for row in 0..batch.rows() {
            let tag = |name: &&str| {
                let at = columns.iter().position(|column| column.role == Role::Tag && column.name == **name)?;
                value(&batch, &columns, at, row)
            };
            let [time, shard, epoch, seq, at] = identity.map(|at| match batch.value(at, row) {
                Some(Value::Integer(number)) => number,
                other => panic!("no number: {other:?}"),
            });
            let fields = columns.iter().enumerate().filter(|(_, column)| column.role == Role::Field);
            let fields =
                fields.filter_map(|(at, column)| Some((column.name.to_string(), value(&batch, &columns, at, row)?)));
            let order = (TAGS.iter().map(tag).collect(), time, shard as u16, epoch as u64, seq as u64, at);
            rows.push((order, fields.collect()));
        }
    }
    Ok(rows)
}

#[test]
fn a_flipped_bit_in_a_page_is_noticed() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = dir.path().join("one.parquet");
    let line = |row: u64| format!("m,a=tag{row} f={row}.25,i={}i,s=\"text {row}\" 7\n", row * 1_000_003);
    let mut rows = Rows::new();
    let text: String = (10..50).map(line).collect();
    rows.add(&delivered(&text, 1), &mut |_, _, key, _| key.into()).expect("sound");
    let part = rows.into_parts().remove(0);
    part.write(File::create(&path).expect("a file"), PLAIN).expect("written");
    let sound = std::fs::read(&path).expect("a file");
    assert_eq!(read(&path).len(), 40);
    // Values from the middle: the least and the greatest stand in indexes too.
    let values = [&b"tag23"[..], &23.25f64.to_le_bytes(), &23_000_069u64.to_le_bytes(), b"text 23"];
    for value in values {
        let places: Vec<usize> = (0..sound.len()).filter(|at| sound[*at..].starts_with(value)).collect();
        assert_eq!(places.len(), 1, "{value:?} stands once in the file");
        for bit in 0..value.len() * 8 {
            let mut bytes = sound.clone();
            bytes[places[0] + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).expect("a file");
            let error = try_read(&path).expect_err("a flipped bit").to_string();
            assert!(error.contains("CRC"), "{value:?}, bit {bit}: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_and_merged_files_hold_what_a_model_says(all in blocks()) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let expected = model(&all);
        let (mut paths, mut part, mut in_files) = (Vec::new(), None, 0);
        for file in 0..4 {
            let mut rows = Rows::new();
            for (seq, (text, _)) in (1..).zip(&all).filter(|(_, (_, to))| *to == file) {
                rows.add(&delivered(text, seq), &mut |_, _, key, _| key.into()).expect("sound");
            }
            for one in rows.into_parts() {
                let path: PathBuf = dir.path().join(format!("{file}.parquet"));
                part = Some(one.name());
                let out = File::create(&path).expect("a file");
                let (written, dropped) = one.write(out, PLAIN).expect("written");
                let own = |(order, _): &&(Order, Fields)| all[order.4 as usize - 1].1 == file;
                let own: Vec<(Order, Fields)> = expected.iter().filter(own).cloned().collect();
                let kept = without_repeated(&own);
                prop_assert_eq!(written.rows + dropped, own.len() as u64);
                prop_assert_eq!(read(&path), kept.clone());
                in_files += kept.len();
                paths.push(path);
            }
        }
        let readers = paths.iter().map(|path| DataReader::open(File::open(path).expect("a file"), path).expect("sound"));
        let (readers, merged) = (readers.collect(), dir.path().join("merged.parquet"));
        let out = File::create(&merged).expect("a file");
        let part = part.expect("at least one file");
        let (written, dropped) = merge(&part, readers, out, WriteOptions::default()).expect("merged");
        let kept = without_repeated(&expected);
        prop_assert_eq!(written.rows, kept.len() as u64);
        prop_assert_eq!(dropped as usize, in_files - kept.len());
        prop_assert_eq!(read(&merged), kept);
    }
}
