//! What clients send, and how it is checked before it becomes a block.

pub mod line_error;
pub mod lines;
pub mod row;
mod token;
