//! `load-test`: what each fsync setting costs on this disk, measured with the real engine.
//!
//! [`args`] says what can be asked, [`session`] does all runs of it, [`run`] one of them.

mod args;
mod baseline;
mod columns;
#[cfg(feature = "parquet")]
mod data_files;
mod engine;
mod env;
mod input;
mod interrupt;
mod meters;
mod plot;
mod progress;
mod report;
mod run;
mod session;
mod stats;
mod tables;
mod target;
mod verify;
mod verify_rows;
mod watch;
mod workload;

use std::process::ExitCode;

use clap::Parser;

/// Exit codes: what `forebay` uses too. 73 and 74 come from the engine's errors.
const USAGE: u8 = 2;
const CHECK_FAILED: u8 = 3;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let job = match args::Args::parse().job() {
        Ok(job) => job,
        Err(message) => {
            eprintln!("error: {message}\n\nFor more information, try '--help'.");
            return ExitCode::from(USAGE);
        }
    };
    let interrupt = match interrupt::Interrupt::listen() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            eprintln!("error: cannot listen for Ctrl-C: {error}");
            return ExitCode::FAILURE;
        }
    };
    match session::run(&job, &interrupt) {
        Ok(session::Outcome::Done) => ExitCode::SUCCESS,
        Ok(session::Outcome::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Ok(session::Outcome::CheckFailed) => ExitCode::from(CHECK_FAILED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The engine's own code, wherever in the chain of causes its error stands; otherwise 1.
fn exit_code(error: &anyhow::Error) -> u8 {
    let inner = error.downcast_ref::<run::Failed>().map_or(error, |failed| &failed.cause);
    inner.chain().find_map(|cause| cause.downcast_ref::<forebay::Error>()).map_or(1, forebay::Error::exit_code)
}
