//! [`Node`]: a store that is open and linked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::data::store::{Hold, Null, Store};
use crate::engine::Engine;
use crate::engine::outbound::Retained;
use crate::error::Error;
use crate::io::rests::stand_behind_clients;
use crate::node::config::{NodeConfig, Sink};
use crate::node::control;
use crate::node::home::Home;
use crate::node::net::{Command, bind, block_on, run};
use crate::node::role_file;
use crate::node::status::NodeStatus;
use crate::node::tls::Tls;
use crate::repl::role::Roles;
use crate::repl::wire::{Role, Stand};
use crate::types::StoreId;

/// A store that is open, and exchanges blocks with its peers. Dropping it closes it.
pub struct Node {
    engine: Option<Arc<Engine>>,
    /// Held until the store is closed: what was let go before would be given back at once.
    retained: HashMap<StoreId, Arc<Retained>>,
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
    listens: Option<SocketAddr>,
}

impl Node {
    /// Opens the store and starts the network thread.
    ///
    /// # Errors
    /// As [`Engine::open`]; where it cannot listen, or a certificate cannot be used.
    pub fn start(config: &NodeConfig) -> Result<Self, Error> {
        let replication = &config.replication;
        let tls = Tls::new(replication.tls.as_ref())?;
        let has_peers = !replication.peers.is_empty();
        let options = config.engine().hold_for_subscriber(has_peers);
        let engine = Arc::new(Engine::open_with(options, sink(config.store)?)?);
        let store = engine.opening().origin;
        if let Some(peer) = replication.peers.iter().find(|peer| peer.store == store) {
            return Err(Error::Config(format!(
                "[[replication.peers]] store = {}: this is the store itself",
                peer.store
            )));
        }
        let stand = match role_file::read(&config.dir)? {
            Some(stand) => stand,
            None => {
                let role = replication.role.unwrap_or(if has_peers { Role::Standby } else { Role::Active });
                let active = if role == Role::Active { store } else { Stand::default().active };
                let stand = Stand { role, active, ..Stand::default() };
                role_file::write(&config.dir, stand)?;
                stand
            }
        };
        let is_alone = replication.start_alone || !has_peers;
        let roles = Roles::new(store, stand, is_alone);
        // Before anybody has a writer.
        engine.set_active(roles.accepts());
        let listener = bind(replication.listen)?;
        let control = control::bind(&config.dir)?;
        let listens = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let (commands, receiver) = mpsc::unbounded_channel();
        let (dir, peers, shared) = (config.dir.clone(), replication.peers.clone(), Arc::clone(&engine));
        let retained = peers.iter().map(|peer| Ok((peer.store, engine.retain()?)));
        let retained = retained.collect::<Result<HashMap<_, _>, Error>>()?;
        let for_links = retained.clone();
        let way = replication.sending();
        let body = move || {
            stand_behind_clients();
            let home = Rc::new(Home::new(shared, dir, roles, (peers, for_links), listens, way));
            if let Err(error) = block_on(run(home, listener, control, tls, receiver)) {
                tracing::error!("the network thread cannot run: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("forebay-net".to_owned()).spawn(body);
        let thread = thread.map_err(Error::io("starting the network thread"))?;
        Ok(Self { engine: Some(engine), retained, commands, thread: Some(thread), listens })
    }

    /// The store. Its writers' blocks are accepted while the node is active.
    ///
    /// # Panics
    /// Never: it is there until the node is stopped.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        self.engine.as_deref().expect("there until the node is stopped")
    }

    /// Where followers dial.
    #[must_use]
    pub const fn listens(&self) -> Option<SocketAddr> {
        self.listens
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`Error::Closed`] where the network thread has ended.
    pub fn status(&self) -> Result<NodeStatus, Error> {
        self.ask(Command::Status)
    }

    /// Makes it the active one, under a term above every one that it knows; durable when this returns.
    ///
    /// # Errors
    /// [`Error::Io`] where its ROLE cannot be written: it is what it was. [`Error::Closed`].
    pub fn promote(&self) -> Result<(), Error> {
        self.ask(Command::Promote)?
    }

    /// Makes it a standby; nobody is active then until another is promoted.
    ///
    /// # Errors
    /// As [`promote`](Self::promote).
    pub fn demote(&self) -> Result<(), Error> {
        self.ask(Command::Demote)?
    }

    /// Makes it one of several that accept, as each of them is told; durable when this returns.
    ///
    /// # Errors
    /// As [`promote`](Self::promote).
    pub fn share(&self) -> Result<(), Error> {
        self.ask(Command::Share)?
    }

    /// Whether it works as a whole; where not, it is to be started again.
    ///
    /// # Errors
    /// [`Error::Fault`]: a shard has stopped; [`Error::Closed`]: the network thread has ended.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(fault) = self.engine().fault() {
            return Err(Error::Fault(fault));
        }
        match &self.thread {
            Some(thread) if !thread.is_finished() => Ok(()),
            _ => Err(Error::Closed),
        }
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).map_err(|_| Error::Closed)?;
        answered.blocking_recv().map_err(|_| Error::Closed)
    }

    /// Ends all links and closes the store.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        // Where it has ended there is nobody to be told.
        let _ = self.commands.send(Command::Stop);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        let engine = self.engine.take().and_then(Arc::into_inner);
        let closed = engine.map_or(Ok(()), Engine::close);
        self.retained.clear();
        if ended.is_err() {
            return Err(Error::Store("the network thread panicked".to_owned()));
        }
        closed
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.engine.is_some()
            && let Err(error) = self.end()
        {
            tracing::error!("closing the node: {error}");
        }
    }
}

fn sink(sink: Sink) -> Result<Box<dyn Store>, Error> {
    match sink {
        Sink::None => Ok(Box::new(Null)),
        Sink::Log => Ok(Box::new(Hold)),
        #[cfg(feature = "parquet")]
        Sink::Parquet => Ok(Box::new(crate::data::parquet::ParquetStore::default())),
        #[cfg(not(feature = "parquet"))]
        Sink::Parquet => Err(Error::Config("store = \"parquet\": this program is built without it".to_owned())),
    }
}

/// Makes the store of a node, if there is none, and tells its id.
///
/// # Errors
/// As [`Engine::open`].
pub fn make_store(config: &NodeConfig) -> Result<StoreId, Error> {
    let engine = Engine::open_with(config.engine().hold_for_subscriber(true), sink(config.store)?)?;
    let store = engine.opening().origin;
    engine.close()?;
    Ok(store)
}
