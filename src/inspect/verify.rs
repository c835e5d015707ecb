//! Checking a store offline: every checksum and every chain.
//!
//! Log and manifest are judged by the scan that an opening uses, the ring by its recovery; on top of
//! that the chain of each stream is worked out anew, both copies of each header are looked at, and data
//! files are compared with the length and the CRC-32 that the manifest has of them. A torn tail, and a
//! ring that a power cut ended, are what the promises allow: told, and no findings.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;

use serde::Serialize;

use crate::data::dir_tree::{DirTree, checksum};
use crate::data::format::{DATA, DataFile, FileNo};
use crate::data::tree::Tree;
use crate::error::Error;
use crate::inspect::read::{Access, LogView, ManifestView, Role, ShardView, StoreView, Where};
use crate::limits::{MANIFEST_SHARD, PAGE_BYTES};
use crate::recover::{Examined, LogBatch, OpenError};
use crate::report::{Damage, TornTail};
use crate::types::{ShardId, Stream};
use crate::wal::batch::StreamEnds;
use crate::wal::entry::{EntryKind, decode_entry};
use crate::wal::intake::SLOTS_AT;
use crate::wal::read::{each_entry, stream_rows};
use crate::wal::ring::{RingVerdict, What};
use crate::wal::segment::segment_name;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Concerns {
    /// Acknowledged blocks that are in no data file.
    Acknowledged,
    /// Blocks that data files hold too, or rows in a data file.
    Flushed,
    /// No block: a second copy, or what can be had from elsewhere.
    Nothing,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// `identity`, `log`, `header`, `ring`, `manifest` or `data file`.
    pub part: &'static str,
    /// The shard.
    pub shard: Option<u16>,
    /// The file, below the store's folder.
    pub file: String,
    /// The segment.
    pub segment: Option<u64>,
    /// The offset in the file, in bytes.
    pub offset: Option<u64>,
    /// The first seq that is missing.
    pub from_seq: Option<u64>,
    /// The last seq that is missing; `None` where nothing sound follows.
    pub to_seq: Option<u64>,
    /// What is wrong.
    pub wrong: String,
    /// What it is about.
    pub concerns: Concerns,
}

/// What was checked of a log.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogCounts {
    /// The shard; `None` for the manifest.
    pub shard: Option<u16>,
    /// Segments that hold a part of the log.
    pub segments: u64,
    /// Batches.
    pub batches: u64,
    /// Entries of all kinds.
    pub entries: u64,
    /// Blocks among them.
    pub blocks: u64,
    /// Bytes of the batches.
    pub bytes: u64,
    /// The last seq in the log.
    pub log_seq: u64,
    /// Up to which seq data files hold it.
    pub flushed_seq: Option<u64>,
    /// The log ends with a clean stop.
    pub sealed: bool,
    /// Writes that did not arrive whole, and that nobody was told about: no damage.
    pub torn: Vec<TornTail>,
    /// Blocks that stand in the ring only, and are whole.
    pub ring_blocks: u64,
    /// What there is to say of the ring.
    pub ring: Option<String>,
}

/// What a check of a store found.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// `forebay.verify/1`.
    pub schema: &'static str,
    /// The store's id.
    pub store: String,
    /// Nothing was found.
    pub sound: bool,
    /// One for each shard.
    pub shards: Vec<LogCounts>,
    /// The manifest of the data files.
    pub manifest: Option<LogCounts>,
    /// Data files that were read whole.
    pub data_files: u64,
    /// Their bytes.
    pub data_bytes: u64,
    /// What is not as it was written.
    pub findings: Vec<Finding>,
}

/// Checks a store that no engine has open; changes nothing.
///
/// # Errors
/// [`Error::InUse`], [`Error::Config`] where there is no store, [`Error::Io`].
pub fn verify(at: &Where) -> Result<Verified, Error> {
    let store = StoreView::read(at, Access::Alone)?;
    let mut found = Verified {
        schema: "forebay.verify/1",
        store: store.identity.store().to_string(),
        sound: false,
        shards: Vec::new(),
        manifest: None,
        data_files: 0,
        data_bytes: 0,
        findings: Vec::new(),
    };
    if let Some(wrong) = &store.identity_wrong {
        let finding = Finding { wrong: wrong.clone(), ..Finding::at("identity", None, "IDENTITY".to_owned()) };
        found.findings.push(finding);
    }
    for shard in store.shards() {
        let view = store.shard(shard)?;
        let mut counts = LogCounts { shard: Some(shard.0), ..LogCounts::default() };
        found.log(&view.log, shard, &mut counts)?;
        found.ring(&store, &view, &mut counts);
        found.reaches_back(&view, &mut counts);
        found.shards.push(counts);
    }
    if let Some(manifest) = &store.manifest {
        let mut counts = LogCounts::default();
        found.log(&manifest.log, ShardId(MANIFEST_SHARD), &mut counts)?;
        found.manifest = Some(counts);
        found.data(&store, manifest)?;
    }
    found.sound = found.findings.is_empty();
    Ok(found)
}

impl Finding {
    fn at(part: &'static str, shard: Option<u16>, file: String) -> Self {
        let (segment, offset, from_seq, to_seq) = (None, None, None, None);
        let (wrong, concerns) = (String::new(), Concerns::Nothing);
        Self { part, shard, file, segment, offset, from_seq, to_seq, wrong, concerns }
    }

    fn of(damage: &Damage) -> Self {
        let shard = ShardId(damage.shard);
        let at = Self::at(
            part_of(shard, "log"),
            number(shard),
            file_of(shard, &segment_name(crate::types::SegmentNo(damage.segment))),
        );
        Self {
            segment: Some(damage.segment),
            offset: Some(u64::from(damage.offset)),
            from_seq: damage.from_seq,
            to_seq: damage.to_seq,
            wrong: damage.wrong.clone(),
            concerns: match damage.lost_blocks {
                Some(0) if damage.flushed => Concerns::Nothing,
                _ if damage.flushed => Concerns::Flushed,
                _ => Concerns::Acknowledged,
            },
            ..at
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.part)?;
        if let Some(shard) = self.shard {
            write!(f, "shard {shard} ")?;
        }
        if let Some(segment) = self.segment {
            write!(f, "segment {segment} ")?;
        }
        if let Some(offset) = self.offset {
            write!(f, "offset {offset:#x} ")?;
        }
        match (self.from_seq, self.to_seq) {
            (Some(from), Some(to)) => write!(f, "seq {from}..{to} ")?,
            (Some(from), None) => write!(f, "seq {from}.. ")?,
            (None, Some(to)) => write!(f, "seq ..{to} ")?,
            (None, None) => {}
        }
        let concerns = match self.concerns {
            Concerns::Acknowledged => "acknowledged blocks that are in no data file",
            Concerns::Flushed => "blocks that were flushed",
            Concerns::Nothing => "no block is missing",
        };
        write!(f, "in {}: {} ({concerns})", self.file, self.wrong)
    }
}

impl Verified {
    fn log(&mut self, log: &LogView, shard: ShardId, counts: &mut LogCounts) -> Result<(), Error> {
        let part = part_of(shard, "log");
        let examined = match &log.examined {
            Ok(examined) => examined,
            Err(wrong) => {
                let at = Finding::at(part, number(shard), file_of(shard, ""));
                let (wrong, concerns) = (wrong.clone(), Concerns::Acknowledged);
                self.findings.push(Finding { wrong, concerns, ..at });
                return Ok(());
            }
        };
        self.findings.extend(examined.report.damage.iter().map(Finding::of));
        self.headers(log, examined, shard);
        counts.segments = examined.scanned.segments.len() as u64;
        counts.log_seq = examined.scanned.end.seq.0;
        counts.sealed = examined.scanned.sealed;
        counts.torn = examined.report.torn.clone();
        let mut chains = Chains::default();
        let read = examined.each_batch(&log.folder, |batch| {
            counts.batches += 1;
            counts.bytes += u64::from(batch.header.length);
            if let Err(wrong) = chains.follow(batch, counts) {
                let at = Finding::at(part, number(shard), file_of(shard, &segment_name(batch.segment.segment)));
                self.findings.push(Finding {
                    segment: Some(batch.segment.segment.0),
                    offset: Some(u64::from(batch.offset)),
                    from_seq: Some(batch.header.first_seq.0),
                    to_seq: Some(batch.header.last_seq().0),
                    wrong: wrong.to_owned(),
                    concerns: Concerns::Acknowledged,
                    ..at
                });
            }
            Ok::<(), OpenError>(())
        });
        read.map_err(|error| Error::io(file_of(shard, ""))(std::io::Error::other(error.to_string())))
    }

    /// A segment with blocks has two whole copies of its header. One that recovery renewed and was cut
    /// short at, which holds none, may have one.
    fn headers(&mut self, log: &LogView, examined: &Examined, shard: ShardId) {
        for file in log.files.iter().filter(|file| file.role == Role::Log) {
            let used = examined.scanned.segments.iter().find(|used| Some(used.header.segment) == file.segment);
            let has_blocks = used.is_some_and(|used| used.first_seq <= used.last_seq);
            let offset = match &file.copies {
                [None, Some(_)] if has_blocks => 0,
                [Some(_), None] if has_blocks => PAGE_BYTES as u64,
                _ => continue,
            };
            let at = Finding::at("header", number(shard), file_of(shard, &file.name));
            let wrong = "one of the two copies of the segment's header is unreadable".to_owned();
            let segment = file.segment.map(|segment| segment.0);
            self.findings.push(Finding { segment, offset: Some(offset), wrong, ..at });
        }
    }

    fn ring(&mut self, store: &StoreView, view: &ShardView, counts: &mut LogCounts) {
        let Ok(examined) = &view.log.examined else { return };
        counts.ring = examined.report.ring.clone();
        let at = Finding::at("ring", Some(view.shard.0), view.ring.path.display().to_string());
        let wrong = counts.ring.clone().unwrap_or_default();
        match &examined.ring {
            RingVerdict::Ignored | RingVerdict::Quarantine(_) => return,
            RingVerdict::Damaged(_) => {
                self.findings.push(Finding { wrong, concerns: Concerns::Acknowledged, ..at });
                return;
            }
            RingVerdict::Replay { header, entries, damage, .. } => {
                let blocks = entries.iter().filter(|entry| matches!(entry.what, What::Block(_)));
                counts.ring_blocks = blocks.count() as u64;
                if let Some(damage) = damage {
                    self.findings.push(Finding {
                        offset: Some(SLOTS_AT as u64 + u64::from(damage.slot) * crate::wal::intake::SLOT_BYTES as u64),
                        from_seq: damage.lost.first().map(|(first, _)| first.0),
                        to_seq: damage.lost.last().map(|(_, last)| last.0),
                        wrong,
                        concerns: Concerns::Acknowledged,
                        ..at.clone()
                    });
                }
                // Of another boot, a page of it may not have reached the disk.
                if !store.is_of_this_boot(header) {
                    return;
                }
            }
        }
        let offset = match view.ring.copies {
            [None, Some(_)] => 0,
            [Some(_), None] => PAGE_BYTES as u64,
            _ => return,
        };
        let wrong = "one of the two copies of the ring's header is unreadable".to_owned();
        self.findings.push(Finding { offset: Some(offset), wrong, ..at });
    }

    /// The log begins where the data files end, or before.
    fn reaches_back(&mut self, view: &ShardView, counts: &mut LogCounts) {
        let (Some(at), Ok(examined)) = (view.progress, &view.log.examined) else { return };
        counts.flushed_seq = Some(at.seq.0);
        let Some(first) = examined.first_seq().filter(|first| at.seq.next() < *first) else { return };
        self.findings.push(Finding {
            from_seq: Some(at.seq.next().0),
            to_seq: Some(first.prev().0),
            wrong: format!("the manifest says that data files end at seq {}, and the log begins at {first}", at.seq),
            concerns: Concerns::Acknowledged,
            ..Finding::at("manifest", Some(view.shard.0), file_of(ShardId(MANIFEST_SHARD), ""))
        });
    }

    fn data(&mut self, store: &StoreView, manifest: &ManifestView) -> Result<(), Error> {
        let catalog = match &manifest.catalog {
            Ok(catalog) => catalog,
            Err(wrong) => {
                let at = Finding::at("manifest", None, file_of(ShardId(MANIFEST_SHARD), ""));
                self.findings.push(Finding { wrong: wrong.clone(), concerns: Concerns::Flushed, ..at });
                return Ok(());
            }
        };
        let root = store.at.dir.join(DATA);
        for file in catalog.files.values() {
            self.data_files += 1;
            self.data_bytes += file.bytes;
            // The name that it is given last may be missing after a crash; then it has the first one.
            let found = match File::open(root.join(file.path())) {
                Err(error) if error.kind() == ErrorKind::NotFound => File::open(root.join(file.no.tmp_path())),
                other => other,
            };
            let wrong = match found.and_then(|found| checksum(&found)) {
                Ok(found) if found == (file.crc, file.bytes) => continue,
                Ok((_, bytes)) if bytes != file.bytes => {
                    format!("is {bytes} bytes long, and {} were committed", file.bytes)
                }
                Ok(_) => "its bytes are not those that were committed (CRC-32)".to_owned(),
                Err(error) if error.kind() == ErrorKind::NotFound => "is gone".to_owned(),
                Err(error) => error.to_string(),
            };
            let at = Finding::at("data file", None, format!("{DATA}/{}", file.path()));
            self.findings.push(Finding { wrong, concerns: Concerns::Flushed, ..at });
        }
        let listed = DirTree::new(&root).list().map_err(Error::io(format!("listing {}", root.display())))?;
        let doomed: Vec<String> = catalog.doomed.values().map(DataFile::path).collect();
        for (path, _) in listed {
            let known = |no: &FileNo| catalog.files.get(no).is_some_and(|file| file.path() == path);
            if FileNo::of_path(&path).is_some_and(|no| !known(&no)) && !doomed.contains(&path) {
                let at = Finding::at("manifest", None, format!("{DATA}/{path}"));
                let wrong = "the manifest does not know this file: it has lost a record".to_owned();
                self.findings.push(Finding { wrong, concerns: Concerns::Flushed, ..at });
            }
        }
        Ok(())
    }
}

/// Where each stream stands, by its blocks.
#[derive(Default)]
struct Chains {
    ends: StreamEnds,
}

impl Chains {
    fn follow(&mut self, batch: &LogBatch<'_>, counts: &mut LogCounts) -> Result<(), &'static str> {
        if batch.behind_damage {
            // Streams went on in what is lost.
            self.ends.clear();
        }
        let rows = stream_rows(batch.bytes, &batch.header);
        let mut now: HashMap<Stream, _> = rows.iter().map(|row| (row.stream, row.prev)).collect();
        let mut seq = batch.header.first_seq;
        let mut wrong = None;
        each_entry(batch.bytes, &batch.header, &mut Vec::new(), |head, payload| {
            counts.entries += 1;
            let Some(entry) = decode_entry(head) else {
                wrong = Some("an entry's header says nothing that there is");
                return;
            };
            let (stream, at) = match (entry.kind, entry.identity) {
                (EntryKind::Own, _) => (batch.segment.stream(), seq),
                (EntryKind::Carried | EntryKind::Adopted, Some(identity)) => (identity.stream, identity.seq),
                _ => {
                    seq.0 += u64::from(entry.kind == EntryKind::Void);
                    return;
                }
            };
            let is_block = entry.kind != EntryKind::Adopted;
            counts.blocks += u64::from(is_block && entry.payload_crc == crc32fast::hash(payload));
            seq = seq.next();
            match now.get_mut(&stream) {
                Some(end) => *end = end.behind(&entry, at),
                None => wrong = Some("a block of a stream that the batch's table does not name"),
            }
        });
        for row in &rows {
            if self.ends.get(&row.stream).is_some_and(|end| *end != row.prev) {
                wrong = Some("a stream does not go on where it ended: blocks are missing");
            }
            if now.get(&row.stream) != Some(&row.last) {
                wrong = Some("a stream's chain does not follow from its blocks");
            }
            self.ends.insert(row.stream, row.last);
        }
        wrong.map_or(Ok(()), Err)
    }
}

fn part_of(shard: ShardId, log: &'static str) -> &'static str {
    if shard.0 == MANIFEST_SHARD { "manifest" } else { log }
}

fn number(shard: ShardId) -> Option<u16> {
    (shard.0 != MANIFEST_SHARD).then_some(shard.0)
}

fn file_of(shard: ShardId, name: &str) -> String {
    match shard.0 {
        MANIFEST_SHARD => format!("{DATA}/{}/{name}", crate::data::format::MANIFEST),
        shard => format!("shard-{shard:04}/{name}"),
    }
}
