//! What the tests of the source itself share: finding files, and reading Rust as tokens.

pub mod files;
pub mod tokens;
