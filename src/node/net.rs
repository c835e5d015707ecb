//! The network thread: listens, dials, and carries out what is asked of the node.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::error::Error;
use crate::node::backfill::remove_strangers;
use crate::node::config::Peer;
use crate::node::control;
use crate::node::frames::HEARTBEAT;
use crate::node::home::Home;
use crate::node::link::{follow, serve};
use crate::node::status::{NodeStatus, Way};
use crate::node::tls::{CONNECT, Tls, prepared};

/// Between two attempts to dial, from the first to the longest.
const REDIAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// The longest where dialling again changes nothing by itself.
const LASTING: Duration = Duration::from_secs(30);
/// Connections that have not said who they are.
const UNKNOWN_MAX: usize = 64;

/// What is asked of the thread.
pub(super) enum Command {
    Status(oneshot::Sender<NodeStatus>),
    Promote(oneshot::Sender<Result<(), Error>>),
    Demote(oneshot::Sender<Result<(), Error>>),
    Share(oneshot::Sender<Result<(), Error>>),
    Stop,
}

/// Runs something to its end on this thread: on io_uring where that can be had, else without.
pub(super) fn block_on(future: impl Future<Output = ()>) -> std::io::Result<()> {
    if crate::io::uring::available().is_ok() {
        tokio_uring::start(future);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, future);
    Ok(())
}

/// All that a node does on the network, until it is told to stop.
pub(super) async fn run(
    home: Rc<Home>,
    listener: Option<std::net::TcpListener>,
    control: std::os::unix::net::UnixListener,
    tls: Tls,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    remove_strangers(&home);
    let mut tasks = vec![spawn_local(control::serve(Rc::clone(&home), tls.clone(), control))];
    if let Some(listener) = listener {
        match TcpListener::from_std(listener) {
            Ok(listener) => tasks.push(spawn_local(listen(Rc::clone(&home), listener, tls.clone()))),
            Err(error) => tracing::error!("listening: {error}"),
        }
    }
    for peer in home.peers.iter().filter(|peer| peer.address.is_some()) {
        tasks.push(spawn_local(dial(Rc::clone(&home), peer.clone(), tls.clone())));
    }
    let looking = Rc::clone(&home);
    tasks.push(spawn_local(async move {
        loop {
            sleep(HEARTBEAT).await;
            looking.look();
        }
    }));
    // Who asks and does not wait for the answer is not answered.
    while let Some(command) = commands.recv().await {
        match command {
            Command::Status(answer) => drop(answer.send(home.status())),
            Command::Promote(answer) => drop(answer.send(home.promote())),
            Command::Demote(answer) => drop(answer.send(home.demote())),
            Command::Share(answer) => drop(answer.send(home.share())),
            Command::Stop => break,
        }
    }
    home.stops.store(true, Ordering::Relaxed);
    tasks.into_iter().for_each(|task| task.abort());
}

async fn listen(home: Rc<Home>, listener: TcpListener, tls: Tls) {
    let unknown = Arc::new(tokio::sync::Semaphore::new(UNKNOWN_MAX));
    loop {
        let permit = Arc::clone(&unknown);
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("accepting: {error}");
                sleep(REDIAL.0).await;
                continue;
            }
        };
        let (home, tls) = (Rc::clone(&home), tls.clone());
        spawn_local(async move {
            let Ok(permit) = permit.try_acquire_owned() else {
                tracing::warn!("{address}: more than {UNKNOWN_MAX} connections have not said who they are");
                return;
            };
            let accepted = timeout(CONNECT, tls.accept(prepared(stream))).await;
            match accepted {
                Ok(Ok((connection, names))) => {
                    let greeted = Box::new(move || drop(permit));
                    serve(home, connection, names, address.to_string(), greeted).await;
                }
                Ok(Err(error)) => tracing::warn!("{address}: {error}"),
                Err(_) => tracing::warn!("{address}: no handshake within {CONNECT:?}"),
            }
        });
    }
}

async fn dial(home: Rc<Home>, peer: Peer, tls: Tls) {
    let address = peer.address.clone().expect("a peer that is dialled");
    let mut nap = REDIAL.0;
    let mut said = String::new();
    loop {
        let began = Instant::now();
        let why = match tls.dial(&address, peer.store).await {
            Ok(connection) => follow(&home, connection, &peer, &address).await,
            Err(why) => why,
        };
        let has_lived = began.elapsed() > REDIAL.1;
        home.ended(peer.store, Way::In, &address, &why);
        if has_lived || why.to_string() != said {
            tracing::warn!("no link from {} at {address}: {why}", peer.store);
            said = why.to_string();
        }
        if why.is_lasting() {
            nap = (nap * 2).clamp(REDIAL.1, LASTING);
            sleep(nap).await;
            continue;
        }
        nap = if has_lived || why.is_of_roles() { REDIAL.0 } else { (nap * 2).min(REDIAL.1) };
        // Who has dialled can be dialled.
        tokio::select! {
            () = sleep(nap) => {}
            () = home.has_dialled(peer.store) => {}
        }
    }
}

/// Binds before the thread starts, so that who starts a node learns at once that it cannot.
pub(super) fn bind(listen: Option<SocketAddr>) -> Result<Option<std::net::TcpListener>, Error> {
    let Some(listen) = listen else { return Ok(None) };
    let bound = std::net::TcpListener::bind(listen).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map(Some).map_err(Error::io(format!("listening at {listen}")))
}
