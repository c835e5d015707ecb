//! Followers that are behind the log: what has left it they are given as data files.

use std::fs::File;
use std::path::PathBuf;

use crate::data::format::HeldFile;
use crate::data::store::{Handover, Holding, StoreError, Wanted};
use crate::engine::inbound::{adopt, lock};
use crate::engine::inner::Inner;
use crate::engine::open::Engine;
use crate::engine::outbound::Lacking;
use crate::error::Error;
use crate::repl::link_error::LinkError;
use crate::repl::receiver::Refused;
use crate::types::{Seq, Stream};
use crate::wal::batch::StreamEnds;
use crate::wal::entry::Control;
use crate::wal::vector::FOLDED;

/// What was taken over from another store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TookOver {
    /// Streams that go on behind what was taken over.
    pub streams: usize,
    /// Rows.
    pub rows: u64,
}

impl Engine {
    /// Whether what has left the log can be handed on and taken over: it is in data files.
    #[must_use]
    pub fn has_data_files(&self) -> bool {
        self.handover.is_some()
    }

    /// What a follower lacks of what has left the log: where the streams end in the data files, or stood at the log's
    /// beginning, and the files that it is to ask for.
    ///
    /// # Errors
    /// [`Error::Store`]: the store keeps none, or they cannot be read.
    pub fn holding(&self, lacking: &Lacking) -> Result<Holding, Error> {
        let mut holding = self.handover()?.holding(&|stream| lacking.has(*stream)).map_err(store)?;
        for (stream, begins) in lacking.begins().iter().filter(|(stream, _)| stream.nonce != FOLDED) {
            let end = holding.ends.entry(*stream).or_default();
            // What lies between is lost, or was taken over here: it is nowhere else.
            *end = if begins.seq > end.seq { *begins } else { *end };
        }
        holding.ends.retain(|stream, end| lacking.has(*stream) < end.seq);
        let gaps = self.inner.shards.iter().flat_map(|shard| &shard.gaps).filter_map(|gap| match gap {
            Control::Gap { stream, from, to } => Some((*stream, *from, *to)),
            Control::IntakeDone(_) | Control::EpochClosed(_) => None,
        });
        let is_lacked = |(stream, from, to): &(Stream, Seq, Seq)| {
            holding.ends.get(stream).is_some_and(|end| *from < end.seq && lacking.has(*stream) < *to)
        };
        holding.gaps = gaps.filter(is_lacked).collect();
        Ok(holding)
    }

    /// Opens a data file that is to be handed on.
    ///
    /// # Errors
    /// [`Error::Store`]: it is not there, or not any more.
    pub fn data_file(&self, no: u64) -> Result<File, Error> {
        self.handover()?.open_file(no).map_err(store)
    }

    /// Takes over what this store lacks of what another one holds, whose files stand at these paths. All of it or nothing;
    /// it is durable on return, and each stream goes on behind its end. Takes as long as writing the rows does, and
    /// nothing is taken from any link meanwhile.
    ///
    /// # Errors
    /// [`LinkError`]: there are two histories of a stream, or a file cannot be used. What is committed all the same is
    /// finished when the store is opened.
    pub fn take_over(&self, holding: &Holding, paths: &[PathBuf]) -> Result<TookOver, LinkError> {
        self.inner.not_forked()?;
        let handover = self.handover()?;
        let _busy = Busy::new(&self.inner)?;
        // What is here beyond what is synced might go, and its rows would be nowhere.
        self.sync()?;
        let wanted = wanted(&self.inner, &holding.ends)?;
        if wanted.ends.is_empty() {
            return Ok(TookOver::default());
        }
        let files: Vec<(HeldFile, PathBuf)> = holding.files.iter().cloned().zip(paths.iter().cloned()).collect();
        let rows = handover.take_over(&files, &wanted).map_err(store)?;
        adopt(&self.inner, &wanted.ends, &holding.gaps)?;
        Ok(TookOver { streams: wanted.ends.len(), rows })
    }

    fn handover(&self) -> Result<&dyn Handover, Error> {
        let none = || Error::Store("this store keeps no data files".to_owned());
        self.handover.as_deref().ok_or_else(none)
    }
}

/// No link takes anything while this is there.
struct Busy<'a>(&'a Inner);

impl<'a> Busy<'a> {
    fn new(inner: &'a Inner) -> Result<Self, Refused> {
        lock(inner).set_busy(true)?;
        Ok(Self(inner))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // Only a second beginning is refused.
        let _ = lock(self.0).set_busy(false);
    }
}

/// The blocks of these streams that are not here.
fn wanted(inner: &Inner, ends: &StreamEnds) -> Result<Wanted, LinkError> {
    let receiver = lock(inner);
    let restored = |stream: &Stream| {
        LinkError::Store(Error::Store(format!(
            "store {} was restored or cloned: its shard {} has two histories of epoch {}, which data files do not tell \
             apart. Start this store anew from a copy of the other one",
            stream.origin, stream.shard, stream.epoch
        )))
    };
    let mut wanted = Wanted::default();
    for (stream, end) in ends {
        let Some(held) = receiver.end_of(*stream) else { continue };
        if held.seq == end.seq && held.chain != end.chain {
            return Err(Refused::Diverged { stream: *stream, at: end.seq }.into());
        }
        if held.seq < end.seq && !wanted.add(*stream, held.seq, *end) {
            return Err(restored(stream));
        }
    }
    let held = receiver.ends();
    for stream in held.keys().filter(|stream| stream.nonce != FOLDED) {
        let other = |one: &&Stream| Stream { nonce: stream.nonce, ..**one } == *stream && one.nonce != stream.nonce;
        if let Some(other) = wanted.ends.keys().find(other) {
            return Err(restored(other));
        }
    }
    Ok(wanted)
}

fn store(error: StoreError) -> Error {
    Error::Store(error.to_string())
}
