//! One site of a rehearsal, as a process of its own: a node with writers, which tells on stdout what was acknowledged.
//! It is told on stdin: `held` (tell what is in the log), `quiet` (write no more), `stop`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use forebay::node::{Node, NodeConfig};
use forebay::{Cursor, Durability, Error};
use rustix::time::{ClockId, clock_gettime};

use super::record::{Id, Record};

/// Until a store that refuses is asked again.
const AGAIN: Duration = Duration::from_millis(1);

/// Options of a site.
#[derive(Args)]
pub struct SiteArgs {
    /// The node's configuration
    #[arg(long)]
    config: PathBuf,
    /// Its number
    #[arg(long)]
    site: u8,
    /// How often it was started before
    #[arg(long)]
    life: u8,
    #[arg(long)]
    writers: u16,
    /// Blocks a second, all writers together
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    block_bytes: usize,
    /// Followers that an acknowledgement waits for
    #[arg(long)]
    shipped: u8,
}

/// The monotonic clock, which all processes share, in nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Runs it until it is told to stop, or nobody listens any more.
pub fn run(args: &SiteArgs) -> Result<()> {
    let node = Node::start(&NodeConfig::read(&args.config)?)?;
    let site = Site { args, node: &node, quiet: AtomicBool::new(false), out: Mutex::new(()) };
    let listened = scope(|scope| {
        for writer in 0..args.writers {
            let site = &site;
            scope.spawn(move || site.write(writer));
        }
        let listened = site.listen();
        site.quiet.store(true, Ordering::SeqCst);
        listened
    });
    let stopped = node.stop();
    listened?;
    Ok(stopped?)
}

struct Site<'a> {
    args: &'a SiteArgs,
    node: &'a Node,
    quiet: AtomicBool,
    /// Whoever writes to stdout.
    out: Mutex<()>,
}

impl Site<'_> {
    fn listen(&self) -> Result<()> {
        for line in io::stdin().lines() {
            match line.context("reading what to do")?.as_str() {
                "held" => self.tell_held()?,
                "quiet" => self.quiet.store(true, Ordering::SeqCst),
                _ => break,
            }
        }
        Ok(())
    }

    fn write(&self, writer: u16) {
        let args = self.args;
        let to = self.node.engine().writer("rehearsal").expect("a short name");
        let durability = match args.shipped {
            0 => Durability::Accepted,
            followers => Durability::Shipped(followers),
        };
        let apart = Duration::from_secs(1) * u32::from(args.writers) / args.rate;
        let mut due = Instant::now() + apart * u32::from(writer) / u32::from(args.writers);
        let mut number = 0;
        while !self.quiet.load(Ordering::SeqCst) {
            let now = Instant::now();
            if now < due {
                sleep((due - now).min(Duration::from_millis(20)));
                continue;
            }
            let id = Id { site: args.site, life: args.life, writer, number };
            let record = match to.append_with(id.block(args.block_bytes), durability) {
                Ok(_) => Record::Acked(id, now_ns()),
                Err(Error::OutcomeUnknown(_)) => Record::Unknown(id),
                // It is not the active one, or has no room: nothing was logged, and the number is asked for again.
                Err(Error::Rejected(_)) => {
                    sleep(AGAIN);
                    due = Instant::now();
                    continue;
                }
                Err(_) => return,
            };
            number += 1;
            due += apart;
            if self.tell(&record.encode()).is_err() {
                return;
            }
        }
    }

    fn tell(&self, records: &[u8]) -> io::Result<()> {
        let _one = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = io::stdout().lock();
        out.write_all(records)?;
        out.flush()
    }

    fn tell_held(&self) -> Result<()> {
        let mut records = Vec::new();
        for delivered in self.node.engine().subscribe(Cursor::start())?.until_end() {
            if let Some(id) = Id::decode(delivered?.block.payload()) {
                records.extend(Record::Held(id).encode());
            }
        }
        records.extend(Record::HeldAll.encode());
        Ok(self.tell(&records)?)
    }
}
