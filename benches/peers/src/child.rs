//! What runs in a process of its own: each run does, so that none sees another's threads, memory or
//! once-only settings (walrus has some), and a check can kill it.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::args::{Args, Child};
use crate::blocks::Seen;
use crate::peer::{Engine, Options, Sync};
use crate::{report, run};

/// Does what the leading process asks for and prints one JSON line.
///
/// # Errors
/// What the engine said.
pub fn go(child: Child, args: &Args) -> Result<()> {
    let (engine, sync, block_bytes) = one(args);
    let dir: &Path = &args.dir;
    let hold = !matches!(child, Child::Measure);
    let options = Options { dir, sync, hold, visible: args.visible, block_bytes };
    match child {
        Child::Measure => {
            let measured = run::measure(engine, options, args.writers, args.warmup, args.seconds)?;
            println!("{}", report::of(engine, options, args.first_repeat, &measured)?);
            // Nobody asked for the time that closing takes.
            std::process::exit(0);
        }
        Child::Write => {
            let peer = run::write(engine, options, args.writers, args.blocks)?;
            println!("{}", json!({ "acked_blocks": args.blocks * u64::from(args.writers) }));
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
            drop(peer);
            anyhow::bail!("alive after SIGKILL")
        }
        Child::Read => {
            let mut seen = Seen::new(args.writers, block_bytes, args.blocks);
            engine.read_back(options, args.writers, &mut |block| seen.see(block))?;
            println!("{}", json!({ "verified_blocks": seen.there(), "wrong_blocks": seen.wrong }));
            std::process::exit(0);
        }
    }
}

fn one(args: &Args) -> (Engine, Sync, usize) {
    (args.engines[0], args.sync[0], args.block_bytes[0])
}
