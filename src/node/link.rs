//! One link: to a follower, which has dialled, or to a source, which was. Who dials to compare is answered in `answer.rs`.

use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::split;
use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;

use crate::engine::inbound::Inbound;
use crate::engine::outbound::{Outbound, Told};
use crate::error::Error;
use crate::node::answer::answer;
use crate::node::backfill::{remove_left, supply, take_over};
use crate::node::config::{Compress, Peer};
use crate::node::ended::Ended;
use crate::node::frames::{Connection, Incoming, Outgoing, beats, heartbeat, read_first, write};
use crate::node::home::{Home, changed, superseded};
use crate::node::pace::{FILL_BYTES, Rate};
use crate::node::status::{LinkStatus, Way};
use crate::node::tls::Names;
use crate::repl::entries::Entries;
use crate::repl::link_error::LinkError;
use crate::repl::wire::{Bye, FOLLOWER_BYTES_MAX, Frame, Heartbeat, Hello, Stand, TEXT_BYTES_MAX, payload_bytes_max};
use crate::types::{Seq, StoreId, Stream};
use crate::wal::batch::StreamEnd;

/// Serves whoever has dialled, until the link is over.
pub(super) async fn serve(
    home: Rc<Home>,
    mut connection: Connection,
    names: Names,
    address: String,
    greeted: Box<dyn FnOnce()>,
) {
    // From before it is said what this store stands as.
    let stand = home.changes();
    let hello = match greet(&home, &mut connection, &names).await {
        Ok(hello) => hello,
        Err(why) => {
            tracing::warn!("{address} dialled and is no follower: {why}");
            if let Some(bye) = bye(&home, &why) {
                let _ = write(&mut connection, &bye).await;
            }
            return;
        }
    };
    greeted();
    let peer = hello.opening.origin;
    let (reader, writer) = split(connection);
    let (mut incoming, mut outgoing) =
        (Incoming::new(reader, FOLLOWER_BYTES_MAX), Outgoing::new(writer, home.way.compress == Compress::Lz4));
    // What it says first tells what it is here for; who compares is no follower, and ends no follower's link.
    let why = match incoming.next().await {
        Ok((Frame::Ask(ask), _)) => {
            let Err(why) = answer(&home, ask, (&mut incoming, &mut outgoing)).await;
            tracing::info!("{peer} at {address} has compared: {why}");
            return say_bye(&home, outgoing, &why).await;
        }
        Ok((first, _)) => match home.begin(peer, hello.session) {
            Ok(newer) => {
                let links = (&mut incoming, &mut outgoing);
                let Err(why) = feed(&home, (&hello, first), (&newer, stand), links, &address).await;
                if home.end(peer, hello.session) {
                    home.ended(peer, Way::Out, &address, &why);
                }
                why
            }
            Err(why) => why,
        },
        Err(why) => why,
    };
    tracing::warn!("the link to {peer} at {address} is over: {why}");
    say_bye(&home, outgoing, &why).await;
}

async fn greet(home: &Home, connection: &mut Connection, names: &Names) -> Result<Hello, Ended> {
    let Frame::Hello(hello) = read_first(connection).await? else {
        return Err(Ended::protocol("it does not begin with a hello"));
    };
    let peer = hello.opening.origin;
    if !home.peers.iter().any(|known| known.store == peer) || !names.are_of(peer) {
        return Err(Ended::Stranger(peer));
    }
    home.meet(peer, hello.stand)?;
    write(connection, &Frame::Hello(home.hello(hello.session))).await?;
    Ok(hello)
}

async fn feed(
    home: &Home,
    (hello, first): (&Hello, Frame),
    (newer, mut stand): (&Notify, watch::Receiver<Stand>),
    (incoming, outgoing): (&mut Incoming, &mut Outgoing),
    address: &str,
) -> Result<Infallible, Ended> {
    let peer = hello.opening.origin;
    let mut outbound = home.outbound(hello.opening)?;
    let mut tick = beats();
    let mut frames = Vec::new();
    let mut rate = Rate::new(home.way.rate_bytes_per_s);
    tracing::info!("{peer} at {address} follows");
    let mut heard = hear(home, peer, &mut outbound, first)?;
    let told = loop {
        if let Some(told) = heard.take() {
            break told;
        }
        tokio::select! {
            frame = incoming.next() => heard = hear(home, peer, &mut outbound, frame?.0)?,
            sent = outgoing.send(), if !outgoing.is_empty() => sent?,
            () = sleep_until(rate.from()), if !rate.may() => {}
            more = poll_fn(|context| outbound.poll_more(context)), if outgoing.waiting() < FILL_BYTES && rate.may() => {
                more?;
                match outbound.fill(&mut frames, rate.at_once(FILL_BYTES)) {
                    Err(why) if is_behind(home, &why) => break outbound.told().ok_or(why)?,
                    other => other?,
                }
                for frame in frames.drain(..) {
                    let is_blocks = matches!(frame, Frame::Entries(_));
                    let bytes = outgoing.push(frame);
                    if is_blocks {
                        home.moved(peer, Way::Out, bytes);
                        rate.spent(bytes);
                    }
                }
                let _ = outbound.behind();
            }
            _ = tick.tick() => {
                let (behind_blocks, behind_bytes) = (outbound.behind().blocks, outbound.bytes_unacked() as u64);
                home.report(peer, LinkStatus { behind_blocks, behind_bytes, ..LinkStatus::up(peer, Way::Out, address) });
                outgoing.push(heartbeat(behind_blocks, behind_bytes));
            }
            _ = stand.changed() => return Err(changed(home)),
            () = newer.notified() => return Err(superseded()),
        }
    };
    supply(home, peer, told, (newer, stand), (incoming, outgoing), address).await
}

/// What the follower lacks has left the log, and is in data files.
fn is_behind(home: &Home, why: &LinkError) -> bool {
    matches!(why, LinkError::Store(Error::Behind { .. }) | LinkError::NotInLog { .. }) && home.engine.has_data_files()
}

/// Takes in what a follower says; what it has, where what it lacks is in data files only.
fn hear(home: &Home, peer: StoreId, outbound: &mut Outbound, frame: Frame) -> Result<Option<Told>, Ended> {
    match frame {
        Frame::Vector(part) => match outbound.vector(&part) {
            Err(why) if is_behind(home, &why) => return Ok(Some(outbound.told().ok_or(why)?)),
            other => other?,
        },
        Frame::Ack(rows) => outbound.acked(&rows),
        Frame::Heartbeat(_) => {}
        Frame::Bye(bye) => {
            home.meet_bye(peer, &bye)?;
            return Err(Ended::Bye(bye));
        }
        _ => return Err(Ended::protocol("a follower sends its vector and acks")),
    }
    Ok(None)
}

/// Follows a source that was dialled, until the link is over; why it was.
pub(super) async fn follow(home: &Home, mut connection: Connection, peer: &Peer, address: &str) -> Ended {
    let stand = home.changes();
    let greeted = greet_source(home, &mut connection, peer.store).await;
    let (reader, writer) = split(connection);
    let (mut incoming, mut outgoing) = (
        Incoming::new(reader, payload_bytes_max(home.engine.block_bytes_max() as usize)),
        Outgoing::new(writer, false),
    );
    let why = match greeted {
        Ok(()) if stand.has_changed().unwrap_or(true) => changed(home),
        Ok(()) => {
            let Err(why) = take(home, peer.store, (&mut incoming, &mut outgoing), address).await;
            why
        }
        Err(why) => why,
    };
    say_bye(home, outgoing, &why).await;
    why
}

/// Says who this is to a store that was dialled, and hears that it is that one.
pub(super) async fn greet_source(home: &Home, connection: &mut Connection, peer: StoreId) -> Result<(), Ended> {
    write(connection, &Frame::Hello(home.hello(home.next_session()))).await?;
    match read_first(connection).await? {
        Frame::Hello(hello) if hello.opening.origin == peer => Ok(home.meet(peer, hello.stand)?),
        Frame::Hello(hello) => Err(Ended::Stranger(hello.opening.origin)),
        Frame::Bye(bye) => {
            home.meet_bye(peer, &bye)?;
            Err(Ended::Bye(bye))
        }
        _ => Err(Ended::protocol("it does not begin with a hello")),
    }
}

async fn take(
    home: &Home,
    peer: StoreId,
    (incoming, outgoing): (&mut Incoming, &mut Outgoing),
    address: &str,
) -> Result<Infallible, Ended> {
    let mut stand = home.changes();
    let (mut inbound, vector) = home.engine.inbound()?;
    for part in vector {
        outgoing.push(Frame::Vector(part));
    }
    let mut tick = beats();
    let (mut taking, mut has_blocks): (Option<Taking>, bool) = (None, false);
    tracing::info!("follows {peer} at {address}");
    let status = |beat: Heartbeat| {
        let Heartbeat { behind_blocks, behind_bytes, .. } = beat;
        LinkStatus { behind_blocks, behind_bytes, ..LinkStatus::up(peer, Way::In, address) }
    };
    home.report(peer, status(Heartbeat::default()));
    loop {
        let owes_nothing = outgoing.is_empty();
        tokio::select! {
            frame = incoming.next(), if taking.is_none() => match frame? {
                (Frame::Entries(entries), bytes) => {
                    if !std::mem::replace(&mut has_blocks, true) {
                        remove_left(home, peer);
                    }
                    home.moved(peer, Way::In, bytes);
                    taking = Some(Taking::Blocks(entries));
                }
                (Frame::Heartbeat(beat), _) => home.report(peer, status(beat)),
                (Frame::Gap { stream, before, behind }, _) => taking = Some(Taking::Gap(stream, before, behind)),
                (Frame::Bye(bye), _) => {
                    home.meet_bye(peer, &bye)?;
                    return Err(Ended::Bye(bye));
                }
                (Frame::Holding(first), _) => return take_over(home, peer, first, stand, (incoming, outgoing), address).await,
                _ => return Err(Ended::protocol("a source sends blocks")),
            },
            sent = outgoing.send(), if !owes_nothing => sent?,
            done = poll_fn(|context| poll_inbound(&mut inbound, taking.as_ref(), owes_nothing, context)) => match done? {
                Done::Taken => taking = None,
                Done::Adopted(stream, lost) => {
                    taking = None;
                    if let Some((held, last)) = lost {
                        tracing::warn!(
                            "blocks {}..{last} of stream {}/{}/{} are lost at {peer}, and here with it",
                            held.next(), stream.origin, stream.shard, stream.epoch
                        );
                    }
                }
                Done::Synced => {
                    let rows = inbound.acks();
                    if !rows.is_empty() {
                        outgoing.push(Frame::Ack(rows));
                    }
                }
            },
            _ = tick.tick() => {
                if owes_nothing {
                    let rows = inbound.acks();
                    outgoing.push(if rows.is_empty() { heartbeat(0, 0) } else { Frame::Ack(rows) });
                }
            }
            _ = stand.changed() => return Err(changed(home)),
        }
    }
}

/// The frame at hand.
enum Taking {
    Blocks(Entries),
    /// Blocks of a stream that are lost, between these ends.
    Gap(Stream, StreamEnd, StreamEnd),
}

enum Done {
    /// All that is new of the frame at hand.
    Taken,
    /// What of it is lost here, behind the first number and up to the last; `None` where nothing is.
    Adopted(Stream, Option<(Seq, Seq)>),
    /// Something that was taken is synced.
    Synced,
}

fn poll_inbound(
    inbound: &mut Inbound,
    taking: Option<&Taking>,
    acks: bool,
    context: &mut Context<'_>,
) -> Poll<Result<Done, LinkError>> {
    let taken = match taking {
        Some(Taking::Blocks(frame)) => inbound.poll_take(frame, context).map_ok(|()| Done::Taken),
        Some(&Taking::Gap(stream, before, behind)) => {
            inbound.poll_adopt((stream, before, behind), context).map_ok(|lost| Done::Adopted(stream, lost))
        }
        None => Poll::Pending,
    };
    if taken.is_ready() {
        return taken;
    }
    match acks {
        true => inbound.poll_acks(context).map(|ready| ready.map(|()| Done::Synced)),
        false => Poll::Pending,
    }
}

/// The last frame of a link that is over for this reason, if the peer is to be told.
fn bye(home: &Home, why: &Ended) -> Option<Frame> {
    let reason = why.reason()?;
    let stand = home.stand();
    let mut text = why.to_string();
    while text.len() > TEXT_BYTES_MAX {
        text.pop();
    }
    Some(Frame::Bye(Bye { reason, term: stand.term, active: stand.active, text }))
}

pub(super) async fn say_bye(home: &Home, outgoing: Outgoing, why: &Ended) {
    if let Some(bye) = bye(home, why) {
        outgoing.end(&bye).await;
    }
}
