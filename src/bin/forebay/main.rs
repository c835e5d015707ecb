//! `forebay`: looks after a store from outside the engine.

mod files;
mod inspect;
#[cfg(feature = "parquet")]
mod merge;
#[cfg(feature = "server")]
mod node;
mod out;
mod probe;
#[cfg(feature = "server")]
mod rehearse;
mod repair;
mod verify;
#[cfg(feature = "server")]
mod verify_peer;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
#[cfg(feature = "server")]
use forebay::node::control::Request;

#[derive(Parser)]
#[command(version, about = "Looks after a Forebay store", long_about = None)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the data files that hold the store's rows; an engine may have the store open
    Files {
        /// The store's folder
        #[arg(long)]
        dir: PathBuf,
        /// One JSON object instead of a path a line
        #[arg(long)]
        json: bool,
    },
    /// Merge the small data files of each table and day into larger ones; no engine may have the store open
    #[cfg(feature = "parquet")]
    Merge {
        /// The store's folder
        #[arg(long)]
        dir: PathBuf,
        /// One JSON object at the end
        #[arg(long)]
        json: bool,
        /// How pages are compressed: zstd, lz4 or none
        #[arg(long, default_value_t = forebay::data::encode::Compression::default())]
        compression: forebay::data::encode::Compression,
    },
    /// Print the store's log, ring and files without touching them; an engine may have the store open
    Inspect(inspect::InspectArgs),
    /// Check every checksum and chain; no engine may have the store open, but for --peer
    Verify(verify::VerifyArgs),
    /// Salvage what is sound of a damaged store, and say what is lost; no engine may have the store open
    Repair(repair::RepairArgs),
    /// Measure a disk: its writes and flushes, whether its flush looks real, and what each setting can have of it
    Probe(probe::ProbeArgs),
    /// Make the store of a node, if there is none, and print its id
    #[cfg(feature = "server")]
    Init(node::ConfigArgs),
    /// Run a node: a store that exchanges blocks with other sites, until SIGTERM or Ctrl-C
    #[cfg(feature = "server")]
    Serve(node::ConfigArgs),
    /// Print a node's role, marks and links; of a store that no node has open, its role
    #[cfg(feature = "server")]
    Status(node::NodeArgs),
    /// Make a node the active one, under a term above every one that it knows
    #[cfg(feature = "server")]
    Promote(node::PromoteArgs),
    /// Make a node a standby; nobody is active then until another is promoted
    #[cfg(feature = "server")]
    Demote(node::NodeArgs),
    /// Run two sites on this machine under load, lose one, take over, come back, and say what it cost
    #[cfg(feature = "server")]
    Rehearse(rehearse::command::RehearseArgs),
    /// One site of a rehearsal
    #[cfg(feature = "server")]
    #[command(hide = true)]
    RehearseSite(rehearse::site::SiteArgs),
    /// Make an authority and a certificate for each site, for links over TLS
    #[cfg(feature = "server")]
    Certs(node::CertsArgs),
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let done = match Args::parse().command {
        Command::Files { dir, json } => files::run(&dir, json).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "parquet")]
        Command::Merge { dir, json, compression } => merge::run(&dir, json, compression).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::run(&args),
        Command::Repair(args) => repair::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => probe::run(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "server")]
        Command::Init(args) => node::init(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "server")]
        Command::Serve(args) => node::serve(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "server")]
        Command::Status(args) => node::ask_node(&args, Request::Status).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "server")]
        Command::Promote(args) => node::promote(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "server")]
        Command::Demote(args) => node::ask_node(&args, Request::Demote).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "server")]
        Command::Rehearse(args) => rehearse::command::run(&args),
        #[cfg(feature = "server")]
        Command::RehearseSite(args) => rehearse::site::run(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "server")]
        Command::Certs(args) => node::make_certs(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        // Who reads the output may stop early.
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error:#}");
        ExitCode::from(error.downcast_ref::<forebay::Error>().map_or(1, forebay::Error::exit_code))
    })
}
