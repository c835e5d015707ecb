//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::blocks::IDENTITY_BYTES;
use crate::peer::{Engine, Sync};

/// Measures Forebay and its peers under the same closed loop of writers, on the same disk, in turn.
///
/// One JSON line for each run goes to --json, in the shape of `load-test --json`; what cannot be run has a line
/// that says why. Each run has a process and a folder of its own, which is removed afterwards.
#[derive(Clone, Debug, Parser)]
#[command(name = "peers", version)]
pub struct Args {
    /// Which ones.
    #[arg(long, value_delimiter = ',', default_values_t = Engine::value_variants().to_vec(), value_name = "A,B,C")]
    pub engines: Vec<Engine>,
    /// Threads that write, one block at a time each.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub writers: u32,
    /// Sizes of blocks.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 4096, 65536], value_parser = block_bytes)]
    pub block_bytes: Vec<usize>,
    /// What an acknowledgement waits for.
    #[arg(long, value_delimiter = ',', default_values_t = [Sync::None, Sync::Each], value_name = "none|each")]
    pub sync: Vec<Sync>,
    /// How long each run is measured.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub seconds: f64,
    /// How long each run goes before it is measured.
    #[arg(long, default_value_t = 1.0, value_parser = seconds, value_name = "SECONDS")]
    pub warmup: f64,
    /// How often each combination is run; every repeat is in a random order of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub repeat: u32,
    /// The number of the first repeat, for who repeats this program.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub first_repeat: u32,
    /// The seed of the order; default: the time. It is printed.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The folder on the disk to measure.
    #[arg(long, default_value = "forebay-peers", value_name = "DIR")]
    pub dir: PathBuf,
    /// Where JSON lines are appended; - is stdout.
    #[arg(long, default_value = "-", value_name = "FILE|-")]
    pub json: PathBuf,
    /// In place of measuring: write --blocks with each writer, kill the process as the last one is acknowledged,
    /// and read back in another whether all of them are there, each once.
    #[arg(long)]
    pub check: bool,
    /// Blocks of each writer in a check.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=1_000_000), value_name = "N")]
    pub blocks: u64,
    /// Print what figures depend on, as JSON, and end.
    #[arg(long)]
    pub env: bool,
    /// What this process does for the one that leads.
    #[arg(long, hide = true)]
    pub child: Option<Child>,
    /// Forebay writes with system calls that strace can see, not through io_uring.
    #[arg(long, hide = true)]
    pub visible: bool,
}

/// What a process does for the one that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Child {
    /// One run.
    Measure,
    /// The first half of a check.
    Write,
    /// The second.
    Read,
}

fn block_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<usize>().map_err(|error| error.to_string())?;
    let sound = (IDENTITY_BYTES..=16 << 20).contains(&bytes);
    sound.then_some(bytes).ok_or_else(|| format!("a block has {IDENTITY_BYTES} bytes to 16 MiB"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    (0.0..=86_400.0).contains(&seconds).then_some(seconds).ok_or_else(|| "from 0 to a day".into())
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl std::fmt::Display for Sync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Each => "each",
        })
    }
}
