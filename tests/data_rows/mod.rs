//! Reading a store's data files back, for the tests of the whole path.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use forebay::data::decode::{DataReader, Value};
use forebay::data::encode::Role;
use forebay::engine::tools::list_files;

/// What tells a row of all others: its origin; shard, epoch, seq, row.
pub type Row = (String, [i64; 4]);

/// All rows of the data files of a store that accepts all of them itself: each as its user columns in words, by
/// identity: shard, epoch, seq, row.
pub fn rows(dir: &Path) -> BTreeMap<[i64; 4], Vec<String>> {
    rows_of_all(dir).into_iter().map(|((_, number), words)| (number, words)).collect()
}

/// All rows of the store's data files, whoever has accepted them.
pub fn rows_of_all(dir: &Path) -> BTreeMap<Row, Vec<String>> {
    let listing = list_files(dir).expect("a list of files");
    let mut rows = BTreeMap::new();
    for file in &listing.files {
        let path = listing.root.join(file.path());
        let reader = DataReader::open(File::open(&path).expect("a listed file"), &path).expect("a data file");
        assert_eq!(reader.rows(), file.rows);
        let columns = reader.columns().to_vec();
        let at = |role| columns.iter().position(|column| column.role == role).expect("an identity column");
        let origin = at(Role::Origin);
        let identity = [Role::Shard, Role::Epoch, Role::Seq, Role::Row].map(at);
        let mut batches = reader.batches(&columns);
        while let Some(batch) = batches.next_batch().expect("sound") {
            for row in 0..batch.rows() {
                let number = |column| match batch.value(column, row) {
                    Some(Value::Integer(number)) => number,
                    other => panic!("no number: {other:?}"),
                };
                let words = columns.iter().enumerate().filter_map(|(at, column)| {
                    let own = matches!(column.role, Role::Time | Role::Tag | Role::Field | Role::Payload);
                    let value = match batch.value(at, row).filter(|_| own)? {
                        Value::Integer(value) => format!("{value}"),
                        Value::Unsigned(value) => format!("{value}u"),
                        Value::Float(value) => format!("{value:?}"),
                        Value::Boolean(value) => format!("{value}"),
                        Value::Bytes(value) => format!("{:?}", String::from_utf8_lossy(value)),
                    };
                    Some(format!("{}={value}", column.name))
                });
                let origin = match batch.value(origin, row) {
                    Some(Value::Bytes(text)) => String::from_utf8_lossy(text).into_owned(),
                    other => panic!("no origin: {other:?}"),
                };
                let key = (origin, identity.map(number));
                assert_eq!(rows.insert(key, words.collect()), None, "a row in two files");
            }
        }
    }
    rows
}
