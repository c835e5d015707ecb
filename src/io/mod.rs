//! The outside world of a shard: traits for its disk, its folder and its clock, and what implements them.

pub mod buf;
pub mod clock;
pub mod disk;
pub mod folder;
pub mod maker;
pub mod pwrite;
mod segments;
pub mod uring;
pub mod waker;
