//! What a store is asked by one that compares: questions about its log and rows of the answers, as values and as bytes.
//! `wire.rs` has the frames that they go in.
//!
//! ```text
//! question  what u8, count u32; count x (stream, seq u64)
//! at        kind u8, end, length u32, payload crc u32
//! ```
//!
//! What 1 is where the streams stand, and has no rows; what 2 is how each of these streams stood at its seq. Kinds are
//! those of [`At`], from 0 on.

use crate::limits::NUMBER_MAX;
use crate::types::{Chain, Seq, Stream};
use crate::wal::batch::StreamEnd;
use crate::wal::entry::{STREAM_BYTES, decode_stream, encode_stream};
use crate::wal::vector::FOLDED;

/// What the first byte of a question and of its answer says: where the streams stand.
pub const STANDS: u8 = 1;
/// How they stood at some seqs.
pub const AT: u8 = 2;
/// Rows of a question, and of its answer.
pub const ASKED_MAX: usize = 1024;

const HEAD_BYTES: usize = 1 + 4;
const ASKED_BYTES: usize = STREAM_BYTES + 8;
const AT_BYTES: usize = 1 + 8 + 8 + 4 + 4;

/// A question about what the log of a store has synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Where its streams stand, those included that it accepts now.
    Stands,
    /// How each of these streams stood at this seq; at most [`ASKED_MAX`].
    At(Vec<(Stream, Seq)>),
}

/// What a log says of a stream up to a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Nothing: it knows of the stream only that it was held, with others.
    Nothing,
    /// What was there at the seq is not in the log: it goes on with the stream from here.
    Begins(StreamEnd),
    /// The stream's last end that is not behind the seq; the block before that end is not in the log.
    End(StreamEnd),
    /// Its last block that is not behind the seq.
    Block {
        /// Where the stream stands behind it.
        end: StreamEnd,
        /// Bytes of its payload.
        length: u32,
        /// CRC-32 of its payload.
        payload_crc: u32,
    },
}

impl At {
    /// Where the stream stood at the seq, if that is known.
    #[must_use]
    pub const fn end(&self) -> Option<StreamEnd> {
        match *self {
            Self::Nothing | Self::Begins(_) => None,
            Self::End(end) | Self::Block { end, .. } => Some(end),
        }
    }
}

impl Ask {
    /// Appends it as bytes.
    ///
    /// # Panics
    /// Where it has too many rows: it comes from this process.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (what, rows) = match self {
            Self::Stands => (STANDS, &[][..]),
            Self::At(rows) => (AT, &rows[..]),
        };
        assert!(rows.len() <= ASKED_MAX, "rows of a question");
        out.push(what);
        out.extend((rows.len() as u32).to_le_bytes());
        for (stream, seq) in rows {
            out.extend(encode_stream(stream));
            out.extend(seq.0.to_le_bytes());
        }
    }

    /// Reads it from bytes that are it and nothing else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (what, rows) = rows(bytes, ASKED_BYTES)?;
        let mut rows = rows.map(|row| {
            let stream = decode_stream(row[..STREAM_BYTES].try_into().expect("a row"));
            let seq = Seq(u64_at(row, STREAM_BYTES));
            let is_one = stream.nonce != FOLDED && stream.epoch.0 <= NUMBER_MAX && seq.0 <= NUMBER_MAX;
            is_one.then_some((stream, seq))
        });
        match what {
            STANDS => rows.next().is_none().then_some(Self::Stands),
            AT => rows.collect::<Option<_>>().map(Self::At),
            _ => None,
        }
    }
}

/// Appends the rows of an answer as bytes, with what was asked and their number ahead.
///
/// # Panics
/// Where there are too many: they come from this process.
pub fn encode_rows(rows: &[At], out: &mut Vec<u8>) {
    assert!(rows.len() <= ASKED_MAX, "rows of an answer");
    out.push(AT);
    out.extend((rows.len() as u32).to_le_bytes());
    for row in rows {
        let (kind, end, length, payload_crc) = match *row {
            At::Nothing => (0, StreamEnd::default(), 0, 0),
            At::Begins(end) => (1, end, 0, 0),
            At::End(end) => (2, end, 0, 0),
            At::Block { end, length, payload_crc } => (3, end, length, payload_crc),
        };
        out.push(kind);
        out.extend(end.seq.0.to_le_bytes());
        out.extend(end.chain.0.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(payload_crc.to_le_bytes());
    }
}

/// Reads the rows of an answer from bytes that are that and nothing else.
#[must_use]
pub fn decode_rows(bytes: &[u8]) -> Option<Vec<At>> {
    let (what, rows) = rows(bytes, AT_BYTES)?;
    let rows = rows.map(|row| {
        let end = StreamEnd { seq: Seq(u64_at(row, 1)), chain: Chain(u64_at(row, 9)) };
        let (length, payload_crc) = (u32_at(row, 17), u32_at(row, 21));
        match (row[0], length, payload_crc) {
            _ if end.seq.0 > NUMBER_MAX => None,
            (0, 0, 0) if end == StreamEnd::default() => Some(At::Nothing),
            (1, 0, 0) => Some(At::Begins(end)),
            (2, 0, 0) => Some(At::End(end)),
            (3, ..) => Some(At::Block { end, length, payload_crc }),
            _ => None,
        }
    });
    if what == AT { rows.collect() } else { None }
}

/// What was asked, and the rows behind it, if there are as many as it says and may be.
fn rows(bytes: &[u8], row_bytes: usize) -> Option<(u8, std::slice::ChunksExact<'_, u8>)> {
    let (head, rows) = bytes.split_at_checked(HEAD_BYTES)?;
    let count = u32_at(head, 1) as usize;
    (count <= ASKED_MAX && rows.len() == count * row_bytes).then(|| (head[0], rows.chunks_exact(row_bytes)))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
