//! What a store is, where its IDENTITY cannot say so: the headers of its segments know it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::engine::identity::Identity;
use crate::error::Error;
use crate::limits::{SEGMENT_HEADER_BYTES, SHARDS_MAX};
use crate::wal::FORMAT_VERSION;
use crate::wal::segment::{FileName, SegmentHeader, parse_name};

/// The identity of the store in this folder, and what is wrong with its file if it had to be made from
/// the segments' headers.
///
/// # Errors
/// [`Error::Config`] where there is no store, or its shards do not agree on one.
pub fn identity_of(dir: &Path) -> Result<(Identity, Option<String>), Error> {
    let wrong = match Identity::read(dir) {
        Ok(Some(identity)) => return Ok((identity, None)),
        Ok(None) if !dir.join("shard-0000").is_dir() => {
            return Err(Error::Config(format!(
                "{} is no store: it has no IDENTITY. Name the folder that the engine was opened with",
                dir.display()
            )));
        }
        Ok(None) => "IDENTITY is missing".to_owned(),
        Err(Error::Config(wrong)) => wrong,
        Err(other) => return Err(other),
    };
    match from_headers(dir)? {
        Some(identity) => Ok((identity, Some(wrong))),
        None => Err(Error::Config(format!("{wrong}; the headers of its segments do not agree on one either"))),
    }
}

/// What all readable headers say; `None` where they say nothing, or not the same.
fn from_headers(dir: &Path) -> Result<Option<Identity>, Error> {
    let shards = (0..SHARDS_MAX).take_while(|shard| dir.join(format!("shard-{shard:04}")).is_dir()).count();
    let mut stores = BTreeSet::new();
    for shard in 0..shards {
        let folder = dir.join(format!("shard-{shard:04}"));
        let context = || format!("reading {}", folder.display());
        for entry in fs::read_dir(&folder).map_err(Error::io(context()))? {
            let entry = entry.map_err(Error::io(context()))?;
            let FileName::Segment(_) = parse_name(&entry.file_name().to_string_lossy()) else { continue };
            let mut head = vec![0; SEGMENT_HEADER_BYTES];
            let whole = File::open(entry.path()).and_then(|mut file| file.read_exact(&mut head));
            let Some(header) = whole.ok().and_then(|()| SegmentHeader::decode(&head).ok()) else { continue };
            if usize::from(header.shard.0) == shard {
                stores.insert((header.store, header.segment_bytes));
            }
        }
    }
    let only = stores.first().filter(|_| stores.len() == 1);
    Ok(only.map(|(store, segment_bytes)| Identity {
        format: FORMAT_VERSION,
        store: store.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        shards,
        segment_bytes: *segment_bytes,
    }))
}
