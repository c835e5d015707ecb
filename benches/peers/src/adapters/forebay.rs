//! Forebay through its public interface, with its defaults, as `load-test --store none` runs it.

use anyhow::Result;
use forebay::store::{Hold, Null, Store};
use forebay::{Block, Config, Cursor, Engine, IoChoice, Writer};
use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::peer::{Options, Peer, PeerWriter, Sync};

const TABLE: &str = "blobs";

pub struct Forebay {
    engine: Engine,
}

impl Forebay {
    pub fn open(options: Options<'_>) -> Result<Self> {
        let store: Box<dyn Store> = if options.hold { Box::new(Hold) } else { Box::new(Null) };
        Ok(Self { engine: Engine::open_with(config(options), store)? })
    }
}

fn config(options: Options<'_>) -> Config {
    let config = Config::new(options.dir);
    let config = if options.visible { config.io(IoChoice::Pwrite) } else { config };
    match options.sync {
        Sync::None => config.wal_level(1),
        Sync::Each => config.wal_level(2).wal_fsync_period_ms(0),
    }
}

pub fn asked(sync: Sync) -> Value {
    match sync {
        Sync::None => json!({ "wal_level": 1 }),
        Sync::Each => json!({ "wal_level": 2, "wal_fsync_period_ms": 0 }),
    }
}

pub fn read_back(options: Options<'_>, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let peer = Forebay::open(options)?;
    for delivered in peer.engine.subscribe(Cursor::start())?.until_end() {
        see(delivered?.block.payload());
    }
    Ok(peer.engine.close()?)
}

impl Peer for Forebay {
    fn writer(&self, blocks: Blocks) -> Result<Box<dyn PeerWriter + '_>> {
        Ok(Box::new(One { writer: self.engine.writer("peers")?, blocks }))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.engine.sync()?)
    }
}

struct One {
    writer: Writer,
    blocks: Blocks,
}

impl PeerWriter for One {
    fn append(&mut self, index: u64) -> Result<()> {
        self.writer.append(Block::raw(TABLE, self.blocks.at(index)))?;
        Ok(())
    }
}
