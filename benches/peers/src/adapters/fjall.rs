//! fjall: an insert for each block, under a key of writer and index; synced ones in a write batch whose
//! durability is fdatasync, of one block, or of all who wait.

use anyhow::Result;
use bytes::Bytes;
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::group::Group;
use crate::peer::{Options, Peer, PeerWriter, Sync};

const KEYSPACE: &str = "blocks";
/// So large that a run measures the journal and no flush of memtables.
const MEMTABLE_BYTES: u64 = 2 << 30;
/// The same.
const JOURNAL_BYTES: u64 = 16 << 30;

pub struct Fjall {
    database: Database,
    keyspace: Keyspace,
    sync: Sync,
    group: Option<Group<(Key, Bytes)>>,
}

/// Writer and index, big endian, as fjall advises.
type Key = [u8; 12];

impl Fjall {
    pub fn open(options: Options<'_>, grouped: bool) -> Result<Self> {
        let database = Database::builder(options.dir)
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNAL_BYTES)
            .open()?;
        let keyspace = database.keyspace(KEYSPACE, || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .data_block_compression_policy(CompressionPolicy::disabled())
        })?;
        Ok(Self { database, keyspace, sync: options.sync, group: grouped.then(Group::new) })
    }

    fn commit(&self, blocks: Vec<(Key, Bytes)>) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, block) in blocks {
            batch.insert(&self.keyspace, key, &block[..]);
        }
        Ok(batch.commit()?)
    }
}

pub fn asked(sync: Sync, grouped: bool) -> Value {
    let call = match (sync, grouped) {
        (Sync::None, _) => "insert",
        (Sync::Each, false) => "write batch of one, PersistMode::SyncData",
        (Sync::Each, true) => "write batch of all who wait, PersistMode::SyncData",
    };
    json!({
        "call": call,
        "max_memtable_size": MEMTABLE_BYTES,
        "max_journaling_size": JOURNAL_BYTES,
        "compression": "none",
    })
}

pub fn read_back(options: Options<'_>, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let peer = Fjall::open(options, false)?;
    for found in peer.keyspace.iter() {
        see(&found.value()?);
    }
    Ok(())
}

impl Peer for Fjall {
    fn writer(&self, blocks: Blocks) -> Result<Box<dyn PeerWriter + '_>> {
        Ok(Box::new(One { peer: self, blocks }))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}

struct One<'a> {
    peer: &'a Fjall,
    blocks: Blocks,
}

impl PeerWriter for One<'_> {
    fn append(&mut self, index: u64) -> Result<()> {
        let mut key = Key::default();
        key[..4].copy_from_slice(&self.blocks.writer().to_be_bytes());
        key[4..].copy_from_slice(&index.to_be_bytes());
        let block = self.blocks.at(index);
        match (self.peer.sync, &self.peer.group) {
            (Sync::None, _) => Ok(self.peer.keyspace.insert(key, &block[..])?),
            (Sync::Each, None) => self.peer.commit(vec![(key, block)]),
            (Sync::Each, Some(group)) => group.join((key, block), |blocks| self.peer.commit(blocks)),
        }
    }
}
