//! [`Chains`]: what this store's log says of its streams, for one that compares it with another store's: where each
//! stands, and how it stood at any seq. Only what is synced counts, and nothing is changed.
//!
//! Each question reads the log once, on the caller's thread, and holds it for no longer than that.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use crate::engine::inner::Inner;
use crate::error::Error;
use crate::logged::{Logged, LoggedBlock, Missing};
use crate::reader::LogReader;
use crate::repl::asked::Asked;
use crate::repl::asks::At;
use crate::repl::compare::Stands;
use crate::shard::handle::ShardHandle;
use crate::types::{Receipt, Seq, Stream};
use crate::wal::batch::StreamEnds;
use crate::wal::entry::{Absent, Control};

/// How often a question is asked again where the log was trimmed while it was read.
const TRIES: u32 = 3;

/// What the log says of its streams.
pub struct Chains {
    inner: Arc<Inner>,
    given_up: AtomicBool,
}

impl Chains {
    pub(crate) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner, given_up: AtomicBool::new(false) }
    }

    /// Nobody waits for the answer any more: a question that is being answered ends with [`Error::Closed`].
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Where every stream stands, those included that are accepted here now, and what is lost of them. What was accepted
    /// by now is synced before: at level 1 a follower has synced what its source may not have.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where a shard failed first; [`Error::Io`], [`Error::Forked`], [`Error::Closed`]; [`Error::Behind`] where the log was trimmed time and again
    /// while it was read.
    pub fn stands(&self) -> Result<Stands, Error> {
        self.inner.sync()?;
        let mut stands = Stands::default();
        for shard in self.inner.shards.iter() {
            let of_shard = again(|| self.stands_of(shard))?;
            stands.ends.extend(of_shard.ends.into_iter().filter(|(_, end)| end.seq > Seq(0)));
            stands.gaps.extend(of_shard.gaps);
        }
        Ok(stands)
    }

    fn stands_of(&self, shard: &ShardHandle) -> Result<Stands, Error> {
        let mut gaps: BTreeSet<_> = shard.gaps.iter().filter_map(between).collect();
        // The last segment begins with where all of them stood.
        let mut all = |_: &StreamEnds| Ok(true);
        let mut reader = self.begin(shard, &mut all)?;
        gaps.extend(reader.log.named().iter().filter_map(between));
        reader.read(|logged| {
            if let Logged::Missing(Missing { stream, before, behind, absent: Some(Absent::Lost), .. }) = logged {
                gaps.insert((stream, before.seq, behind.seq.next()));
            }
            true
        })?;
        Ok(Stands { ends: reader.log.follows().cloned().unwrap_or_default(), gaps })
    }

    /// How each of these streams stood at its seq: a row for each, in their order.
    ///
    /// # Errors
    /// As [`stands`](Self::stands).
    pub fn at(&self, rows: &[(Stream, Seq)]) -> Result<Vec<At>, Error> {
        let mut told = vec![At::Nothing; rows.len()];
        let mut of_shard: Vec<Vec<usize>> = vec![Vec::new(); self.inner.shards.len()];
        let receiver = self.inner.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, (stream, _)) in rows.iter().enumerate() {
            of_shard[usize::from(receiver.shard_of(*stream).0)].push(index);
        }
        drop(receiver);
        for (shard, indices) in self.inner.shards.iter().zip(of_shard) {
            if !indices.is_empty() {
                let asked: Vec<_> = indices.iter().map(|index| rows[*index]).collect();
                let answers = again(|| self.at_of(shard, &asked))?;
                indices.into_iter().zip(answers).for_each(|(index, at)| told[index] = at);
            }
        }
        Ok(told)
    }

    fn at_of(&self, shard: &ShardHandle, rows: &[(Stream, Seq)]) -> Result<Vec<At>, Error> {
        let mut asked = Asked::new(rows);
        let mut place = StreamEnds::new();
        let begun = self.begin(shard, &mut |ends| {
            place.clone_from(ends);
            Ok(asked.is_known_from(ends))
        });
        let mut reader = match begun {
            Ok(reader) => reader,
            Err(Error::Behind { .. }) => {
                // The log begins behind some of it; the others are answered from its first segment on.
                asked.leave_out(&place);
                if asked.is_answered() {
                    return Ok(asked.end());
                }
                self.begin(shard, &mut |ends| {
                    place.clone_from(ends);
                    Ok(asked.is_known_from(ends))
                })?
            }
            Err(error) => return Err(error),
        };
        asked.begin(&place);
        reader.read(|logged| {
            match logged {
                Logged::Block(block) => {
                    let LoggedBlock { stream, behind: end, payload_bytes: length, payload_crc, .. } = block;
                    asked.goes_on(stream, end, At::Block { end, length, payload_crc }, None);
                }
                Logged::Missing(Missing { stream, behind, absent, .. }) => {
                    // What is elsewhere in this store, in data files, this log cannot speak of.
                    let last = Receipt { stream, seq: behind.seq };
                    let is_lost = absent == Some(Absent::Lost) || shard.gaps.iter().any(|gap| gap.is_of(&last));
                    let between = (!is_lost).then_some(At::Begins(behind));
                    asked.goes_on(stream, behind, At::End(behind), between);
                }
                Logged::Passed { .. } => unreachable!("who compares passes nothing over"),
            }
            !asked.is_answered()
        })?;
        Ok(asked.end())
    }

    fn begin(
        &self,
        shard: &ShardHandle,
        covered: &mut dyn FnMut(&StreamEnds) -> Result<bool, Error>,
    ) -> Result<Reader<'_>, Error> {
        self.inner.not_forked()?;
        // Held first, looked up then: what is found cannot go away in between, but for the options of retention.
        let held = Held::new(&self.inner, shard);
        let (folder, shared) = (Arc::clone(&shard.folder), Arc::clone(&shard.shared));
        let upto = shard.shared.synced.at();
        let log = LogReader::from_segment(shard.shard, folder, shared, true, covered)?;
        held.from(log.next_seq().prev());
        Ok(Reader { log, upto, given_up: &self.given_up, _held: held })
    }
}

/// Reads up to what was synced when it began.
struct Reader<'a> {
    log: LogReader,
    upto: Seq,
    given_up: &'a AtomicBool,
    _held: Held,
}

impl Reader<'_> {
    /// Shows what is in the log, for as long as more of it is wanted.
    fn read(&mut self, mut show: impl FnMut(Logged) -> bool) -> Result<(), Error> {
        while let Some(logged) = self.log.next_logged(self.upto)? {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            if !show(logged) {
                break;
            }
        }
        Ok(())
    }
}

/// A shard's log, held until this is dropped.
struct Held {
    inner: Arc<Inner>,
    shard: usize,
    id: u64,
}

impl Held {
    fn new(inner: &Arc<Inner>, shard: &ShardHandle) -> Self {
        let id = inner.next_reader.fetch_add(1, Ordering::Relaxed) as u64;
        shard.shared.hold(id, Some(Seq(0)));
        Self { inner: Arc::clone(inner), shard: usize::from(shard.shard.0), id }
    }

    fn from(&self, seq: Seq) {
        self.inner.shards[self.shard].shared.hold(self.id, Some(seq));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.inner.is_forked() {
            self.inner.shards[self.shard].shared.hold(self.id, None);
        }
    }
}

fn between(gap: &Control) -> Option<(Stream, Seq, Seq)> {
    match *gap {
        Control::Gap { stream, from, to } if from < to => Some((stream, from, to)),
        Control::Gap { .. } | Control::IntakeDone(_) | Control::EpochClosed(_) => None,
    }
}

/// A busy log may be trimmed while it is read: it is read again from where it begins then.
fn again<T>(mut read: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut tries = 1;
    loop {
        match read() {
            Err(Error::Behind { .. }) if tries < TRIES => tries += 1,
            done => return done,
        }
    }
}
