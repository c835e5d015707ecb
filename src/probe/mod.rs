//! What a disk can do, measured through the very operations of the write path, and what each fsync setting
//! can have of it: `forebay probe`.

pub mod device;
pub mod measure;
pub mod predict;

pub use device::Device;
pub use measure::{FLUSH_US_MIN, Flush, Options, Point, Probe, probe};
pub use predict::{Load, Prediction};
