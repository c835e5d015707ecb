//! Frames of blocks, packed with lz4 on their way: a frame of the kind [`PACKED`] has another one in it, header and all.
//!
//! ```text
//! 8 packed     unpacked u32; lz4 block: a frame of the kind entries
//! ```

use crate::node::ended::Ended;
use crate::repl::wire::{Frame, HEADER_BYTES, checked, seal};

/// The kind of such a frame.
pub(super) const PACKED: u8 = 8;
/// A shorter frame is sent as it is.
const BYTES_MIN: usize = 1024;
/// The kind of what is packed.
const ENTRIES: u8 = 3;
const LENGTH_BYTES: usize = 4;

/// The same frame packed; `None` where that is not worth it.
pub(super) fn pack(frame: &[u8]) -> Option<Vec<u8>> {
    if frame.len() < BYTES_MIN || frame[4] != ENTRIES {
        return None;
    }
    let begin = HEADER_BYTES + LENGTH_BYTES;
    let mut out = vec![0; begin + lz4_flex::block::get_maximum_output_size(frame.len())];
    out[HEADER_BYTES..begin].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    let packed = lz4_flex::block::compress_into(frame, &mut out[begin..]).ok()?;
    out.truncate(begin + packed);
    if out.len() > frame.len() / 8 * 7 {
        return None;
    }
    seal(&mut out, PACKED);
    Some(out)
}

/// The frame in one that was packed, whose own payload has at most so many bytes.
pub(super) fn unpack(head: &[u8; HEADER_BYTES], payload: &[u8], payload_max: usize) -> Result<Frame, Ended> {
    checked(head, payload)?;
    let wrong = || Ended::protocol("a packed frame does not unpack");
    let (length, block) = payload.split_first_chunk::<LENGTH_BYTES>().ok_or_else(wrong)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length < HEADER_BYTES || length - HEADER_BYTES > payload_max {
        return Err(wrong());
    }
    let mut frame = vec![0; length];
    if lz4_flex::block::decompress_into(block, &mut frame).ok() != Some(length) || frame[4] != ENTRIES {
        return Err(wrong());
    }
    let payload = frame.split_off(HEADER_BYTES);
    Ok(Frame::decode(&frame.try_into().expect("a header's bytes"), payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repl::entries::Entries;
    use crate::types::{BlockKind, Seq, Stream};
    use crate::wal::batch::StreamEnd;
    use crate::wal::entry::{Entry, EntryKind};

    fn frame(payload: &[u8]) -> Vec<u8> {
        let header = Entry {
            kind: EntryKind::Own,
            block_kind: BlockKind::Raw,
            namespace: "n",
            table: "t",
            length: payload.len() as u32,
            received_at_ns: 5,
            rows: 0,
            payload_crc: crc32fast::hash(payload),
            identity: None,
        };
        let stream = Stream { nonce: crate::types::Nonce(1), ..Stream::default() };
        let mut entries = Entries::new(stream, StreamEnd::default());
        assert!(entries.push(Seq(1), header.encode().bytes(), payload));
        Frame::Entries(entries).encode()
    }

    fn read(bytes: &[u8], payload_max: usize) -> Result<Frame, Ended> {
        let (head, payload) = bytes.split_first_chunk().expect("a header");
        unpack(head, payload, payload_max)
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_frame_and_nothing_else_does() {
        let plain = frame(&b"the same again, ".repeat(4000));
        let packed = pack(&plain).expect("much of the same");
        assert!(packed.len() < plain.len() / 50, "{} of {}", packed.len(), plain.len());
        assert_eq!(read(&packed, plain.len()).expect("it unpacks").encode(), plain);
        // More than is taken is not allocated.
        assert!(read(&packed, plain.len() - HEADER_BYTES - 1).is_err());
        assert!((0..plain.len()).all(|at| at % 97 > 0 || {
            let mut bytes = packed.clone();
            let at = at % packed.len();
            bytes[at] ^= 1;
            // The header's own fields are looked at before it comes here.
            at < HEADER_BYTES || read(&bytes, plain.len()).is_err()
        }));
        // A block of lz4 that says something else than it holds, with a checksum that holds.
        for at in [HEADER_BYTES, HEADER_BYTES + 2, HEADER_BYTES + LENGTH_BYTES] {
            let mut bytes = packed.clone();
            bytes[at] ^= 0x55;
            seal(&mut bytes, PACKED);
            assert!(read(&bytes, plain.len()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_short_or_does_not_shrink_is_sent_as_it_is() {
        let mut random = vec![0_u8; 5000];
        let mut word = 1_u64;
        random.iter_mut().for_each(|byte| {
            word = crate::types::mix64(word, 7);
            *byte = word as u8;
        });
        assert_eq!(pack(&frame(&random)), None);
        assert_eq!(pack(&frame(&[0; 300])), None);
        assert_eq!(pack(&Frame::Ack(vec![(Stream::default(), Seq(1)); 200]).encode()), None);
    }
}
