//! A link between two simulated stores: the real frames as bytes, and a network that delays, repeats, swaps and cuts
//! them, in one direction or in both. What each side does is what a node does.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::outbound::offer;
use crate::error::Error;
use crate::io::chance::Chance;
use crate::logged::Logged;
use crate::reader::LogReader;
use crate::repl::entries::Entries;
use crate::repl::link_error::LinkError;
use crate::repl::receiver::{Refused, Source};
use crate::repl::sender::Sender;
use crate::repl::wire::{Bye, Frame, HEADER_BYTES, Hello, Reason, Stand, Vector};
use crate::sim::check::{What, Wrong};
use crate::sim::site::{Dead, Site};
use crate::sim::sites_check::{Ledger, Promotion};
use crate::types::{Seq, ShardId};
use crate::wal::batch::StreamEnds;

/// A frame on its way.
struct Sent {
    bytes: Vec<u8>,
    /// What its sender had met when it sent it.
    met: Promotion,
}

/// A direction.
#[derive(Default)]
struct Wire {
    frames: VecDeque<Sent>,
    /// Nothing more gets in.
    is_cut: bool,
}

/// Where the blocks come from.
struct Feeding {
    greeted: bool,
    sender: Option<Sender>,
    readers: Vec<LogReader>,
    /// Up to where of each shard it was seen that what counts as shipped is safe.
    shipped: Vec<Seq>,
}

/// Where they go to.
struct Following {
    source: Option<Source>,
    taking: Option<Entries>,
}

/// The link.
pub struct Link {
    /// Where the blocks come from.
    pub from: usize,
    /// Where they go to: who has dialled.
    pub to: usize,
    session: u64,
    /// The network has swapped frames, or repeated some.
    is_meddled: bool,
    feeding: Option<Feeding>,
    following: Option<Following>,
    down: Wire,
    up: Wire,
}

/// What happened to a store at a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Nothing.
    Unchanged,
    /// It stands elsewhere: all its links end.
    Changed,
    /// Its process is over.
    Over,
}

impl Link {
    /// A store dials another one.
    #[must_use]
    pub fn dial(sites: &[Site], from: usize, to: usize, session: u64) -> Self {
        let mut this = Self {
            from,
            to,
            session,
            is_meddled: false,
            feeding: Some(Feeding {
                greeted: false,
                sender: None,
                readers: Vec::new(),
                shipped: vec![Seq(0); sites[from].shards.len()],
            }),
            following: Some(Following { source: None, taking: None }),
            down: Wire::default(),
            up: Wire::default(),
        };
        this.up.push(&Frame::Hello(sites[to].hello(session)), &sites[to]);
        this
    }

    /// Neither side is there any more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.feeding.is_none() && self.following.is_none()
    }

    /// Of two links of the same stores that feed, the newer counts.
    #[must_use]
    pub fn feeds(&self) -> bool {
        self.feeding.as_ref().is_some_and(|feeding| feeding.greeted)
    }

    /// Which of the links of these two stores it is.
    #[must_use]
    pub const fn session(&self) -> u64 {
        self.session
    }

    /// The process of this store is gone: its side of the link too, and any part of what it had sent.
    pub fn lose(&mut self, site: usize, chance: &mut Chance) {
        if site == self.from {
            self.feeding = None;
            self.down.cut(chance);
        }
        if site == self.to {
            self.following = None;
            self.up.cut(chance);
        }
    }

    /// The network fails.
    pub fn cut(&mut self, chance: &mut Chance) {
        match chance.below(4) {
            0 => self.down.cut(chance),
            1 => self.up.cut(chance),
            _ => {
                self.down.cut(chance);
                self.up.cut(chance);
            }
        }
    }

    /// Where a direction is cut, whoever hears nothing any more gives up.
    pub fn give_up(&mut self) {
        if self.up.is_cut && self.up.frames.is_empty() || self.down.is_cut && self.down.frames.is_empty() {
            (self.feeding, self.following) = (None, None);
        }
    }

    /// The network swaps frames, or repeats one.
    pub fn meddle(&mut self, chance: &mut Chance) {
        let wire = if chance.percent(70) { &mut self.down } else { &mut self.up };
        let frames = &mut wire.frames;
        if frames.is_empty() {
            return;
        }
        self.is_meddled = true;
        if chance.percent(50) && frames.len() > 1 {
            let at = chance.below(frames.len() as u64 - 1) as usize;
            frames.swap(at, at + 1);
        } else {
            let again = chance.below(frames.len() as u64) as usize;
            let Sent { bytes, met } = &frames[again];
            let again = Sent { bytes: bytes.clone(), met: *met };
            frames.push_back(again);
        }
    }

    /// This store's side ends, and says why.
    pub fn end(&mut self, site: &Site, reason: Reason) {
        let stand = site.stand();
        let bye = Frame::Bye(Bye { reason, term: stand.term, active: stand.active, text: String::new() });
        if site.number == self.from && self.feeding.take().is_some() {
            self.down.push(&bye, site);
            self.down.is_cut = true;
        }
        if site.number == self.to && self.following.take().is_some() {
            self.up.push(&bye, site);
            self.up.is_cut = true;
        }
    }

    /// Sends what the follower lacks, so many blocks of one shard.
    ///
    /// # Errors
    /// Two histories of a stream, or a log that cannot be read.
    pub fn fill(&mut self, site: &Site, shard: usize, most: u64) -> Result<u64, Wrong> {
        let Some(Feeding { sender: Some(sender), readers, .. }) = &mut self.feeding else { return Ok(0) };
        let Some(reader) = readers.get_mut(shard) else { return Ok(0) };
        let mut out = Vec::new();
        let mut count = 0;
        while count < most {
            let logged = match reader.next_logged(Seq(u64::MAX)) {
                Ok(Some(Logged::Block(block))) => block,
                Ok(Some(Logged::Passed { local, stream, seq })) => {
                    sender.pass(ShardId(shard as u16), local, stream, seq);
                    continue;
                }
                Ok(Some(Logged::Missing(missing))) => {
                    return Err(format!("store {} lacks {missing:?}, and nobody has damaged it", self.from).into());
                }
                Ok(None) => {
                    sender.shown(ShardId(shard as u16), reader.next_seq().prev());
                    break;
                }
                // A newer link has brought the follower further.
                Err(Error::Behind { .. }) if site.trims => {
                    self.end(site, Reason::Behind);
                    return Ok(count);
                }
                Err(error) => return Err(error.to_string().into()),
            };
            offer(sender, reader, ShardId(shard as u16), &logged, &mut out).map_err(|error| error.to_string())?;
            count += 1;
        }
        sender.flush(&mut out);
        for frame in &out {
            // A part of a vector that comes again takes back what was sent since.
            if matches!(frame, Frame::Gap { .. }) && !self.is_meddled {
                return Err(format!("store {} says that blocks are lost: {frame:?}", self.from).into());
            }
            self.down.push(frame, site);
        }
        Ok(count)
    }

    /// The follower acknowledges what it has synced; true where there was something.
    pub fn acknowledge(&mut self, site: &mut Site, ledger: &Ledger) -> bool {
        let Some(Following { source: Some(source), .. }) = &mut self.following else { return false };
        site.tell_synced();
        let rows = source.acks(&site.up().receiver);
        if rows.is_empty() {
            return false;
        }
        // What is lost on its way is said all the same.
        site.acknowledged(&rows, ledger);
        self.up.push(&Frame::Ack(rows), site);
        true
    }

    /// The next frame, or what is left of the last one, reaches the follower; false where there is none, or no room.
    ///
    /// # Errors
    /// A promise that does not hold.
    pub fn deliver_down(&mut self, site: &mut Site, chance: &mut Chance) -> Result<(bool, Came), Wrong> {
        let taking = self.following.as_mut().and_then(|following| following.taking.take());
        if let Some(entries) = taking {
            return Ok((self.take(site, entries, chance)?, Came::Unchanged));
        }
        let Some(Sent { bytes, met }) = self.down.frames.pop_front() else { return Ok((false, Came::Unchanged)) };
        let frame = decode(&bytes)?;
        let Some(following) = &mut self.following else { return Ok((true, Came::Unchanged)) };
        let came = match (frame, &following.source) {
            (Frame::Hello(hello), None) => {
                let met = site.meet(hello.opening.origin, (hello.stand, met), chance)?;
                if met == Ok(false) {
                    let receiver = &site.up().receiver;
                    following.source = Some(Source::new(receiver));
                    for part in site.up().receiver.vector() {
                        self.up.push(&Frame::Vector(part), site);
                    }
                }
                came(met)
            }
            (Frame::Entries(entries), Some(_)) => {
                return Ok((self.take(site, entries, chance)?, Came::Unchanged));
            }
            (Frame::Bye(bye), _) => {
                self.following = None;
                meet_bye(site, self.from, &bye, met, chance)?
            }
            (Frame::Heartbeat(_), Some(_)) => Came::Unchanged,
            (frame, _) => self.against_protocol(&frame, site)?,
        };
        Ok((true, came))
    }

    fn take(&mut self, site: &mut Site, entries: Entries, chance: &mut Chance) -> Result<bool, Wrong> {
        match site.take(&entries, chance)? {
            Ok(all) => {
                let following = self.following.as_mut().expect("it takes a frame");
                if all {
                    following.source.as_mut().expect("it was greeted").sent(entries.stream);
                } else {
                    following.taking = Some(entries);
                }
                Ok(all)
            }
            // The network's doing.
            Err(Refused::Hole { .. }) if self.is_meddled => {
                self.end(site, Reason::Protocol);
                Ok(true)
            }
            Err(refused) => Err(format!("store {} refuses what store {} sent: {refused}", self.to, self.from).into()),
        }
    }

    /// The next frame reaches the source; false where there is none.
    ///
    /// # Errors
    /// A promise that does not hold.
    pub fn deliver_up(&mut self, sites: &mut [Site], chance: &mut Chance) -> Result<(bool, Came), Wrong> {
        let Some(Sent { bytes, met }) = self.up.frames.pop_front() else { return Ok((false, Came::Unchanged)) };
        let frame = decode(&bytes)?;
        let Some(feeding) = &mut self.feeding else { return Ok((true, Came::Unchanged)) };
        let came = match frame {
            Frame::Hello(hello) if !feeding.greeted => {
                let site = &mut sites[self.from];
                let met = site.meet(hello.opening.origin, (hello.stand, met), chance)?;
                if met != Err(Dead) {
                    self.greet(&sites[self.from], &hello);
                }
                came(met)
            }
            Frame::Vector(part) if feeding.greeted => {
                match feeding.vector(&sites[self.from], &part) {
                    Ok(()) => self.let_go(sites)?,
                    // It was said before another link brought the follower further. Where it is true no link ever
                    // comes to its end.
                    Err(LinkError::Store(Error::Behind { .. })) if sites[self.from].trims => {
                        self.end(&sites[self.from], Reason::Behind);
                    }
                    Err(error) => return Err(error.to_string().into()),
                }
                Came::Unchanged
            }
            Frame::Ack(rows) if feeding.greeted => {
                if let Some(sender) = &mut feeding.sender {
                    sender.acked(&rows);
                }
                self.let_go(sites)?;
                Came::Unchanged
            }
            Frame::Heartbeat(_) if feeding.greeted => Came::Unchanged,
            Frame::Bye(bye) => {
                self.feeding = None;
                meet_bye(&mut sites[self.from], self.to, &bye, met, chance)?
            }
            frame => self.against_protocol(&frame, &sites[self.from])?,
        };
        Ok((true, came))
    }

    fn greet(&mut self, site: &Site, hello: &Hello) {
        self.down.push(&Frame::Hello(site.hello(hello.session)), site);
        if let Some(feeding) = &mut self.feeding {
            feeding.greeted = true;
            feeding.sender = Some(Sender::new(site.shards.len(), hello.opening));
        }
    }

    /// Only what a network does to frames makes one come where it does not belong.
    fn against_protocol(&mut self, frame: &Frame, site: &Site) -> Result<Came, Wrong> {
        if !self.is_meddled {
            return Err(format!("store {} is sent {frame:?}, which has no place there", site.number).into());
        }
        self.end(site, Reason::Protocol);
        Ok(Came::Unchanged)
    }

    /// What counts as shipped a power cut of the follower cannot take; so the source lets go of it.
    fn let_go(&mut self, sites: &mut [Site]) -> Result<(), Wrong> {
        let Some(Feeding { sender: Some(sender), shipped, .. }) = &mut self.feeding else { return Ok(()) };
        let follower = &sites[self.to];
        for (shard, seen) in sites[self.from].shards.iter().zip(shipped.iter_mut()) {
            let upto = sender.shipped(shard.id);
            for (_, item) in shard.model.behind(*seen).take_while(|(local, _)| *local <= upto) {
                if matches!(item.what, What::Block(_)) && !follower.has_durably(item.stream, item.number) {
                    return Err(format!("{item:?} counts as shipped and is not synced at store {}", self.to).into());
                }
            }
            *seen = upto;
        }
        shipped.iter().enumerate().try_for_each(|(shard, upto)| sites[self.from].shipped(self.to, shard, *upto))
    }

    /// Nothing is on its way, and nobody is in the middle of something.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let takes = self.following.as_ref().is_some_and(|following| following.taking.is_some());
        self.down.frames.is_empty() && self.up.frames.is_empty() && !takes
    }

    /// Everything that the source has shown is synced at the follower.
    #[must_use]
    pub fn has_shipped(&self, site: &Site) -> bool {
        let Some(Feeding { sender: Some(sender), .. }) = &self.feeding else { return false };
        let all = site.shards.iter().all(|shard| sender.shipped(shard.id) == shard.model.last());
        all && sender.bytes_unacked() == 0
    }
}

impl Feeding {
    /// The follower says what it holds; with the last of it, it is known where to begin.
    fn vector(&mut self, site: &Site, part: &Vector) -> Result<(), LinkError> {
        let Some(sender) = &mut self.sender else { return Ok(()) };
        sender.vector(part)?;
        if !sender.is_ready() || !self.readers.is_empty() {
            return Ok(());
        }
        let process = site.process.as_ref().expect("an open store");
        sender.compare(&process.receiver.ends())?;
        for (open, shard) in process.shards.iter().zip(&site.shards) {
            let (folder, shared) = (Arc::clone(&open.folder), Arc::clone(&open.shared));
            let mut place = StreamEnds::new();
            let covers = &mut |ends: &StreamEnds| {
                place.clone_from(ends);
                sender.covers(ends).map_err(LinkError::from)
            };
            let reader = LogReader::from_segment(shard.id, folder, shared, site.sends_synced_only(), covers)?;
            sender.begin(shard.id, reader.next_seq().prev(), &place);
            self.readers.push(reader.following(sender.follower()));
        }
        Ok(())
    }
}

impl Wire {
    fn push(&mut self, frame: &Frame, by: &Site) {
        if !self.is_cut {
            self.frames.push_back(Sent { bytes: frame.encode(), met: by.met() });
        }
    }

    /// Any part of what is on its way still arrives, and nothing behind it.
    fn cut(&mut self, chance: &mut Chance) {
        let arrives = chance.below(self.frames.len() as u64 + 1) as usize;
        self.frames.truncate(arrives);
        self.is_cut = true;
    }
}

fn came(met: Result<bool, Dead>) -> Came {
    match met {
        Ok(false) => Came::Unchanged,
        Ok(true) => Came::Changed,
        Err(Dead) => Came::Over,
    }
}

/// Another store is active under this term, says a peer that leaves.
fn meet_bye(site: &mut Site, peer: usize, bye: &Bye, met: Promotion, chance: &mut Chance) -> Result<Came, Wrong> {
    if bye.reason != Reason::Fenced {
        return Ok(Came::Unchanged);
    }
    let theirs = Stand { term: bye.term, active: bye.active, ..Stand::default() };
    Ok(came(site.meet(crate::sim::site::store_id(peer), (theirs, met), chance)?))
}

fn decode(bytes: &[u8]) -> Result<Frame, Wrong> {
    let (header, payload) = bytes.split_at(HEADER_BYTES);
    let frame = Frame::decode(header.try_into().expect("a header"), payload.to_vec());
    frame.map_err(|error| format!("a frame as it was sent is none: {error}").into())
}
