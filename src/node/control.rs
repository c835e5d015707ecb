//! The socket at which a running node is asked how it stands, and is told to change: `control.sock` in the store's
//! folder, for whoever may open that. A request is a word and a line's end, the answer a line of JSON; where it takes
//! longer, spaces before it say that the node is at it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::engine::identity::{Identity, StoreLock};
use crate::error::Error;
use crate::node::compare::compare;
use crate::node::frames::beats;
use crate::node::home::Home;
use crate::node::role_file;
use crate::node::tls::Tls;
use crate::repl::role::Roles;
use crate::repl::wire::Stand;
use crate::types::StoreId;

const NAME: &str = "control.sock";
/// A request is a word, or a word and a store's id.
const REQUEST_BYTES_MAX: usize = 64;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that are answered at a time.
const AT_ONCE: usize = 16;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// How it stands.
    Status,
    /// To be the active one.
    Promote,
    /// To be a standby.
    Demote,
    /// To be one of several that accept.
    Share,
}

/// What is asked with a peer's id behind it: how its store compares with this one.
const VERIFY_PEER: &str = "verify-peer";

impl Request {
    const ALL: [Self; 4] = [Self::Status, Self::Promote, Self::Demote, Self::Share];

    const fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::Share => "share",
        }
    }
}

/// A path to the socket that is short enough for one, whatever the folder's is; good while the file is open.
fn path_below(dir: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
    Ok((folder, path))
}

/// Listens; the store is locked, so a socket that is there is a dead process's.
pub(super) fn bind(dir: &Path) -> Result<UnixListener, Error> {
    let bound = path_below(dir).and_then(|(_folder, path)| {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(Error::io(format!("listening at {}", dir.join(NAME).display())))
}

/// Answers requests, for as long as the node runs.
pub(super) async fn serve(home: Rc<Home>, tls: Tls, listener: UnixListener) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("{NAME}: {error}"),
    };
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (home, tls) = (Rc::clone(&home), tls.clone());
        spawn_local(async move {
            // Who asks and does not wait for the answer is not answered.
            let _ = attend(&home, &tls, stream).await;
            drop(permit);
        });
    }
}

async fn attend(home: &Home, tls: &Tls, mut stream: tokio::net::UnixStream) -> io::Result<()> {
    let request = timeout(PATIENCE, async {
        let mut request = Vec::new();
        while !request.ends_with(b"\n") && request.len() < REQUEST_BYTES_MAX {
            request.push(stream.read_u8().await?);
        }
        io::Result::Ok(String::from_utf8_lossy(&request).trim_end().to_owned())
    });
    let request = request.await??;
    let answer = match request.strip_prefix(VERIFY_PEER).map(|peer| peer.trim_start().parse::<StoreId>()) {
        Some(Ok(peer)) => verified(home, tls, peer, &mut stream).await?,
        Some(Err(wrong)) => failed(&Error::Config(wrong)),
        None => answer(home, &request),
    };
    timeout(PATIENCE, stream.write_all(format!("{answer}\n").as_bytes())).await?
}

/// Compares with the peer, for as long as whoever has asked is there.
async fn verified(home: &Home, tls: &Tls, peer: StoreId, to: &mut tokio::net::UnixStream) -> io::Result<Value> {
    let mut tick = beats();
    let comparing = compare(home, tls, peer);
    tokio::pin!(comparing);
    loop {
        tokio::select! {
            compared = &mut comparing => {
                return Ok(compared.map_or_else(|error| failed(&error), |found| json!({ "verified": found })));
            }
            _ = tick.tick() => timeout(PATIENCE, to.write_all(b" ")).await??,
        }
    }
}

/// An error as it is answered, with the exit code that it asks for.
fn failed(error: &Error) -> Value {
    let text = match error {
        Error::Config(text) | Error::Unreachable(text) => text.clone(),
        other => other.to_string(),
    };
    json!({ "error": text, "code": error.exit_code() })
}

fn answer(home: &Home, word: &str) -> Value {
    let asked = Request::ALL.into_iter().find(|request| request.word() == word);
    let done = match asked {
        Some(Request::Status) => Ok(()),
        Some(Request::Promote) => home.promote(),
        Some(Request::Demote) => home.demote(),
        Some(Request::Share) => home.share(),
        None => Err(Error::Config(format!("'{word}' is no request"))),
    };
    match done {
        Ok(()) => json!({ "status": home.status() }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// Asks the node that has the store in this folder open; where none has, the store itself. The status, as
/// [`NodeStatus`](crate::node::NodeStatus), with `running` beside.
///
/// # Errors
/// [`Error::Store`] with what the node said; [`Error::InUse`] where an engine without a node has the store open.
pub fn ask(dir: &Path, request: Request) -> Result<Value, Error> {
    let identity = identity(dir)?;
    let Ok(stream) = connect(dir) else { return at_rest(dir, &identity, request) };
    let mut status = exchange(dir, &stream, request.word())?["status"].take();
    status["running"] = Value::from(true);
    Ok(status)
}

/// Asks the node that has the store in this folder open to compare it with this peer's. What it has found, as
/// [`VerifiedPeer`](crate::node::compared::VerifiedPeer).
///
/// # Errors
/// [`Error::Unreachable`] where no node runs, or the peer is not there at present; [`Error::Config`] where it is no peer
/// that is dialled; [`Error::Store`] with what else the node said.
pub fn verify_peer(dir: &Path, peer: StoreId) -> Result<Value, Error> {
    identity(dir)?;
    let stream = connect(dir).map_err(|_| {
        Error::Unreachable(format!(
            "no node has the store in {} open, and it is the node that asks a peer: start it with forebay serve, and \
             ask again",
            dir.display()
        ))
    })?;
    Ok(exchange(dir, &stream, &format!("{VERIFY_PEER} {peer}"))?["verified"].take())
}

fn identity(dir: &Path) -> Result<Identity, Error> {
    Identity::read(dir)?
        .ok_or_else(|| Error::Config(format!("{} holds no store: its IDENTITY is not there", dir.display())))
}

fn connect(dir: &Path) -> io::Result<UnixStream> {
    path_below(dir).and_then(|(_folder, path)| UnixStream::connect(path))
}

/// Says a request and hears the answer.
fn exchange(dir: &Path, mut stream: &UnixStream, request: &str) -> Result<Value, Error> {
    let context = || format!("asking {}", dir.join(NAME).display());
    let mut asked = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = asked().map_err(Error::io(context()))?;
    let answer: Value = serde_json::from_str(&line).map_err(|error| Error::Store(format!("{}: {error}", context())))?;
    let Some(error) = answer["error"].as_str().map(str::to_owned) else { return Ok(answer) };
    Err(match answer["code"].as_u64() {
        Some(2) => Error::Config(error),
        Some(75) => Error::Unreachable(error),
        _ => Error::Store(error),
    })
}

fn at_rest(dir: &Path, identity: &Identity, request: Request) -> Result<Value, Error> {
    let store = identity.store();
    let _lock = match request {
        Request::Status => None,
        Request::Promote | Request::Demote | Request::Share => Some(StoreLock::take(dir)?),
    };
    let stand = role_file::read(dir)?;
    let is_default = stand.is_none();
    let stand = stand.unwrap_or_default();
    let mut roles = Roles::new(store, stand, false);
    match request {
        Request::Status => {}
        Request::Promote => roles.promote(),
        Request::Demote => roles.demote(),
        Request::Share => roles.share(),
    }
    if request != Request::Status {
        role_file::write(dir, roles.stand())?;
    }
    let Stand { role, term, active } = roles.stand();
    let known = !is_default || request != Request::Status;
    Ok(json!({
        "running": false,
        "store": store.to_string(),
        "role": known.then(|| role.to_string()),
        "term": term.0,
        "active": (known && active != StoreId::default()).then(|| active.to_string()),
    }))
}
