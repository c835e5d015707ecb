//! Forebay and its peers under the same closed loop of writers. README.md says what is asked of each.

mod adapters;
mod args;
mod blocks;
mod child;
mod disk;
#[path = "../../../src/bin/load-test/env.rs"]
mod env;
mod group;
mod lead;
mod peer;
mod report;
mod run;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

fn main() -> ExitCode {
    match go(&args::Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn go(args: &args::Args) -> Result<bool> {
    if args.env {
        println!("{}", serde_json::to_string(&env::Env::of(&args.dir))?);
        return Ok(true);
    }
    match args.child {
        Some(child) => child::go(child, args).map(|()| true),
        None => lead::go(args),
    }
}
