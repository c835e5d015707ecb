//! One plain file: write(2) under a lock, and fdatasync under it too, as the plain file of `load-test
//! --baseline`; or with group commit, one write and one fdatasync for all who wait.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::group::Group;
use crate::peer::{Options, Peer, PeerWriter, Sync};

const NAME: &str = "file";

pub struct PlainFile {
    file: Mutex<File>,
    sync: Sync,
    group: Option<Group<Bytes>>,
}

impl PlainFile {
    pub fn open(options: Options<'_>, grouped: bool) -> Result<Self> {
        let path = options.dir.join(NAME);
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = Mutex::new(file.with_context(|| format!("cannot make {}", path.display()))?);
        Ok(Self { file, sync: options.sync, group: grouped.then(Group::new) })
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(bytes).context("write")?;
        match self.sync {
            Sync::None => Ok(()),
            Sync::Each => file.sync_data().context("fdatasync"),
        }
    }

    fn append(&self, block: Bytes) -> Result<()> {
        match &self.group {
            None => self.write(&block),
            Some(group) => group.join(block, |blocks| self.write(&blocks.concat())),
        }
    }
}

pub fn asked(sync: Sync, grouped: bool) -> Value {
    json!({ "write": if grouped { "one for all who wait" } else { "one a block" }, "fdatasync": sync == Sync::Each })
}

pub fn read_back(options: Options<'_>, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(options.dir.join(NAME))?);
    let mut block = Vec::with_capacity(options.block_bytes);
    while (&mut file).take(options.block_bytes as u64).read_to_end(&mut block)? > 0 {
        see(&block);
        block.clear();
    }
    Ok(())
}

impl Peer for PlainFile {
    fn writer(&self, blocks: Blocks) -> Result<Box<dyn PeerWriter + '_>> {
        Ok(Box::new(One { file: self, blocks }))
    }

    fn sync(&self) -> Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).sync_data().context("fdatasync")
    }
}

struct One<'a> {
    file: &'a PlainFile,
    blocks: Blocks,
}

impl PeerWriter for One<'_> {
    fn append(&mut self, index: u64) -> Result<()> {
        self.file.append(self.blocks.at(index))
    }
}
