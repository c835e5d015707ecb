//! What is shown of a store: plain values, for people and for JSON.

use serde::Serialize;

use crate::inspect::read::{FileView, LogView, ManifestView, Role, ShardView, StoreView, quarantine};
use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::limits::PAGE_BYTES;
use crate::recover::{Examined, LogBatch, OpenError, gap_in_words};
use crate::report::{Damage, Gap, TornTail};
use crate::types::{BlockKind, SegmentNo, ShardId};
use crate::wal::batch::Place;
use crate::wal::entry::{Absent, Control, EntryKind, decode_entry};
use crate::wal::intake::RingHeader;
use crate::wal::read::each_entry;
use crate::wal::ring::RingVerdict;
use crate::wal::segment::segment_name;
use crate::wal::vector;
use crate::wal::verdict::{Check, Stamps, check};

/// A store as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct StoreLine {
    /// Its id.
    pub store: String,
    /// Version of the formats.
    pub format: u16,
    /// Shards.
    pub shards: usize,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// What is wrong with IDENTITY, where the rest is from the segments' headers.
    pub identity_wrong: Option<String>,
    /// The engine that has it open: then all of this is of a moment.
    pub in_use: Option<String>,
    /// Its data files, in short.
    pub data_files: Option<DataLine>,
    /// What lies in quarantine, by path and length in bytes.
    pub quarantine: Vec<(String, u64)>,
    /// What the last opening found and did.
    pub recovery: Option<serde_json::Value>,
}

/// The data files of a store, in short.
#[derive(Clone, Debug, Serialize)]
pub struct DataLine {
    /// Files that hold rows.
    pub files: usize,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The files of the manifest.
    pub manifest_files: Vec<FileLine>,
    /// Where the manifest's log ends.
    pub manifest: EndLine,
    /// What is wrong with the manifest's records.
    pub wrong: Option<String>,
}

/// A shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardLine {
    /// Its number.
    pub shard: u16,
    /// The files in its folder.
    pub files: Vec<FileLine>,
    /// Where its log ends.
    pub end: EndLine,
    /// Its ring.
    pub ring: RingLine,
    /// Up to which seq the data files hold it; `None` where there are none.
    pub flushed: Option<u64>,
    /// What its log names as lost, here or at the store that it came from.
    pub gaps: Vec<Gap>,
}

/// A file in a log's folder.
#[derive(Clone, Debug, Serialize)]
pub struct FileLine {
    /// Its name.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// `log`, `damaged`, `ready`, `leftover`, `spare`, `unfinished` or `other`.
    pub role: &'static str,
    /// The segment's number.
    pub segment: Option<u64>,
    /// Which copies of its header are whole: `AB`, `A`, `B` or nothing.
    pub header: String,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// How often the file has been put to use.
    pub generation: Option<u32>,
    /// The seq of the first block that may stand in it.
    pub first_seq: Option<u64>,
    /// The last seq in it or before.
    pub last_seq: Option<u64>,
    /// Where its part of the log ends, in bytes.
    pub end: Option<u32>,
    /// Written by recovery: the log before it ends at this segment, offset and seq.
    pub pin: Option<(u64, u32, u64)>,
    /// Damaged ranges that it names as handled.
    pub handled: usize,
}

/// Where a log ends, and why there.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EndLine {
    /// The segment.
    pub segment: u64,
    /// The offset in it, in bytes.
    pub offset: u32,
    /// The last batch.
    pub batch: u64,
    /// The last seq.
    pub seq: u64,
    /// Batches.
    pub batches: u64,
    /// `sealed`, `end`, `torn`, `damaged` or `unreadable`.
    pub verdict: &'static str,
    /// Why.
    pub why: String,
    /// Torn tails.
    pub torn: Vec<TornTail>,
    /// Damage.
    pub damage: Vec<Damage>,
}

/// An intake ring.
#[derive(Clone, Debug, Serialize)]
pub struct RingLine {
    /// Its file.
    pub file: String,
    /// The file's length in bytes; `None` where it is missing.
    pub bytes: Option<u64>,
    /// Which copies of its header are whole.
    pub header: String,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// It was last opened since the kernel booted.
    pub this_boot: Option<bool>,
    /// Its slots.
    pub slots: Option<u32>,
    /// `in use`, `ignored`, `replay`, `cut`, `quarantine` or `damaged`.
    pub verdict: &'static str,
    /// Entries that an opening would replay.
    pub replay: usize,
    /// What there is to say of it.
    pub why: Option<String>,
}

/// A batch.
#[derive(Clone, Debug, Serialize)]
pub struct BatchLine {
    /// The segment.
    pub segment: u64,
    /// Where it stands there, in bytes.
    pub offset: u32,
    /// Its number.
    pub batch: u64,
    /// The seq of its first block.
    pub first_seq: u64,
    /// Blocks and voids in it.
    pub count: u32,
    /// Its length in bytes.
    pub bytes: u32,
    /// The last batch known to be synced when it was built.
    pub durable_upto: u64,
    /// Streams in it.
    pub streams: u32,
    /// `seal`, or nothing.
    pub flags: &'static str,
    /// What was handled as damaged lies before it.
    pub behind_damage: bool,
    /// Runs of seqs in it that are lost to damage, each with its first and its last.
    pub lost: Vec<(u64, u64)>,
}

/// An entry.
#[derive(Clone, Debug, Serialize)]
pub struct EntryLine {
    /// Its seq; controls have none.
    pub seq: Option<u64>,
    /// `own`, `carried`, `void`, `control` or `adopted`.
    pub kind: &'static str,
    /// `raw` or `lines`.
    pub block: &'static str,
    /// The writer's namespace.
    pub namespace: String,
    /// The table.
    pub table: String,
    /// Rows.
    pub rows: u32,
    /// The payload's length in bytes.
    pub length: u32,
    /// When it was accepted, in nanoseconds since 1970; 0 where nothing was.
    pub received_at_ns: i64,
    /// Carried, adopted: the store, shard, epoch and seq of its acceptance.
    pub identity: Option<(String, u16, u64, u64)>,
    /// What a control or an adopted end says.
    pub control: Option<String>,
    /// Its payload is damaged.
    pub damaged: bool,
}

impl StoreLine {
    /// What there is to say of a store as a whole.
    #[must_use]
    pub fn of(store: &StoreView) -> Self {
        let report = std::fs::read(store.at.dir.join("recovery-report.json")).ok();
        Self {
            store: store.identity.store().to_string(),
            format: store.identity.format,
            shards: store.identity.shards,
            segment_bytes: store.identity.segment_bytes,
            identity_wrong: store.identity_wrong.clone(),
            in_use: store.in_use.clone(),
            data_files: store.manifest.as_ref().map(DataLine::of),
            quarantine: quarantine(&store.at.dir),
            recovery: report.and_then(|text| serde_json::from_slice(&text).ok()),
        }
    }
}

impl DataLine {
    fn of(manifest: &ManifestView) -> Self {
        let files = manifest.catalog.as_ref().map(|catalog| catalog.files.values()).into_iter().flatten();
        Self {
            files: files.clone().count(),
            rows: files.clone().map(|file| file.rows).sum(),
            bytes: files.map(|file| file.bytes).sum(),
            manifest_files: file_lines(&manifest.log),
            manifest: EndLine::of(&manifest.log),
            wrong: manifest.catalog.as_ref().err().cloned(),
        }
    }
}

impl ShardLine {
    /// What there is to say of a shard without its batches.
    #[must_use]
    pub fn of(store: &StoreView, shard: &ShardView) -> Self {
        let examined = shard.log.examined.iter();
        Self {
            shard: shard.shard.0,
            files: file_lines(&shard.log),
            end: EndLine::of(&shard.log),
            ring: RingLine::of(store, shard),
            flushed: shard.progress.map(|at| at.seq.0),
            gaps: examined
                .flat_map(|examined| &examined.scanned.gaps)
                .filter_map(|(_, gap)| gap_in_words(gap))
                .collect(),
        }
    }
}

fn file_lines(log: &LogView) -> Vec<FileLine> {
    log.files.iter().map(|file| FileLine::of(file, log.examined.as_ref().ok())).collect()
}

impl FileLine {
    fn of(file: &FileView, examined: Option<&Examined>) -> Self {
        let header = file.copies.iter().flatten().next();
        let used = examined.and_then(|examined| {
            examined.scanned.segments.iter().find(|used| Some(used.header.segment) == file.segment)
        });
        Self {
            file: file.name.clone(),
            bytes: file.bytes,
            role: match file.role {
                Role::Log => "log",
                Role::Damaged => "damaged",
                Role::Ready => "ready",
                Role::Leftover => "leftover",
                Role::Spare => "spare",
                Role::Unfinished => "unfinished",
                Role::Other => "other",
            },
            segment: file.segment.map(|segment| segment.0),
            header: whole_copies(&file.copies),
            epoch: header.map(|header| header.epoch.0),
            generation: header.map(|header| header.generation.0),
            first_seq: used.map(|used| used.first_seq.0),
            last_seq: used.map(|used| used.last_seq.0),
            end: used.map(|used| used.end),
            pin: header.and_then(|header| header.pin).map(|pin| (pin.segment.0, pin.offset, pin.seq.0)),
            handled: header.map_or(0, |header| header.handled.len()),
        }
    }
}

fn whole_copies<T>(copies: &[Option<T>; 2]) -> String {
    copies.iter().zip(["A", "B"]).filter(|(copy, _)| copy.is_some()).map(|(_, name)| name).collect()
}

impl EndLine {
    /// Where this log ends, and why.
    #[must_use]
    pub fn of(log: &LogView) -> Self {
        let examined = match &log.examined {
            Ok(examined) => examined,
            Err(error) => return Self { verdict: "unreadable", why: error.clone(), ..Self::default() },
        };
        let scanned = &examined.scanned;
        let (verdict, why) = if let Some(last) = scanned.breaks.last().filter(|last| last.resume.is_none()) {
            ("damaged", format!("{}; nothing sound follows", last.wrong))
        } else if let Some(torn) = scanned.torn.last() {
            ("torn", format!("a write did not arrive whole: stamps up to {:#x} are of two generations", torn.upto))
        } else if scanned.sealed {
            ("sealed", "the engine was closed cleanly".to_owned())
        } else {
            ("end", stands_behind(log, examined).unwrap_or("the segment is full and no next one was begun").to_owned())
        };
        Self {
            segment: scanned.end.segment.0,
            offset: scanned.end.offset,
            batch: scanned.end.batch.0,
            seq: scanned.end.seq.0,
            batches: scanned.batches,
            verdict,
            why,
            torn: examined.report.torn.clone(),
            damage: examined.report.damage.clone(),
        }
    }
}

/// What stands behind the last batch.
fn stands_behind(log: &LogView, examined: &Examined) -> Option<&'static str> {
    let end = examined.scanned.end;
    let used = examined.scanned.segments.iter().find(|used| used.header.segment == end.segment)?;
    let mut page = AlignedBuf::new(PAGE_BYTES);
    let count = log.folder.read(&segment_name(end.segment), u64::from(end.offset), &mut page).ok()?;
    let place = Place::new(&used.header, end.offset);
    match check(page.get(..count).filter(|page| page.len() == PAGE_BYTES)?, &place, &Stamps::new(&used.header)) {
        Check::End => Some("nothing was written behind it: the next sector's stamp is older or zero"),
        Check::Torn(_) | Check::Damaged(..) | Check::Sound(_) => Some("what stands behind it was not proven durable"),
    }
}

impl RingLine {
    fn of(store: &StoreView, shard: &ShardView) -> Self {
        let header: Option<&RingHeader> = shard.ring.copies.iter().flatten().max_by_key(|header| header.epoch);
        let examined = shard.log.examined.as_ref().ok();
        let (verdict, replay) = match examined.map(|examined| &examined.ring) {
            _ if store.in_use.is_some() => ("in use", 0),
            None | Some(RingVerdict::Ignored) => ("ignored", 0),
            Some(RingVerdict::Replay { entries, damage: Some(_), .. }) => ("damaged", entries.len()),
            Some(RingVerdict::Replay { entries, cut: Some(_), .. }) => ("cut", entries.len()),
            Some(RingVerdict::Replay { entries, .. }) => ("replay", entries.len()),
            Some(RingVerdict::Quarantine(_)) => ("quarantine", 0),
            Some(RingVerdict::Damaged(_)) => ("damaged", 0),
        };
        let why = examined.and_then(|examined| examined.report.ring.clone());
        Self {
            file: shard.ring.path.display().to_string(),
            bytes: shard.ring.bytes,
            header: whole_copies(&shard.ring.copies),
            epoch: header.map(|header| header.epoch.0),
            this_boot: header.map(|header| store.is_of_this_boot(header)),
            slots: header.map(|header| header.slots),
            verdict,
            replay,
            why: why.filter(|_| store.in_use.is_none()),
        }
    }
}

impl ShardView {
    /// Shows the batches of the log in order, of one segment or of all, each with its entries if asked.
    ///
    /// # Errors
    /// What `take` says, or where a segment cannot be read.
    pub fn each_batch<E: From<OpenError>>(
        &self,
        only: Option<SegmentNo>,
        mut take: impl FnMut(BatchLine, &LogBatch<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Ok(examined) = &self.log.examined else { return Ok(()) };
        examined.each_batch(&self.log.folder, |batch| {
            if only.is_some_and(|only| only != batch.segment.segment) {
                return Ok(());
            }
            take(BatchLine::of(batch), batch)
        })
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> ShardId {
        self.shard
    }
}

impl BatchLine {
    fn of(batch: &LogBatch<'_>) -> Self {
        Self {
            segment: batch.segment.segment.0,
            offset: batch.offset,
            batch: batch.header.number.0,
            first_seq: batch.header.first_seq.0,
            count: batch.header.numbered,
            bytes: batch.header.length,
            durable_upto: batch.header.durable_upto.0,
            streams: batch.header.streams,
            flags: if batch.header.seal { "seal" } else { "" },
            behind_damage: batch.behind_damage,
            lost: batch.in_part.iter().flat_map(|of| &of.lost).map(|run| (run.first.0, run.last.0)).collect(),
        }
    }
}

impl EntryLine {
    /// The entries of a batch.
    #[must_use]
    pub fn of(batch: &LogBatch<'_>) -> Vec<Self> {
        let mut seq = batch.header.first_seq;
        let mut lines = Vec::new();
        each_entry(batch.bytes, &batch.header, &mut Vec::new(), |head, payload| {
            let Some(entry) = decode_entry(head) else { return };
            let (kind, numbered) = match entry.kind {
                EntryKind::Own => ("own", true),
                EntryKind::Carried => ("carried", true),
                EntryKind::Void => ("void", true),
                EntryKind::Control => ("control", false),
                EntryKind::Adopted => ("adopted", true),
            };
            let adopted = entry.adopted();
            let control = (!numbered).then(|| match Control::decode(payload) {
                Some(Control::IntakeDone(epoch)) => format!("intake done up to epoch {epoch}"),
                Some(Control::Gap { stream, from, to }) => {
                    let to = if to.0 == u64::MAX { String::new() } else { to.prev().to_string() };
                    format!("gap in the stream of epoch {}: seq {}..{to}", stream.epoch, from.next())
                }
                Some(Control::EpochClosed(epoch)) => format!("epoch {epoch} closed"),
                None => vector::decode(payload).map_or_else(
                    || "unknown".to_owned(),
                    |(ends, gaps)| format!("vector of {} streams, {} gaps", ends.len(), gaps.len()),
                ),
            });
            let control = control.or(adopted.map(|adopted| {
                let why = match adopted.absent {
                    Absent::Lost => "are lost at their source",
                    Absent::InDataFiles => "are in data files only",
                };
                format!(
                    "blocks up to seq {} that were not here {why}; chain {:016x}",
                    adopted.last.seq, adopted.chain.0
                )
            }));
            let identity = entry.identity.map(|identity| {
                let stream = identity.stream;
                (stream.origin.to_string(), stream.shard.0, stream.epoch.0, identity.seq.0)
            });
            lines.push(Self {
                seq: numbered.then_some(seq.0),
                kind,
                block: if entry.block_kind == BlockKind::Raw { "raw" } else { "lines" },
                namespace: entry.namespace.to_owned(),
                table: entry.table.to_owned(),
                rows: if adopted.is_some() { 0 } else { entry.rows },
                length: entry.length,
                received_at_ns: if adopted.is_some() { 0 } else { entry.received_at_ns },
                identity,
                control,
                damaged: entry.payload_crc != crc32fast::hash(payload),
            });
            if numbered {
                seq = seq.next();
            }
        });
        lines
    }
}
