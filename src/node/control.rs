//! The socket at which a running node is asked how it stands, and is told to change: `control.sock` in the store's
//! folder, for whoever may open that. A request is a word and a line's end, the answer a line of JSON.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
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
use crate::node::home::Home;
use crate::node::role_file;
use crate::repl::role::Roles;
use crate::repl::wire::Stand;
use crate::types::StoreId;

const NAME: &str = "control.sock";
/// A request is a word.
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
fn path_below(dir: &Path) -> std::io::Result<(File, PathBuf)> {
    let folder = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
    Ok((folder, path))
}

/// Listens; the store is locked, so a socket that is there is a dead process's.
pub(super) fn bind(dir: &Path) -> Result<UnixListener, Error> {
    let bound = path_below(dir).and_then(|(_folder, path)| {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
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
pub(super) async fn serve(home: Rc<Home>, listener: UnixListener) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("{NAME}: {error}"),
    };
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let home = Rc::clone(&home);
        spawn_local(async move {
            let answered = timeout(PATIENCE, async {
                let mut request = Vec::new();
                while !request.ends_with(b"\n") && request.len() < REQUEST_BYTES_MAX {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                let answer = format!("{}\n", answer(&home, &request));
                // Who asks and does not wait for the answer is not answered.
                let _ = stream.write_all(answer.as_bytes()).await;
            });
            let _ = answered.await;
            drop(permit);
        });
    }
}

fn answer(home: &Home, request: &[u8]) -> Value {
    let word = String::from_utf8_lossy(request);
    let asked = Request::ALL.into_iter().find(|request| request.word() == word.trim_end());
    let done = match asked {
        Some(Request::Status) => Ok(()),
        Some(Request::Promote) => home.promote(),
        Some(Request::Demote) => home.demote(),
        Some(Request::Share) => home.share(),
        None => Err(Error::Config(format!("'{}' is no request", word.trim_end()))),
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
    let context = || format!("asking {}", dir.join(NAME).display());
    let identity = Identity::read(dir)?
        .ok_or_else(|| Error::Config(format!("{} holds no store: its IDENTITY is not there", dir.display())))?;
    let connected = path_below(dir).and_then(|(_folder, path)| UnixStream::connect(path));
    let Ok(mut stream) = connected else { return at_rest(dir, &identity, request) };
    let mut asked = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{}\n", request.word()).as_bytes())?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = asked().map_err(Error::io(context()))?;
    let mut answer: Value =
        serde_json::from_str(&line).map_err(|error| Error::Store(format!("{}: {error}", context())))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(Error::Store(error.to_owned())),
        None => {
            let mut status = answer["status"].take();
            status["running"] = Value::from(true);
            Ok(status)
        }
    }
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
