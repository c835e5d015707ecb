//! Where a writer's blocks come from: made up ahead of time, or the lines of a file.
//!
//! Where a run is to be verified, each raw block is made anew and bears its identity, so that it can
//! be made again for comparison, byte for byte; blocks of lines, no two of which are alike, are remembered
//! by a hash each.

use std::sync::mpsc::Receiver;

use anyhow::Result;
use forebay::Block;
use forebay::types::mix64;

use crate::input::{Piece, check_piece};
use crate::meters::Meters;

/// Bytes at the start of a verified raw block: magic, run, writer, counter.
pub const IDENTITY_BYTES: usize = 32;
const MAGIC: u64 = 0x5ee0_f0eb_a7b1_0c51;
/// The table of raw blocks.
const RAW_TABLE: &str = "blobs";
/// Blocks that a writer goes round in.
const TEMPLATES: usize = 4;

/// One writer's blocks.
pub enum Source {
    /// The same few blocks again and again.
    Templates {
        /// Those blocks.
        blocks: Vec<Block>,
        /// Which comes next.
        at: usize,
    },
    /// Rows of meters, checked anew for each block as any client's are.
    Meters(Meters),
    /// Raw blocks that bear their identity.
    Marked {
        /// The run.
        run: u64,
        /// The writer.
        writer: u32,
        /// The counter of the next block.
        counter: u64,
        /// The length of each.
        bytes: usize,
    },
    /// Pieces of the input, until there are no more.
    Input(Receiver<Piece>),
    /// Nothing more.
    Ended,
}

impl Source {
    /// Raw blocks of `bytes` each.
    pub fn raw(bytes: usize, writer: u32, verified_run: Option<u64>) -> Self {
        match verified_run {
            Some(run) => Self::Marked { run, writer, counter: 0, bytes },
            None => {
                let block = |at: usize| {
                    let mut payload = vec![0; bytes];
                    fill(&mut payload, mix64(u64::from(writer), at as u64));
                    Block::raw(RAW_TABLE, payload)
                };
                Self::Templates { blocks: (0..TEMPLATES).map(block).collect(), at: 0 }
            }
        }
    }

    /// The next block; `None` at the end of the input.
    ///
    /// # Errors
    /// A bad line of the input, or that it has none.
    #[inline(always)]
    pub fn next(&mut self) -> Result<Option<Block>> {
        // Inlined, and the rest kept apart: handing a block through calls would cost as much as making it.
        if let Self::Templates { blocks, at } = self {
            *at = (*at + 1) % TEMPLATES;
            return Ok(Some(blocks[*at].clone()));
        }
        self.make()
    }

    #[inline(never)]
    fn make(&mut self) -> Result<Option<Block>> {
        match self {
            Self::Templates { .. } => unreachable!("these are made ahead of time"),
            Self::Meters(meters) => Ok(Some(Block::lines(meters.next())?)),
            Self::Marked { run, writer, counter, bytes } => {
                let payload = marked_payload(*run, *writer, *counter, *bytes);
                *counter += 1;
                Ok(Some(Block::raw(RAW_TABLE, payload)))
            }
            Self::Input(pieces) => {
                for piece in pieces.iter() {
                    if let Some(block) = check_piece(piece)? {
                        return Ok(Some(block));
                    }
                }
                Ok(None)
            }
            Self::Ended => Ok(None),
        }
    }

    /// Whether the next block is there at once: it needs neither work nor reading.
    pub fn is_ready_made(&self) -> bool {
        matches!(self, Self::Templates { .. })
    }

    /// Takes no more pieces of the input.
    pub fn end_input(&mut self) {
        if matches!(self, Self::Input(_)) {
            *self = Self::Ended;
        }
    }
}

/// A raw block that bears its identity, and whose every other byte follows from that.
pub fn marked_payload(run: u64, writer: u32, counter: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    let (head, body) = payload.split_at_mut(IDENTITY_BYTES);
    for (field, value) in head.chunks_exact_mut(8).zip([MAGIC, run, u64::from(writer), counter]) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    fill(body, mix64(mix64(run, u64::from(writer)), counter));
    payload
}

/// Run, writer and counter of a block made by [`marked_payload`].
pub fn identity_of(payload: &[u8]) -> Option<(u64, u32, u64)> {
    let head = payload.get(..IDENTITY_BYTES)?;
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    (word(0) == MAGIC).then_some(())?;
    Some((word(8), u32::try_from(word(16)).ok()?, word(24)))
}

/// A hash of a block's text.
pub fn hash_of(payload: &[u8]) -> u64 {
    let words = payload.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(payload.len() as u64, mix64)
}

fn fill(bytes: &mut [u8], seed: u64) {
    for (at, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = mix64(seed, at as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_block_can_be_made_again_from_its_identity() {
        let payload = marked_payload(9, 3, 77, 100);
        assert_eq!((payload.len(), identity_of(&payload)), (100, Some((9, 3, 77))));
        assert_eq!(payload, marked_payload(9, 3, 77, 100));
        assert_ne!(payload[IDENTITY_BYTES..], marked_payload(9, 3, 78, 100)[IDENTITY_BYTES..]);
        assert_eq!(identity_of(&[0; 100]), None);
        assert_eq!(identity_of(&payload[..20]), None);
    }

    #[test]
    fn raw_blocks_have_their_length_and_are_not_all_alike() {
        let mut source = Source::raw(5, 0, None);
        let blocks: Vec<_> = (0..2).map(|_| source.next().expect("sound").expect("endless")).collect();
        assert_eq!(blocks[0].payload().len(), 5);
        assert_ne!(blocks[0], blocks[1]);
    }
}
