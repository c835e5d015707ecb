//! Followers that are behind the log: what has left it they are given as data files.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::data::format::HeldFile;
use crate::data::store::{Handover, Holding, StoreError, Wanted};
use crate::engine::inbound::{adopt, lock};
use crate::engine::inner::Inner;
use crate::engine::open::Engine;
use crate::engine::outbound::Told;
use crate::error::Error;
use crate::reader::LogReader;
use crate::repl::link_error::LinkError;
use crate::repl::receiver::Refused;
use crate::types::{Seq, Stream};
use crate::wal::batch::StreamEnds;
use crate::wal::entry::Control;
use crate::wal::vector::FOLDED;

/// How long it is waited for data files in which nothing moves.
const FLUSH_PATIENCE: Duration = Duration::from_secs(120);

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
    pub fn holding(&self, follower: &Told) -> Result<Holding, Error> {
        // Before the files are looked at: what has left the log until now is in them.
        let mut begins = StreamEnds::new();
        for shard in self.inner.shards.iter() {
            let (folder, shared) = (Arc::clone(&shard.folder), Arc::clone(&shard.shared));
            begins.extend(LogReader::beginning(shard.shard, folder, shared)?.unwrap_or_default());
        }
        let mut holding = self.handover()?.holding(&|stream| follower.has(*stream)).map_err(store)?;
        for (stream, begins) in begins.into_iter().filter(|(stream, _)| stream.nonce != FOLDED) {
            let end = holding.ends.entry(stream).or_default();
            // What lies between is lost: it is nowhere else.
            *end = if begins.seq > end.seq { begins } else { *end };
        }
        holding.ends.retain(|stream, end| follower.has(*stream) < end.seq);
        let gaps = self.inner.shards.iter().flat_map(|shard| &shard.gaps).filter_map(|gap| match gap {
            Control::Gap { stream, from, to } => Some((*stream, *from, *to)),
            Control::IntakeDone(_) | Control::EpochClosed(_) => None,
        });
        let is_lacked = |(stream, from, to): &(Stream, Seq, Seq)| {
            holding.ends.get(stream).is_some_and(|end| *from < end.seq && follower.has(*stream) < *to)
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
    /// nothing is taken from any link meanwhile; given up once it is told to `stop`.
    ///
    /// # Errors
    /// [`LinkError`]: there are two histories of a stream, or a file cannot be used, or the disk has failed. Where the log
    /// could not be told then what is committed, nothing is taken from any link before it is.
    pub fn take_over(&self, holding: &Holding, paths: &[PathBuf], stop: &AtomicBool) -> Result<TookOver, LinkError> {
        self.inner.not_forked()?;
        let handover = self.handover()?;
        // Most of it while links go on.
        self.all_flushed(stop)?;
        let mut busy = Busy::new(&self.inner)?;
        self.all_flushed(stop)?;
        self.tell_log(handover, &mut busy)?;
        let wanted = self.wanted(holding)?;
        if wanted.ends.is_empty() {
            return Ok(TookOver::default());
        }
        let files: Vec<(HeldFile, PathBuf)> = holding.files.iter().cloned().zip(paths.iter().cloned()).collect();
        busy.owes = true;
        let taken = handover.take_over(&files, &wanted, stop);
        // Where it failed it may have got further than it says.
        self.tell_log(handover, &mut busy)?;
        Ok(TookOver { streams: wanted.ends.len(), rows: taken.map_err(store)? })
    }

    /// The blocks that are offered and not here.
    ///
    /// # Errors
    /// [`LinkError`]: they cannot be taken over.
    pub fn wanted(&self, offered: &Holding) -> Result<Wanted, LinkError> {
        wanted(&self.inner, &offered.ends)
    }

    /// Waits until what is here is in data files: an end that was taken over says that all before it is.
    fn all_flushed(&self, stop: &AtomicBool) -> Result<(), Error> {
        let upto: Vec<Seq> = self.inner.shards.iter().map(|shard| shard.ring.last_given()).collect();
        self.sync()?;
        for (shard, upto) in self.inner.shards.iter().zip(&upto) {
            shard.shared.want_flushed(*upto);
        }
        for (shard, upto) in self.inner.shards.iter().zip(upto) {
            let (mut flushed, mut until) = (Seq(0), Instant::now() + FLUSH_PATIENCE);
            while shard.marks().flushed < upto {
                if shard.marks().flushed > flushed {
                    (flushed, until) = (shard.marks().flushed, Instant::now() + FLUSH_PATIENCE);
                }
                if let Some(fault) = shard.shared.fault() {
                    return Err(Error::Fault(fault));
                }
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Closed);
                }
                if Instant::now() > until {
                    let why = "what is in the log here does not get into data files: see what the flusher says";
                    return Err(Error::Store(why.to_owned()));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// The log says what was taken over, or nothing more is taken.
    fn tell_log(&self, handover: &dyn Handover, busy: &mut Busy<'_>) -> Result<(), Error> {
        busy.owes = true;
        if !adopt(&self.inner, &handover.adopted().map_err(store)?)? {
            return Err(Error::Store("the log has no room to say what was taken over in data files".to_owned()));
        }
        busy.owes = false;
        Ok(())
    }

    fn handover(&self) -> Result<&dyn Handover, Error> {
        let none = || Error::Store("this store keeps no data files".to_owned());
        self.handover.as_deref().ok_or_else(none)
    }
}

/// No link takes anything while this is there.
struct Busy<'a> {
    inner: &'a Inner,
    /// Nor behind it, before the log knows what was taken over.
    owes: bool,
}

impl<'a> Busy<'a> {
    fn new(inner: &'a Inner) -> Result<Self, Refused> {
        lock(inner).begin_takeover()?;
        Ok(Self { inner, owes: false })
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.owes {
            tracing::error!(
                "what was taken over in data files is not in the log: nothing is taken from other sites before it is, by \
                 the next attempt or the next opening"
            );
        }
        lock(self.inner).end_takeover(self.owes);
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
    receiver.has_room_for_all(wanted.ends.keys())?;
    let held = receiver.ends();
    let own = inner.shards.iter().map(|shard| &shard.own);
    for stream in held.keys().filter(|stream| stream.nonce != FOLDED).chain(own) {
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
