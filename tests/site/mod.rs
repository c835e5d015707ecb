//! Sites for tests: folders with a small store each, and nodes on them that are linked over loopback.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay::node::{Node, NodeConfig, NodeStatus, make_store};

use crate::ports::free_port;

/// Options of the engine in the configuration of a node; sizes are small, so that everything happens often.
pub const ENGINE: &str = "segment_bytes = 1048576\nblock_bytes_max = 65536\nbatch_bytes_max = 65536\n\
                          intake_bytes = 131072\nintake_slots = 1024\nwal_bytes_max = 1073741824\nshards = 2\n";

/// A site: its folder, its store's id, where it listens and is dialled.
#[derive(Clone)]
pub struct Site {
    pub dir: PathBuf,
    pub store: String,
    /// Empty for a peer that is not dialled.
    pub host: &'static str,
    pub port: u16,
    /// What takes blocks out of the log.
    pub sink: &'static str,
    /// More options of the engine.
    pub engine: &'static str,
    /// More options of replication.
    pub way: &'static str,
}

impl Site {
    /// A site with a store that is new.
    pub fn new(home: &Path, name: &str, sink: &'static str, engine: &'static str) -> Self {
        let mut this = Self {
            dir: home.join(name),
            store: String::new(),
            host: "127.0.0.1",
            port: free_port(),
            sink,
            engine,
            way: "",
        };
        this.store = make_store(&this.config("standby", &[])).expect("a new store").to_string();
        this
    }

    /// The store's folder.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The configuration of its node.
    pub fn text(&self, role: &str, peers: &[&Self]) -> String {
        let mut text = format!(
            "dir = \"data\"\nstore = \"{}\"\n[engine]\n{ENGINE}{}[replication]\nlisten = \"{}:{}\"\nrole = \"{role}\"\n{}",
            self.sink, self.engine, self.host, self.port, self.way
        );
        for peer in peers {
            let Self { store, host, port, .. } = peer;
            text += &format!("[[replication.peers]]\nstore = \"{store}\"\n");
            if !host.is_empty() {
                text += &format!("address = \"{host}:{port}\"\n");
            }
        }
        text
    }

    fn config(&self, role: &str, peers: &[&Self]) -> NodeConfig {
        NodeConfig::parse(&self.text(role, peers), &self.dir).expect("a sound configuration")
    }

    /// Starts its node.
    pub fn start(&self, role: &str, peers: &[&Self]) -> Node {
        Node::start(&self.config(role, peers)).expect("it starts")
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a node stands.
pub fn status(node: &Node) -> NodeStatus {
    node.status().expect("it runs")
}
