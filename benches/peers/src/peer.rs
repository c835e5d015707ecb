//! What an adapter is, and which there are. What each asks of its peer stands in README.md.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::adapters::{file, fjall, forebay, okaywal, raft_engine, walrus};
use crate::blocks::Blocks;

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// For no sync; everything is synced once, at the end of the run.
    None,
    /// For a sync that covers the block.
    Each,
}

/// Whom the writers write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Forebay: (1) and (2,0).
    Forebay,
    /// One plain file under a lock.
    File,
    /// One plain file with group commit.
    FileGroup,
    /// okaywal, which has group commit.
    Okaywal,
    /// raft-engine, which has group commit, with its log files filled ahead.
    #[value(name = "raft-engine")]
    Raft,
    /// raft-engine with its default options.
    #[value(name = "raft-engine-plain")]
    RaftPlain,
    /// walrus over pwrite.
    Walrus,
    /// walrus over a mapping.
    WalrusMmap,
    /// walrus's batches, each of a group of writers.
    WalrusGroup,
    /// fjall.
    Fjall,
    /// fjall's write batches, each of a group of writers.
    FjallGroup,
}

/// How an engine is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// A folder of its own.
    pub dir: &'a Path,
    /// What acknowledgements wait for.
    pub sync: Sync,
    /// Whether nothing may be trimmed, since all of it is to be read back.
    pub hold: bool,
    /// Whether Forebay is to write with system calls that strace can see.
    pub visible: bool,
    /// The length of every block.
    pub block_bytes: usize,
}

/// An open engine.
pub trait Peer: Send + std::marker::Sync {
    /// One writer's end of it.
    ///
    /// # Errors
    /// As the engine says.
    fn writer(&self, blocks: Blocks) -> Result<Box<dyn PeerWriter + '_>>;

    /// Returns when all that was acknowledged is synced.
    ///
    /// # Errors
    /// As the device says.
    fn sync(&self) -> Result<()>;
}

/// One writer's end of a [`Peer`].
pub trait PeerWriter: Send {
    /// Writes the block with this index, one above the last; returns when it is acknowledged.
    ///
    /// # Errors
    /// As the engine says.
    fn append(&mut self, index: u64) -> Result<()>;
}

impl Engine {
    /// Its name in the records.
    pub fn name(self) -> String {
        self.to_possible_value().expect("none is skipped").get_name().to_owned()
    }

    /// The package that it comes from; none of its own for the plain file.
    pub fn package(self) -> Option<&'static str> {
        match self {
            Self::Forebay => Some("forebay"),
            Self::File | Self::FileGroup => None,
            Self::Okaywal => Some("okaywal"),
            Self::Raft | Self::RaftPlain => Some("raft-engine"),
            Self::Walrus | Self::WalrusMmap | Self::WalrusGroup => Some("walrus-rust"),
            Self::Fjall | Self::FjallGroup => Some("fjall"),
        }
    }

    /// Why it cannot be run that way.
    pub fn unsupported(self, sync: Sync) -> Option<&'static str> {
        match (self, sync) {
            (Self::Okaywal, Sync::None) => Some("every commit waits for fdatasync; there is no way without"),
            (Self::WalrusGroup, Sync::None) => Some("every batch ends in an fsync; there is no way without"),
            (Self::FileGroup | Self::FjallGroup, Sync::None) => Some("a group shares a sync, and here is none"),
            _ => None,
        }
    }

    /// Opens or makes it.
    ///
    /// # Errors
    /// As the engine says.
    pub fn open(self, options: Options<'_>) -> Result<Box<dyn Peer>> {
        Ok(match self {
            Self::Forebay => Box::new(forebay::Forebay::open(options)?),
            Self::File | Self::FileGroup => Box::new(file::PlainFile::open(options, self == Self::FileGroup)?),
            Self::Okaywal => Box::new(okaywal::Okaywal::open(options)?),
            Self::Raft | Self::RaftPlain => Box::new(raft_engine::RaftEngine::open(options, self == Self::Raft)?),
            Self::Walrus | Self::WalrusMmap | Self::WalrusGroup => Box::new(walrus::Wal::open(options, self)?),
            Self::Fjall | Self::FjallGroup => Box::new(fjall::Fjall::open(options, self == Self::FjallGroup)?),
        })
    }

    /// Opens it again in a new process and shows every block that it holds.
    ///
    /// # Errors
    /// As the engine says.
    pub fn read_back(self, options: Options<'_>, writers: u32, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        match self {
            Self::Forebay => forebay::read_back(options, see),
            Self::File | Self::FileGroup => file::read_back(options, see),
            Self::Okaywal => okaywal::read_back(options, see),
            Self::Raft | Self::RaftPlain => raft_engine::read_back(options, self == Self::Raft, writers, see),
            Self::Walrus | Self::WalrusMmap | Self::WalrusGroup => walrus::read_back(options, self, writers, see),
            Self::Fjall | Self::FjallGroup => fjall::read_back(options, see),
        }
    }

    /// What is asked of it, for the record.
    pub fn asked(self, sync: Sync) -> Value {
        match self {
            Self::Forebay => forebay::asked(sync),
            Self::File | Self::FileGroup => file::asked(sync, self == Self::FileGroup),
            Self::Okaywal => okaywal::asked(),
            Self::Raft | Self::RaftPlain => raft_engine::asked(sync, self == Self::Raft),
            Self::Walrus | Self::WalrusMmap | Self::WalrusGroup => walrus::asked(sync, self),
            Self::Fjall | Self::FjallGroup => fjall::asked(sync, self == Self::FjallGroup),
        }
    }
}
