//! [`Tail`]: the newest batches of a shard's log in memory, for who reads right behind its end.
//!
//! Filled only while somebody reads from it. A batch is in it before it is written: who asks for one must not ask for
//! more than the mark that it reads up to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::SEGMENT_HEADER_BYTES;
use crate::types::{Opening, SegmentNo};
use crate::wal::batch::{BatchHeader, Place, StreamRow, decode_header};
use crate::wal::read::stream_rows;

/// Bytes that are kept of a shard's log. A batch of more than half of them is not kept.
const TAIL_BYTES: usize = 8 << 20;

/// The newest batches.
#[derive(Debug, Default)]
pub struct Tail {
    readers: AtomicUsize,
    batches: Mutex<Batches>,
}

/// Oldest first.
#[derive(Debug, Default)]
struct Batches {
    kept: VecDeque<((SegmentNo, u32), Kept)>,
    bytes: usize,
    /// For whom each reader reads.
    followers: Vec<Opening>,
}

/// One of the newest batches.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its header.
    pub batch: BatchHeader,
    /// How its streams stand before and behind it.
    pub rows: Vec<StreamRow>,
    /// It, where it is more to a follower than blocks that this one accepts itself.
    pub image: Option<Arc<Vec<u8>>>,
}

impl Kept {
    /// There is nothing in it but blocks that this follower accepts itself. At a segment's beginning there is more.
    #[must_use]
    pub fn is_of(&self, place: &Place, follower: Opening) -> bool {
        place.offset != SEGMENT_HEADER_BYTES as u32 && are_of(&self.rows, follower)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.rows.len() * size_of::<StreamRow>()
            + self.image.as_ref().map_or(0, |image| image.len())
    }
}

/// A batch with these rows has blocks, and all of them are of this opening.
#[must_use]
pub fn are_of(rows: &[StreamRow], opening: Opening) -> bool {
    !rows.is_empty() && rows.iter().all(|row| Opening::of(&row.stream) == opening)
}

impl Batches {
    /// Makes room for so many bytes; the memory of what was let go, if nobody reads it any more.
    fn make_room(&mut self, bytes: usize) -> Vec<u8> {
        let mut room = Vec::new();
        while self.bytes + bytes > TAIL_BYTES
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes();
            room = oldest.image.and_then(Arc::into_inner).unwrap_or(room);
        }
        room
    }
}

impl Tail {
    /// Somebody reads from it for this follower from here on.
    #[must_use]
    pub fn reader(self: &Arc<Self>, follower: Opening) -> TailReader {
        self.lock().followers.push(follower);
        self.readers.fetch_add(1, Ordering::SeqCst);
        TailReader { tail: Arc::clone(self), follower }
    }

    /// Somebody reads from it.
    pub fn is_read(&self) -> bool {
        self.readers.load(Ordering::SeqCst) > 0
    }

    /// Keeps what a reader needs of the batch that is being written there. Only the shard's thread calls it, in the
    /// log's order.
    pub fn keep(&self, place: &Place, image: &[u8]) {
        let Some(batch) = decode_header(image, place).filter(|_| image.len() <= TAIL_BYTES / 2) else { return };
        let mut kept = Kept { batch, rows: stream_rows(image, &batch), image: None };
        let mut batches = self.lock();
        let is_passed = batches.followers.iter().all(|follower| kept.is_of(place, *follower));
        let mut room = batches.make_room(kept.bytes() + if is_passed { 0 } else { image.len() });
        if !is_passed {
            drop(batches);
            room.clear();
            room.extend_from_slice(image);
            kept.image = Some(Arc::new(room));
            batches = self.lock();
        }
        if !batches.followers.is_empty() {
            batches.bytes += kept.bytes();
            batches.kept.push_back(((place.segment, place.offset), kept));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who reads from it. Behind the last one nothing is kept.
#[derive(Debug)]
pub struct TailReader {
    tail: Arc<Tail>,
    follower: Opening,
}

impl TailReader {
    /// For whom it reads.
    #[must_use]
    pub const fn follower(&self) -> Opening {
        self.follower
    }

    /// The batch at this place, if it is one of the newest.
    #[must_use]
    pub fn batch(&self, place: &Place) -> Option<Kept> {
        let batches = self.tail.lock();
        let found = batches.kept.binary_search_by_key(&(place.segment, place.offset), |(at, _)| *at).ok()?;
        Some(batches.kept[found].1.clone())
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        let mut batches = self.tail.lock();
        let of = batches.followers.iter().position(|follower| *follower == self.follower);
        batches.followers.swap_remove(of.expect("it was there from its beginning"));
        self.tail.readers.fetch_sub(1, Ordering::SeqCst);
        if batches.followers.is_empty() {
            *batches = Batches::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buf::AlignedBuf;
    use crate::limits::PAGE_BYTES;
    use crate::types::{BatchNo, BlockKind, Chain, Epoch, FileId, Generation, Nonce, Seq, ShardId, StoreId, Stream};
    use crate::wal::batch::{BatchBuilder, Begin, Link, Push, StreamEnds};
    use crate::wal::entry::{Entry, EntryKind, Identity};

    const FOLLOWER: Opening = Opening { origin: StoreId([9; 16]), epoch: Epoch(3), nonce: Nonce(4) };
    const OTHER: Opening = Opening { origin: StoreId([8; 16]), epoch: Epoch(5), nonce: Nonce(6) };
    const PAGE: u32 = PAGE_BYTES as u32;

    fn at(segment: u64, offset: u32) -> Place {
        Place {
            store: StoreId([1; 16]),
            shard: ShardId(0),
            segment: SegmentNo(segment),
            file_id: FileId(1),
            generation: Generation(1),
            epoch: Epoch(2),
            offset,
        }
    }

    fn stream(of: Opening) -> Stream {
        Stream { origin: of.origin, shard: ShardId(0), epoch: of.epoch, nonce: of.nonce }
    }

    /// A batch of one block of this opening, so many bytes long.
    fn batch(place: &Place, of: Opening, bytes: usize) -> AlignedBuf {
        let begin = Begin {
            place: *place,
            own: stream(OTHER),
            first_seq: Seq(7),
            soft_bytes: 2 * bytes + 2 * PAGE_BYTES,
            hard_bytes: 2 * bytes + 2 * PAGE_BYTES,
            ends: StreamEnds::new(),
            vector: Vec::new(),
        };
        let payload = vec![5; bytes];
        let entry = Entry {
            kind: EntryKind::Carried,
            block_kind: BlockKind::Raw,
            namespace: "n",
            table: "t",
            length: bytes as u32,
            received_at_ns: 5,
            rows: 0,
            payload_crc: crc32fast::hash(&payload),
            identity: Some(Identity { stream: stream(of), seq: Seq(1) }),
        };
        let mut batch = BatchBuilder::new(begin, AlignedBuf::new(2 * bytes + 2 * PAGE_BYTES));
        assert!(matches!(batch.push(entry.encode().bytes(), &payload), Push::Taken));
        let link =
            Link { number: BatchNo(1), prev_chain: Chain(0), prev_end: 0, durable_upto: BatchNo(0), seal: false };
        batch.finish(link).0
    }

    fn keep(tail: &Tail, segment: u64, offset: u32, of: Opening, bytes: usize) {
        let place = at(segment, offset);
        tail.keep(&place, &batch(&place, of, bytes));
        let batches = tail.lock();
        assert_eq!(batches.bytes, batches.kept.iter().map(|(_, kept)| kept.bytes()).sum::<usize>());
        assert!(batches.bytes <= TAIL_BYTES);
    }

    /// Whether it is kept, and whether all of it is.
    fn has(reader: &TailReader, segment: u64, offset: u32) -> Option<bool> {
        reader.batch(&at(segment, offset)).map(|kept| kept.image.is_some())
    }

    #[test]
    fn the_newest_batches_are_kept_while_somebody_reads() {
        let tail = Arc::new(Tail::default());
        assert!(!tail.is_read());
        let (first, reader) = (tail.reader(FOLLOWER), tail.reader(FOLLOWER));
        for (segment, pages) in [(1, 4), (2, 3), (2, 4)] {
            keep(&tail, segment, pages * PAGE, OTHER, 100);
        }
        drop(first);
        assert_eq!(has(&reader, 1, 4 * PAGE), Some(true));
        assert_eq!(has(&reader, 2, 4 * PAGE), Some(true));
        assert_eq!(has(&reader, 1, 3 * PAGE), None, "no batch began there");
        drop(reader);
        assert!(!tail.is_read() && tail.lock().bytes == 0);
        keep(&tail, 2, 5 * PAGE, OTHER, 100);
        assert_eq!(has(&tail.reader(FOLLOWER), 2, 5 * PAGE), None, "nobody has read");
    }

    #[test]
    fn of_blocks_that_every_follower_accepts_itself_no_more_is_kept_than_that_they_are() {
        let tail = Arc::new(Tail::default());
        let reader = tail.reader(FOLLOWER);
        let start = SEGMENT_HEADER_BYTES as u32;
        keep(&tail, 1, start, FOLLOWER, 100);
        keep(&tail, 1, start + PAGE, FOLLOWER, 100);
        keep(&tail, 1, start + 2 * PAGE, OTHER, 100);
        assert_eq!(has(&reader, 1, start), Some(true), "a vector may stand there");
        assert_eq!(has(&reader, 1, start + PAGE), Some(false));
        assert_eq!(has(&reader, 1, start + 2 * PAGE), Some(true));
        let kept = |offset| reader.batch(&at(1, offset)).expect("it is kept");
        assert!(!kept(start).is_of(&at(1, start), FOLLOWER));
        assert!(kept(start + PAGE).is_of(&at(1, start + PAGE), FOLLOWER));
        assert!(!kept(start + PAGE).is_of(&at(1, start + PAGE), OTHER));
        assert_eq!(kept(start + PAGE).rows[0].last.seq, Seq(1));
        let other = tail.reader(OTHER);
        keep(&tail, 1, start + 3 * PAGE, FOLLOWER, 100);
        assert_eq!(has(&other, 1, start + 3 * PAGE), Some(true), "another one needs it");
    }

    #[test]
    fn no_more_than_its_bytes_are_kept() {
        let tail = Arc::new(Tail::default());
        let reader = tail.reader(FOLLOWER);
        for page in 3..60 {
            keep(&tail, 1, page * PAGE, OTHER, TAIL_BYTES / 5);
        }
        assert_eq!(has(&reader, 1, 55 * PAGE), None);
        let read = reader.batch(&at(1, 56 * PAGE)).and_then(|kept| kept.image).expect("it is kept");
        for page in 60..80 {
            keep(&tail, 1, page * PAGE, OTHER, TAIL_BYTES / 5);
        }
        assert_eq!(*read, batch(&at(1, 56 * PAGE), OTHER, TAIL_BYTES / 5).to_vec(), "who reads one keeps it");
        keep(&tail, 1, 80 * PAGE, OTHER, TAIL_BYTES);
        assert_eq!(has(&reader, 1, 80 * PAGE), None, "it is too large");
        assert_eq!(has(&reader, 1, 79 * PAGE), Some(true));
    }
}
