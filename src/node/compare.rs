//! Compares this store with a peer's: dials it as any link does, asks both logs, and says where they differ. Changes
//! neither store, and touches no link between them.

use std::sync::Arc;

use tokio::io::split;
use tokio::task::spawn_blocking;
use tokio::time::Interval;

use crate::engine::chains::Chains;
use crate::error::Error;
use crate::node::answer::{Asking, Reading, read};
use crate::node::compared::VerifiedPeer;
use crate::node::ended::Ended;
use crate::node::frames::{Incoming, Outgoing, beats, heartbeat};
use crate::node::home::Home;
use crate::node::link::{greet_source, say_bye};
use crate::node::tls::Tls;
use crate::repl::asks::Ask;
use crate::repl::compare::{Comparison, Stands};
use crate::repl::wire::{FOLLOWER_BYTES_MAX, Frame, Reason, Told};
use crate::types::StoreId;

/// Compares with this peer.
///
/// # Errors
/// [`Error::Config`] where it is none that is dialled; [`Error::Unreachable`] where it cannot be asked at present; what
/// happens to the store here.
pub(super) async fn compare(home: &Home, tls: &Tls, peer: StoreId) -> Result<VerifiedPeer, Error> {
    let known = home.peers.iter().find(|known| known.store == peer);
    let address = known.ok_or_else(|| {
        Error::Config(format!("{peer} is no peer of this store; [[replication.peers]] has those that are"))
    })?;
    let address = address.address.as_deref().ok_or_else(|| {
        Error::Config(format!(
            "the peer {peer} has no address here, it dials: compare there, with --peer {}",
            home.opening.origin
        ))
    })?;
    let unreachable = |why: Ended| Error::Unreachable(format!("not compared with {peer} at {address}: {why}"));
    let _one_of_few = home.compares().map_err(unreachable)?;
    let mut connection = tls.dial(address, peer).await.map_err(unreachable)?;
    greet_source(home, &mut connection, peer).await.map_err(unreachable)?;
    let (reader, writer) = split(connection);
    let mut link = Link {
        incoming: Incoming::new(reader, FOLLOWER_BYTES_MAX),
        outgoing: Outgoing::new(writer, false),
        tick: beats(),
        log: Asking(Arc::new(home.engine.chains()?)),
    };
    let compared = link.compare().await;
    let over = match &compared {
        Ok(_) => Ended::Here { reason: Reason::Stop, text: "compared".to_owned() },
        Err(_) => Ended::Here { reason: Reason::Stop, text: "the comparison was given up".to_owned() },
    };
    say_bye(home, link.outgoing, &over).await;
    match compared {
        Ok(comparison) => Ok(VerifiedPeer::new((home.opening.origin, peer), address, &comparison.end())),
        Err(Failed::Here(error)) => Err(error),
        Err(Failed::There(why)) => Err(unreachable(why)),
    }
}

/// Why a comparison has come to nothing.
enum Failed {
    Here(Error),
    There(Ended),
}

struct Link {
    incoming: Incoming,
    outgoing: Outgoing,
    tick: Interval,
    log: Asking,
}

impl Link {
    async fn compare(&mut self) -> Result<Comparison, Failed> {
        let mut all = Stands::default();
        let take = |told| match told {
            Told::Stands(part) => match all.take(part) {
                Ok(true) => Ok(Some(std::mem::take(&mut all))),
                Ok(false) => Ok(None),
                Err(error) => Err(Ended::protocol(&error.to_string())),
            },
            Told::At(_) => Err(Ended::protocol("rows that were not asked for")),
        };
        let (here, there) = self.both(Ask::Stands, Chains::stands, take).await?;
        let mut comparison = Comparison::new(here, there);
        loop {
            let rows = comparison.asks();
            if rows.is_empty() {
                return Ok(comparison);
            }
            let count = rows.len();
            let take = |told| match told {
                Told::At(rows) if rows.len() == count => Ok(Some(rows)),
                _ => Err(Ended::protocol("an answer without a row for each that was asked for")),
            };
            let asked = rows.clone();
            let (here, there) = self.both(Ask::At(rows), move |log| log.at(&asked), take).await?;
            comparison.told(&here, &there);
        }
    }

    /// Asks both stores at the same time.
    async fn both<T: Send + 'static>(
        &mut self,
        ask: Ask,
        own: impl FnOnce(&Chains) -> Result<T, Error> + Send + 'static,
        mut take: impl FnMut(Told) -> Result<Option<T>, Ended>,
    ) -> Result<(T, T), Failed> {
        let log = Arc::clone(&self.log.0);
        let mut reading: Reading<T> = spawn_blocking(move || own(&log));
        self.outgoing.push(Frame::Ask(ask));
        let (mut here, mut there) = (None, None);
        loop {
            tokio::select! {
                frame = self.incoming.next() => match frame.map_err(Failed::There)?.0 {
                    Frame::Told(told) if there.is_none() => there = take(told).map_err(Failed::There)?,
                    Frame::Heartbeat(_) => {}
                    Frame::Bye(bye) => return Err(Failed::There(Ended::Bye(bye))),
                    _ => return Err(Failed::There(Ended::protocol("who is asked answers, once"))),
                },
                sent = self.outgoing.send(), if !self.outgoing.is_empty() => sent.map_err(Failed::There)?,
                done = read(&mut reading), if here.is_none() => here = Some(done.map_err(Failed::Here)?),
                _ = self.tick.tick() => drop(self.outgoing.push(heartbeat(0, 0))),
            }
            (here, there) = match (here, there) {
                (Some(here), Some(there)) => return Ok((here, there)),
                waits => waits,
            };
        }
    }
}
