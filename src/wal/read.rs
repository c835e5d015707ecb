//! Taking the contents out of a batch's image: entries, control records and the stream table.

use crate::limits::{SECTOR_BYTES, SECTOR_STREAM_BYTES};
use std::collections::HashMap;

use crate::types::{Seq, Stream};
use crate::wal::batch::{BATCH, BatchHeader, STREAM, StreamRow, decode_row};
use crate::wal::entry::{Adopted, ENTRY_BYTES, EntryKind, Identity, decode_entry, entry_lengths};

/// Takes the entries out of a sound batch, in order, as (header, payload), copying each into
/// `scratch` (cleared for each entry).
pub fn each_entry(bytes: &[u8], header: &BatchHeader, scratch: &mut Vec<u8>, mut take: impl FnMut(&[u8], &[u8])) {
    for_each_entry(bytes, header, |_, at, header_bytes, (payload, _)| {
        scratch.clear();
        scratch.resize(header_bytes + payload as usize, 0);
        copy_out(bytes, at, scratch);
        let (head, body) = scratch.split_at(header_bytes);
        take(head, body);
    });
}

/// The entries of a batch, one behind the other, without the stamps between them.
#[must_use]
pub fn entries(bytes: &[u8], header: &BatchHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.entries_bytes as usize);
    Pieces::Stamped { image: bytes, at: ENTRIES_AT, len: header.entries_bytes as usize }.put(&mut out);
    out
}

/// Where the entries of a batch begin in its stream.
pub(crate) const ENTRIES_AT: usize = BATCH::BYTES;

/// Bytes of a batch's stream, or bytes as they are.
#[derive(Clone, Copy, Debug)]
pub enum Pieces<'a> {
    /// As they are.
    Plain(&'a [u8]),
    /// Between the stamps of a batch.
    Stamped {
        /// The batch.
        image: &'a [u8],
        /// Where they begin in its stream.
        at: usize,
        /// How many they are.
        len: usize,
    },
}

impl Pieces<'_> {
    /// How many bytes they are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.len(),
            Self::Stamped { len, .. } => *len,
        }
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends them.
    pub fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(bytes) => out.extend_from_slice(bytes),
            Self::Stamped { image, at, len } => {
                out.reserve(len);
                pieces(image, at, len).for_each(|piece| out.extend_from_slice(piece));
            }
        }
    }
}

/// Visits the whole control entries of a batch without copying its blocks.
pub fn each_control(bytes: &[u8], header: &BatchHeader, mut take: impl FnMut(&[u8])) {
    for_each_entry(bytes, header, |kind, at, header_bytes, (payload, crc)| {
        if kind == EntryKind::Control {
            let record = copied(bytes, at + header_bytes, payload as usize);
            if crc32fast::hash(&record) == crc {
                take(&record);
            }
        }
    });
}

/// Visits the ends of streams that a batch of a segment with the stream `own` takes over: each, and the last number that
/// its stream had before.
pub fn each_adopted(bytes: &[u8], header: &BatchHeader, own: Stream, mut take: impl FnMut(&Adopted, Seq)) {
    let rows = stream_rows(bytes, header);
    // They are of other streams than that, and most batches have none of those.
    if rows.iter().all(|row| row.stream == own) {
        return;
    }
    let mut last: HashMap<Stream, Seq> = rows.into_iter().map(|row| (row.stream, row.prev.seq)).collect();
    for_each_entry(bytes, header, |kind, at, header_bytes, _| {
        if !matches!(kind, EntryKind::Carried | EntryKind::Adopted) {
            return;
        }
        let head = copied(bytes, at, header_bytes);
        let Some(entry) = decode_entry(&head) else { return };
        let Some(Identity { stream, seq }) = entry.identity else { return };
        let before = last.insert(stream, seq).unwrap_or_default();
        if let Some(adopted) = entry.adopted() {
            take(&adopted, before);
        }
    });
}

/// The stream table of a sound batch.
#[must_use]
pub fn stream_rows(bytes: &[u8], header: &BatchHeader) -> Vec<StreamRow> {
    let start = BATCH::BYTES + header.entries_bytes as usize;
    let mut record = [0; STREAM::BYTES];
    (0..header.streams as usize)
        .map(|row| {
            copy_out(bytes, start + row * STREAM::BYTES, &mut record);
            decode_row(&record)
        })
        .collect()
}

/// Visits (kind, stream position, header length, (payload length, crc)); false where the lengths
/// do not add up to what the batch header says.
pub(crate) fn for_each_entry(
    bytes: &[u8],
    header: &BatchHeader,
    mut visit: impl FnMut(EntryKind, usize, usize, (u32, u32)),
) -> bool {
    let end = BATCH::BYTES + header.entries_bytes as usize;
    let mut at = BATCH::BYTES;
    while at < end {
        if end - at < ENTRY_BYTES {
            return false;
        }
        let mut fixed = [0; ENTRY_BYTES];
        copy_out(bytes, at, &mut fixed);
        let Some(lengths) = entry_lengths(&fixed) else { return false };
        let total = lengths.header + lengths.payload as usize;
        if end - at < total {
            return false;
        }
        visit(lengths.kind, at, lengths.header, (lengths.payload, lengths.payload_crc));
        at += total;
    }
    true
}

/// The pieces of `len` stream bytes from position `at`, sector by sector.
pub(crate) fn pieces(bytes: &[u8], at: usize, len: usize) -> impl Iterator<Item = &[u8]> {
    let (mut at, end) = (at, at + len);
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let within = at % SECTOR_STREAM_BYTES;
            let count = (end - at).min(SECTOR_STREAM_BYTES - within);
            let start = at / SECTOR_STREAM_BYTES * SECTOR_BYTES + 4 + within;
            at += count;
            &bytes[start..start + count]
        })
    })
}

/// `len` stream bytes from position `at`.
pub(crate) fn copied(bytes: &[u8], at: usize, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    copy_out(bytes, at, &mut out);
    out
}

fn copy_out(bytes: &[u8], at: usize, out: &mut [u8]) {
    let mut done = 0;
    for piece in pieces(bytes, at, out.len()) {
        out[done..done + piece.len()].copy_from_slice(piece);
        done += piece.len();
    }
}
