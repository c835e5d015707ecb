//! The frames that two sites exchange, protocol version 1: values to bytes and back, no I/O. This table is the
//! definition. All numbers are little-endian; sizes are in bytes.
//!
//! ```text
//! frame     magic "FBR1", kind u8, zero 3, length u32, crc u32 of all before and the payload; payload
//! stream    origin 16, shard u16, epoch u64, nonce u64
//! end       seq u64, chain u64
//!
//! 1 hello      version u16, store 16, epoch u64, nonce u64, shards u16, role u8, term u64, active 16, session u64
//! 2 vector     last u8, ends u32, gaps u32; ends x (stream, end); gaps x (stream, after u64, before u64)
//! 3 entries    stream, end before, end behind, count u32; count x (seq u64, entry header, payload)
//! 4 gap        stream, end before, end behind: the blocks between are lost to damage
//! 5 ack        count u32; count x (stream, seq u64)
//! 6 heartbeat  sent u64 (nanoseconds since 1970), behind blocks u64, behind bytes u64
//! 7 bye        reason u8, term u64, store 16, bytes u16; text
//! 8 packed     another frame, on its way (`node/packed.rs`)
//! 9 holding    last u8, ends u32, gaps u32, files u32; ends x (stream, end); gaps x (stream, after u64, before u64);
//!              files x (no u64, bytes u64, crc u32, bytes u16; text)
//! 10 want      no u64, from u64: that data file, from this byte on
//! 11 piece     no u64, from u64; bytes of that data file
//! 12 ask       a question (`repl/asks.rs`)
//! 13 told      what u8: 1, what a vector has; 2, count u32; count x at (`repl/asks.rs`)
//! ```
//!
//! Who dials to compare sends `ask` in place of its vector, one at a time. Each is answered by `told`: 1 in as many frames
//! as it needs, 2 in one, with a row for each of the question.
//!
//! An entry stands in a frame as its origin has it in its log: an entry header of the kind `own`, whose identity is
//! the frame's stream and its seq. So every site that a block passes through sends the same bytes.
//!
//! A source whose log begins too late for a follower says what its data files hold; the follower asks for them one by
//! one, and begins the link anew when it has taken them over.

use crate::data::format::HeldFile;
use crate::limits::{BLOCK_BYTES_MAX, ENTRY_HEADER_BYTES_MAX, NUMBER_MAX};
use crate::repl::asks::{ASKED_MAX, Ask, At, STANDS, decode_rows, encode_rows};
use crate::repl::entries::{ENTRIES_BYTES, ENTRIES_MAX, Entries, EntryAt, put_end, put_stream};
pub use crate::repl::stand::{Role, Stand};
use crate::types::{Chain, Epoch, Nonce, Opening, Seq, StoreId, Stream, Term};
use crate::wal::batch::StreamEnd;
use crate::wal::entry::{ENTRY_BYTES, EntryKind, decode_entry, decode_stream, entry_lengths};
use crate::wal::vector::FOLDED;

/// The version of the protocol.
pub const VERSION: u16 = 1;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 16;
/// A frame's payload is at most so long: a block of the largest size, and what it needs beside.
pub const PAYLOAD_BYTES_MAX: usize = BLOCK_BYTES_MAX as usize + ENTRY_HEADER_BYTES_MAX + 256;
/// Ends and gaps in one frame of a vector, streams in an ack, rows of a question.
pub const ROWS_MAX: usize = ASKED_MAX;
/// The payload of a frame that a follower sends is at most so long.
pub const FOLLOWER_BYTES_MAX: usize = 64 << 10;
/// Bytes of the text of a bye.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Data files in one frame.
pub const FILES_MAX: usize = 64;
/// Bytes of what is said of a data file.
pub const ABOUT_BYTES_MAX: usize = 4096;
/// Bytes of a data file in one frame.
pub const PIECE_BYTES_MAX: usize = 512 << 10;

const MAGIC: [u8; 4] = *b"FBR1";

/// What one site says to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame in each direction.
    Hello(Hello),
    /// What the sender of it holds; as many frames as it needs.
    Vector(Vector),
    /// Blocks of one stream, one behind the other.
    Entries(Entries),
    /// Blocks of one stream that are lost to damage at the site that says so.
    Gap {
        /// The stream.
        stream: Stream,
        /// The last block before them.
        before: StreamEnd,
        /// The last of them, and the chain behind it.
        behind: StreamEnd,
    },
    /// Up to where each of these streams is synced.
    Ack(Vec<(Stream, Seq)>),
    /// Nothing else is to be said.
    Heartbeat(Heartbeat),
    /// The link ends.
    Bye(Bye),
    /// What has left the log of the sender is in these data files; as many frames as it needs.
    Holding(Holding),
    /// Asks for one of those files, from this byte on.
    Want {
        /// Its number.
        no: u64,
        /// The first byte.
        from: u64,
    },
    /// A piece of it.
    Piece {
        /// Its number.
        no: u64,
        /// Where the piece stands in it.
        from: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// What one that compares wants to know.
    Ask(Ask),
    /// The answer, or a part of it.
    Told(Told),
}

/// An answer to one that compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Some of the streams and gaps, or the last of them.
    Stands(Vector),
    /// A row for each that was asked for, in that order.
    At(Vec<At>),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The store, and its opening: what it accepts now it need not be sent.
    pub opening: Opening,
    /// Its shards.
    pub shards: u16,
    /// What it is, and who it takes for the active one.
    pub stand: Stand,
    /// Grows with each link that this store opens: of two, the one with the higher number counts.
    pub session: u64,
}

/// What a store holds: a prefix of each stream, but for its gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector {
    /// No frame of it follows.
    pub last: bool,
    /// The end of each stream.
    pub ends: Vec<(Stream, StreamEnd)>,
    /// Blocks that are missing in them: the seqs between these two.
    pub gaps: Vec<(Stream, Seq, Seq)>,
}

/// What a store has in data files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// No frame of it follows.
    pub last: bool,
    /// Where each stream ends in them.
    pub ends: Vec<(Stream, StreamEnd)>,
    /// Blocks that are lost: the seqs between these two.
    pub gaps: Vec<(Stream, Seq, Seq)>,
    /// The files.
    pub files: Vec<HeldFile>,
}

/// That a link is alive, and how far its follower is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// When it was sent, in nanoseconds of its sender's wall clock since 1970.
    pub sent_ns: u64,
    /// Blocks that were not acknowledged yet.
    pub behind_blocks: u64,
    /// Their bytes.
    pub behind_bytes: u64,
}

/// Why a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The process stops.
    Stop = 1,
    /// A newer session of the same store has begun.
    Superseded = 2,
    /// Another store is active under a higher term.
    Fenced = 3,
    /// What was said does not fit what is held: two histories of one stream.
    Diverged = 4,
    /// What is asked for is not in the log any more.
    Behind = 5,
    /// What was said is not of this protocol.
    Protocol = 6,
}

/// The last frame of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bye {
    /// Why.
    pub reason: Reason,
    /// The term of the active store, as far as it is known.
    pub term: Term,
    /// The active store.
    pub active: StoreId,
    /// In words.
    pub text: String,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They begin with something else, or are of another version of the protocol.
    #[error("not a frame of this protocol")]
    NotAFrame,
    /// It is longer than any frame may be.
    #[error("a frame of {0} bytes is longer than {PAYLOAD_BYTES_MAX}")]
    TooLong(u32),
    /// The checksum does not hold.
    #[error("a frame's checksum does not hold")]
    Checksum,
    /// The checksum holds, and the content means nothing.
    #[error("a frame of kind {0} says nothing that there is")]
    Content(u8),
    /// The entries do not lead from the end before them to the end behind them.
    #[error("the entries of a frame do not follow from each other")]
    Chain,
}

/// Bytes of a payload that a site has a reason to send to one that takes blocks of so many bytes.
#[must_use]
pub const fn payload_bytes_max(block_bytes_max: usize) -> usize {
    let block = block_bytes_max + ENTRY_HEADER_BYTES_MAX + 256;
    if block > ENTRIES_BYTES { block } else { ENTRIES_BYTES }
}

/// The header of a frame: the kind and the length of its payload in bytes.
///
/// # Errors
/// [`WireError::NotAFrame`], [`WireError::TooLong`]: nothing need be allocated before.
pub fn header(bytes: &[u8; HEADER_BYTES]) -> Result<(u8, usize), WireError> {
    let length = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
    if bytes[..4] != MAGIC || bytes[5..8] != [0; 3] {
        return Err(WireError::NotAFrame);
    }
    if length as usize > PAYLOAD_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    Ok((bytes[4], length as usize))
}

/// Makes the header of a frame of this kind, whose payload stands behind the room for it.
///
/// # Panics
/// Where it is longer than a frame may be.
pub fn seal(frame: &mut [u8], kind: u8) {
    let head = head_of(kind, &frame[HEADER_BYTES..]);
    frame[..HEADER_BYTES].copy_from_slice(&head);
}

fn head_of(kind: u8, payload: &[u8]) -> [u8; HEADER_BYTES] {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a frame of {} bytes", payload.len());
    let mut head = [0; HEADER_BYTES];
    head[..4].copy_from_slice(&MAGIC);
    head[4] = kind;
    head[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let sum = checksum(&head[..12], payload);
    head[12..].copy_from_slice(&sum.to_le_bytes());
    head
}

/// The kind of the frame with this header and payload, whose checksum holds.
///
/// # Errors
/// [`WireError`].
pub fn checked(header_bytes: &[u8; HEADER_BYTES], payload: &[u8]) -> Result<u8, WireError> {
    let (kind, length) = header(header_bytes)?;
    let sum = u32::from_le_bytes(header_bytes[12..].try_into().expect("4 bytes"));
    let holds = length == payload.len() && checksum(&header_bytes[..12], payload) == sum;
    if holds { Ok(kind) } else { Err(WireError::Checksum) }
}

impl Frame {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Vector(_) => 2,
            Self::Entries(_) => 3,
            Self::Gap { .. } => 4,
            Self::Ack(_) => 5,
            Self::Heartbeat(_) => 6,
            Self::Bye(_) => 7,
            Self::Holding(_) => 9,
            Self::Want { .. } => 10,
            Self::Piece { .. } => 11,
            Self::Ask(_) => 12,
            Self::Told(_) => 13,
        }
    }

    /// The frame as bytes.
    ///
    /// # Panics
    /// Where it is beyond the bounds of this file: it comes from this process.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        match self {
            Self::Hello(hello) => {
                out.extend(VERSION.to_le_bytes());
                out.extend(hello.opening.origin.0);
                out.extend(hello.opening.epoch.0.to_le_bytes());
                out.extend(hello.opening.nonce.0.to_le_bytes());
                out.extend(hello.shards.to_le_bytes());
                out.push(hello.stand.role as u8);
                out.extend(hello.stand.term.0.to_le_bytes());
                out.extend(hello.stand.active.0);
                out.extend(hello.session.to_le_bytes());
            }
            Self::Vector(vector) => put_vector(&mut out, vector),
            Self::Entries(entries) => out.extend(&entries.bytes),
            Self::Gap { stream, before, behind } => {
                put_stream(&mut out, *stream);
                put_end(&mut out, *before);
                put_end(&mut out, *behind);
            }
            Self::Ack(upto) => {
                assert!(upto.len() <= ROWS_MAX, "rows of an ack");
                out.extend((upto.len() as u32).to_le_bytes());
                for (stream, seq) in upto {
                    put_stream(&mut out, *stream);
                    out.extend(seq.0.to_le_bytes());
                }
            }
            Self::Heartbeat(beat) => {
                for word in [beat.sent_ns, beat.behind_blocks, beat.behind_bytes] {
                    out.extend(word.to_le_bytes());
                }
            }
            Self::Bye(bye) => {
                assert!(bye.text.len() <= TEXT_BYTES_MAX, "the text of a bye");
                out.push(bye.reason as u8);
                out.extend(bye.term.0.to_le_bytes());
                out.extend(bye.active.0);
                out.extend((bye.text.len() as u16).to_le_bytes());
                out.extend(bye.text.as_bytes());
            }
            Self::Holding(holding) => {
                let Holding { last, ends, gaps, files } = holding;
                assert!(ends.len() + gaps.len() <= ROWS_MAX && files.len() <= FILES_MAX, "rows of a holding");
                out.push(u8::from(*last));
                for count in [ends.len(), gaps.len(), files.len()] {
                    out.extend((count as u32).to_le_bytes());
                }
                put_ends_and_gaps(&mut out, ends, gaps);
                for file in files {
                    assert!(file.about.len() <= ABOUT_BYTES_MAX, "what is said of a file");
                    out.extend(file.no.to_le_bytes());
                    out.extend(file.bytes.to_le_bytes());
                    out.extend(file.crc.to_le_bytes());
                    out.extend((file.about.len() as u16).to_le_bytes());
                    out.extend(file.about.as_bytes());
                }
            }
            Self::Want { no, from } => {
                out.extend(no.to_le_bytes());
                out.extend(from.to_le_bytes());
            }
            Self::Piece { no, from, bytes } => {
                out.extend(no.to_le_bytes());
                out.extend(from.to_le_bytes());
                out.extend(bytes);
            }
            Self::Ask(ask) => ask.encode(&mut out),
            Self::Told(Told::Stands(vector)) => {
                out.push(STANDS);
                put_vector(&mut out, vector);
            }
            Self::Told(Told::At(rows)) => encode_rows(rows, &mut out),
        }
        seal(&mut out, self.kind());
        out
    }

    /// The frame as bytes in two pieces: blocks are not copied.
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    #[must_use]
    pub fn into_pieces(self) -> [Vec<u8>; 2] {
        let kind = self.kind();
        match self {
            Self::Entries(entries) => [head_of(kind, &entries.bytes).to_vec(), entries.bytes],
            other => [other.encode(), Vec::new()],
        }
    }

    /// The frame with this header and payload.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(header_bytes: &[u8; HEADER_BYTES], payload: Vec<u8>) -> Result<Self, WireError> {
        let kind = checked(header_bytes, &payload)?;
        if kind == 3 {
            return decode_entries(payload).map(Self::Entries);
        }
        let mut from = Reader { rest: &payload };
        let frame = from.frame(kind).filter(|_| from.rest.is_empty());
        frame.ok_or(WireError::Content(kind))
    }
}

/// Reads blocks and sees that each is whole, that they are in order, and that they lead to the end that is stated.
fn decode_entries(bytes: Vec<u8>) -> Result<Entries, WireError> {
    let bad = WireError::Content(3);
    let mut from = Reader { rest: &bytes };
    let head = |from: &mut Reader<'_>| Some((from.one_stream()?, from.end()?, from.end()?, from.u32()? as usize));
    let (stream, before, behind, count) = head(&mut from).ok_or(bad)?;
    if count > ENTRIES_MAX {
        return Err(bad);
    }
    let mut entries = Vec::with_capacity(count);
    let mut end = before;
    for _ in 0..count {
        let seq = from.seq().ok_or(bad)?;
        let at = bytes.len() - from.rest.len();
        let fixed = from.rest.get(..ENTRY_BYTES).ok_or(bad)?;
        let lengths = entry_lengths(fixed).filter(|lengths| lengths.kind == EntryKind::Own).ok_or(bad)?;
        let head = from.take(lengths.header).ok_or(bad)?;
        decode_entry(head).ok_or(bad)?;
        let payload = from.take(lengths.payload as usize).ok_or(bad)?;
        if seq <= end.seq || crc32fast::hash(payload) != lengths.payload_crc {
            return Err(WireError::Chain);
        }
        end = end.then(seq, lengths.payload, lengths.payload_crc);
        let header = at..at + lengths.header;
        entries.push(EntryAt { seq, payload: header.end..header.end + payload.len(), header });
    }
    if end != behind || !from.rest.is_empty() {
        return Err(WireError::Chain);
    }
    Ok(Entries { stream, before, behind, entries, bytes })
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(payload);
    crc.finalize()
}

fn put_ends_and_gaps(out: &mut Vec<u8>, ends: &[(Stream, StreamEnd)], gaps: &[(Stream, Seq, Seq)]) {
    for (stream, end) in ends {
        put_stream(out, *stream);
        put_end(out, *end);
    }
    for (stream, after, before) in gaps {
        put_stream(out, *stream);
        out.extend(after.0.to_le_bytes());
        out.extend(before.0.to_le_bytes());
    }
}

fn put_vector(out: &mut Vec<u8>, vector: &Vector) {
    assert!(vector.ends.len() + vector.gaps.len() <= ROWS_MAX, "rows of a vector");
    out.push(u8::from(vector.last));
    out.extend((vector.ends.len() as u32).to_le_bytes());
    out.extend((vector.gaps.len() as u32).to_le_bytes());
    put_ends_and_gaps(out, &vector.ends, &vector.gaps);
}

/// Takes values from the front of a payload; `None` where it ends before, or a value is out of bounds.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn seq(&mut self) -> Option<Seq> {
        self.u64().filter(|seq| *seq <= NUMBER_MAX).map(Seq)
    }

    fn term(&mut self) -> Option<Term> {
        self.u64().filter(|term| *term <= NUMBER_MAX).map(Term)
    }

    fn stream(&mut self) -> Option<Stream> {
        self.array().map(|bytes| decode_stream(&bytes)).filter(|stream| stream.epoch.0 <= NUMBER_MAX)
    }

    /// Not several that are folded into one: those have no blocks of their own.
    fn one_stream(&mut self) -> Option<Stream> {
        self.stream().filter(|stream| stream.nonce != FOLDED)
    }

    /// Blocks of a stream between two others.
    fn gap(&mut self) -> Option<(Stream, Seq, Seq)> {
        let (stream, after, before) = (self.stream()?, self.seq()?, Seq(self.u64()?));
        (after < before).then_some((stream, after, before))
    }

    fn end(&mut self) -> Option<StreamEnd> {
        Some(StreamEnd { seq: self.seq()?, chain: Chain(self.u64()?) })
    }

    /// So many rows, if there may be so many.
    fn rows<T>(&mut self, count: u32, mut row: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = Some(count as usize).filter(|count| *count <= ROWS_MAX)?;
        (0..count).map(|_| row(self)).collect()
    }

    fn frame(&mut self, kind: u8) -> Option<Frame> {
        match kind {
            1 => {
                (self.u16()? == VERSION).then_some(())?;
                let opening = Opening {
                    origin: StoreId(self.array()?),
                    epoch: Epoch(self.u64().filter(|epoch| *epoch <= NUMBER_MAX)?),
                    nonce: Nonce(self.u64()?),
                };
                let shards = self.u16()?;
                let role = Role::from_u8(self.u8()?)?;
                let stand = Stand { role, term: self.term()?, active: StoreId(self.array()?) };
                Some(Frame::Hello(Hello { opening, shards, stand, session: self.u64()? }))
            }
            2 => self.vector().map(Frame::Vector),
            4 => {
                let (stream, before, behind) = (self.one_stream()?, self.end()?, self.end()?);
                (before.seq < behind.seq).then_some(Frame::Gap { stream, before, behind })
            }
            5 => {
                let count = self.u32()?;
                self.rows(count, |from| Some((from.stream()?, from.seq()?))).map(Frame::Ack)
            }
            6 => {
                let (sent_ns, behind_blocks, behind_bytes) = (self.u64()?, self.u64()?, self.u64()?);
                Some(Frame::Heartbeat(Heartbeat { sent_ns, behind_blocks, behind_bytes }))
            }
            7 => {
                let reason = match self.u8()? {
                    1 => Reason::Stop,
                    2 => Reason::Superseded,
                    3 => Reason::Fenced,
                    4 => Reason::Diverged,
                    5 => Reason::Behind,
                    6 => Reason::Protocol,
                    _ => return None,
                };
                let (term, active) = (self.term()?, StoreId(self.array()?));
                let bytes = Some(usize::from(self.u16()?)).filter(|bytes| *bytes <= TEXT_BYTES_MAX)?;
                let text = std::str::from_utf8(self.take(bytes)?).ok()?.to_owned();
                Some(Frame::Bye(Bye { reason, term, active, text }))
            }
            9 => {
                let last = self.flag()?;
                let (ends, gaps, files) = (self.u32()?, self.u32()?, self.u32()?);
                let ends = self.rows(ends, |from| Some((from.one_stream()?, from.end()?)))?;
                let gaps = self.rows(gaps, Self::gap)?;
                (ends.len() + gaps.len() <= ROWS_MAX && files as usize <= FILES_MAX).then_some(())?;
                let files = self.rows(files, |from| {
                    let (no, bytes, crc) = (from.u64()?, from.u64()?, from.u32()?);
                    let length = Some(usize::from(from.u16()?)).filter(|length| *length <= ABOUT_BYTES_MAX)?;
                    let about = std::str::from_utf8(from.take(length)?).ok()?.to_owned();
                    Some(HeldFile { no, bytes, crc, about })
                })?;
                Some(Frame::Holding(Holding { last, ends, gaps, files }))
            }
            10 => Some(Frame::Want { no: self.u64()?, from: self.u64()? }),
            11 => {
                let (no, from) = (self.u64()?, self.u64()?);
                let bytes = self.take(self.rest.len()).filter(|bytes| bytes.len() <= PIECE_BYTES_MAX)?;
                Some(Frame::Piece { no, from, bytes: bytes.to_vec() })
            }
            12 => Ask::decode(std::mem::take(&mut self.rest)).map(Frame::Ask),
            13 if self.rest.first() == Some(&STANDS) => {
                self.u8()?;
                self.vector().map(|vector| Frame::Told(Told::Stands(vector)))
            }
            13 => decode_rows(std::mem::take(&mut self.rest)).map(|rows| Frame::Told(Told::At(rows))),
            _ => None,
        }
    }

    fn vector(&mut self) -> Option<Vector> {
        let last = self.flag()?;
        let (ends, gaps) = (self.u32()?, self.u32()?);
        let ends = self.rows(ends, |from| Some((from.stream()?, from.end()?)))?;
        let gaps = self.rows(gaps, Self::gap)?;
        (ends.len() + gaps.len() <= ROWS_MAX).then_some(Vector { last, ends, gaps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repl::entries::END_BYTES;
    use crate::types::{BlockKind, ShardId};
    use crate::wal::entry::{Entry, STREAM_BYTES};

    fn stream(epoch: u64) -> Stream {
        Stream { origin: StoreId([7; 16]), shard: ShardId(3), epoch: Epoch(epoch), nonce: Nonce(u64::MAX) }
    }

    fn end(seq: u64) -> StreamEnd {
        StreamEnd { seq: Seq(seq), chain: Chain(seq * 77) }
    }

    #[test]
    fn a_frame_is_full_before_it_is_long_unless_a_block_is() {
        let payload = vec![7; 300 << 10];
        let header = Entry {
            kind: EntryKind::Own,
            block_kind: BlockKind::Raw,
            namespace: "n",
            table: "t",
            length: payload.len() as u32,
            received_at_ns: 0,
            rows: 0,
            payload_crc: crc32fast::hash(&payload),
            identity: None,
        }
        .encode();
        let mut frame = Entries::new(stream(1), StreamEnd::default());
        let count = (1..).take_while(|seq| frame.push(Seq(*seq), header.bytes(), &payload)).count();
        assert_eq!(count, 3);
        let long = vec![7; 2 << 20];
        let header = Entry {
            length: long.len() as u32,
            payload_crc: crc32fast::hash(&long),
            ..decode_entry(header.bytes()).expect("a header")
        };
        assert!(Entries::new(stream(1), StreamEnd::default()).push(Seq(1), header.encode().bytes(), &long));
        assert!(payload_bytes_max(1 << 20) > 1 << 20 && payload_bytes_max(10) == 1 << 20);
    }

    #[test]
    fn no_block_is_of_a_stream_that_stands_for_several() {
        let of = |nonce| Frame::Gap { stream: Stream { nonce, ..stream(1) }, before: end(3), behind: end(6) }.encode();
        let read = |bytes: Vec<u8>| {
            let (head, payload) = bytes.split_first_chunk().expect("a header");
            Frame::decode(head, payload.to_vec())
        };
        assert!(read(of(Nonce(5))).is_ok());
        assert_eq!(read(of(FOLDED)), Err(WireError::Content(4)));
    }

    fn entries() -> Entries {
        let mut entries = Entries::new(stream(5), end(10));
        for (seq, payload) in [(11, &b"one"[..]), (13, &b""[..]), (14, &[9; 300][..])] {
            let entry = Entry {
                kind: EntryKind::Own,
                block_kind: BlockKind::Raw,
                namespace: "ns",
                table: "table",
                length: payload.len() as u32,
                received_at_ns: 1,
                rows: 1,
                payload_crc: crc32fast::hash(payload),
                identity: None,
            };
            assert!(entries.push(Seq(seq), entry.encode().bytes(), payload));
        }
        entries
    }

    fn frames() -> Vec<Frame> {
        let stand = Stand { role: Role::Standby, term: Term(8), active: StoreId([9; 16]) };
        vec![
            Frame::Hello(Hello {
                opening: Opening { origin: StoreId([7; 16]), epoch: Epoch(4), nonce: Nonce(u64::MAX) },
                shards: 2,
                stand,
                session: 99,
            }),
            Frame::Vector(Vector {
                last: true,
                ends: vec![(stream(1), end(5)), (stream(2), end(0))],
                gaps: vec![(stream(1), Seq(2), Seq(4)), (stream(1), Seq(4), Seq(u64::MAX))],
            }),
            Frame::Vector(Vector::default()),
            Frame::Entries(entries()),
            Frame::Entries(Entries::new(stream(5), end(10))),
            Frame::Gap { stream: stream(1), before: end(3), behind: end(6) },
            Frame::Ack(vec![(stream(1), Seq(4)), (stream(2), Seq(0))]),
            Frame::Heartbeat(Heartbeat { sent_ns: 1, behind_blocks: 2, behind_bytes: 3 }),
            Frame::Bye(Bye {
                reason: Reason::Fenced,
                term: Term(8),
                active: StoreId([9; 16]),
                text: "fenced: term 8".to_owned(),
            }),
            Frame::Holding(Holding {
                last: true,
                ends: vec![(stream(1), end(5)), (stream(2), end(7))],
                gaps: vec![(stream(1), Seq(2), Seq(u64::MAX))],
                files: vec![HeldFile { no: 3, bytes: 4, crc: 5, about: "a table".to_owned() }, HeldFile::default()],
            }),
            Frame::Want { no: 3, from: 2 },
            Frame::Piece { no: 3, from: 2, bytes: vec![1, 2] },
            Frame::Ask(Ask::Stands),
            Frame::Ask(Ask::At(vec![(stream(1), Seq(4)), (stream(2), Seq(0))])),
            Frame::Told(Told::Stands(Vector {
                last: false,
                ends: vec![(stream(1), end(5))],
                gaps: vec![(stream(1), Seq(2), Seq(4))],
            })),
            Frame::Told(Told::At(vec![
                At::Nothing,
                At::Begins(end(3)),
                At::End(end(4)),
                At::Block { end: end(5), length: 9, payload_crc: 7 },
            ])),
        ]
    }

    fn decode(bytes: &[u8]) -> Result<Frame, WireError> {
        let (head, payload) = bytes.split_at(HEADER_BYTES);
        Frame::decode(head.try_into().expect("a header"), payload.to_vec())
    }

    #[test]
    fn every_frame_reads_back_as_it_was() {
        for frame in frames() {
            assert_eq!(frame.clone().into_pieces().concat(), frame.encode());
            assert_eq!(decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn version_1_is_written_as_ever() {
        let sums: Vec<u32> = frames().iter().map(|frame| crc32fast::hash(&frame.encode())).collect();
        assert_eq!(sums, VERSION_1);
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_is_taken() {
        for frame in frames() {
            let bytes = frame.encode();
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&bytes).is_err(), "{frame:?} bit {bit}");
            }
            for len in HEADER_BYTES..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{frame:?} of {len} bytes");
            }
        }
    }

    #[test]
    fn a_frame_beyond_the_bound_is_refused_by_its_header() {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
        assert_eq!(header(&bytes), Err(WireError::TooLong(PAYLOAD_BYTES_MAX as u32 + 1)));
        bytes[3] = b'2';
        assert_eq!(header(&bytes), Err(WireError::NotAFrame));
    }

    #[test]
    fn entries_that_do_not_follow_from_each_other_are_refused() {
        // The second seq is that of the first; the checksum of the frame holds.
        let mut entries = entries();
        let at = entries.entries[1].header.start - 8;
        entries.bytes[at..at + 8].copy_from_slice(&11u64.to_le_bytes());
        assert_eq!(decode(&Frame::Entries(entries).encode()), Err(WireError::Chain));
        // Another end than they lead to.
        let mut entries = self::entries();
        entries.bytes[STREAM_BYTES + END_BYTES + 8] ^= 1;
        assert_eq!(decode(&Frame::Entries(entries).encode()), Err(WireError::Chain));
        // A payload that is not the one that was accepted.
        let mut entries = self::entries();
        let at = entries.entries[0].payload.start;
        entries.bytes[at] ^= 1;
        assert_eq!(decode(&Frame::Entries(entries).encode()), Err(WireError::Chain));
    }

    #[test]
    fn a_question_fits_what_a_follower_may_send_and_no_more_rows_are_taken() {
        let rows = vec![(stream(1), Seq(4)); ROWS_MAX];
        let bytes = Frame::Ask(Ask::At(rows.clone())).encode();
        assert!(bytes.len() - HEADER_BYTES <= FOLLOWER_BYTES_MAX);
        assert_eq!(decode(&bytes), Ok(Frame::Ask(Ask::At(rows))));
        let told = Frame::Told(Told::At(vec![At::End(end(4)); ROWS_MAX]));
        assert!(told.encode().len() - HEADER_BYTES <= FOLLOWER_BYTES_MAX);
        let resealed = |mut bytes: Vec<u8>, change: &dyn Fn(&mut Vec<u8>)| {
            change(&mut bytes);
            let kind = bytes[4];
            seal(&mut bytes, kind);
            decode(&bytes)
        };
        let more = |bytes: &mut Vec<u8>| {
            let row = bytes[HEADER_BYTES + 5..HEADER_BYTES + 5 + STREAM_BYTES + 8].to_vec();
            bytes.extend(row);
            bytes[HEADER_BYTES + 1..HEADER_BYTES + 5].copy_from_slice(&(ROWS_MAX as u32 + 1).to_le_bytes());
        };
        assert_eq!(resealed(bytes, &more), Err(WireError::Content(12)));
        // Folded streams have no blocks to be asked for; where the streams stand is asked without rows.
        let folded = Frame::Ask(Ask::At(vec![(Stream { nonce: FOLDED, ..stream(1) }, Seq(4))])).encode();
        assert_eq!(decode(&folded), Err(WireError::Content(12)));
        let one = Frame::Ask(Ask::At(vec![(stream(1), Seq(4))])).encode();
        assert_eq!(resealed(one, &|bytes| bytes[HEADER_BYTES] = 1), Err(WireError::Content(12)));
        // What is nothing has no end.
        let nothing = Frame::Told(Told::At(vec![At::Nothing])).encode();
        assert_eq!(resealed(nothing, &|bytes| bytes[HEADER_BYTES + 6] = 1), Err(WireError::Content(13)));
    }

    #[test]
    fn a_full_frame_takes_no_more() {
        let mut entries = Entries::new(stream(1), StreamEnd::default());
        let entry = crate::wal::entry::Entry {
            kind: EntryKind::Own,
            block_kind: BlockKind::Raw,
            namespace: "",
            table: "t",
            length: 0,
            received_at_ns: 0,
            rows: 0,
            payload_crc: 0,
            identity: None,
        };
        let head = entry.encode();
        let taken = (1..).take_while(|seq| entries.push(Seq(*seq), head.bytes(), &[])).count();
        assert_eq!(taken, ENTRIES_MAX);
        assert_eq!(decode(&Frame::Entries(entries.clone()).encode()), Ok(Frame::Entries(entries)));
    }

    /// The checksums of the frames above.
    const VERSION_1: [u32; 16] = [
        896_359_012,
        3_844_755_084,
        1_579_212_770,
        3_830_254_241,
        2_285_916_553,
        2_248_124_058,
        117_250_075,
        3_166_977_516,
        3_775_537_297,
        4_257_496_551,
        2_794_298_928,
        2_330_366_324,
        2_720_373_618,
        2_457_362_516,
        3_069_379_423,
        1_682_764_834,
    ];
}
