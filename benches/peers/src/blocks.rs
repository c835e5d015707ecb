//! What is written: blocks that no compression makes smaller, and that say whose they are.

use bytes::Bytes;

/// Bytes at a block's begin: its index in its writer's sequence and its writer, little endian.
pub const IDENTITY_BYTES: usize = 12;

/// One writer's blocks.
#[derive(Clone)]
pub struct Blocks {
    writer: u32,
    template: Bytes,
    marked: bool,
}

impl Blocks {
    /// Blocks of `bytes` each. Marked ones bear their index; others are all the same, and cost nothing to make.
    pub fn new(writer: u32, bytes: usize, marked: bool) -> Self {
        let mut template = Vec::with_capacity(bytes + 8);
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(writer);
        while template.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            template.extend_from_slice(&state.to_le_bytes());
        }
        template.truncate(bytes);
        template[..8].copy_from_slice(&0_u64.to_le_bytes());
        template[8..IDENTITY_BYTES].copy_from_slice(&writer.to_le_bytes());
        Self { writer, template: template.into(), marked }
    }

    /// Whose blocks these are.
    pub fn writer(&self) -> u32 {
        self.writer
    }

    /// Block 0, which all others resemble but for the index at their begin.
    pub fn template(&self) -> &Bytes {
        &self.template
    }

    /// The block with this index.
    pub fn at(&self, index: u64) -> Bytes {
        if !self.marked {
            return self.template.clone();
        }
        let mut block = self.template.to_vec();
        block[..8].copy_from_slice(&index.to_le_bytes());
        block.into()
    }
}

/// Compares what is read back with what was written.
pub struct Seen {
    writers: Vec<(Blocks, Vec<bool>)>,
    bytes: usize,
    /// Blocks that nobody wrote, or that are there twice.
    pub wrong: u64,
}

impl Seen {
    /// Expects `count` blocks of each writer.
    pub fn new(writers: u32, bytes: usize, count: u64) -> Self {
        let writers = (0..writers).map(|writer| (Blocks::new(writer, bytes, true), vec![false; count as usize]));
        Self { writers: writers.collect(), bytes, wrong: 0 }
    }

    /// Takes one block into account.
    pub fn see(&mut self, block: &[u8]) {
        self.wrong += u64::from(!self.is_new(block));
    }

    fn is_new(&mut self, block: &[u8]) -> bool {
        if block.len() != self.bytes {
            return false;
        }
        let index = u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
        let writer = u32::from_le_bytes(block[8..IDENTITY_BYTES].try_into().expect("four bytes"));
        let Some((blocks, seen)) = self.writers.get_mut(writer as usize) else { return false };
        let Some(seen) = seen.get_mut(index as usize) else { return false };
        block[8..] == blocks.template()[8..] && !std::mem::replace(seen, true)
    }

    /// How many of the expected blocks were there.
    pub fn there(&self) -> u64 {
        self.writers.iter().map(|(_, seen)| seen.iter().filter(|seen| **seen).count() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_altered_doubled_and_foreign_blocks_are_seen() {
        let blocks = Blocks::new(1, 64, true);
        let mut seen = Seen::new(2, 64, 3);
        seen.see(&blocks.at(0));
        seen.see(&blocks.at(2));
        assert_eq!((seen.there(), seen.wrong), (2, 0));
        seen.see(&blocks.at(2));
        seen.see(&blocks.at(3));
        seen.see(&Blocks::new(2, 64, true).at(0));
        seen.see(&blocks.at(1)[..63]);
        let mut altered = blocks.at(1).to_vec();
        altered[40] ^= 1;
        seen.see(&altered);
        assert_eq!((seen.there(), seen.wrong), (2, 5));
    }

    #[test]
    fn unmarked_blocks_are_shared() {
        let blocks = Blocks::new(0, 4096, false);
        assert_eq!(blocks.at(7).as_ptr(), blocks.template().as_ptr());
    }
}
