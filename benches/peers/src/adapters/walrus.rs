//! walrus: a topic for each writer, as in its own benchmarks, and an append for each block; or one topic, and
//! a batch for all who wait. Where it keeps its files, an environment variable says: see `crate::lead`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus, disable_fd_backend};

use crate::blocks::Blocks;
use crate::disk::sync_files;
use crate::group::Group;
use crate::peer::{Engine, Options, Peer, PeerWriter, Sync};

/// The environment variable that names the folder.
pub const DIR_VARIABLE: &str = "WALRUS_DATA_DIR";
/// The topic of groups.
const GROUP_TOPIC: &str = "group";
/// Payload that is read at a time.
const READ_BYTES: usize = 4 << 20;

pub struct Wal {
    wal: Walrus,
    dir: PathBuf,
    group: Option<Group<Bytes>>,
}

impl Wal {
    pub fn open(options: Options<'_>, engine: Engine) -> Result<Self> {
        let dir = std::env::var_os(DIR_VARIABLE).context("walrus is run in a process of its own")?;
        anyhow::ensure!(Path::new(&dir) == options.dir, "{DIR_VARIABLE} names another folder");
        if engine == Engine::WalrusMmap {
            disable_fd_backend();
        }
        let reading = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let wal = Walrus::with_consistency_and_schedule(reading, schedule(options.sync, engine))?;
        let group = (engine == Engine::WalrusGroup).then(Group::new);
        Ok(Self { wal, dir: options.dir.to_owned(), group })
    }
}

fn schedule(sync: Sync, engine: Engine) -> FsyncSchedule {
    match (sync, engine) {
        // A batch ends in an fsync at any schedule; `SyncEach` would open the files with O_SYNC on top of it.
        (Sync::None, _) | (_, Engine::WalrusGroup) => FsyncSchedule::NoFsync,
        (Sync::Each, _) => FsyncSchedule::SyncEach,
    }
}

pub fn asked(sync: Sync, engine: Engine) -> Value {
    json!({
        "backend": if engine == Engine::WalrusMmap { "mmap" } else { "fd" },
        "schedule": format!("{:?}", schedule(sync, engine)),
        "call": if engine == Engine::WalrusGroup { "batch_append_for_topic" } else { "append_for_topic" },
        "topics": if engine == Engine::WalrusGroup { "one" } else { "one a writer" },
    })
}

fn topic(writer: u32) -> String {
    format!("w{writer}")
}

pub fn read_back(options: Options<'_>, engine: Engine, writers: u32, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let peer = Wal::open(options, engine)?;
    let topics = match engine {
        Engine::WalrusGroup => vec![GROUP_TOPIC.to_owned()],
        _ => (0..writers).map(topic).collect(),
    };
    for topic in topics {
        loop {
            let found = peer.wal.batch_read_for_topic(&topic, READ_BYTES, true)?;
            if found.is_empty() {
                break;
            }
            found.iter().for_each(|entry| see(&entry.data));
        }
    }
    Ok(())
}

impl Peer for Wal {
    fn writer(&self, blocks: Blocks) -> Result<Box<dyn PeerWriter + '_>> {
        Ok(Box::new(One { peer: self, topic: topic(blocks.writer()), blocks }))
    }

    /// By hand: it has no call for it.
    fn sync(&self) -> Result<()> {
        sync_files(&self.dir)
    }
}

struct One<'a> {
    peer: &'a Wal,
    topic: String,
    blocks: Blocks,
}

impl PeerWriter for One<'_> {
    fn append(&mut self, index: u64) -> Result<()> {
        let block = self.blocks.at(index);
        match &self.peer.group {
            None => Ok(self.peer.wal.append_for_topic(&self.topic, &block)?),
            Some(group) => group.join(block, |blocks| {
                let blocks: Vec<&[u8]> = blocks.iter().map(|block| &block[..]).collect();
                Ok(self.peer.wal.batch_append_for_topic(GROUP_TOPIC, &blocks)?)
            }),
        }
    }
}
