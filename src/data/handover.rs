//! Data files handed on to another site, and taken over from one: a follower whose source's log begins too late for it.
//!
//! A file is sent as it is. Who takes it over keeps the rows of the blocks that it lacks, in a file of its own, and
//! commits all of them together with where their streams end: no row stands in data files twice, whatever is sent.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::data::decode::{Bound, DataReader};
use crate::data::dir_tree::checksum;
use crate::data::encode::{FileColumn, Role};
use crate::data::files::FilesError;
use crate::data::format::{DataFile, FileNo, HeldFile, PartName, Record, StreamUpto};
use crate::data::merge::{copy_wanted, has_any};
use crate::data::parquet_files::Files;
use crate::data::schema::{ColumnType, Schemas};
use crate::data::store::{Handover, Holding, StoreError, Wanted};
use crate::types::{Chain, Seq, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};

impl Handover for Files {
    fn holding(&self, has: &dyn Fn(&Stream) -> Seq) -> Result<Holding, StoreError> {
        // What a commit left undone has not its name yet.
        self.settle()?;
        let mut known: HashMap<FileNo, Option<Bounds>> = HashMap::new();
        loop {
            let (ends, files) = self.ends_and_files();
            let mut vanished = false;
            for file in files.iter().filter(|file| !known.contains_key(&file.no)).collect::<Vec<_>>() {
                match self.bounds(file)? {
                    Some(bounds) => drop(known.insert(file.no, bounds)),
                    None => vanished = true,
                }
            }
            if vanished {
                // Merged or removed meanwhile: what there is now is looked at.
                continue;
            }
            let lacked: Vec<Lacked> = ends.iter().filter_map(|(stream, end)| Lacked::new(stream, *end, has)).collect();
            let offered = files.into_iter().filter(|file| may_have(known[&file.no].as_ref(), &lacked));
            let held = |file: DataFile| {
                let about = serde_json::to_string(&file.part)?;
                Ok::<_, StoreError>(HeldFile { no: file.no.0, bytes: file.bytes, crc: file.crc, about })
            };
            let files = offered.map(held).collect::<Result<_, _>>()?;
            return Ok(Holding { ends, files, gaps: Vec::new() });
        }
    }

    fn open_file(&self, no: u64) -> Result<File, StoreError> {
        let file = self.lock().catalog().files.get(&FileNo(no)).cloned();
        let file = file.ok_or_else(|| format!("there is no data file {no} any more"))?;
        let path = self.root().join(file.path());
        let opened = File::open(&path).map_err(FilesError::io(format!("opening {}", path.display())))?;
        let bytes = opened.metadata().map_err(FilesError::io(format!("opening {}", path.display())))?.len();
        if bytes != file.bytes {
            let why = format!(
                "{} has {bytes} bytes, and {} were written; restore it from a backup",
                path.display(),
                file.bytes
            );
            return Err(why.into());
        }
        Ok(opened)
    }

    fn take_over(&self, files: &[(HeldFile, PathBuf)], wanted: &Wanted, stop: &AtomicBool) -> Result<u64, StoreError> {
        let (mut rows, mut columns) = (0, Vec::new());
        let (mut bytes, mut count) = (0, 0);
        self.commit_new(
            |new| {
                for (held, path) in files {
                    if stop.load(Ordering::Relaxed) {
                        return Err("the engine closes".into());
                    }
                    if self.lock().is_unsettled() {
                        // Which waits until nobody writes.
                        return Err("a commit of data files failed, and is settled first".into());
                    }
                    let part: PartName = serde_json::from_str(&held.about)
                        .map_err(|error| format!("what is said of {}: {error}", path.display()))?;
                    if !has_any(open_whole(held, path)?, wanted)? {
                        continue;
                    }
                    let reader = open(path)?;
                    if reader.kind() != part.kind {
                        return Err(format!("{}: it is of another kind than is said of it", path.display()).into());
                    }
                    let (from, to) = self.columns(&part, &reader)?;
                    new.write(part.clone(), |out| {
                        Ok(copy_wanted(&part, reader, (&from, to), wanted, out, self.options())?)
                    })?;
                }
                Ok(())
            },
            |add| {
                columns = self.unrecorded(&add);
                rows = add.iter().map(|file| file.rows).sum();
                (count, bytes) = (add.len() as u64, add.iter().map(|file| file.bytes).sum());
                let adopted = wanted.ends.iter().map(|(stream, end)| StreamUpto::new(*stream, end.seq, end.chain));
                Record { add, columns: columns.clone(), adopted: adopted.collect(), ..Record::default() }
            },
        )?;
        self.recorded(&columns);
        let counts = self.counters();
        for (counter, more) in [(&counts.files, count), (&counts.rows, rows), (&counts.bytes, bytes)] {
            counter.fetch_add(more, Ordering::Relaxed);
        }
        Ok(rows)
    }

    fn adopted(&self) -> Result<StreamEnds, StoreError> {
        self.settle()?;
        let files = self.lock();
        // Where it has failed it may say more than is known.
        files.check()?;
        let adopted = files.catalog().adopted.iter();
        Ok(adopted.map(|(stream, upto)| (*stream, end_of(upto))).collect())
    }
}

impl Files {
    /// Where streams end in the files, and these.
    fn ends_and_files(&self) -> (StreamEnds, Vec<DataFile>) {
        let files = self.lock();
        let catalog = files.catalog();
        let mut ends = StreamEnds::new();
        for upto in catalog.streams.values().chain(catalog.adopted.values()) {
            let Some(stream) = upto.stream() else { continue };
            let held = ends.entry(stream).or_default();
            if held.seq.0 < upto.seq {
                *held = end_of(upto);
            }
        }
        (ends, catalog.files.values().cloned().collect())
    }

    /// Which blocks a file can have rows of, where it says that; `None` where it is not there any more.
    fn bounds(&self, file: &DataFile) -> Result<Option<Option<Bounds>>, StoreError> {
        let path = self.root().join(file.path());
        let opened = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut files = self.lock();
                if files.catalog().files.contains_key(&file.no) && !path.exists() {
                    tracing::warn!("{} is gone, as if deleted by hand; its rows are lost", path.display());
                    files.forget(&[file.path()])?;
                }
                return Ok(None);
            }
            other => other.map_err(FilesError::io(format!("opening {}", path.display())))?,
        };
        let bounds = DataReader::open(opened, &path).ok().and_then(|reader| {
            let of = |role| reader.bounds(role);
            let (origin, shard, epoch) = (of(Role::Origin)?, of(Role::Shard)?, of(Role::Epoch)?);
            let (_, Bound::Number(last)) = of(Role::Seq)? else { return None };
            Some(Bounds { origin, shard, epoch, last: last as u64 })
        });
        Ok(Some(bounds))
    }

    /// The columns of a file, in the order that they have here, and what they are called here.
    fn columns(&self, part: &PartName, reader: &DataReader) -> Result<(Vec<FileColumn>, Vec<FileColumn>), StoreError> {
        let mut schemas = self.schemas().write().unwrap_or_else(PoisonError::into_inner);
        let renamed = |column: &FileColumn| (column.clone(), renamed(&mut schemas, part, column));
        let mut columns: Vec<(FileColumn, FileColumn)> = reader.columns().iter().map(renamed).collect();
        let tags = |columns: &[(FileColumn, FileColumn)]| -> Vec<FileColumn> {
            columns.iter().filter(|(from, _)| from.role == Role::Tag).map(|(from, _)| from.clone()).collect()
        };
        let before = tags(&columns);
        columns.sort_by(|(_, one), (_, other)| one.cmp(other));
        if tags(&columns) != before {
            return Err(format!(
                "table '{}' of namespace '{}': keys that are tags at the source and fields here change the order of its \
                 rows; start this store anew from it",
                part.table, part.namespace
            )
            .into());
        }
        Ok(columns.into_iter().unzip())
    }
}

/// What a column of another store's file is called here: each key has the type here that it was first seen with here.
fn renamed(schemas: &mut Schemas, part: &PartName, column: &FileColumn) -> FileColumn {
    if !matches!(column.role, Role::Tag | Role::Field) {
        return column.clone();
    }
    let aside = column.name.rsplit_once('@').filter(|(_, word)| word.parse() == Ok::<ColumnType, _>(column.of));
    let key = aside.map_or(column.name.as_str(), |(key, _)| key);
    let name = schemas.column(&part.namespace, &part.table, key, column.of).name;
    FileColumn { name, ..column.clone() }
}

/// A file that is what it is said to be, every byte of it.
fn open_whole(held: &HeldFile, path: &Path) -> Result<DataReader, StoreError> {
    let reading = || FilesError::io(format!("reading {}", path.display()));
    let file = File::open(path).map_err(reading())?;
    if checksum(&file).map_err(reading())? != (held.crc, held.bytes) {
        return Err(format!("{}: its bytes are not those that were sent; remove it", path.display()).into());
    }
    open(path)
}

fn open(path: &Path) -> Result<DataReader, StoreError> {
    let file = File::open(path).map_err(FilesError::io(format!("opening {}", path.display())))?;
    Ok(DataReader::open(file, path)?)
}

/// Which blocks a file can have rows of.
struct Bounds {
    origin: (Bound, Bound),
    shard: (Bound, Bound),
    epoch: (Bound, Bound),
    last: u64,
}

/// What somebody lacks of a stream, as a file's statistics have it.
struct Lacked {
    origin: Bound,
    shard: Bound,
    epoch: Bound,
    has: u64,
    end: u64,
}

impl Lacked {
    fn new(stream: &Stream, end: StreamEnd, has: &dyn Fn(&Stream) -> Seq) -> Option<Self> {
        let has = has(stream);
        (has < end.seq).then(|| Self {
            origin: Bound::Text(stream.origin.to_string().into_bytes()),
            shard: Bound::Number(stream.shard.0.into()),
            epoch: Bound::Number(stream.epoch.0 as i64),
            has: has.0,
            end: end.seq.0,
        })
    }
}

/// Whether a file may have blocks that are lacked. One of which nothing is known may: nobody goes on without it.
fn may_have(file: Option<&Bounds>, lacked: &[Lacked]) -> bool {
    let within = |bounds: &(Bound, Bound), value: &Bound| bounds.0 <= *value && *value <= bounds.1;
    file.is_none_or(|file| {
        lacked.iter().any(|of| {
            let is_within =
                within(&file.shard, &of.shard) && within(&file.epoch, &of.epoch) && within(&file.origin, &of.origin);
            is_within && of.has < of.end.min(file.last)
        })
    })
}

fn end_of(upto: &StreamUpto) -> StreamEnd {
    StreamEnd { seq: Seq(upto.seq), chain: Chain(upto.chain) }
}
