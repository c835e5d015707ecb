//! The outside world of a shard: traits for its disk, its folder and its clock, and what implements them.

pub mod buf;
#[cfg(feature = "sim")]
pub mod chance;
pub mod clock;
pub mod disk;
pub mod folder;
pub mod maker;
#[cfg(feature = "sim")]
pub mod medium;
pub mod pwrite;
pub mod quarantine;
pub mod read_ahead;
pub mod rests;
mod segments;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "sim")]
mod sim_names;
#[cfg(feature = "sim")]
pub mod sim_tree;
#[cfg(feature = "sim")]
mod tree_state;
pub mod uring;
pub mod waker;
