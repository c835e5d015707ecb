//! Bytes as a row of choices, for whoever builds something from what a fuzzer thought up. Where the
//! bytes are used up all choices are 0: every row of bytes means something, and a shorter one less.

use crate::limits::{PAGE_BYTES, SECTOR_BYTES};

/// Choices that are still to be made.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// The choices in these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// None is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One of 256.
    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((&first, rest)) => {
                self.rest = rest;
                first
            }
            None => 0,
        }
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number of two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number of four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from(self.short()) | u32::from(self.short()) << 16
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        match bound {
            ..=0x100 => usize::from(self.byte()) % bound,
            0x101..=0x1_0000 => usize::from(self.short()) % bound,
            _ => self.word() as usize % bound,
        }
    }

    /// Any number, and more often one near the ends.
    pub fn number(&mut self) -> u64 {
        match self.byte() % 4 {
            0 | 1 => u64::from(self.byte()),
            2 => u64::MAX - u64::from(self.byte()),
            _ => u64::from(self.word()) | u64::from(self.word()) << 32,
        }
    }

    /// A number with room for many more behind it, not 0.
    pub fn modest(&mut self) -> u64 {
        1 + u64::from(self.word())
    }

    /// Up to `len` bytes as they are.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub fn all(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// So many bytes: those at hand, repeated with changes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.take(len.min(8));
        (0..len).map(|at| seed.get(at % 8).copied().unwrap_or(at as u8).wrapping_add((at / 8) as u8)).collect()
    }

    /// A text of at most `bytes_max` bytes, not all of it ASCII.
    pub fn text(&mut self, bytes_max: usize) -> String {
        let len = self.below(bytes_max + 1);
        let mut text = String::new();
        for byte in self.take(len) {
            let char = char::from(*byte);
            if text.len() + char.len_utf8() > len {
                break;
            }
            text.push(char);
        }
        text
    }

    /// Changes bytes within `from..to` as rot does: flips a bit, writes over a few bytes, or copies some
    /// from elsewhere. It may come to nothing.
    pub fn rot(&mut self, bytes: &mut [u8], (from, to): (usize, usize)) {
        let to = to.min(bytes.len());
        if from >= to {
            return;
        }
        for _ in 0..=self.byte() % 3 {
            let at = from + self.below(to - from);
            match self.byte() % 4 {
                0 | 1 => bytes[at] ^= 1 << (self.byte() % 8),
                2 => {
                    let new = self.take(16);
                    let len = new.len().min(to - at);
                    bytes[at..at + len].copy_from_slice(&new[..len]);
                }
                _ => {
                    let len = (1 + usize::from(self.byte())).min(to - at);
                    let source = from + self.below(to - from - len + 1);
                    bytes.copy_within(source..source + len, at);
                }
            }
        }
    }

    /// Puts what stood there before in place of whole sectors, or of a page: writes that did not arrive.
    /// Gives where.
    pub fn lose(&mut self, bytes: &mut [u8], old: &[u8], (from, to): (usize, usize)) -> (usize, usize) {
        let unit = if self.flag() { SECTOR_BYTES } else { PAGE_BYTES };
        let (first, count) = (from / unit, (to - from) / unit);
        if count == 0 {
            return (from, from);
        }
        let first = first + self.below(count);
        let last = (first + 1 + usize::from(self.byte() % 8)).min(to / unit);
        let lost = first * unit..last * unit;
        bytes[lost.clone()].copy_from_slice(&old[lost.clone()]);
        (lost.start, lost.end)
    }
}
