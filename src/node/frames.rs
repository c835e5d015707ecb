//! Frames on a connection: read by a task of its own, so that whoever takes them can wait for other things too.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use crate::node::ended::Ended;
use crate::repl::wire::{Frame, HEADER_BYTES, header};

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

/// A connection, whatever carries it.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Carrier for T {}

/// Both ends of a connection.
pub(super) type Connection = Box<dyn Carrier>;

/// Reads one frame whose payload has at most so many bytes.
async fn read(from: &mut (impl AsyncRead + Unpin), payload_max: usize) -> Result<Frame, Ended> {
    let mut head = [0; HEADER_BYTES];
    fill(from, &mut head).await?;
    let (_, length) = header(&head)?;
    if length > payload_max {
        let text = format!(
            "a frame of {length} bytes, where at most {payload_max} may come; if blocks of the source are larger than \
             block_bytes_max admits here, raise it"
        );
        return Err(Ended::protocol(&text));
    }
    let mut payload = vec![0; length];
    match timeout(FRAME, fill(from, &mut payload)).await {
        Ok(filled) => filled?,
        Err(_) => return Err(Ended::Silent(FRAME.as_millis())),
    }
    Ok(Frame::decode(&head, payload)?)
}

async fn fill(from: &mut (impl AsyncRead + Unpin), mut bytes: &mut [u8]) -> Result<(), Ended> {
    while !bytes.is_empty() {
        let read = timeout(SILENT, from.read(bytes)).await.map_err(|_| Ended::Silent(SILENT.as_millis()))??;
        if read == 0 {
            return Err(Ended::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes = &mut bytes[read..];
    }
    Ok(())
}

/// The frame that a connection begins with, from whoever that is.
pub(super) async fn read_first(from: &mut Connection) -> Result<Frame, Ended> {
    match timeout(SILENT, read(from, FIRST_BYTES_MAX)).await {
        Ok(frame) => frame,
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
    frames: mpsc::Receiver<Result<Frame, Ended>>,
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

    /// The next one. May be given up and asked again.
    pub(super) async fn next(&mut self) -> Result<Frame, Ended> {
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
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    pub(super) fn new(to: WriteHalf<Connection>) -> Self {
        Self { to, bytes: Vec::new(), sent: 0 }
    }

    pub(super) fn push(&mut self, frame: &Frame) {
        self.bytes.extend(frame.encode());
    }

    /// All of it is with the connection.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Sends some of it. May be given up and asked again.
    pub(super) async fn send(&mut self) -> Result<(), Ended> {
        if self.sent < self.bytes.len() {
            self.sent += self.to.write(&self.bytes[self.sent..]).await?;
        }
        if self.sent == self.bytes.len() {
            // Given up here it goes on here.
            self.to.flush().await?;
            self.bytes.clear();
            self.sent = 0;
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
