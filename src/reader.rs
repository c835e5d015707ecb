//! Reading a shard's log while it is being written: batch by batch up to a mark.
//!
//! Only bytes at or below the mark are read, so every batch is whole; a checksum that does not hold
//! is damage that appeared since. Used by subscriptions, the flusher, links and comparisons.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::data::store::Delivered;
use crate::error::Error;
use crate::io::buf::AlignedBuf;
use crate::io::disk::{Folder, read_around};
use crate::io::read_ahead::ReadAhead;
use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::logged::{AtHand, Logged, LoggedBlock, Missing, missing_before, put_missing};
use crate::shard::shared::{ReadableSegment, Shared};
use crate::shard::tail::{TailReader, are_of};
use crate::shard::waiters::{Mark, Parked, Waited};
use crate::types::{Opening, Position, SegmentNo, Seq, ShardId, Stream};
use crate::wal::batch::{BatchHeader, Place, StreamEnd, StreamEnds, StreamRow, decode_header};
use crate::wal::entry::{Control, EncodedEntry, EntryKind, decode_entry};
use crate::wal::read::{Pieces, copied, each_control, each_entry, for_each_entry, stream_rows};
use crate::wal::segment::{SegmentHeader, segment_name};
use crate::wal::vector;
use crate::wal::verdict::{Check, InPart, Stamps, check, partly};

/// Bytes that are read at once, at least one batch, where there is more to read than that.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Bytes that are read at once at the log's end, at least: what lies behind it is for nothing.
const AT_END_BYTES: usize = 4 * PAGE_BYTES;

/// A reader of one shard's log.
pub struct LogReader {
    shard: ShardId,
    folder: Arc<dyn Folder>,
    shared: Arc<Shared>,
    synced_only: bool,
    at: Option<Place>,
    segment: Option<(ReadableSegment, Stamps)>,
    buf: AlignedBuf,
    /// What the buffer holds: the offset in the segment of its first byte, and how many.
    held: (u32, usize),
    /// Bytes that are read at once, at least one batch.
    ahead: usize,
    last_batch: usize,
    ready: VecDeque<Logged>,
    at_hand: Option<AtHand>,
    /// Where each stream stands behind what was read, for who asks what is missing of them.
    follows: Option<StreamEnds>,
    /// What the segment that was begun at names as lost.
    named: Vec<Control>,
    /// The log's newest batches, of who reads for a follower, whose own blocks are passed over.
    tail: Option<TailReader>,
    may_read_ahead: bool,
    /// While it is not close behind the log's end.
    reads: Option<ReadAhead>,
    /// What is held was read before it was known to be at or below the mark.
    was_ahead: bool,
    position: Position,
    next_seq: Seq,
}

impl LogReader {
    /// A reader that delivers what stands behind `from`.
    ///
    /// # Errors
    /// [`Error::Behind`] where the log begins later; [`Error::Rewound`] where it ended earlier.
    pub fn new(
        shard: ShardId,
        folder: Arc<dyn Folder>,
        shared: Arc<Shared>,
        synced_only: bool,
        from: Position,
    ) -> Result<Self, Error> {
        let mut this = Self::nowhere(shard, folder, shared, synced_only, from);
        let first = this.locate(from)?;
        this.enter(first);
        Ok(this)
    }

    /// A reader from the last segment on before which everything is `covered`: that is asked of where the streams
    /// stood at its beginning. It says what is missing of them from there on.
    ///
    /// # Errors
    /// [`Error::Behind`] where no segment is; what `covered` says.
    pub fn from_segment<E: From<Error>>(
        shard: ShardId,
        folder: Arc<dyn Folder>,
        shared: Arc<Shared>,
        synced_only: bool,
        covered: &mut dyn FnMut(&StreamEnds) -> Result<bool, E>,
    ) -> Result<Self, E> {
        let mut this = Self::nowhere(shard, folder, shared, synced_only, Position::default());
        // One that begins behind the mark says more than may be read.
        let mark = this.mark().at();
        let may_begin = |segment: &&ReadableSegment| segment.first_seq.prev() <= mark;
        let segments: Vec<_> = this.shared.segments().segments.iter().rev().filter(may_begin).cloned().collect();
        for segment in segments {
            let first_seq = segment.first_seq;
            this.enter(segment);
            if let Some((ends, named)) = this.says()?
                && covered(&ends)?
            {
                this.named = named;
                this.next_seq = first_seq;
                this.position = Position { seq: first_seq.prev(), ..this.position };
                this.follows = Some(ends);
                return Ok(this);
            }
        }
        Err(this.behind().into())
    }

    /// Where the streams stood at the beginning of a shard's log; `None` where that is not there, or damaged.
    ///
    /// # Errors
    /// Those of the folder.
    pub fn beginning(
        shard: ShardId,
        folder: Arc<dyn Folder>,
        shared: Arc<Shared>,
    ) -> Result<Option<StreamEnds>, Error> {
        let mut this = Self::nowhere(shard, folder, shared, false, Position::default());
        let first = this.shared.segments().segments.front().cloned();
        let Some(first) = first else { return Ok(None) };
        this.enter(first);
        Ok(this.says()?.map(|(ends, _)| ends))
    }

    fn nowhere(
        shard: ShardId,
        folder: Arc<dyn Folder>,
        shared: Arc<Shared>,
        synced_only: bool,
        position: Position,
    ) -> Self {
        Self {
            shard,
            folder,
            shared,
            synced_only,
            at: None,
            segment: None,
            // As large as a segment needs it, once one is read.
            buf: AlignedBuf::new(PAGE_BYTES),
            held: (0, 0),
            ahead: READ_AHEAD_BYTES,
            last_batch: 0,
            ready: VecDeque::new(),
            at_hand: None,
            follows: None,
            named: Vec::new(),
            tail: None,
            may_read_ahead: false,
            reads: None,
            was_ahead: false,
            position,
            next_seq: position.seq.next(),
        }
    }

    /// Where the streams stood at the beginning of the segment that was entered, and what was lost of them, as its
    /// first batch says; `None` where that is not there, or damaged.
    fn says(&mut self) -> Result<Option<(StreamEnds, Vec<Control>)>, Error> {
        let place = self.at.expect("a place");
        let (segment, _) = self.segment.as_ref().expect("a segment");
        let header = segment.header.clone();
        if !self.hold(&header, place.offset, PAGE_BYTES)? {
            return Ok(None);
        }
        let Some(batch) = decode_header(self.bytes(place.offset), &place) else { return Ok(None) };
        if !self.hold(&header, place.offset, batch.length as usize)? {
            return Ok(None);
        }
        let (_, stamps) = self.segment.as_ref().expect("a segment");
        let image = self.bytes(place.offset);
        if !matches!(check(image, &place, stamps), Check::Sound(_)) {
            return Ok(None);
        }
        let mut said = (StreamEnds::new(), Vec::new());
        each_entry(image, &batch, &mut Vec::new(), |head, payload| {
            let is_control = decode_entry(head).is_some_and(|entry| entry.kind == EntryKind::Control);
            if let Some(vector) = is_control.then(|| vector::decode(payload)).flatten() {
                said = vector;
            }
        });
        Ok(Some(said))
    }

    /// The segment in which the block behind `from` stands or will stand.
    fn locate(&mut self, from: Position) -> Result<ReadableSegment, Error> {
        let table = self.shared.segments();
        let oldest = table.segments.front().expect("a log has a segment").clone();
        if from.seq == Seq(0) {
            self.next_seq = oldest.first_seq;
            return Ok(oldest);
        }
        // The last seq that was ever given under the cursor's epoch bounds what it can have read.
        let of_epoch = |found: &&ReadableSegment| found.header.epoch == from.epoch && found.header.nonce == from.nonce;
        let behind = table.segments.iter().rev().take_while(|found| !of_epoch(found)).last();
        if let Some(next) = behind
            && table.segments.iter().any(|found| of_epoch(&found))
            && from.seq >= next.first_seq
        {
            let to = Position { seq: next.first_seq.prev(), ..from };
            return Err(Error::Rewound { shard: self.shard, to });
        }
        if from.seq.next() < oldest.first_seq {
            return Err(Error::Behind { shard: self.shard, first: oldest.first_seq });
        }
        let found = table.segments.iter().rev().find(|found| found.first_seq <= from.seq.next());
        Ok(found.unwrap_or(&oldest).clone())
    }

    fn enter(&mut self, segment: ReadableSegment) {
        self.at = Some(Place::new(&segment.header, SEGMENT_HEADER_BYTES as u32));
        self.held = (0, 0);
        let stamps = Stamps::new(&segment.header);
        self.segment = Some((segment, stamps));
    }

    /// Reads for this follower, as close behind the log's end as it keeps up: from memory where that is there still, and
    /// past the batches that have nothing but what it accepts itself.
    #[must_use]
    pub fn following(mut self, follower: Opening) -> Self {
        self.tail = Some(self.shared.tail.reader(follower));
        self
    }

    /// Reads ahead on a thread of its own where there is much to read, so that its caller waits less for the disk.
    #[must_use]
    pub fn reading_ahead(mut self) -> Self {
        self.may_read_ahead = true;
        self
    }

    /// The place behind the last block that was delivered.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The seq of the first block that was not read yet.
    #[must_use]
    pub const fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Where each stream stands behind what was read, of a reader that says what is missing of them.
    #[must_use]
    pub const fn follows(&self) -> Option<&StreamEnds> {
        self.follows.as_ref()
    }

    /// What the segment that it began at names as lost.
    #[must_use]
    pub fn named(&self) -> &[Control] {
        &self.named
    }

    /// The batch at hand is used up.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ready.is_empty()
    }

    /// Nothing more will ever come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.is_stopped() && self.next_seq > self.mark().at()
    }

    fn mark(&self) -> &Mark {
        if self.synced_only { &self.shared.synced } else { &self.shared.written }
    }

    /// Ready as soon as there may be more, or never will be.
    pub fn poll(&self, parked: &mut Parked, context: &mut Context<'_>) -> Poll<Waited> {
        if self.ready.is_empty() {
            self.mark().poll(self.next_seq, parked, context)
        } else {
            Poll::Ready(Waited::Reached)
        }
    }

    /// Forgets who waited and gave up.
    pub fn unpark(&self, parked: &mut Parked) {
        self.mark().unpark(parked);
    }

    /// Waits until there may be more, or the time is over.
    pub fn wait(&self, most: Duration) {
        self.mark().wait(self.next_seq, Some(Instant::now() + most));
    }

    /// The next block, if it is there already.
    ///
    /// # Errors
    /// [`Error::Behind`] where the log was trimmed under the reader, [`Error::Io`].
    pub fn next_ready(&mut self) -> Result<Option<Delivered>, Error> {
        self.next_upto(Seq(u64::MAX))
    }

    /// The next block, if it is there already and its seq is at most `upto`.
    ///
    /// # Errors
    /// As [`next_ready`](Self::next_ready).
    pub fn next_upto(&mut self, upto: Seq) -> Result<Option<Delivered>, Error> {
        loop {
            match self.next_logged(upto)? {
                Some(Logged::Block(block)) => return Ok(Some(self.delivered(&block))),
                Some(Logged::Missing(_) | Logged::Passed { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    /// The same, with what its stream's chain is made of, or what is missing before it.
    ///
    /// # Errors
    /// As [`next_ready`](Self::next_ready).
    pub fn next_logged(&mut self, upto: Seq) -> Result<Option<Logged>, Error> {
        loop {
            let at = self.ready.front().map(|logged| match logged {
                Logged::Block(block) => block.local,
                Logged::Missing(missing) => missing.local,
                Logged::Passed { local, .. } => *local,
            });
            if at > Some(upto) {
                return Ok(None);
            }
            if let Some(logged) = self.ready.pop_front() {
                if let Logged::Block(block) = &logged {
                    self.position = self.place_of(block.local);
                }
                return Ok(Some(logged));
            }
            if self.next_seq > self.mark().at() {
                // The next batch may well be like the last one.
                self.ahead = self.last_batch.clamp(AT_END_BYTES, READ_AHEAD_BYTES);
                return Ok(None);
            }
            self.read_batch()?;
        }
    }

    fn place_of(&self, seq: Seq) -> Position {
        let (segment, _) = self.segment.as_ref().expect("a segment");
        Position { epoch: segment.header.epoch, nonce: segment.header.nonce, seq }
    }

    /// A block that was read, before anything else is.
    ///
    /// # Panics
    /// Where it is of another batch.
    pub fn delivered(&mut self, block: &LoggedBlock) -> Delivered {
        let position = self.place_of(block.local);
        let at_hand = self.at_hand.as_mut().expect("a batch");
        at_hand.delivered(block, (&self.buf, self.held.0), (self.shard, position))
    }

    /// The header that a block had where it was accepted; as with [`delivered`](Self::delivered).
    ///
    /// # Panics
    /// Where it is of another batch.
    #[must_use]
    pub fn header(&self, block: &LoggedBlock) -> EncodedEntry {
        block.header(self.image())
    }

    /// A block's payload; as with [`delivered`](Self::delivered).
    ///
    /// # Panics
    /// Where it is of another batch.
    #[must_use]
    pub fn payload(&self, block: &LoggedBlock) -> Pieces<'_> {
        block.payload(self.image())
    }

    fn image(&self) -> &[u8] {
        self.at_hand.as_ref().expect("a batch").image((&self.buf, self.held.0))
    }

    /// Takes in the next batch, or goes on to the next segment.
    fn read_batch(&mut self) -> Result<(), Error> {
        let place = self.at.expect("a place");
        let (segment, _) = self.segment.as_ref().expect("a segment");
        let table = self.shared.segments();
        let ended = table.segments.iter().find(|found| found.header.segment == place.segment).map(|found| found.end);
        let in_part = table.partly.get(&(place.segment, place.offset)).cloned();
        drop(table);
        let Some(end) = ended else { return self.go_on_behind_trimmed(place.segment) };
        let header = segment.header.clone();
        if end.is_some_and(|end| place.offset >= end) {
            return self.next_segment(place.segment);
        }
        if let Some(tail) = &self.tail
            && let Some(kept) = tail.batch(&place)
        {
            if kept.is_of(&place, tail.follower()) {
                self.pass(&kept.batch, &kept.rows);
                return Ok(());
            }
            if let Some(image) = kept.image {
                self.reads = None;
                self.take(&header, &kept.batch, place, &InPart::default(), Some(image));
                return Ok(());
            }
        }
        if !self.hold(&header, place.offset, PAGE_BYTES)? {
            // One without a block is held by nobody: it may be given back at any time.
            return self.go_on_behind_trimmed(place.segment);
        }
        let Some(batch) = decode_header(self.bytes(place.offset), &place) else {
            if in_part.is_some() && self.is_just_read(place) {
                return Err(self.no_longer_reads(place));
            }
            return self.skip_damage(place);
        };
        if !self.hold(&header, place.offset, batch.length as usize)? {
            return self.go_on_behind_trimmed(place.segment);
        }
        if let Some(end) = end {
            self.read_ahead(place, end);
        }
        self.last_batch = batch.length as usize;
        let (_, stamps) = self.segment.as_ref().expect("a segment");
        let bytes = self.bytes(place.offset);
        let checked = check(bytes, &place, stamps);
        match (checked, &in_part) {
            (Check::Sound(batch), then) => {
                self.take(&header, &batch, place, then.as_ref().unwrap_or(&InPart::default()), None);
            }
            // A salvage has said which blocks of it are lost, and it is as it was then.
            (_, Some(then)) if partly(&checked, bytes, header.stream()).is_some_and(|(_, now)| now == *then) => {
                self.take(&header, &batch, place, then, None);
            }
            (_, Some(_)) if self.is_just_read(place) => return Err(self.no_longer_reads(place)),
            _ => return self.skip_damage(place),
        }
        Ok(())
    }

    fn no_longer_reads(&self, place: Place) -> Error {
        Error::Io {
            context: format!(
                "shard {}: segment {} at {:#x} no longer reads as it was written; close the store and open it again",
                self.shard, place.segment, place.offset
            ),
            cause: std::io::Error::from(std::io::ErrorKind::InvalidData),
        }
    }

    fn bytes(&self, offset: u32) -> &[u8] {
        &self.buf[(offset - self.held.0) as usize..self.held.1]
    }

    /// Makes the buffer hold `count` bytes from `offset` on; false where the segment has been given back.
    fn hold(&mut self, header: &SegmentHeader, offset: u32, count: usize) -> Result<bool, Error> {
        let (start, have) = self.held;
        if offset >= start && (offset - start) as usize + count <= have {
            return Ok(true);
        }
        let name = segment_name(header.segment);
        let at = (header.segment, offset, count);
        let taken = self.reads.as_mut().and_then(|reads| reads.take(at, &mut self.buf));
        self.was_ahead = taken.is_some();
        let read = match taken {
            Some(read) => read,
            None => {
                let count = count.max(self.ahead).min(header.segment_bytes as usize - offset as usize);
                self.ahead = (self.ahead * 2).min(READ_AHEAD_BYTES);
                if self.buf.capacity() < count {
                    self.buf = AlignedBuf::new(count);
                }
                self.buf.set_len(count);
                read_around(&*self.folder, &name, u64::from(offset), &mut self.buf)
            }
        };
        match read {
            Ok(read) => {
                // What lies beyond the mark may still be changing: it is read again when needed.
                self.held = (offset, read);
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(format!("reading {name} at {offset:#x}"))(error)),
        }
    }

    /// What stands at this place was read when it was at or below the mark.
    const fn is_just_read(&self, place: Place) -> bool {
        self.held.0 == place.offset && !self.was_ahead
    }

    /// Asks for what comes behind the batches of a finished segment that are at hand.
    fn read_ahead(&mut self, place: Place, end: u32) {
        if !self.may_read_ahead || place.offset != self.held.0 {
            return;
        }
        let mut next = place.offset;
        while let Some(batch) = decode_header(self.bytes(next), &Place { offset: next, ..place })
            && (next - place.offset) as usize + batch.length as usize <= self.held.1
        {
            next += batch.length;
        }
        if next >= end {
            return;
        }
        if self.reads.is_none() {
            let started = ReadAhead::start(Arc::clone(&self.folder));
            self.reads = started.inspect_err(|error| tracing::warn!("no thread to read ahead: {error}")).ok();
            self.may_read_ahead = self.reads.is_some();
        }
        if let Some(reads) = &mut self.reads {
            reads.ask(place.segment, next, READ_AHEAD_BYTES.min((end - next) as usize));
        }
    }

    fn behind(&self) -> Error {
        let first = self.shared.segments().segments.front().map_or(Seq(0), |oldest| oldest.first_seq);
        Error::Behind { shard: self.shard, first }
    }

    /// Where nothing of a segment that is gone was unread, the log goes on with its oldest one.
    fn go_on_behind_trimmed(&mut self, gone: SegmentNo) -> Result<(), Error> {
        let oldest = self.shared.segments().segments.front().cloned();
        match oldest {
            Some(oldest) if oldest.header.segment > gone && oldest.first_seq <= self.next_seq => {
                self.enter(oldest);
                Ok(())
            }
            _ => Err(self.behind()),
        }
    }

    fn next_segment(&mut self, from: SegmentNo) -> Result<(), Error> {
        let next = self.shared.segments().segments.iter().find(|found| found.header.segment > from).cloned();
        match next {
            Some(next) => {
                self.enter(next);
                Ok(())
            }
            None => Err(self.behind()),
        }
    }

    /// Bytes read ahead may have been written since; damage that was salvaged has a known end.
    fn skip_damage(&mut self, place: Place) -> Result<(), Error> {
        if !self.is_just_read(place) {
            self.held = (0, 0);
            return Ok(());
        }
        let table = self.shared.segments();
        let range = table.handled.iter().find(|range| range.covers(place.segment, place.offset)).copied();
        let target = range.and_then(|range| {
            let segment = table.segments.iter().find(|found| found.header.segment == range.resume_segment)?;
            Some((range, segment.clone()))
        });
        let there = table.segments.iter().any(|found| found.header.segment == place.segment);
        drop(table);
        match target {
            Some((range, segment)) => {
                if segment.header.segment != place.segment {
                    self.enter(segment);
                }
                if let Some(at) = &mut self.at {
                    at.offset = range.resume_offset;
                }
                self.next_seq = self.next_seq.max(range.resume_seq);
                Ok(())
            }
            None if !there => self.go_on_behind_trimmed(place.segment),
            None => Err(self.no_longer_reads(place)),
        }
    }

    /// Takes in a batch, from memory or from what was read.
    fn take(
        &mut self,
        header: &SegmentHeader,
        batch: &BatchHeader,
        place: Place,
        in_part: &InPart,
        memory: Option<Arc<Vec<u8>>>,
    ) {
        self.at_hand = Some(AtHand::new(*batch, place.offset, memory));
        let at_hand = self.at_hand.as_ref().expect("just put there");
        let image = at_hand.image((&self.buf, self.held.0));
        let rows = stream_rows(image, batch);
        let (next_seq, ready, follows) = (self.next_seq, &mut self.ready, &mut self.follows);
        let control = |payload: &[u8], seq: Seq, ready: &mut VecDeque<Logged>, follows: &mut Option<StreamEnds>| {
            if let Some(known) = follows {
                ready.extend(missing_before(known, payload, seq.prev()).map(Logged::Missing));
            }
        };
        let follower = self.tail.as_ref().map(TailReader::follower);
        if in_part.is_nothing() && follower.is_some_and(|follower| are_of(&rows, follower)) {
            each_control(image, batch, |payload| control(payload, batch.first_seq, ready, follows));
            return self.pass(batch, &rows);
        }
        let own = header.stream();
        let mut seq = batch.first_seq;
        let mut ends: StreamEnds = rows.into_iter().map(|row| (row.stream, row.prev)).collect();
        for_each_entry(image, batch, |kind, at, header_bytes, (payload_bytes, payload_crc)| {
            if kind == EntryKind::Control {
                let payload = copied(image, at + header_bytes, payload_bytes as usize);
                if payload_crc == crc32fast::hash(&payload) {
                    control(&payload, seq, ready, follows);
                }
                return;
            }
            let local = seq;
            seq = seq.next();
            if kind == EntryKind::Void {
                return;
            }
            let (mut stream, mut number, mut adopted) = (own, local, None);
            if kind != EntryKind::Own {
                let head = copied(image, at, header_bytes);
                let entry = decode_entry(&head).expect("an entry of a batch whose body holds");
                adopted = entry.adopted();
                if let Some(identity) = entry.identity {
                    (stream, number) = (identity.stream, identity.seq);
                }
            }
            let end = ends.entry(stream).or_default();
            let before = *end;
            let behind = match &adopted {
                Some(adopted) => StreamEnd::adopted(adopted),
                None => before.then(number, payload_bytes, payload_crc),
            };
            *end = behind;
            if local < next_seq {
                return;
            }
            if adopted.is_some() || in_part.has_lost(local) {
                let absent = adopted.map(|adopted| adopted.absent);
                if follows.is_some() {
                    put_missing(ready, Missing { local, stream, before, behind, absent });
                }
                return;
            }
            ready.push_back(Logged::Block(LoggedBlock {
                local,
                stream,
                before,
                behind,
                payload_bytes,
                payload_crc,
                at,
                header_bytes,
            }));
        });
        self.went(batch, ends);
    }

    /// Passes over a batch of blocks that the follower accepts itself.
    fn pass(&mut self, batch: &BatchHeader, rows: &[StreamRow]) {
        self.ready.extend(rows.iter().enumerate().map(|(at, row)| {
            // Everything up to the last seq is there with all of them, and not with one.
            let local = if at == rows.len() - 1 { batch.last_seq() } else { batch.first_seq.prev() };
            Logged::Passed { local, stream: row.stream, seq: row.last.seq }
        }));
        self.went(batch, rows.iter().map(|row| (row.stream, row.last)));
    }

    /// A batch was taken in, behind which streams stand here.
    fn went(&mut self, batch: &BatchHeader, ends: impl IntoIterator<Item = (Stream, StreamEnd)>) {
        if let Some(known) = &mut self.follows {
            known.extend(ends);
        }
        self.next_seq = self.next_seq.max(batch.last_seq().next());
        if let Some(at) = &mut self.at {
            at.offset += batch.length;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::OnceLock;

    use super::*;
    use crate::config::SyncPolicy;
    use crate::shard::marks::Marks;
    use crate::shard::ring::Wake;
    use crate::shard::shared::SegmentTable;
    use crate::types::{BatchNo, BlockKind, Chain, Epoch, FileId, Generation, Nonce, Receipt, StoreId};
    use crate::wal::batch::{After, BatchBuilder, Begin, Link, Push};
    use crate::wal::entry::{Entry, Identity};

    struct Nobody;

    impl Wake for Nobody {
        fn wake(&self) {}
    }

    /// A folder whose first file is given back just before it is read.
    #[derive(Default)]
    struct GivenBack(OnceLock<Arc<Shared>>);

    impl Folder for GivenBack {
        fn read(&self, name: &str, _: u64, buf: &mut [u8]) -> io::Result<usize> {
            if name == segment_name(SegmentNo(1)) {
                self.0.get().expect("a log").segments().retire(SegmentNo(1));
                return Err(io::ErrorKind::NotFound.into());
            }
            buf.fill(0);
            Ok(buf.len())
        }
        fn list(&self) -> io::Result<Vec<(String, u64)>> {
            unreachable!("a reader asks by name")
        }
        fn try_lock(&self, _: &str) -> io::Result<bool> {
            unreachable!("a reader takes no lock")
        }
        fn create(&self, _: &str, _: u64) -> io::Result<()> {
            unreachable!("a reader changes nothing")
        }
        fn write(&self, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("a reader changes nothing")
        }
        fn sync(&self, _: &str) -> io::Result<()> {
            unreachable!("a reader changes nothing")
        }
        fn rename(&self, _: &str, _: &str) -> io::Result<()> {
            unreachable!("a reader changes nothing")
        }
        fn remove(&self, _: &str) -> io::Result<()> {
            unreachable!("a reader changes nothing")
        }
        fn sync_folder(&self) -> io::Result<()> {
            unreachable!("a reader changes nothing")
        }
    }

    /// A log of two segments, the second of which begins with this seq.
    fn log_of_two(second: Seq) -> (Arc<GivenBack>, Arc<Shared>) {
        let segment = |number: u64, first_seq, end| ReadableSegment {
            header: SegmentHeader {
                store: StoreId([1; 16]),
                shard: ShardId(0),
                segment: SegmentNo(number),
                epoch: Epoch(number),
                nonce: Nonce(number),
                file_id: FileId(number),
                generation: Generation(1),
                filled_upto: 0,
                segment_bytes: 1 << 20,
                boot: [0; 16],
                pin: None,
                handled: Vec::new(),
            },
            first_seq,
            end,
        };
        let segments = [segment(1, Seq(1), Some(3 * PAGE_BYTES as u32)), segment(2, second, None)];
        let table = SegmentTable { segments: segments.into(), ..SegmentTable::default() };
        let at = Seq(4);
        let marks =
            Marks { shard: ShardId(0), accepted: at, written: at, synced: at, flushed: Seq(0), trimmed: Seq(0) };
        let shared = Arc::new(Shared::new(marks, SyncPolicy::Each, Arc::new(Nobody), table));
        let folder = Arc::new(GivenBack::default());
        assert!(folder.0.set(Arc::clone(&shared)).is_ok());
        (folder, shared)
    }

    #[test]
    fn a_segment_without_a_block_may_be_given_back_under_a_reader() {
        let (folder, shared) = log_of_two(Seq(1));
        let mut reader = LogReader::new(ShardId(0), folder, shared, true, Position::default()).expect("a log");
        reader.read_batch().expect("nothing of it was unread");
        assert_eq!(reader.at.map(|place| place.segment), Some(SegmentNo(2)));
        assert_eq!(reader.next_seq(), Seq(1));
    }

    #[test]
    fn a_segment_that_is_given_back_unread_is_said() {
        let (folder, shared) = log_of_two(Seq(3));
        let mut reader = LogReader::new(ShardId(0), folder, shared, true, Position::default()).expect("a log");
        match reader.read_batch() {
            Err(Error::Behind { first, .. }) => assert_eq!(first, Seq(3)),
            other => panic!("{other:?}"),
        }
    }

    const OF_FOLLOWER: Opening = Opening { origin: StoreId([9; 16]), epoch: Epoch(3), nonce: Nonce(4) };

    /// Keeps a batch in memory at this offset of segment 2: an own block for each `None`, and one that the follower has
    /// accepted under this seq for each other. How long it is, and how the streams stand behind it.
    fn keep(
        shared: &Shared,
        (offset, first_seq): (u32, Seq),
        ends: StreamEnds,
        of: &[Option<(u16, u64)>],
    ) -> (u32, StreamEnds) {
        let header = shared.segments().segments.back().expect("a segment").header.clone();
        let begin = Begin {
            place: Place::new(&header, offset),
            own: header.stream(),
            first_seq,
            soft_bytes: 1 << 16,
            hard_bytes: 1 << 16,
            ends,
            vector: Vec::new(),
        };
        let mut batch = BatchBuilder::new(begin, AlignedBuf::new(1 << 16));
        for of in of {
            let Opening { origin, epoch, nonce } = OF_FOLLOWER;
            let (shard, seq) = of.unwrap_or_default();
            let stream = Stream { origin, shard: ShardId(shard), epoch, nonce };
            let payload = [seq as u8; 700];
            let entry = Entry {
                kind: if of.is_some() { EntryKind::Carried } else { EntryKind::Own },
                block_kind: BlockKind::Raw,
                namespace: "n",
                table: "t",
                length: payload.len() as u32,
                received_at_ns: 5,
                rows: 0,
                payload_crc: crc32fast::hash(&payload),
                identity: of.map(|_| Identity { stream, seq: Seq(seq) }),
            };
            assert!(matches!(batch.push(entry.encode().bytes(), &payload), Push::Taken));
        }
        let (number, chain) = (BatchNo(first_seq.0), Chain(0));
        let link = Link { number, prev_chain: chain, prev_end: 0, durable_upto: BatchNo(0), seal: false };
        let (image, header, After { ends, .. }) = batch.finish(link);
        shared.tail.keep(&Place::new(&shared.segments().segments.back().expect("a segment").header, offset), &image);
        (header.length, ends)
    }

    #[test]
    fn the_newest_batches_are_read_from_memory_and_what_the_follower_accepts_is_passed_over() {
        let (folder, shared) = log_of_two(Seq(1));
        shared.segments().retire(SegmentNo(1));
        let reader = LogReader::new(ShardId(0), folder, Arc::clone(&shared), true, Position::default());
        let mut reader = reader.expect("a log").following(OF_FOLLOWER);
        let start = SEGMENT_HEADER_BYTES as u32;
        let (length, ends) = keep(&shared, (start, Seq(1)), StreamEnds::new(), &[None, Some((0, 1))]);
        let (_, ends) = keep(&shared, (start + length, Seq(3)), ends, &[Some((0, 2)), Some((1, 7))]);
        // The file has nothing but zeros: whoever reads it finds damage.
        let next = |reader: &mut LogReader| reader.next_logged(Seq(u64::MAX)).expect("from memory");
        for (own, payload) in [(true, [0; 700]), (false, [1; 700])] {
            let Some(Logged::Block(block)) = next(&mut reader) else {
                panic!("a batch with a block of its own is read");
            };
            assert_eq!(block.behind.seq, Seq(1));
            let mut sent = Vec::new();
            reader.payload(&block).put(&mut sent);
            assert_eq!(sent, payload);
            let header = reader.header(&block);
            let entry = decode_entry(header.bytes()).expect("a header");
            assert_eq!((entry.kind, entry.identity, entry.length), (EntryKind::Own, None, 700));
            let delivered = reader.delivered(&block);
            assert_eq!((*delivered.block.payload).to_vec(), payload);
            assert_eq!(delivered.receipt, Receipt { stream: block.stream, seq: Seq(1) });
            assert_eq!(own, Opening::of(&block.stream) != OF_FOLLOWER);
        }
        // With the first of its streams not all of it is there.
        for (local, of) in [(Seq(2), (0, Seq(2))), (Seq(4), (1, Seq(7)))] {
            match next(&mut reader) {
                Some(Logged::Passed { local: upto, stream, seq }) => {
                    assert_eq!((upto, (stream.shard.0, seq), ends[&stream].seq), (local, of, seq));
                }
                _ => panic!("a batch of the follower alone is passed over"),
            }
        }
        assert!(next(&mut reader).is_none());
        assert_eq!(reader.next_seq(), Seq(5));
    }
}
