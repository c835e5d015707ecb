//! Frames of replication. What reads as a frame is written as the same bytes; nothing else is taken, and nothing is
//! allocated beyond what is there.

use crate::fuzz::choices::Choices;
use crate::repl::wire::{Frame, HEADER_BYTES, header};

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    let kind = from.byte() % 14;
    let made_right = from.flag();
    let payload = from.all().to_vec();
    let mut head = [0; HEADER_BYTES];
    head[..4].copy_from_slice(b"FBR1");
    head[4] = kind;
    head[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    if made_right {
        let sum = crc32fast::hash(&[&head[..12], &payload].concat());
        head[12..].copy_from_slice(&sum.to_le_bytes());
    } else if payload.len() >= HEADER_BYTES {
        head.copy_from_slice(&payload[..HEADER_BYTES]);
    }
    let announced = header(&head);
    let Ok(frame) = Frame::decode(&head, payload.clone()) else { return };
    assert_eq!(announced, Ok((head[4], payload.len())), "a frame is what its header announces");
    assert_eq!(frame.encode(), [&head[..], &payload].concat(), "one frame, one row of bytes");
}
