//! What all links of a node share: the engine, the role, who is linked. Lives on the network thread alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::engine::Engine;
use crate::engine::outbound::{Outbound, Retained};
use crate::error::Error;
use crate::node::config::{Peer, Sending};
use crate::node::ended::Ended;
use crate::node::role_file;
use crate::node::status::{LinkStatus, NodeStatus, ShardMarks, Way};
use crate::repl::role::Roles;
use crate::repl::wire::{Bye, Hello, Reason, Stand};
use crate::types::{Opening, StoreId};

/// Comparisons with peers at a time: each reads the log.
const COMPARES_MAX: usize = 4;

pub(super) struct Home {
    pub(super) engine: Arc<Engine>,
    pub(super) opening: Opening,
    pub(super) peers: Vec<Peer>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) way: Sending,
    dir: PathBuf,
    shards: u16,
    roles: RefCell<Roles>,
    /// What this store stands as; each change ends all links, which begin with it.
    stand: watch::Sender<Stand>,
    links: RefCell<BTreeMap<(StoreId, u8), LinkStatus>>,
    behind_since: RefCell<HashMap<(StoreId, u8), Instant>>,
    moved: RefCell<HashMap<(StoreId, u8), u64>>,
    followers: RefCell<HashMap<StoreId, (u64, Rc<Notify>)>>,
    /// Told when a peer has dialled: it is there.
    there: HashMap<StoreId, Notify>,
    /// The log, for each peer, from what it has not got on.
    retained: HashMap<StoreId, Arc<Retained>>,
    last_session: Cell<u64>,
    /// Comparisons that may be under way beside those that are.
    compares: Arc<Semaphore>,
    /// ROLE may say something else than what this store stands as.
    unwritten: Cell<bool>,
    /// Who takes data files over: one at a time.
    pub(super) takeover: Arc<Semaphore>,
    /// The node ends.
    pub(super) stops: Arc<AtomicBool>,
}

impl Home {
    pub(super) fn new(
        engine: Arc<Engine>,
        dir: PathBuf,
        roles: Roles,
        (peers, retained): (Vec<Peer>, HashMap<StoreId, Arc<Retained>>),
        listen: Option<SocketAddr>,
        way: Sending,
    ) -> Self {
        let opening = engine.opening();
        let shards = engine.marks().len() as u16;
        let (stand, _) = watch::channel(roles.stand());
        let there = peers.iter().map(|peer| (peer.store, Notify::new())).collect();
        Self {
            engine,
            opening,
            peers,
            listen,
            way,
            dir,
            shards,
            roles: RefCell::new(roles),
            stand,
            links: RefCell::default(),
            behind_since: RefCell::default(),
            moved: RefCell::default(),
            followers: RefCell::default(),
            there,
            retained,
            last_session: Cell::new(0),
            compares: Arc::new(Semaphore::new(COMPARES_MAX)),
            unwritten: Cell::new(false),
            takeover: Arc::new(Semaphore::new(1)),
            stops: Arc::new(AtomicBool::new(false)),
        }
    }

    /// The store's folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn stand(&self) -> Stand {
        self.roles.borrow().stand()
    }

    /// Tells of each change of what this store stands as.
    pub(super) fn changes(&self) -> watch::Receiver<Stand> {
        self.stand.subscribe()
    }

    pub(super) fn hello(&self, session: u64) -> Hello {
        Hello { opening: self.opening, shards: self.shards, stand: self.stand(), session }
    }

    /// A number above those of all links that were dialled before, by this process or an earlier one.
    pub(super) fn next_session(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        self.last_session.set(now.max(self.last_session.get() + 1));
        self.last_session.get()
    }

    /// One more comparison with a peer, whoever has dialled, until this is dropped.
    pub(super) fn compares(&self) -> Result<OwnedSemaphorePermit, Ended> {
        let busy = || format!("{COMPARES_MAX} comparisons are under way; ask again when one of them has ended");
        Arc::clone(&self.compares).try_acquire_owned().map_err(|_| Ended::Here { reason: Reason::Stop, text: busy() })
    }

    /// A peer says what it stands as: comes before anything else that it says.
    pub(super) fn meet(&self, peer: StoreId, theirs: Stand) -> Result<(), Error> {
        let changed = self.roles.borrow_mut().meet(peer, theirs);
        self.settle(changed)
    }

    /// Another site is active under this term, says a peer that leaves.
    pub(super) fn meet_bye(&self, peer: StoreId, bye: &Bye) -> Result<(), Error> {
        if bye.reason != Reason::Fenced {
            return Ok(());
        }
        self.meet(peer, Stand { term: bye.term, active: bye.active, ..Stand::default() })
    }

    pub(super) fn promote(&self) -> Result<(), Error> {
        self.change(Roles::promote)
    }

    pub(super) fn demote(&self) -> Result<(), Error> {
        self.change(Roles::demote)
    }

    pub(super) fn share(&self) -> Result<(), Error> {
        self.change(Roles::share)
    }

    fn change(&self, change: fn(&mut Roles)) -> Result<(), Error> {
        let before = self.roles.borrow().clone();
        change(&mut self.roles.borrow_mut());
        self.settle(true).inspect_err(|_| {
            *self.roles.borrow_mut() = before;
            self.engine.set_active(self.roles.borrow().accepts());
        })
    }

    /// Fenced at once, accepting only what is durable.
    fn settle(&self, changed: bool) -> Result<(), Error> {
        let accepts = self.roles.borrow().accepts();
        if accepts.is_err() {
            self.engine.set_active(accepts);
        }
        let changed = changed || self.unwritten.get();
        if changed {
            let stand = self.stand();
            self.unwritten.set(true);
            role_file::write(&self.dir, stand)?;
            self.unwritten.set(false);
            tracing::info!("{} under term {}, active: {}", stand.role, stand.term, stand.active);
        }
        self.engine.set_active(accepts);
        if changed {
            self.stand.send_replace(self.stand());
        }
        Ok(())
    }

    /// A follower begins a link: of two the newer counts. The answer tells when it is no more.
    pub(super) fn begin(&self, follower: StoreId, session: u64) -> Result<Rc<Notify>, Ended> {
        if let Some(there) = self.there.get(&follower) {
            there.notify_waiters();
        }
        let mut followers = self.followers.borrow_mut();
        if let Some((before, newer)) = followers.get(&follower) {
            if session <= *before {
                return Err(superseded());
            }
            newer.notify_one();
        }
        let notify = Rc::new(Notify::new());
        followers.insert(follower, (session, Rc::clone(&notify)));
        Ok(notify)
    }

    /// Waits until this peer has dialled.
    pub(super) async fn has_dialled(&self, peer: StoreId) {
        match self.there.get(&peer) {
            Some(there) => there.notified().await,
            None => pending().await,
        }
    }

    /// The link that began so is over: what comes next counts whatever its clock says. False where a newer one has
    /// begun already.
    pub(super) fn end(&self, follower: StoreId, session: u64) -> bool {
        let mut followers = self.followers.borrow_mut();
        let was_last = followers.get(&follower).is_some_and(|(of, _)| *of == session);
        if was_last {
            followers.remove(&follower);
        }
        was_last
    }

    /// A link to a peer that follows.
    pub(super) fn outbound(&self, follower: Opening) -> Result<Outbound, Ended> {
        let retained = self.retained.get(&follower.origin).ok_or(Ended::Stranger(follower.origin))?;
        Ok(retained.outbound(follower)?)
    }

    /// Says how a link stands.
    pub(super) fn report(&self, peer: StoreId, status: LinkStatus) {
        let key = (peer, status.way as u8);
        if status.is_up && status.behind_blocks == 0 {
            self.behind_since.borrow_mut().remove(&key);
        } else {
            self.behind_since.borrow_mut().entry(key).or_insert_with(Instant::now);
        }
        self.links.borrow_mut().insert(key, status);
    }

    /// So that it is known how old what a follower lacks is, be it linked or not.
    pub(super) fn look(&self) {
        for retained in self.retained.values() {
            let _ = retained.behind();
        }
    }

    /// So many bytes of blocks more went over a link.
    pub(super) fn moved(&self, peer: StoreId, way: Way, bytes: usize) {
        *self.moved.borrow_mut().entry((peer, way as u8)).or_default() += bytes as u64;
    }

    /// The link is over.
    pub(super) fn ended(&self, peer: StoreId, way: Way, address: &str, why: &Ended) {
        let before = self.links.borrow().get(&(peer, way as u8)).cloned();
        let behind_blocks = before.map_or(0, |link| link.behind_blocks);
        let up = LinkStatus::up(peer, way, address);
        self.report(peer, LinkStatus { is_up: false, ended: Some(why.to_string()), behind_blocks, ..up });
    }

    fn as_of_now(&self, key: &(StoreId, u8), link: &LinkStatus) -> LinkStatus {
        let mut link = link.clone();
        let mut since = self.behind_since.borrow().get(key).copied();
        if let Some(retained) = self.retained.get(&key.0).filter(|_| link.way == Way::Out) {
            let behind = retained.behind();
            (link.behind_blocks, since) = (behind.blocks, behind.since);
        }
        let behind_ms = since.map_or(0, |since| since.elapsed().as_millis() as u64);
        let moved_bytes = self.moved.borrow().get(key).copied().unwrap_or_default();
        LinkStatus { behind_ms, moved_bytes, ..link }
    }

    pub(super) fn status(&self) -> NodeStatus {
        let (stand, accepts) = (self.stand(), self.roles.borrow().accepts());
        let marks = |marks: crate::Marks| ShardMarks {
            accepted: marks.accepted.0,
            written: marks.written.0,
            synced: marks.synced.0,
            flushed: marks.flushed.0,
            trimmed: marks.trimmed.0,
        };
        NodeStatus {
            store: self.opening.origin.to_string(),
            role: stand.role.to_string(),
            term: stand.term.0,
            active: (stand.active != StoreId::default()).then(|| stand.active.to_string()),
            refuses: accepts.err().map(|why| why.to_string()),
            fault: self.engine.fault().map(|fault| fault.to_string()),
            listen: self.listen,
            shards: self.engine.marks().into_iter().map(marks).collect(),
            links: self.links.borrow().iter().map(|(key, link)| self.as_of_now(key, link)).collect(),
        }
    }
}

pub(super) fn superseded() -> Ended {
    Ended::Here { reason: Reason::Superseded, text: "a newer session of the same store has begun".to_owned() }
}

pub(super) fn changed(home: &Home) -> Ended {
    let stand = home.stand();
    Ended::Here { reason: Reason::Fenced, text: format!("{} under term {}", stand.role, stand.term) }
}
