//! The rig: a disk of our own, a loop device on it, a real file system on that, and the real engine over all.
//! It proves what is promised against power cuts (`power_cut.rs`) and failing disks (`disk_faults.rs`).
//!
//! The disk is a FUSE file system with one file, served by a process of its own (`server.rs`): it records what
//! the engine's writes become below the file system, and becomes what a power cut may leave of them. Which
//! states there may be stands in `states.rs`, what each must give back in `check.rs`. Every test runs in
//! namespaces of its own (`enclosure.rs`).
//!
//! `FOREBAY_RIG_STATES` multiplies the number of states (default 1, what CI runs; the release run takes more).
//! A failing state is kept, and the failure prints the command that repeats it.

mod check;
mod device;
mod enclosure;
mod image;
mod load;
mod power_cut;
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
