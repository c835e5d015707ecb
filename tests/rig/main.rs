//! The rig: a disk of our own, a loop device on it, a real file system on that, and the real engine over all.
//! It proves what is promised against power cuts (`power_cut.rs`), failing disks (`disk_faults.rs`) and full ones
//! (`disk_full.rs`).
//!
//! The disk is a FUSE file system with one file, served by a process of its own (`server.rs`): it records what
//! the engine's writes become below the file system, and becomes what a power cut may leave of them. Which
//! states there may be stands in `states.rs`, what each must give back in `check.rs`. Every test runs in
//! namespaces of its own (`enclosure.rs`).
//!
//! `FOREBAY_RIG_STATES` sets the crash states of each kind on ext4 (default 200; a tenth of it on XFS, a
//! fiftieth on btrfs; a fifth of each of lost and misdirected writes and of cuts two recoveries deep; a seventieth
//! are disks that fill), `FOREBAY_RIG_FAULTS` the N up to which every N-th write and flush fails (default 20). A
//! failing state is kept, and the failure prints the command that repeats it.

#![cfg(feature = "parquet")]

mod check;
mod controls;
#[path = "../data_rows/mod.rs"]
mod data_rows;
mod device;
mod disk_faults;
mod disk_full;
mod enclosure;
mod image;
mod load;
mod power_cut;
mod recorded;
mod server;
mod states;

/// Runs in the server's process only.
#[test]
fn server() {
    if let Some(dir) = std::env::var_os(server::SERVER) {
        server::serve(std::path::Path::new(&dir));
    }
}

/// Runs in the engine's process only.
#[test]
fn load() {
    if let Ok(spec) = std::env::var(load::LOAD) {
        load::work(&serde_json::from_str(&spec).expect("a load"));
    }
}
