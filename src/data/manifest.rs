//! [`Manifest`]: the log of what the data files are, in the WAL's batch format and under its verdicts.
//!
//! Promises: a transaction that [`Manifest::append`] returned from survives everything that a synced
//! block survives; one that was cut short counts as never begun; damage to what was appended is
//! refused, or salvaged and reported, as a shard's is. Its length stays in proportion to its state, which it writes anew as it grows.

use std::sync::Arc;

use crate::config::OnDamage;
use crate::data::catalog::{Catalog, Found, Reading, parts};
use crate::data::format::Record;
use crate::io::disk::Folder;
use crate::io::maker::Maker;
use crate::limits::{PAGE_BYTES, SECTOR_BYTES, SECTOR_STREAM_BYTES, SEGMENT_HEADER_BYTES};
use crate::recover::{
    Appender, Examined, Ground, Intake, OpenError, Opened, Quarantine, ShardReport, ShardSetup, carry_out, examine,
    put_aside,
};
use crate::types::{BlockKind, Epoch, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream};
use crate::wal::entry::{Entry, EntryKind, decode_entry};
use crate::wal::log::LogBounds;
use crate::wal::read::each_entry;

/// What stands where a shard's number would.
pub const MANIFEST_SHARD: ShardId = ShardId(crate::limits::MANIFEST_SHARD);
/// A segment of the manifest, in bytes.
pub const SEGMENT_BYTES: u64 = 4 << 20;
/// Beyond this many bytes no record joins a batch of others.
const BATCH_BYTES: usize = 512 << 10;
/// A record's text is at most so long, but for a row that is longer by itself.
const RECORD_BYTES: usize = 128 << 10;
/// What a batch needs beside one record's text at most, in bytes.
const BATCH_EXTRA_BYTES: usize = 1_024;
/// The state is written anew after so many segments, and after twice as many as it fills itself.
const SEGMENTS_BEFORE_ANEW: usize = 4;
/// Segments that no transaction takes, so that the manifest opens on a full disk: an opening takes one,
/// and behind one that salvaged, whose segment names the damage, the next takes another.
const RESERVE: u64 = 2;

/// Why the manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be opened, or a system call failed.
    #[error("the manifest of the data files: {0}")]
    Log(#[from] OpenError),
    /// Its records say nothing whole.
    #[error(
        "the manifest of the data files: {0}; restore it from a backup, or move data/ away and begin with an empty one"
    )]
    Records(String),
    /// A row of a transaction is longer than a segment. Nothing has changed.
    #[error("the manifest of the data files: a row of {0} bytes does not fit its segments; shorten the column's key")]
    LongRow(usize),
    /// It failed before: what the disk holds of its end is not known any more.
    #[error("the manifest of the data files failed: {0}. The log keeps every block; restart to recover")]
    Failed(String),
}

/// What an opening of the manifest needs to know.
#[derive(Clone, Copy, Debug)]
pub struct ManifestSetup {
    /// The store.
    pub store: StoreId,
    /// The boot that is running now.
    pub boot: [u8; 16],
    /// What to do about damage.
    pub on_damage: OnDamage,
    /// Drawn for this opening.
    pub nonce: Nonce,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

/// The manifest, open for appending.
pub struct Manifest {
    folder: Arc<dyn Folder>,
    maker: Maker,
    log: Appender,
    catalog: Catalog,
    /// Segments that the state filled when it was written anew.
    anew_segments: usize,
    segment_bytes: u64,
    /// An empty segment has room for a record of so many bytes.
    entry_bytes_max: usize,
    /// Counts transactions, beginning anywhere.
    transactions: u64,
    failed: Option<String>,
}

impl Manifest {
    /// Recovers it, or makes it, and writes its state anew. `draw` gives the file ids of its segments,
    /// `quarantine` the place for what an opening under this epoch puts aside.
    ///
    /// # Errors
    /// [`ManifestError`]; [`OpenError::Locked`] in it where a killed process still writes: try again.
    pub fn open(
        folder: Arc<dyn Folder>,
        setup: &ManifestSetup,
        quarantine: &mut dyn FnMut(Epoch) -> Box<dyn Quarantine>,
        draw: Box<dyn FnMut() -> u64 + Send>,
    ) -> Result<(Self, ShardReport), ManifestError> {
        let mut examined = examine(&*folder, &shard_setup(setup), None, &mut |_| {})?;
        let Found { catalog, from, upto } = found_in(&examined, &*folder)?;
        examined.needs_only(from, upto);
        let epoch = Epoch(examined.epoch_max.0 + 1);
        put_aside(&examined, &*folder, &mut *quarantine(epoch), None)?;
        let own = Stream { origin: setup.store, shard: MANIFEST_SHARD, epoch, nonce: setup.nonce };
        let mut maker = Maker::new(setup.store, MANIFEST_SHARD, setup.segment_bytes, 4, draw);
        let Opened { log, report, .. } = carry_out(examined, &*folder, &mut maker, own, None)?;
        let log = Appender::new(log, own, BOUNDS, BATCH_BYTES.min(setup.segment_bytes as usize / 4));
        let (segment_bytes, entry_bytes_max) = (setup.segment_bytes, entry_bytes_max(setup.segment_bytes));
        let (anew_segments, transactions, failed) = (0, setup.nonce.0, None);
        let mut this =
            Self { folder, maker, log, catalog, anew_segments, segment_bytes, entry_bytes_max, transactions, failed };
        if let Some(from) = from {
            // What was kept till now, as the log had just been damaged.
            this.carry(|log, at| log.retire_before(at, from))?;
        }
        // Cut short, this is done again from the opening's pin; behind a salvage in another segment.
        this.write_anew_if_there_is_room(if report.damage.is_empty() { 0 } else { 1 })?;
        Ok((this, report))
    }

    /// Reads the state without changing anything, while somebody else may be appending.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn read(folder: &dyn Folder, setup: &ManifestSetup) -> Result<Catalog, ManifestError> {
        let examined = examine(folder, &shard_setup(setup), None, &mut |_| {})?;
        found_in(&examined, folder).map(|found| found.catalog)
    }

    /// That it may be used.
    ///
    /// # Errors
    /// [`ManifestError::Failed`]: then what the disk holds may be ahead of [`catalog`](Self::catalog).
    pub fn check(&self) -> Result<(), ManifestError> {
        self.failed.as_ref().map_or(Ok(()), |failed| Err(ManifestError::Failed(failed.clone())))
    }

    /// The state after the last transaction.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The files that were to be removed are gone, durably.
    pub fn forget_doomed(&mut self) {
        self.catalog.doomed.clear();
    }

    /// Appends a transaction; it is synced on return.
    ///
    /// # Errors
    /// [`ManifestError`]. Where the disk had no room nothing has changed and it may be tried again;
    /// any other error is final.
    pub fn append(&mut self, transaction: Record) -> Result<(), ManifestError> {
        let transaction = Record { transaction: self.next_transaction(), ..transaction };
        let parts = parts(transaction, self.record_bytes());
        self.write(&parts, RESERVE)?;
        self.catalog.apply(&parts);
        if self.log.segments_behind() >= SEGMENTS_BEFORE_ANEW.max(2 * self.anew_segments) {
            self.write_anew_if_there_is_room(RESERVE)?;
        }
        Ok(())
    }

    fn next_transaction(&mut self) -> u64 {
        self.transactions = self.transactions.wrapping_add(1);
        self.transactions
    }

    /// The log says the same without: on a full disk it grows a little longer.
    fn write_anew_if_there_is_room(&mut self, leave: u64) -> Result<(), ManifestError> {
        match self.write_anew(leave) {
            Err(ManifestError::Log(error)) if error.is_no_space() && self.failed.is_none() => Ok(()),
            other => other,
        }
    }

    /// Writes the whole state, and gives back the segments before it.
    fn write_anew(&mut self, leave: u64) -> Result<(), ManifestError> {
        let first = self.log.segment();
        let transaction = self.next_transaction();
        self.write(&self.catalog.anew(transaction, self.record_bytes()), leave)?;
        self.anew_segments = (self.log.segment().0 - first.0) as usize + 1;
        self.carry(|log, at| log.retire_before(at, first))?;
        self.carry(Appender::make_reserve)
    }

    /// Room in an empty segment, in bytes.
    const fn segment_room(&self) -> usize {
        self.segment_bytes as usize - SEGMENT_HEADER_BYTES
    }

    fn record_bytes(&self) -> usize {
        RECORD_BYTES.min(self.entry_bytes_max)
    }

    /// Writes records and syncs them, where that leaves so many segments.
    fn write(&mut self, records: &[Record], leave: u64) -> Result<(), ManifestError> {
        let texts: Vec<Vec<u8>> =
            records.iter().map(|record| serde_json::to_vec(record).expect("plain fields")).collect();
        if let Some(long) = texts.iter().map(Vec::len).find(|bytes| *bytes > self.entry_bytes_max) {
            return Err(ManifestError::LongRow(long));
        }
        // All the room that it may need, first: so it is not cut short for want of it.
        let mut segments = 0;
        let mut room = self.log.room();
        for text in &texts {
            let bytes = (text.len() + BATCH_EXTRA_BYTES).div_ceil(SECTOR_STREAM_BYTES) * SECTOR_BYTES;
            let bytes = bytes.next_multiple_of(PAGE_BYTES);
            if bytes > room {
                segments += 1;
                room = self.segment_room();
            }
            room = room.saturating_sub(bytes);
        }
        self.carry_if_there_is_room(|log, at| log.make_ready(at, segments + leave))?;
        self.carry(|log, at| {
            for text in &texts {
                log.push(at, entry(text).encode().bytes(), text)?;
            }
            log.sync(at)
        })
    }

    /// Does something to the log. An error is the last thing that is done.
    fn carry(
        &mut self,
        action: impl FnOnce(&mut Appender, &mut Ground<'_>) -> Result<(), OpenError>,
    ) -> Result<(), ManifestError> {
        self.check()?;
        let mut at = Ground { folder: &*self.folder, maker: &mut self.maker };
        action(&mut self.log, &mut at).map_err(|error| {
            self.failed = Some(error.to_string());
            error.into()
        })
    }

    /// The same for what changes nothing of the log: a full disk is not the last thing.
    fn carry_if_there_is_room(
        &mut self,
        action: impl FnOnce(&mut Appender, &mut Ground<'_>) -> Result<(), OpenError>,
    ) -> Result<(), ManifestError> {
        let mut full = None;
        self.carry(|log, at| match action(log, at) {
            Err(error) if error.is_no_space() => {
                full = Some(error);
                Ok(())
            }
            other => other,
        })?;
        full.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// One more than these is kept ready, so that files can be removed on a full disk.
const BOUNDS: LogBounds = LogBounds { segments_max: u64::MAX, reserve: RESERVE };

/// The longest record's text that an empty segment has room for, in bytes.
const fn entry_bytes_max(segment_bytes: u64) -> usize {
    let sectors = (segment_bytes as usize - SEGMENT_HEADER_BYTES) / SECTOR_BYTES;
    sectors * SECTOR_STREAM_BYTES - BATCH_EXTRA_BYTES
}

/// The same for the examination of its log.
#[must_use]
pub fn shard_setup(setup: &ManifestSetup) -> ShardSetup {
    ShardSetup {
        store: setup.store,
        shard: MANIFEST_SHARD,
        boot: setup.boot,
        segment_bytes: setup.segment_bytes,
        bounds: BOUNDS,
        batch_bytes_max: BATCH_BYTES.min(setup.segment_bytes as usize / 4),
        on_damage: setup.on_damage,
        flushed: Seq(0),
        intake: Intake::Direct,
    }
}

fn entry(text: &[u8]) -> Entry<'static> {
    Entry {
        kind: EntryKind::Own,
        block_kind: BlockKind::Raw,
        namespace: "",
        table: "manifest",
        length: text.len() as u32,
        received_at_ns: 0,
        rows: 1,
        payload_crc: crc32fast::hash(text),
        identity: None,
    }
}

/// What the records of an examined manifest say.
///
/// # Errors
/// [`ManifestError::Records`], or where they cannot be read.
pub fn found_in(examined: &Examined, folder: &dyn Folder) -> Result<Found, ManifestError> {
    let mut reading = Reading::default();
    let mut wrong = None;
    examined.each_batch(folder, |batch| {
        if batch.behind_damage {
            reading.hole();
        }
        each_entry(batch.bytes, &batch.header, &mut Vec::new(), |head, payload| {
            let Some(record) = decode_entry(head).filter(|entry| entry.kind == EntryKind::Own) else { return };
            if crc32fast::hash(payload) != record.payload_crc {
                reading.hole();
            } else if wrong.is_none() {
                wrong = reading.take(batch.segment.segment, payload).err();
            }
        });
        Ok::<(), OpenError>(())
    })?;
    match (wrong, reading.finish()) {
        (Some(wrong), _) => Err(ManifestError::Records(wrong)),
        (None, None) => Err(ManifestError::Records("its beginning is missing".to_owned())),
        (None, Some(found)) => Ok(found),
    }
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manifest({} files, segment {:?})", self.catalog.files.len(), SegmentNo(self.log.segment().0))
    }
}
