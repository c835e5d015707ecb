//! Answers one that has dialled to compare: its questions about the log, one at a time, until it ends the link.
//!
//! The log is read beside the network thread, which goes on meanwhile. Nothing is changed, no follower's link is touched.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};

use crate::engine::chains::Chains;
use crate::error::Error;
use crate::node::ended::Ended;
use crate::node::frames::{Incoming, Outgoing, beats, heartbeat};
use crate::node::home::Home;
use crate::repl::asks::Ask;
use crate::repl::wire::{Frame, Told};

/// The log, for as long as somebody waits for what it says: dropped, it ends the reading.
pub(super) struct Asking(pub(super) Arc<Chains>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Something that reads the log, beside this thread.
pub(super) type Reading<T> = JoinHandle<Result<T, Error>>;

/// What it has read.
pub(super) async fn read<T>(reading: &mut Reading<T>) -> Result<T, Error> {
    reading.await.unwrap_or_else(|error| Err(Error::Store(format!("reading the log: {error}"))))
}

/// Answers this question and those that follow.
pub(super) async fn answer(
    home: &Home,
    first: Ask,
    (incoming, outgoing): (&mut Incoming, &mut Outgoing),
) -> Result<Infallible, Ended> {
    let _one_of_few = home.compares()?;
    let log = Asking(Arc::new(home.engine.chains()?));
    let begin = |ask: Ask| {
        let chains = Arc::clone(&log.0);
        spawn_blocking(move || told(&chains, &ask))
    };
    let mut reading: Option<Reading<Vec<Told>>> = Some(begin(first));
    let mut tick = beats();
    loop {
        let done = async {
            match &mut reading {
                Some(reading) => read(reading).await,
                None => pending().await,
            }
        };
        tokio::select! {
            frame = incoming.next() => match frame?.0 {
                Frame::Ask(ask) if reading.is_none() => reading = Some(begin(ask)),
                Frame::Heartbeat(_) => {}
                Frame::Bye(bye) => return Err(Ended::Bye(bye)),
                _ => return Err(Ended::protocol("who compares asks, and waits for the answer")),
            },
            sent = outgoing.send(), if !outgoing.is_empty() => sent?,
            told = done => {
                reading = None;
                for part in told? {
                    outgoing.push(Frame::Told(part));
                }
            }
            _ = tick.tick() => drop(outgoing.push(heartbeat(0, 0))),
        }
    }
}

fn told(chains: &Chains, ask: &Ask) -> Result<Vec<Told>, Error> {
    match ask {
        Ask::Stands => Ok(chains.stands()?.frames().into_iter().map(Told::Stands).collect()),
        Ask::At(rows) => Ok(vec![Told::At(chains.at(rows)?)]),
    }
}
