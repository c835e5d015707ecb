//! What the tests of links share: frames as bytes, and a network that swaps and repeats them.

use std::collections::VecDeque;

use forebay::io::chance::Chance;
use forebay::repl::wire::{Frame, HEADER_BYTES};

/// The frame that these bytes are.
pub fn frame(bytes: &[u8]) -> Frame {
    let (header, payload) = bytes.split_at(HEADER_BYTES);
    Frame::decode(header.try_into().expect("a header"), payload.to_vec()).expect("a frame")
}

/// Now and then the first two are swapped, and the first comes once more.
pub fn meddle(chance: &mut Chance, frames: &mut VecDeque<Vec<u8>>) {
    if chance.percent(5) && frames.len() > 1 {
        frames.swap(0, 1);
    }
    if chance.percent(5)
        && let Some(first) = frames.front().cloned()
    {
        frames.push_back(first);
    }
}
