//! `forebay merge`: small data files become larger ones.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use forebay::data::encode::Compression;
use forebay::engine::tools::merge_files;
use serde_json::json;

/// Merges them.
pub fn run(dir: &Path, as_json: bool, compression: Compression) -> Result<()> {
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
