//! `forebay`: looks after a store from outside the engine.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use forebay::data::encode::Compression;
use forebay::engine::tools::{Listing, list_files, merge_files};
use serde_json::json;

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
    Merge {
        /// The store's folder
        #[arg(long)]
        dir: PathBuf,
        /// One JSON object at the end
        #[arg(long)]
        json: bool,
        /// How pages are compressed: zstd, lz4 or none
        #[arg(long, default_value_t = Compression::default())]
        compression: Compression,
    },
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let done = match Args::parse().command {
        Command::Files { dir, json } => files(&dir, json),
        Command::Merge { dir, json, compression } => merge(&dir, json, compression),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the list may stop early.
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(error.downcast_ref::<forebay::Error>().map_or(1, forebay::Error::exit_code))
        }
    }
}

fn files(dir: &Path, as_json: bool) -> Result<()> {
    let Listing { store, root, files } = list_files(dir)?;
    let mut out = io::stdout().lock();
    if as_json {
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                json!({
                    "path": root.join(file.path()),
                    "namespace": file.part.namespace,
                    "table": file.part.table,
                    "kind": file.part.kind,
                    "rows": file.rows,
                    "bytes": file.bytes,
                    "crc32": file.crc,
                    "time_min_ns": file.time_min,
                    "time_max_ns": file.time_max,
                })
            })
            .collect();
        writeln!(out, "{}", json!({ "schema": "forebay.files/1", "store": store, "files": files }))?;
    } else {
        for file in &files {
            writeln!(out, "{}", root.join(file.path()).display())?;
        }
    }
    Ok(())
}

fn merge(dir: &Path, as_json: bool, compression: Compression) -> Result<()> {
    let mut out = io::stdout().lock();
    let total = merge_files(dir, compression, &mut |merged| {
        tracing::info!("{} files of {} became {}", merged.files_before, merged.folder, merged.files_after);
    })?;
    if as_json {
        let total = json!({
            "schema": "forebay.merge/1",
            "files_before": total.files_before,
            "files_after": total.files_after,
            "rows": total.rows,
            "rows_dropped": total.rows_dropped,
            "bytes_before": total.bytes_before,
            "bytes_after": total.bytes_after,
        });
        writeln!(out, "{total}")?;
    } else {
        writeln!(
            out,
            "{} files became {}: {} rows, {} repeated by retries dropped, {} bytes became {}",
            total.files_before,
            total.files_after,
            total.rows,
            total.rows_dropped,
            total.bytes_before,
            total.bytes_after
        )?;
    }
    Ok(())
}
