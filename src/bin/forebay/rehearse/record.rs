//! What a site of a rehearsal tells: records of one size, each written at once and so whole, whatever happens to the
//! process.

use std::io::{self, Read};

use forebay::Block;

/// Bytes of a record.
pub const BYTES: usize = 32;
/// Bytes of a block's payload by which it is known.
pub const ID_BYTES: usize = 16;

/// Which block: of which site, of which of its lives, by which of its writers, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub site: u8,
    pub life: u8,
    pub writer: u16,
    pub number: u64,
}

impl Id {
    /// A block with this id, so many bytes long.
    pub fn block(self, bytes: usize) -> Block {
        let mut payload = vec![0; bytes.max(ID_BYTES)];
        payload[..ID_BYTES].copy_from_slice(&self.encode());
        let fill = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        payload[ID_BYTES..].chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&fill[..chunk.len()]));
        Block::raw("rehearsal", payload)
    }

    fn encode(self) -> [u8; ID_BYTES] {
        let mut out = [0; ID_BYTES];
        (out[0], out[1]) = (self.site, self.life);
        out[2..4].copy_from_slice(&self.writer.to_le_bytes());
        out[8..].copy_from_slice(&self.number.to_le_bytes());
        out
    }

    /// The id of the block with this payload.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; ID_BYTES] = payload.get(..ID_BYTES)?.try_into().ok()?;
        let number = u64::from_le_bytes(bytes[8..].try_into().ok()?);
        Some(Self { site: bytes[0], life: bytes[1], writer: u16::from_le_bytes([bytes[2], bytes[3]]), number })
    }
}

/// What a site tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A block was acknowledged, then (nanoseconds of the monotonic clock).
    Acked(Id, u64),
    /// It was accepted, and the answer was that its outcome is unknown.
    Unknown(Id),
    /// It is in the log; an answer to `held`.
    Held(Id),
    /// That was the last of them.
    HeldAll,
}

impl Record {
    /// As bytes.
    pub fn encode(self) -> [u8; BYTES] {
        let (tag, id, at) = match self {
            Self::Acked(id, at) => (1, Some(id), at),
            Self::Unknown(id) => (2, Some(id), 0),
            Self::Held(id) => (3, Some(id), 0),
            Self::HeldAll => (4, None, 0),
        };
        let mut out = [0; BYTES];
        out[0] = tag;
        out[8..16].copy_from_slice(&at.to_le_bytes());
        if let Some(id) = id {
            out[16..].copy_from_slice(&id.encode());
        }
        out
    }

    /// The next one; `None` at the end.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; BYTES];
        match from.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let at = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes"));
        let id = Id::decode(&bytes[16..]).expect("16 bytes");
        match bytes[0] {
            1 => Ok(Some(Self::Acked(id, at))),
            2 => Ok(Some(Self::Unknown(id))),
            3 => Ok(Some(Self::Held(id))),
            4 => Ok(Some(Self::HeldAll)),
            other => Err(io::Error::other(format!("a record of the kind {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_blocks_read_back() {
        let id = Id { site: 1, life: 2, writer: 300, number: u64::MAX - 4 };
        let records = [Record::Acked(id, 77), Record::Unknown(id), Record::Held(id), Record::HeldAll];
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        let mut from = &bytes[..bytes.len() - 1];
        let read: Vec<Record> = std::iter::from_fn(|| Record::read(&mut from).expect("records")).collect();
        assert_eq!(read, records[..3], "half a record was never written");
        for bytes in [0, 16, 21, 300] {
            let block = id.block(bytes);
            assert_eq!((block.payload().len(), Id::decode(block.payload())), (bytes.max(16), Some(id)));
        }
        assert!(Record::read(&mut &[9; BYTES][..]).is_err());
    }
}
