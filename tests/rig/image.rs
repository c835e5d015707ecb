//! What a disk holds ([`Image`]), and what came to it ([`Recording`]): every write with its arrival and its
//! completion, every flush, and the marks that the engine's process left. A crash state is made from them:
//! which writes to take, in which part, and where.
//!
//! Pages are shared between images, so an image of a large, mostly empty disk costs little.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub const PAGE: usize = 4096;
pub const SECTOR: usize = 512;

/// The bytes of a disk.
#[derive(Clone)]
pub struct Image {
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

impl Image {
    /// Of a file of whole pages.
    pub fn load(path: &str) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let count = file.metadata()?.len() as usize / PAGE;
        let mut pages = Vec::with_capacity(count);
        let mut page = [0; PAGE];
        for _ in 0..count {
            file.read_exact(&mut page)?;
            pages.push((page != [0; PAGE]).then(|| Arc::new(page)));
        }
        Ok(Self { pages })
    }

    pub fn save(&self, to: &mut impl Write) -> io::Result<()> {
        for page in &self.pages {
            to.write_all(page.as_deref().unwrap_or(&[0; PAGE]))?;
        }
        Ok(())
    }

    pub fn bytes(&self) -> usize {
        self.pages.len() * PAGE
    }

    pub fn read(&self, mut offset: usize, mut to: &mut [u8]) {
        while !to.is_empty() {
            let (number, at) = (offset / PAGE, offset % PAGE);
            let count = to.len().min(PAGE - at);
            let (part, rest) = to.split_at_mut(count);
            match self.pages.get(number) {
                Some(Some(page)) => part.copy_from_slice(&page[at..at + count]),
                _ => part.fill(0),
            }
            (to, offset) = (rest, offset + count);
        }
    }

    pub fn write(&mut self, mut offset: usize, mut from: &[u8]) {
        while !from.is_empty() {
            let (number, at) = (offset / PAGE, offset % PAGE);
            let count = from.len().min(PAGE - at);
            let Some(slot) = self.pages.get_mut(number) else { return };
            let page = slot.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[at..at + count].copy_from_slice(&from[..count]);
            (from, offset) = (&from[count..], offset + count);
        }
    }
}

/// A step of a recording; its index in the log is its place in time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Nanoseconds since the recording began.
    pub at_ns: u64,
    pub what: What,
}

/// What happened. A completion names its arrival by index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum What {
    Write { offset: usize, bytes: usize, batch: Option<BatchAt> },
    Written { write: usize, failed: bool },
    Flush,
    Flushed { flush: usize, failed: bool },
    Mark(Mark),
}

/// A write that is a batch of the log, by what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAt {
    pub shard: u16,
    pub segment: u64,
    /// In the segment.
    pub offset: u32,
    pub length: u32,
    pub number: u64,
    pub first_seq: u64,
    pub count: u32,
    pub durable_upto: u64,
}

impl BatchAt {
    /// The places are those of the table in `src/wal/mod.rs`, behind the first sector's stamp.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(4..132)?;
        if &header[..4] != b"FBB1" {
            return None;
        }
        let u16_at = |at: usize| u16::from_le_bytes(header[at..at + 2].try_into().expect("2 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        Some(Self {
            shard: u16_at(112),
            segment: u64_at(24),
            offset: u32_at(84),
            length: u32_at(92),
            number: u64_at(48),
            first_seq: u64_at(56),
            count: u32_at(96),
            durable_upto: u64_at(72),
        })
    }
}

/// What the engine's process says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub kind: MarkKind,
    pub writer: u32,
    pub counter: u64,
    pub shard: u16,
    pub epoch: u64,
    pub seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkKind {
    /// The store is open; `counter` blocks of `writer` are there.
    Opened,
    /// The block was acknowledged as the setting says.
    Acked,
    /// It was acknowledged as synced.
    Synced,
    /// An append failed.
    Failed,
    /// The engine's process could not run for `counter` nanoseconds.
    Stalled,
    /// The rig saw that the disk is full.
    Full,
    /// It made room.
    Room,
    /// The longest write of a batch took `counter` nanoseconds, as the engine saw it.
    LongestWrite,
    /// So did the longest sync.
    LongestSync,
    /// The shards' threads, and the kernel's that work for them, waited `counter` nanoseconds for a CPU, all in all.
    Waited,
}

impl Mark {
    pub const BYTES: usize = 32;

    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.kind as u8;
        bytes[2..4].copy_from_slice(&self.shard.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.writer.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.counter.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seq.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        use MarkKind::{Acked, Failed, Full, LongestSync, LongestWrite, Opened, Room, Stalled, Synced, Waited};
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Some(Self {
            kind: *[Opened, Acked, Synced, Failed, Stalled, Full, Room, LongestWrite, LongestSync, Waited]
                .get(usize::from(bytes[0]))?,
            shard: u16::from_le_bytes(bytes[2..4].try_into().expect("2 bytes")),
            writer: u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")),
            counter: u64_at(8),
            epoch: u64_at(16),
            seq: u64_at(24),
        })
    }
}

/// A disk as it was, and what came to it since.
pub struct Recording {
    pub base: Image,
    pub steps: Vec<Step>,
    /// The bytes of each write, at its arrival's index.
    data: Vec<Option<Arc<[u8]>>>,
    began: std::time::Instant,
}

impl Recording {
    pub fn new(base: Image) -> Self {
        Self { base, steps: Vec::new(), data: Vec::new(), began: std::time::Instant::now() }
    }

    /// Adds a step; its index.
    pub fn push(&mut self, what: What) -> usize {
        self.steps.push(Step { at_ns: self.began.elapsed().as_nanos() as u64, what });
        self.data.push(None);
        self.steps.len() - 1
    }

    pub fn push_write(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let index = self.push(What::Write { offset, bytes: bytes.len(), batch: BatchAt::of(bytes) });
        self.data[index] = Some(bytes.into());
        index
    }

    /// The disk of a crash state.
    pub fn state(&self, state: &State) -> Image {
        let mut image = self.base.clone();
        let mut changes = state.changes.iter().peekable();
        for (index, step) in self.steps.iter().enumerate().take(state.cut) {
            let What::Write { offset, .. } = step.what else { continue };
            let data = self.data[index].as_deref().expect("a write has data");
            match changes.next_if(|change| change.write == index).map(|change| &change.how) {
                None => image.write(offset, data),
                Some(How::Lost) => {}
                Some(How::Moved(to)) => image.write(*to, data),
                Some(How::Torn(ranges)) => {
                    for &(from, upto) in ranges {
                        image.write(offset + from * SECTOR, &data[from * SECTOR..upto * SECTOR]);
                    }
                }
            }
        }
        image
    }

    /// For a failure to be repeated: the image, then the writes' data in order.
    pub fn save(&self, to: &mut impl Write) -> io::Result<()> {
        self.base.save(to)?;
        self.data.iter().flatten().try_for_each(|data| to.write_all(data))
    }

    pub fn restore(base: Image, steps: Vec<Step>, mut rest: &[u8]) -> Self {
        let mut data = Vec::with_capacity(steps.len());
        for step in &steps {
            data.push(match step.what {
                What::Write { bytes, .. } => {
                    let (own, after) = rest.split_at(bytes);
                    rest = after;
                    Some(own.into())
                }
                _ => None,
            });
        }
        Self { base, steps, data, began: std::time::Instant::now() }
    }
}

/// A crash state: what arrived before step `cut`, whole and where it belongs, but for the changes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub cut: usize,
    /// Ascending by write.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The index of the write's arrival.
    pub write: usize,
    pub how: How,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum How {
    Lost,
    /// To this place instead of its own.
    Moved(usize),
    /// Only these ranges of its sectors.
    Torn(Vec<(usize, usize)>),
}
