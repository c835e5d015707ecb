//! Frames on a connection: read by a task of its own, so that whoever takes them can wait for other things too.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::node::ended::Ended;
use crate::node::packed::{PACKED, pack, unpack};
use crate::repl::wire::{Frame, HEADER_BYTES, Heartbeat, header};

/// How often something is said where there is nothing to say.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// A peer of which nothing is heard for so long is dead.
const SILENT: Duration = Duration::from_secs(5);
/// However slowly it arrives, a frame is whole by then.
const FRAME: Duration = Duration::from_secs(60);
/// The first frame of a connection is short: whoever sends it is not known yet.
const FIRST_BYTES_MAX: usize = 256;
/// Frames that were read and not taken.
const AHEAD: usize = 2;
/// Pieces of frames that are given to a connection at once.
const AT_ONCE: usize = 16;

/// A connection, whatever carries it.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Carrier for T {}

/// Both ends of a connection.
pub(super) type Connection = Box<dyn Carrier>;

/// When something is said where there is nothing to say.
pub(super) fn beats() -> Interval {
    let mut tick = interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

pub(super) fn heartbeat(behind_blocks: u64, behind_bytes: u64) -> Frame {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let sent_ns = since.map_or(0, |since| since.as_nanos() as u64);
    Frame::Heartbeat(Heartbeat { sent_ns, behind_blocks, behind_bytes })
}

/// Reads one frame whose payload has at most so many bytes, and how many it took on its way.
async fn read(from: &mut (impl AsyncRead + Unpin), payload_max: usize) -> Result<(Frame, usize), Ended> {
    let mut head = [0; HEADER_BYTES];
    fill(from, &mut &mut head[..]).await?;
    let (kind, length) = header(&head)?;
    if length > payload_max {
        let text = format!(
            "a frame of {length} bytes, where at most {payload_max} may come; if blocks of the source are larger than \
             block_bytes_max admits here, raise it"
        );
        return Err(Ended::protocol(&text));
    }
    let mut payload = Vec::with_capacity(length);
    match timeout(FRAME, fill(from, &mut (&mut payload).limit(length))).await {
        Ok(filled) => filled?,
        Err(_) => return Err(Ended::Silent(FRAME.as_millis())),
    }
    let frame = if kind == PACKED { unpack(&head, &payload, payload_max)? } else { Frame::decode(&head, payload)? };
    Ok((frame, HEADER_BYTES + length))
}

async fn fill(from: &mut (impl AsyncRead + Unpin), into: &mut impl BufMut) -> Result<(), Ended> {
    while into.has_remaining_mut() {
        let read = timeout(SILENT, from.read_buf(into)).await.map_err(|_| Ended::Silent(SILENT.as_millis()))??;
        if read == 0 {
            return Err(Ended::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(())
}

/// The frame that a connection begins with, from whoever that is.
pub(super) async fn read_first(from: &mut Connection) -> Result<Frame, Ended> {
    match timeout(SILENT, read(from, FIRST_BYTES_MAX)).await {
        Ok(read) => read.map(|(frame, _)| frame),
        Err(_) => Err(Ended::Silent(SILENT.as_millis())),
    }
}

/// Writes one frame, at once.
pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> Result<(), Ended> {
    let bytes = frame.encode();
    let written = async {
        to.write_all(&bytes).await?;
        to.flush().await
    };
    timeout(SILENT, written).await.map_err(|_| Ended::Silent(SILENT.as_millis()))??;
    Ok(())
}

/// What arrives, frame by frame. Dropping it ends the reading.
pub(super) struct Incoming {
    frames: mpsc::Receiver<Result<(Frame, usize), Ended>>,
    task: JoinHandle<()>,
}

impl Incoming {
    /// Reads frames with payloads of at most so many bytes from here on.
    pub(super) fn new(mut from: ReadHalf<Connection>, payload_max: usize) -> Self {
        let (sender, frames) = mpsc::channel(AHEAD);
        let task = spawn_local(async move {
            loop {
                let frame = read(&mut from, payload_max).await;
                let is_last = frame.is_err();
                if sender.send(frame).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self { frames, task }
    }

    /// The next one, and how many bytes it took. May be given up and asked again.
    pub(super) async fn next(&mut self) -> Result<(Frame, usize), Ended> {
        self.frames.recv().await.unwrap_or_else(|| Err(Ended::Io(io::ErrorKind::UnexpectedEof.into())))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is to be sent.
pub(super) struct Outgoing {
    to: WriteHalf<Connection>,
    /// Frames in pieces, none of them empty.
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that were sent.
    sent: usize,
    /// Bytes of all of them that were not.
    waiting: usize,
    /// Something was sent that may still be with the connection.
    is_unflushed: bool,
    packs: bool,
}

impl Outgoing {
    pub(super) fn new(to: WriteHalf<Connection>, packs: bool) -> Self {
        Self { to, pieces: VecDeque::new(), sent: 0, waiting: 0, is_unflushed: false, packs }
    }

    /// Adds a frame; how many bytes it takes.
    pub(super) fn push(&mut self, frame: Frame) -> usize {
        let pieces = if self.packs {
            let plain = frame.encode();
            [pack(&plain).unwrap_or(plain), Vec::new()]
        } else {
            frame.into_pieces()
        };
        let count = pieces.iter().map(Vec::len).sum();
        self.waiting += count;
        self.pieces.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        count
    }

    /// All of it is with the peer's machine, or on its way there.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.is_unflushed
    }

    /// Bytes that were not sent.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Sends some of it. May be given up and asked again.
    pub(super) async fn send(&mut self) -> Result<(), Ended> {
        if !self.pieces.is_empty() {
            let mut slices: Vec<_> = self.pieces.iter().take(AT_ONCE).map(|piece| IoSlice::new(piece)).collect();
            slices[0].advance(self.sent);
            let sent = self.to.write_vectored(&slices).await?;
            self.is_unflushed = true;
            self.sent += sent;
            self.waiting -= sent;
            while let Some(first) = self.pieces.front()
                && self.sent >= first.len()
            {
                self.sent -= first.len();
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            // Given up here it goes on here.
            self.to.flush().await?;
            self.is_unflushed = false;
        }
        Ok(())
    }

    /// Says goodbye, if the peer still listens.
    pub(super) async fn end(mut self, bye: &Frame) {
        // Behind half a frame nobody could read it.
        while !self.is_empty() {
            match timeout(SILENT, self.send()).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
        if write(&mut self.to, bye).await.is_ok() {
            let _ = timeout(SILENT, self.to.shutdown()).await;
        }
    }
}
