//! The outside world of a shard: traits for its disk, its folder and its clock, and what implements them.

pub mod buf;
pub mod disk;
