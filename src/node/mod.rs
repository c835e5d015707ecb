//! A node: an open store that exchanges blocks with other sites over the network, on a thread of its own beside the
//! shards. It knows the engine only by its face: links read its log and publish into its rings like any writer.

mod answer;
mod backfill;
pub mod certs;
mod compare;
pub mod compared;
pub mod config;
pub mod control;
pub mod ended;
mod frames;
mod home;
mod link;
mod net;
mod pace;
mod packed;
mod role_file;
mod run;
pub mod status;
mod tls;

pub use config::NodeConfig;
pub use run::{Node, make_store};
pub use status::NodeStatus;
