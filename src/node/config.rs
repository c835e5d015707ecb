//! The file that a node is started with: its store, and the sites that it exchanges blocks with.
//!
//! ```toml
//! dir = "data"                        # the store's folder
//! store = "parquet"                   # or "none": the log alone, as a queue for followers; or "log": all of it is kept
//!
//! [engine]                            # options of the engine, as of Config
//! wal_level = 2
//! wal_fsync_period_ms = 0
//!
//! [replication]
//! listen = "10.0.0.1:7811"            # where followers dial
//! role = "active"                     # what a new store is, by itself a standby; afterwards its ROLE says it
//! start_alone = false                 # accept before any peer was heard
//! insecure_plaintext = false          # no TLS beyond loopback
//!
//! [replication.tls]
//! ca = "ca.pem"
//! cert = "a.pem"
//! key = "a.key"
//!
//! [[replication.peers]]
//! store = "6f1c..."                   # its id, as `forebay init` prints it
//! address = "10.0.0.2:7811"           # left out: it dials, and is not followed
//! ```

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::config::{Config, IoChoice};
use crate::error::Error;
use crate::repl::wire::Role;
use crate::types::StoreId;

/// A configuration is a few hundred bytes; a longer file is none.
const BYTES_MAX: u64 = 1 << 20;
/// Sites that a node exchanges blocks with, at most.
const PEERS_MAX: usize = 64;

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The store's folder; relative to that of the file.
    pub dir: PathBuf,
    /// What takes blocks out of the log.
    #[serde(default)]
    pub store: Sink,
    /// Options of the engine.
    #[serde(default)]
    pub engine: EngineOptions,
    /// The other sites.
    #[serde(default)]
    pub replication: Replication,
}

/// What takes blocks out of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sink {
    /// Parquet files.
    #[default]
    Parquet,
    /// Nothing: the log is trimmed behind its followers, within the options of retention.
    None,
    /// Nothing, and the log is never trimmed: once its bound is reached nothing more is taken.
    Log,
}

macro_rules! engine_options {
    ($($(#[$attribute:meta])? $name:ident: $type:ty,)*) => {
        /// Options of the engine; what is left out is as in [`Config`].
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct EngineOptions {
            $(
                #[doc = concat!("As [`Config::", stringify!($name), "`].")]
                $(#[$attribute])?
                pub $name: Option<$type>,
            )*
        }

        impl EngineOptions {
            fn apply(&self, mut config: Config) -> Config {
                $(if let Some(value) = self.$name.clone() {
                    config = config.$name(value);
                })*
                config
            }
        }
    };
}

engine_options! {
    wal_level: u8,
    wal_fsync_period_ms: u64,
    wal_retention_period_s: u64,
    wal_retention_size: u64,
    shards: usize,
    cpus: Vec<usize>,
    #[serde(default, deserialize_with = "from_text")]
    io: IoChoice,
    segment_bytes: u64,
    block_bytes_max: u64,
    intake_bytes: u64,
    intake_slots: u64,
    batch_bytes_max: u64,
    wal_bytes_max: u64,
    append_deadline_ms: u64,
    shipped_followers: u8,
    shipped_deadline_ms: u64,
    buffer_bytes: u64,
    flush_period_ms: u64,
    intake_dir: PathBuf,
}

/// The other sites, and what this one is for them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// Where followers dial; nowhere if left out.
    pub listen: Option<SocketAddr>,
    /// What a new store is; default a standby, or active where there are no peers.
    #[serde(default, deserialize_with = "from_text")]
    pub role: Option<Role>,
    /// An active store accepts before it has heard from a peer.
    #[serde(default)]
    pub start_alone: bool,
    /// Links beyond loopback go without TLS.
    #[serde(default)]
    pub insecure_plaintext: bool,
    /// Certificates; without them links go over loopback only.
    pub tls: Option<TlsFiles>,
    /// The sites.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// Files in PEM; relative to the folder of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Who signs the certificates of all sites.
    pub ca: PathBuf,
    /// This site's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Another site.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its store.
    #[serde(deserialize_with = "store_from_text")]
    pub store: StoreId,
    /// Where it listens: this site dials there, and follows it.
    pub address: Option<String>,
}

fn from_text<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err = String>,
{
    String::deserialize(from)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn store_from_text<'de, D: Deserializer<'de>>(from: D) -> Result<StoreId, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

impl NodeConfig {
    /// Reads the file, and checks it.
    ///
    /// # Errors
    /// [`Error::Config`] names the file, the line and the cure; [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let context = || format!("reading {}", path.display());
        let length = std::fs::metadata(path).map_err(Error::io(context()))?.len();
        if length > BYTES_MAX {
            return Err(Error::Config(format!("{} is {length} bytes long; no configuration is", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(context()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
            .map_err(|error| Error::Config(format!("{}: {error}", path.display())))
    }

    /// Reads the text of a file in this folder, and checks it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut this: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        this.dir = folder.join(&this.dir);
        for path in this.replication.tls.iter_mut().flat_map(|tls| [&mut tls.ca, &mut tls.cert, &mut tls.key]) {
            *path = folder.join(&*path);
        }
        this.replication.check()?;
        this.engine().check().map_err(|error| error.to_string())?;
        let (wanted, peers) = (this.engine.shipped_followers.unwrap_or(0), this.replication.peers.len());
        if usize::from(wanted) > peers {
            return Err(format!("shipped_followers = {wanted}, and there are {peers} peers that could follow"));
        }
        Ok(this)
    }

    /// The engine's part.
    #[must_use]
    pub fn engine(&self) -> Config {
        self.engine.apply(Config::new(&self.dir))
    }
}

impl Replication {
    fn check(&self) -> Result<(), String> {
        if self.peers.len() > PEERS_MAX {
            return Err(format!("{} peers; at most {PEERS_MAX}", self.peers.len()));
        }
        for (index, peer) in self.peers.iter().enumerate() {
            if self.peers[..index].iter().any(|other| other.store == peer.store) {
                return Err(format!("the peer {} is there twice", peer.store));
            }
        }
        if self.tls.is_some() || self.insecure_plaintext {
            return Ok(());
        }
        let cure = "give [replication.tls] (forebay certs makes a start), or insist with insecure_plaintext = true";
        if let Some(listen) = self.listen.filter(|listen| !listen.ip().is_loopback()) {
            return Err(format!("listen = {listen} without TLS is beyond loopback: {cure}"));
        }
        for address in self.peers.iter().filter_map(|peer| peer.address.as_deref()) {
            let found = address.to_socket_addrs().map_err(|error| format!("address = {address}: {error}"))?;
            if let Some(beyond) = found.into_iter().find(|found| !found.ip().is_loopback()) {
                return Err(format!("address = {address} ({beyond}) without TLS is beyond loopback: {cure}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "00112233-4455-6677-8899-aabbccddeeff";

    #[test]
    fn all_options_are_read() {
        let text = format!(
            "dir = \"data\"\nstore = \"none\"\n[engine]\nwal_level = 2\nwal_fsync_period_ms = 0\nio = \"pwrite\"\n\
             [replication]\nlisten = \"127.0.0.1:7811\"\nrole = \"active-active\"\nstart_alone = true\n\
             [replication.tls]\nca = \"ca.pem\"\ncert = \"/etc/a.pem\"\nkey = \"a.key\"\n\
             [[replication.peers]]\nstore = \"{PEER}\"\naddress = \"127.0.0.1:7812\"\n"
        );
        let config = NodeConfig::parse(&text, Path::new("/srv")).expect("sound");
        assert_eq!((config.dir.as_path(), config.store), (Path::new("/srv/data"), Sink::None));
        assert_eq!(config.engine().sync_policy(), crate::config::SyncPolicy::Each);
        let replication = &config.replication;
        assert_eq!((replication.role, replication.start_alone), (Some(Role::ActiveActive), true));
        let tls = replication.tls.as_ref().expect("files");
        assert_eq!((tls.ca.as_path(), tls.cert.as_path()), (Path::new("/srv/ca.pem"), Path::new("/etc/a.pem")));
        assert_eq!(replication.peers[0].store.to_string(), PEER);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let peer = format!("[[replication.peers]]\nstore = \"{PEER}\"\n");
        for (text, says) in [
            ("dir = 1".to_owned(), "dir = 1"),
            ("dir = \"d\"\nwal = 1".to_owned(), "unknown field `wal`"),
            ("dir = \"d\"\n[engine]\nwal_level = 3".to_owned(), "wal_level = 3"),
            ("dir = \"d\"\n[engine]\nio = \"aio\"".to_owned(), "'aio' is not one of"),
            ("dir = \"d\"\n[replication]\nrole = \"boss\"".to_owned(), "'boss' is not one of"),
            ("dir = \"d\"\n[replication]\nlisten = \"0.0.0.0:1\"".to_owned(), "insecure_plaintext = true"),
            ("dir = \"d\"\n[[replication.peers]]\nstore = \"x\"".to_owned(), "'x' is no store's id"),
            (format!("dir = \"d\"\n{peer}address = \"192.0.2.1:1\""), "beyond loopback"),
            (format!("dir = \"d\"\n{peer}{peer}"), "is there twice"),
            (format!("dir = \"d\"\n[engine]\nshipped_followers = 2\n{peer}"), "shipped_followers = 2, and there are 1"),
        ] {
            let told = NodeConfig::parse(&text, Path::new("")).expect_err(&text);
            assert!(told.contains(says), "{text}: {told}");
        }
        let insists = "dir = \"d\"\n[replication]\nlisten = \"0.0.0.0:1\"\ninsecure_plaintext = true";
        assert!(NodeConfig::parse(insists, Path::new("")).is_ok());
    }
}
