//! [`Inbound`]: what one source sends, taken into this store.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::data::store::Admission;
use crate::engine::inner::Inner;
use crate::error::Error;
use crate::repl::entries::Entries;
use crate::repl::link_error::LinkError;
use crate::repl::receiver::{Receiver, Source};
use crate::repl::wire::Vector;
use crate::shard::handle::ShardHandle;
use crate::shard::ring::{Closed, QueueTicket, Refused};
use crate::shard::waiters::{Parked, Waited};
use crate::types::{Block, BlockKind, Durability, Seq, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::entry::{Absent, Adopted, EncodedEntry, Entry, EntryKind, Identity, decode_entry};

/// How long room for what was taken over is waited for.
const ADOPT_PATIENCE: Duration = Duration::from_secs(30);

/// One source of blocks, from the beginning of a link to its end.
///
/// Blocks enter through the ring like any writer's, under the identity that they have. Several sources may send the
/// same ones: each is taken once.
pub struct Inbound {
    inner: Arc<Inner>,
    source: Source,
    /// The block, or the adopted end, that waits for room in a ring.
    waits: Option<(Stream, Seq, QueueTicket)>,
    parked: Vec<Parked>,
}

impl Inbound {
    /// A link that begins now, and what its source is told of this store: frames of the vector.
    pub(crate) fn new(inner: Arc<Inner>) -> (Self, Vec<Vector>) {
        let mut receiver = lock(&inner);
        see_synced(&inner, &mut receiver);
        let (source, vector) = (Source::new(&receiver), receiver.vector());
        drop(receiver);
        let parked = inner.shards.iter().map(|_| Parked::default()).collect();
        (Self { inner, source, waits: None, parked }, vector)
    }

    /// Takes what is new of a frame, or waits for room in the ring; to be called with the same frame until it is
    /// ready. What it has taken so far stays.
    ///
    /// # Errors
    /// [`LinkError`]: the link is over.
    pub fn poll_take(&mut self, frame: &Entries, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.inner.not_forked().map_err(LinkError::from)?;
        let inner = Arc::clone(&self.inner);
        let mut receiver = lock(&inner);
        let new = receiver.is_new(frame)?;
        let shard = &inner.shards[usize::from(receiver.shard_of(frame.stream).0)];
        let mut end = new.start.checked_sub(1).map_or(frame.before, |last| frame.upto(frame.entries[last].seq).1);
        let mut last = None;
        for index in new {
            let at = &frame.entries[index];
            let (header, payload) = (&frame.bytes[at.header.clone()], &frame.bytes[at.payload.clone()]);
            let own = decode_entry(header).expect("checked when the frame was read");
            let identity = Some(Identity { stream: frame.stream, seq: at.seq });
            let mut entry = Entry { kind: EntryKind::Carried, identity, ..own }.encode();
            let bytes = payload.len() as u64;
            if bytes > inner.config.block_bytes_max {
                let (stream, max) = (frame.stream, inner.config.block_bytes_max);
                return Poll::Ready(Err(LinkError::TooLarge { stream, bytes, max }));
            }
            let published = self.poll_publish(shard, (frame.stream, at.seq), &mut entry, payload, context);
            let Poll::Ready(published) = published else {
                want_synced(shard, last);
                return Poll::Pending;
            };
            let local = published?;
            end = frame.then(end, index);
            receiver.took(frame.stream, end, local);
            learn(inner.admission.as_deref(), &own, payload);
            last = Some(local);
        }
        want_synced(shard, last);
        self.source.sent(frame.stream);
        self.waits = None;
        Poll::Ready(Ok(()))
    }

    /// Goes on behind blocks that the source has lost, where they are not here either: its end is adopted. Or waits for
    /// room in the ring, to be called again as [`poll_take`](Self::poll_take) is. The numbers of what is lost here with
    /// it, if anything is: behind the first and up to the last.
    ///
    /// # Errors
    /// [`LinkError`]: the link is over.
    pub fn poll_adopt(
        &mut self,
        (stream, before, behind): (Stream, StreamEnd, StreamEnd),
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<(Seq, Seq)>, LinkError>> {
        self.inner.not_forked().map_err(LinkError::from)?;
        let inner = Arc::clone(&self.inner);
        let mut receiver = lock(&inner);
        let lacks = receiver.lacks(stream, before, behind)?;
        if let Some(held) = lacks {
            let shard = &inner.shards[usize::from(receiver.shard_of(stream).0)];
            let last = Identity { stream, seq: behind.seq };
            let mut entry = Adopted { last, chain: behind.chain, absent: Absent::Lost }.entry();
            let Poll::Ready(published) = self.poll_publish(shard, (stream, behind.seq), &mut entry, &[], context)
            else {
                return Poll::Pending;
            };
            let local = published?;
            receiver.took(stream, behind, local);
            want_synced(shard, Some(local));
            self.source.sent(stream);
            return Poll::Ready(Ok(Some((held.seq, behind.seq))));
        }
        self.source.sent(stream);
        // Another source has brought them meanwhile.
        self.waits = None;
        Poll::Ready(Ok(None))
    }

    /// Publishes a block at once, or takes its place in the line of those who wait for room.
    fn poll_publish(
        &mut self,
        shard: &ShardHandle,
        of: (Stream, Seq),
        entry: &mut EncodedEntry,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Poll<Result<Seq, Error>> {
        // Another source may have brought what waited.
        let place = self.waits.take().filter(|(stream, seq, _)| (*stream, *seq) == of).map(|(.., place)| place);
        let mut place = match place {
            Some(place) => place,
            None => match shard.ring.try_publish_carried(entry, payload) {
                Some(local) => return Poll::Ready(Ok(local)),
                None => self.place(shard),
            },
        };
        loop {
            match place.poll(context, entry, payload) {
                Poll::Ready(Ok(local)) => return Poll::Ready(Ok(local)),
                Poll::Ready(Err(
                    Refused::Deadline | Refused::Full | Refused::Closed(Closed::StoreFull | Closed::NotActive(_)),
                )) => {
                    place = self.place(shard);
                }
                Poll::Ready(Err(Refused::Closed(Closed::Fault(fault)))) => {
                    return Poll::Ready(Err(Error::Fault(fault)));
                }
                Poll::Ready(Err(Refused::Forked)) => return Poll::Ready(Err(Error::Forked)),
                Poll::Ready(Err(Refused::Closed(Closed::Closing))) => return Poll::Ready(Err(Error::Closed)),
                Poll::Ready(Err(Refused::TooLarge)) => {
                    let why = "a carried block is larger than the ring takes; raise intake_bytes";
                    return Poll::Ready(Err(Error::Config(why.to_owned())));
                }
                Poll::Pending => {
                    self.waits = Some((of.0, of.1, place));
                    return Poll::Pending;
                }
            }
        }
    }

    fn place(&self, shard: &ShardHandle) -> QueueTicket {
        shard.ring.queue_ticket_of_carried(Instant::now() + Duration::from_millis(self.inner.config.append_deadline_ms))
    }

    /// What is to be acknowledged to the source now: synced here, and not said before.
    pub fn acks(&mut self) -> Vec<(Stream, Seq)> {
        let mut receiver = lock(&self.inner);
        see_synced(&self.inner, &mut receiver);
        self.source.acks(&receiver)
    }

    /// Ready as soon as there may be something to acknowledge.
    ///
    /// # Errors
    /// The shard's, where one has ended.
    pub fn poll_acks(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.inner.not_forked().map_err(LinkError::from)?;
        let receiver = lock(&self.inner);
        if self.source.is_owed(&receiver) {
            return Poll::Ready(Ok(()));
        }
        for (shard, parked) in self.inner.shards.iter().zip(&mut self.parked) {
            let Some(first) = receiver.first_unsynced(shard.shard) else { continue };
            match shard.shared.synced.poll(first, parked, context) {
                Poll::Pending => {}
                Poll::Ready(Waited::Reached) => return Poll::Ready(Ok(())),
                Poll::Ready(Waited::Failed | Waited::TimedOut) => return Poll::Ready(Err(shard.unknown().into())),
            }
        }
        Poll::Pending
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if self.inner.is_forked() {
            return;
        }
        for (shard, parked) in self.inner.shards.iter().zip(&mut self.parked) {
            shard.shared.synced.unpark(parked);
        }
    }
}

/// Says in the log that these streams end there, whose blocks up to that are in data files that were taken over, where
/// it does not say so already. Synced on return; false where there is no room for it, for so long.
///
/// # Errors
/// The shard's, where one has ended.
pub(crate) fn adopt(inner: &Arc<Inner>, ends: &StreamEnds) -> Result<bool, Error> {
    let (mut inbound, _) = Inbound::new(Arc::clone(inner));
    let mut last = vec![None; inner.shards.len()];
    let until = Instant::now() + ADOPT_PATIENCE;
    // Oldest first: whatever comes in between, what the log folds is whole.
    let ends: BTreeMap<Stream, StreamEnd> = ends.iter().map(|(stream, end)| (*stream, *end)).collect();
    for (stream, end) in &ends {
        let receiver = lock(inner);
        if receiver.end_of(*stream).is_none_or(|held| held.seq >= end.seq) {
            continue;
        }
        let shard = receiver.shard_of(*stream);
        drop(receiver);
        let identity = Identity { stream: *stream, seq: end.seq };
        let mut entry = Adopted { last: identity, chain: end.chain, absent: Absent::InDataFiles }.entry();
        let (of, mut context) = ((*stream, end.seq), Context::from_waker(Waker::noop()));
        let handle = &inner.shards[usize::from(shard.0)];
        let local = loop {
            match inbound.poll_publish(handle, of, &mut entry, &[], &mut context) {
                Poll::Ready(published) => break published?,
                Poll::Pending if Instant::now() > until => return Ok(false),
                Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        lock(inner).took(*stream, *end, local);
        last[usize::from(shard.0)] = Some(local);
    }
    for (shard, last) in inner.shards.iter().zip(last) {
        if let Some(last) = last {
            shard.wait(last, Durability::Synced)?;
        }
    }
    Ok(true)
}

impl Inner {
    /// Tells the log of what was taken over. Where that is not possible nothing more is taken from any link before the
    /// store is opened again: it might be there already.
    pub(crate) fn adopt_or_take_nothing(self: &Arc<Self>, ends: &StreamEnds) -> Result<(), Error> {
        if !adopt(self, ends)? {
            lock(self).end_takeover(true);
            tracing::error!(
                "the log has no room to say what was taken over in data files: nothing is taken from other sites before \
                 this store is opened again with more room"
            );
        }
        Ok(())
    }
}

/// Up to where the shards have synced what was taken.
fn see_synced(inner: &Inner, receiver: &mut Receiver) {
    for shard in inner.shards.iter() {
        receiver.synced(shard.shard, shard.shared.synced.at());
    }
}

/// A receiver is left as it was by whatever panics.
pub(crate) fn lock(inner: &Inner) -> MutexGuard<'_, Receiver> {
    inner.receiver.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A receiver syncs before it acknowledges, at any level.
fn want_synced(shard: &ShardHandle, last: Option<Seq>) {
    if let Some(last) = last {
        shard.shared.want_synced(last);
    }
}

/// Shows a block of lines to whoever judges those of writers.
fn learn(admission: Option<&dyn Admission>, entry: &Entry<'_>, payload: &[u8]) {
    if let (Some(admission), BlockKind::Lines) = (admission, entry.block_kind) {
        let block = Block {
            kind: entry.block_kind,
            table: entry.table.into(),
            rows: entry.rows,
            payload: Bytes::copy_from_slice(payload),
            shapes: Box::default(),
        };
        admission.learn(entry.namespace, &block);
    }
}
