//! Bodies of the fuzz targets: each takes any bytes and panics where the code under it breaks a promise.
//!
//! A body reads its bytes as a row of choices ([`choices`]): the first says in which way they are used.
//! *Built*: something sound is made, must read back as it was made, and is then damaged; the damaged one
//! says the same or is refused. *Raw*: the bytes are what was found on disk. *Crafted*: something sound is
//! changed and its checksums are made right again, so that what lies behind them is reached. What must
//! never happen in any of them: a panic, a loop or an allocation without a bound, and a difference that
//! nobody is told of.
//!
//! `fuzz/` runs them under libFuzzer (`scripts/fuzz.sh`), `tests/fuzz_smoke.rs` with seeds.

pub mod batch;
pub mod choices;
pub mod config;
pub mod lines;
pub mod log;
pub mod manifest;
pub mod ring;
pub mod scan;
pub mod segment;
pub mod targets;
pub mod wire;
