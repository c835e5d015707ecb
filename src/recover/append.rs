//! [`Appender`]: appends to a log, blocking. For recovery and for the manifest of data files; a shard
//! has its core instead.

use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::io::maker::Maker;
use crate::recover::examined::OpenError;
use crate::types::{BatchNo, SegmentNo, Stream};
use crate::wal::batch::{BatchBuilder, Begin, Push};
use crate::wal::log::{Log, LogBounds, UsedSegment};
use crate::wal::segment::{SegmentHeader, segment_name};

/// Where a log's files are, and who makes them.
pub struct Ground<'a> {
    /// The folder.
    pub folder: &'a dyn Folder,
    /// The maker of its segments.
    pub maker: &'a mut Maker,
}

impl Ground<'_> {
    /// Makes the segment with this header ready.
    ///
    /// # Errors
    /// [`OpenError::Io`]; at any crash the same can be done again.
    pub fn prepare(&mut self, header: SegmentHeader) -> Result<SegmentHeader, OpenError> {
        let name = segment_name(header.segment);
        self.maker.prepare_again(self.folder, header).map_err(OpenError::io(format!("preparing {name}")))
    }
}

/// Appends to a log. After an error of a write or a sync it must not be used again.
#[derive(Debug)]
pub struct Appender {
    log: Log,
    own: Stream,
    bounds: LogBounds,
    soft_bytes: usize,
    open: Option<BatchBuilder>,
    /// The last batch that is known to be synced.
    durable_upto: BatchNo,
}

impl Appender {
    /// Goes on with a log, all of which is synced; `own` is the stream of its own entries. Batches of
    /// several entries are at most `soft_bytes` long.
    #[must_use]
    pub fn new(log: Log, own: Stream, bounds: LogBounds, soft_bytes: usize) -> Self {
        let durable_upto = log.number;
        Self { log, own, bounds, soft_bytes, open: None, durable_upto }
    }

    /// The stream of its own entries.
    #[must_use]
    pub const fn own(&self) -> Stream {
        self.own
    }

    /// The log; whatever is not synced is lost.
    #[must_use]
    pub fn into_log(self) -> Log {
        self.log
    }

    /// The segment that is being written.
    #[must_use]
    pub fn segment(&self) -> SegmentNo {
        self.log.current.header.segment
    }

    /// Segments behind it.
    #[must_use]
    pub fn segments_behind(&self) -> usize {
        self.log.used.len()
    }

    /// Adds an entry: its encoded header and its payload.
    ///
    /// # Errors
    /// [`OpenError::Io`]. Where no segment could be made for want of space, it may be tried again.
    ///
    /// # Panics
    /// Where the entry does not fit an empty segment.
    pub fn push(&mut self, at: &mut Ground<'_>, header: &[u8], payload: &[u8]) -> Result<(), OpenError> {
        let mut bytes_needed = 0;
        loop {
            let mut batch = match self.open.take() {
                Some(batch) => batch,
                None => self.begin(at, bytes_needed)?,
            };
            match batch.push(header, payload) {
                Push::Taken => {
                    self.open = Some(batch);
                    return Ok(());
                }
                Push::BatchFull => self.write(at, batch)?,
                Push::NeedsBytes(bytes) => {
                    assert!(bytes_needed < bytes, "a block fits an empty segment");
                    bytes_needed = bytes;
                    self.log.ends = batch.abandon().1;
                }
            }
        }
    }

    /// Writes and syncs everything that was added.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn sync(&mut self, at: &mut Ground<'_>) -> Result<(), OpenError> {
        if let Some(batch) = self.open.take() {
            self.write(at, batch)?;
        }
        let name = segment_name(self.segment());
        #[cfg(feature = "sim")]
        if self.log.current.header.pin.is_some()
            && crate::planted::is_planted(crate::planted::Mutant::AcceptsBeforeHeader)
        {
            return Ok(());
        }
        at.folder.sync(&name).map_err(OpenError::io(format!("syncing {name}")))?;
        self.durable_upto = self.log.number;
        Ok(())
    }

    /// Room in the segment that is being written, in bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.log.room()
    }

    /// Makes so many segments ready.
    ///
    /// # Errors
    /// [`OpenError::Io`]; where there is no space it may be tried again.
    pub fn make_ready(&mut self, at: &mut Ground<'_>, segments: u64) -> Result<(), OpenError> {
        while (self.log.ready.len() as u64) < segments {
            self.prepare_next(at)?;
        }
        Ok(())
    }

    /// Makes the reserve, as far as the disk has room, and below the log's bound a segment more: with that
    /// the ring takes blocks. At the bound it must not, or each start of a crash loop would let the log grow.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn make_reserve(&mut self, at: &mut Ground<'_>) -> Result<(), OpenError> {
        let LogBounds { segments_max, reserve } = self.bounds;
        let below = self.log.used.len() as u64 + 1 + reserve < segments_max;
        match self.make_ready(at, reserve + u64::from(below)) {
            Err(error) if error.is_no_space() => Ok(()),
            other => other,
        }
    }

    /// Gives back every segment before this one, oldest first.
    ///
    /// # Errors
    /// [`OpenError::Io`]: the log itself is as good as before.
    pub fn retire_before(&mut self, at: &mut Ground<'_>, segment: SegmentNo) -> Result<(), OpenError> {
        while self.log.used.front().is_some_and(|oldest| oldest.header.segment < segment) {
            let Some(UsedSegment { header, end, .. }) = self.log.used.pop_front() else { break };
            let name = segment_name(header.segment);
            at.maker.retire(at.folder, header.segment, end).map_err(OpenError::io(format!("retiring {name}")))?;
        }
        Ok(())
    }

    fn begin(&mut self, at: &mut Ground<'_>, bytes_needed: usize) -> Result<BatchBuilder, OpenError> {
        if self.log.is_full() || self.log.room() < bytes_needed {
            self.sync(at)?;
            if self.log.ready.is_empty() {
                self.prepare_next(at)?;
            }
            let rotated = self.log.rotate();
            assert!(rotated, "a segment was just prepared");
        }
        let begin = Begin {
            vector: self.log.vector(),
            place: self.log.place(),
            own: self.own,
            first_seq: self.log.last_seq().next(),
            soft_bytes: self.soft_bytes,
            hard_bytes: self.log.room(),
            ends: std::mem::take(&mut self.log.ends),
        };
        let capacity = self.soft_bytes.max(bytes_needed).max(begin.bytes_least());
        Ok(BatchBuilder::new(begin, AlignedBuf::new(capacity)))
    }

    fn write(&mut self, at: &mut Ground<'_>, batch: BatchBuilder) -> Result<(), OpenError> {
        let place = self.log.place();
        let (image, header, after) = batch.finish(self.log.link(self.durable_upto, false));
        self.log.appended(&header, after);
        let name = segment_name(place.segment);
        at.folder
            .write(&name, u64::from(place.offset), &image)
            .map_err(OpenError::io(format!("writing {name} at {:#x}", place.offset)))
    }

    fn prepare_next(&mut self, at: &mut Ground<'_>) -> Result<(), OpenError> {
        let current = &self.log.current.header;
        let last = self.log.ready.back().unwrap_or(current);
        let header =
            SegmentHeader { segment: SegmentNo(last.segment.0 + 1), pin: None, handled: Vec::new(), ..current.clone() };
        let header = at.prepare(header)?;
        self.log.ready.push_back(header);
        Ok(())
    }
}
