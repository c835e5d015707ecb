//! Reading a shard's segments: their headers, and the scan of what they hold.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use crate::io::buf::AlignedBuf;
use crate::io::disk::{Folder, UNREADABLE, read_around};
use crate::limits::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_HEADER_BYTES};
use crate::recover::examined::{OpenError, ShardSetup};
use crate::recover::lost::compare_with_gaps;
use crate::types::{SegmentNo, Seq};
use crate::wal::breaks::Scanned;
use crate::wal::scan::Scan;
use crate::wal::segment::{SegmentHeader, segment_name};

/// Bytes per read of a segment, and how many a reader may be ahead of the scan.
const READ_BYTES: usize = 4 << 20;
/// Logs below this size are read without a thread of their own.
const THREAD_FROM_BYTES: u64 = 32 << 20;

/// The header of each segment; `None` where it is unreadable or not of that place.
pub(super) fn read_headers(
    folder: &dyn Folder,
    setup: &ShardSetup,
    segments: &BTreeMap<SegmentNo, u64>,
) -> Result<BTreeMap<SegmentNo, Option<SegmentHeader>>, OpenError> {
    let mut buf = AlignedBuf::new(SEGMENT_HEADER_BYTES);
    let mut headers = BTreeMap::new();
    for (&segment, &bytes) in segments {
        let name = segment_name(segment);
        let failed = || OpenError::io(format!("reading {name}"));
        let mut count = read_around(folder, &name, 0, &mut buf).map_err(failed())?;
        if buf[..count].iter().all(|byte| *byte == UNREADABLE) {
            // Not a page, but the whole disk for all that can be seen.
            count = folder.read(&name, 0, &mut buf).map_err(failed())?;
        }
        let header = SegmentHeader::decode(&buf[..count]).ok();
        if let Some(header) = &header
            && (header.store != setup.store || header.shard != setup.shard)
        {
            #[cfg(feature = "sim")]
            if crate::planted::is_planted(crate::planted::Mutant::ForeignSegmentUnnoticed) {
                continue;
            }
            return Err(OpenError::Foreign { name, store: header.store, shard: header.shard });
        }
        let ours = header.filter(|header| header.segment == segment && header.segment_bytes == bytes);
        headers.insert(segment, ours);
    }
    Ok(headers)
}

/// What the segments with these headers and lengths hold, as `ending` has the scan judge it.
pub(super) fn scan(
    folder: &dyn Folder,
    flushed: Seq,
    headers: &BTreeMap<SegmentNo, Option<SegmentHeader>>,
    segments: &BTreeMap<SegmentNo, u64>,
    ending: impl FnOnce(Scan) -> Scan,
    progress: &mut dyn FnMut(u64),
) -> Result<Scanned, OpenError> {
    let mut scan = ending(Scan::new(headers.clone(), flushed));
    feed_all(folder, &mut scan, headers, segments, progress)?;
    let mut scanned = scan.finish();
    compare_with_gaps(&mut scanned, flushed);
    Ok(scanned)
}

fn feed_all(
    folder: &dyn Folder,
    scan: &mut Scan,
    headers: &BTreeMap<SegmentNo, Option<SegmentHeader>>,
    segments: &BTreeMap<SegmentNo, u64>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), OpenError> {
    let total: u64 = segments.values().sum();
    let longest = segments.values().copied().max().unwrap_or(0).min(*SEGMENT_BYTES.end());
    if longest == 0 {
        return Ok(());
    }
    let readable = |segment: SegmentNo| headers.get(&segment).is_some_and(Option::is_some);
    let capacity = (longest as usize).next_multiple_of(PAGE_BYTES);
    if total < THREAD_FROM_BYTES {
        let mut buf = AlignedBuf::new(capacity);
        for (&segment, &bytes) in segments {
            let count = if readable(segment) { read_segment(folder, segment, bytes, &mut buf)? } else { 0 };
            scan.feed(segment, &buf[..count]);
            progress(bytes);
        }
        return Ok(());
    }
    // One segment is read while the one before it is scanned.
    thread::scope(|scope| {
        let (full_tx, full_rx) = mpsc::sync_channel::<Result<(SegmentNo, AlignedBuf, usize), OpenError>>(1);
        let (empty_tx, empty_rx) = mpsc::channel::<AlignedBuf>();
        for _ in 0..2 {
            empty_tx.send(AlignedBuf::new(capacity)).expect("the receiver is in this scope");
        }
        scope.spawn(move || {
            for (&segment, &bytes) in segments {
                let Ok(mut buf) = empty_rx.recv() else { return };
                let read = if readable(segment) { read_segment(folder, segment, bytes, &mut buf) } else { Ok(0) };
                let failed = read.is_err();
                if full_tx.send(read.map(|count| (segment, buf, count))).is_err() || failed {
                    return;
                }
            }
        });
        while let Ok(next) = full_rx.recv() {
            let (segment, buf, count) = next?;
            scan.feed(segment, &buf[..count]);
            progress(segments[&segment]);
            // The reader may have ended already; then nobody needs the buffer.
            let _ = empty_tx.send(buf);
        }
        Ok(())
    })
}

/// Reads a segment as far as it is there: its bytes in `buf`, of which so many are the file's.
pub(super) fn read_segment(
    folder: &dyn Folder,
    segment: SegmentNo,
    bytes: u64,
    buf: &mut AlignedBuf,
) -> Result<usize, OpenError> {
    let name = segment_name(segment);
    let length = (bytes as usize).min(buf.capacity());
    buf.set_len(length.next_multiple_of(PAGE_BYTES));
    let mut at = 0;
    while at < length {
        let upto = (at + READ_BYTES).min(buf.len());
        let count = read_around(folder, &name, at as u64, &mut buf[at..upto])
            .map_err(OpenError::io(format!("reading {name} at {at:#x}")))?;
        if count == 0 {
            break;
        }
        at += count;
    }
    Ok(at.min(length))
}
