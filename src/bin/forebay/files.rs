//! `forebay files`: the data files that hold a store's rows.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use forebay::engine::tools::{Listing, list_files};
use serde_json::json;

/// Lists them.
pub fn run(dir: &Path, as_json: bool) -> Result<()> {
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
