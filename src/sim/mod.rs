//! The simulator's world: one store, of one shard or several, on a simulated disk, under every fault that
//! the model of `io/medium.rs` knows, from one seed.
//!
//! It runs the real core, scan, recovery and segment maker. What it simulates is what surrounds them:
//! the device, the file system's names, time, writers, the ring's file, the store behind the log,
//! and the ends that processes and machines come to. A seed decides everything ([`Plan`]), so a
//! failure repeats. A second world ([`run_files`]) does the same to data files and their manifest.

mod another;
mod blocks;
mod check;
mod files;
mod files_check;
mod files_life;
mod flips;
mod life;
mod meddle;
mod plan;
mod ring;
mod shard;
mod shrink;
mod site;
mod site_link;
mod site_shard;
mod sites;
mod sites_check;
mod world;

pub use check::Kind;
pub use files::run_files;
pub use files_life::FilesSummary;
pub use flips::{Class, FlipCount, FlipSummary, flips};
pub use plan::{Limits, Plan, Shards, Wall};
pub use shrink::shrink;
pub use sites::{SitesSummary, run_sites};
pub use world::{Run, Summary, Tracing, Violation, run};
