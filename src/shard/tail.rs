//! [`Tail`]: the newest batches of a shard's log in memory, for who reads right behind its end.
//!
//! Filled only while somebody reads from it. A batch is in it before it is written: who asks for one must not ask for
//! more than the mark that it reads up to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::SegmentNo;

/// Bytes that are kept of a shard's log. A batch that is larger is not kept.
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
    kept: VecDeque<(Place, Arc<Vec<u8>>)>,
    bytes: usize,
}

type Place = (SegmentNo, u32);

impl Batches {
    /// Makes room for so many bytes; the memory of what was let go, if nobody reads it any more.
    fn make_room(&mut self, bytes: usize) -> Vec<u8> {
        let mut room = Vec::new();
        while self.bytes + bytes > TAIL_BYTES
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.bytes -= oldest.len();
            room = Arc::into_inner(oldest).unwrap_or(room);
        }
        room
    }
}

impl Tail {
    /// Somebody reads from it from here on.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> TailReader {
        self.readers.fetch_add(1, Ordering::SeqCst);
        TailReader(Arc::clone(self))
    }

    /// Keeps a copy of the batch that is being written there. Only the shard's thread calls it, in the log's order.
    pub fn keep(&self, segment: SegmentNo, offset: u32, image: &[u8]) {
        if self.readers.load(Ordering::SeqCst) == 0 || image.len() > TAIL_BYTES {
            return;
        }
        let mut copy = self.lock().make_room(image.len());
        copy.clear();
        copy.extend_from_slice(image);
        let mut batches = self.lock();
        if self.readers.load(Ordering::SeqCst) > 0 {
            batches.bytes += copy.len();
            batches.kept.push_back(((segment, offset), Arc::new(copy)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who reads from it. Behind the last one nothing is kept.
#[derive(Debug)]
pub struct TailReader(Arc<Tail>);

impl TailReader {
    /// The batch at this place, if it is one of the newest.
    #[must_use]
    pub fn batch(&self, segment: SegmentNo, offset: u32) -> Option<Arc<Vec<u8>>> {
        let batches = self.0.lock();
        let found = batches.kept.binary_search_by_key(&(segment, offset), |(place, _)| *place).ok()?;
        Some(Arc::clone(&batches.kept[found].1))
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        let mut batches = self.0.lock();
        if self.0.readers.fetch_sub(1, Ordering::SeqCst) == 1 {
            *batches = Batches::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(reader: &TailReader, segment: u64, offset: u32) -> Option<u8> {
        reader.batch(SegmentNo(segment), offset).map(|image| image[0])
    }

    #[test]
    fn the_newest_batches_are_kept_while_somebody_reads() {
        let tail = Arc::new(Tail::default());
        tail.keep(SegmentNo(1), 8192, &[1; 4096]);
        let (first, reader) = (tail.reader(), tail.reader());
        assert_eq!(has(&reader, 1, 8192), None, "nobody has read");
        for (number, segment) in [(2, 1), (3, 2), (4, 2)] {
            tail.keep(SegmentNo(segment), u32::from(number) * 4096, &[number; 4096]);
        }
        drop(first);
        assert_eq!(has(&reader, 1, 2 * 4096), Some(2));
        assert_eq!(has(&reader, 2, 3 * 4096), Some(3));
        assert_eq!(has(&reader, 2, 2 * 4096), None, "no batch began there");
        drop(reader);
        assert_eq!(tail.lock().bytes, 0);
        assert_eq!(has(&tail.reader(), 2, 3 * 4096), None, "the last reader was gone");
    }

    #[test]
    fn no_more_than_its_bytes_are_kept() {
        let tail = Arc::new(Tail::default());
        let reader = tail.reader();
        let quarter = TAIL_BYTES / 4;
        for number in 0..40_u8 {
            tail.keep(SegmentNo(1), u32::from(number), &vec![number; quarter]);
            let batches = tail.lock();
            assert_eq!(batches.bytes, batches.kept.iter().map(|(_, image)| image.len()).sum::<usize>());
            assert!(batches.bytes <= TAIL_BYTES);
        }
        assert_eq!(has(&reader, 1, 35), None);
        assert_eq!(has(&reader, 1, 36), Some(36));
        let read = reader.batch(SegmentNo(1), 36).expect("it is kept");
        tail.keep(SegmentNo(1), 40, &vec![40; TAIL_BYTES]);
        assert_eq!(has(&reader, 1, 40), Some(40));
        assert_eq!(has(&reader, 1, 39), None);
        assert!(read.iter().all(|byte| *byte == 36), "who reads one keeps it");
        tail.keep(SegmentNo(1), 41, &vec![41; TAIL_BYTES + 1]);
        assert_eq!(has(&reader, 1, 41), None);
        assert_eq!(has(&reader, 1, 40), Some(40));
    }
}
