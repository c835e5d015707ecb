//! The manifest's records. Any text is read or refused; what the records of a manifest add up to can be
//! written anew, and then says the same; no path leaves the data folder.

use crate::data::catalog::{Catalog, Found, Reading, parts};
use crate::data::format::{
    DataFile, FileNo, PartKind, PartName, Record, SchemaColumn, ShardProgress, StreamUpto, escaped,
};
use crate::data::schema::ColumnType;
use crate::fuzz::choices::Choices;
use crate::limits::NUMBER_MAX;
use crate::types::{Chain, Epoch, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream};

/// Bytes of a record's text, where the whole state is written anew.
const RECORD_BYTES_MAX: usize = 1024;

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    match from.byte() % 3 {
        // Lines of text, each a record.
        0 => judge(from.all().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()),
        1 => judge(built(&mut from)),
        _ => {
            let mut texts = built(&mut from);
            for text in &mut texts {
                let length = text.len();
                from.rot(text, (0, length));
            }
            judge(texts);
        }
    }
}

/// A few transactions, the first of which begins anew.
fn built(from: &mut Choices<'_>) -> Vec<Vec<u8>> {
    let mut texts = Vec::new();
    for transaction in 1..2 + u64::from(from.byte() % 4) {
        let record = any_record(from, transaction);
        let bytes_max = [0, 300, 1024, 1 << 20][from.below(4)];
        let whole = record.clone();
        let cut = parts(record, bytes_max);
        let mut again = Catalog::default();
        again.apply(&cut);
        let mut at_once = Catalog::default();
        at_once.apply(&[whole]);
        assert_eq!(again, at_once, "a transaction in parts says the same");
        texts.extend(cut.iter().map(|part| serde_json::to_vec(part).expect("plain fields")));
    }
    texts
}

fn any_record(from: &mut Choices<'_>, transaction: u64) -> Record {
    let count = |from: &mut Choices<'_>| from.byte() % 4;
    Record {
        transaction,
        anew: transaction == 1 || from.byte().is_multiple_of(4),
        next_file: any_no(from),
        add: (0..count(from)).map(|_| any_file(from)).collect(),
        remove: (0..count(from)).map(|_| FileNo(from.number())).collect(),
        forget: (0..count(from)).map(|_| FileNo(from.number())).collect(),
        doomed: (0..count(from)).map(|_| any_file(from)).collect(),
        columns: (0..count(from))
            .map(|_| SchemaColumn {
                namespace: from.text(8),
                table: from.text(8),
                key: from.text(255),
                kind: from
                    .take(1)
                    .first()
                    .map_or("float", |at| ColumnType::ALL[usize::from(*at) % 6].word())
                    .to_owned(),
            })
            .collect(),
        progress: (0..count(from))
            .map(|_| ShardProgress {
                shard: from.short(),
                epoch: from.number(),
                nonce: from.number(),
                seq: from.number(),
                streams: (0..count(from)).map(|_| any_stream(from)).collect(),
            })
            .collect(),
        ..Record::default()
    }
}

/// A number that a file may have.
fn any_no(from: &mut Choices<'_>) -> FileNo {
    FileNo(from.number().min(NUMBER_MAX - 1))
}

fn any_file(from: &mut Choices<'_>) -> DataFile {
    DataFile {
        no: any_no(from),
        part: PartName {
            namespace: from.text(255),
            table: from.text(255),
            kind: if from.flag() { PartKind::Lines } else { PartKind::Raw },
            day: from.word() as i32,
        },
        rows: from.number(),
        bytes: from.number(),
        crc: from.word(),
        time_min: from.number() as i64,
        time_max: from.number() as i64,
    }
}

fn any_stream(from: &mut Choices<'_>) -> StreamUpto {
    let stream = Stream {
        origin: StoreId([from.byte(); 16]),
        shard: ShardId(from.short()),
        epoch: Epoch(from.number()),
        nonce: Nonce(from.number()),
    };
    let upto = StreamUpto::new(stream, Seq(from.number()), Chain(from.number()));
    assert_eq!(upto.stream(), Some(stream), "a stream survives its text");
    upto
}

fn judge(texts: Vec<Vec<u8>>) {
    for text in &texts {
        if let Ok(record) = serde_json::from_slice::<Record>(text) {
            let again = serde_json::to_vec(&record).expect("plain fields");
            assert_eq!(serde_json::from_slice::<Record>(&again).ok(), Some(record), "what is read can be written");
        }
    }
    let mut reading = Reading::default();
    for (at, text) in texts.iter().enumerate() {
        if reading.take(SegmentNo(at as u64 + 1), text).is_err() {
            return;
        }
    }
    let Some(Found { catalog, from, upto }) = reading.finish() else { return };
    assert!(upto.is_none_or(|upto| from.is_none_or(|from| from <= upto)), "a state begins before it ends");
    let anew = catalog.anew(7, RECORD_BYTES_MAX);
    let mut again = Reading::default();
    for record in &anew {
        let text = serde_json::to_vec(record).expect("plain fields");
        again.take(SegmentNo(1), &text).expect("what was read can be read when it is written anew");
    }
    let mut again = again.finish().expect("a whole state").catalog;
    // Positions and streams of one shard are written together; a stream without a position is not.
    again.next_file = again.next_file.max(catalog.next_file);
    assert_eq!(again, catalog, "the state says the same when it is written anew");
    for file in catalog.files.values().chain(catalog.doomed.values()) {
        assert!(file.no < catalog.next_file, "no number is given twice");
        assert_eq!(FileNo::of_path(&file.path()), Some(file.no), "a file is known by its path");
        stays_inside(&file.path());
        stays_inside(&file.no.tmp_path());
    }
    for (namespace, table, _) in catalog.columns.keys() {
        stays_inside(&format!("{}/{}", escaped(namespace), escaped(table)));
    }
}

/// A path below the data folder, of parts that every file system takes.
fn stays_inside(path: &str) {
    for part in path.split('/') {
        assert!(!part.is_empty() && part != "." && part != ".." && part.len() <= 255, "{path:?}");
        assert!(!part.contains('\0'), "{path:?}");
    }
}
