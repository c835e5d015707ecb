//! A way to a site that can be cut.

use std::io::{self, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// How often it is looked whether somebody dials.
const LOOK: Duration = Duration::from_millis(2);

/// Listens on loopback, and passes on what comes to another address.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// Where the site listens; 0 before that is known.
    port: AtomicU16,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// One that leads nowhere yet.
    pub fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = spawn(move || serve(&listener, &shared));
        Ok(Self { address, state, thread: Some(thread) })
    }

    /// Where it is dialled.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The site listens at this port now.
    pub fn leads_to(&self, port: u16) {
        self.state.port.store(port, Ordering::SeqCst);
    }

    /// Cuts what is connected and takes no more, or lets it be connected again.
    pub fn cut(&self, is_cut: bool) {
        self.state.is_cut.store(is_cut, Ordering::SeqCst);
        if is_cut {
            self.state.end_all();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        self.state.end_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn end_all(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be over already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(listener: &TcpListener, state: &State) {
    while !state.is_over.load(Ordering::SeqCst) {
        let Ok((near, _)) = listener.accept() else {
            sleep(LOOK);
            continue;
        };
        // Who dials where nobody listens, or the way is cut, sees the connection end.
        let _ = connect(near, state);
    }
}

fn connect(near: TcpStream, state: &State) -> io::Result<()> {
    let mut streams = state.streams.lock().unwrap_or_else(PoisonError::into_inner);
    if state.is_cut.load(Ordering::SeqCst) || state.is_over.load(Ordering::SeqCst) {
        return Ok(());
    }
    near.set_nonblocking(false)?;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, state.port.load(Ordering::SeqCst)))?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        streams.push(stream.try_clone()?);
    }
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        // Each ends with its connection, which ends with the other's.
        spawn(move || {
            let _ = copy(&mut &from, &mut &to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
