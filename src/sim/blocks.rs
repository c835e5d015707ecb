//! Blocks of the simulated writers: each is unlike every other, and can be made again from its name.

use crate::sim::another::Sent;
use crate::types::{BlockKind, mix64};
use crate::wal::entry::{EncodedEntry, Entry, EntryKind, Identity, decode_entry};

/// The name of a block: whose it is, which of theirs, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockName {
    /// The writer.
    pub writer: u32,
    /// Counts the writer's blocks, over all lives.
    pub counter: u32,
    /// Bytes of the payload.
    pub length: u32,
}

impl BlockName {
    /// The payload.
    pub fn payload(&self, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(self.length as usize + 8);
        let mut word = mix64(u64::from(self.writer), u64::from(self.counter));
        while out.len() < self.length as usize {
            word = word.wrapping_mul(0xd130_2b97_8d5d_4c25).wrapping_add(0x9e37_79b9);
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.truncate(self.length as usize);
    }

    /// The entry's header, as the writer's thread makes it; with an identity, as one from another store has it.
    #[must_use]
    pub fn header(&self, payload: &[u8], received_at_ns: i64, identity: Option<Identity>) -> EncodedEntry {
        Entry {
            kind: if identity.is_some() { EntryKind::Carried } else { EntryKind::Own },
            block_kind: BlockKind::Raw,
            namespace: &self.writer.to_string(),
            table: &self.counter.to_string(),
            length: self.length,
            received_at_ns,
            rows: 1,
            payload_crc: crc32fast::hash(payload),
            identity,
        }
        .encode()
    }

    /// What a writer makes of what another store has sent, if it brings that: the name, the payload in `out`, the header,
    /// and when that says that it was accepted.
    #[must_use]
    pub fn made(self, sent: Option<Sent>, received_at_ns: i64, out: &mut Vec<u8>) -> (Self, EncodedEntry, i64) {
        if let Some(Sent::Lost(adopted)) = sent {
            return (Self { length: 0, ..self }, adopted.entry(), adopted.chain.0 as i64);
        }
        self.payload(out);
        let identity = sent.map(|sent| match sent {
            Sent::Block(identity) => identity,
            Sent::Lost(adopted) => adopted.last,
        });
        (self, self.header(out, received_at_ns, identity), received_at_ns)
    }

    /// The name that stands in an entry, if the payload is that block's.
    #[must_use]
    pub fn read(header: &[u8], payload: &[u8], scratch: &mut Vec<u8>) -> Option<Self> {
        let entry = decode_entry(header)?;
        let name =
            Self { writer: entry.namespace.parse().ok()?, counter: entry.table.parse().ok()?, length: entry.length };
        name.payload(scratch);
        (scratch == payload).then_some(name)
    }
}
