//! [`repair()`](fn@repair): salvage from outside the engine.
//!
//! It makes a missing or damaged IDENTITY from the segments' headers, opens the store with salvage and
//! closes it again without flushing or trimming anything, and writes whole copies of segment headers over
//! damaged ones. Doing it again after a crash in between ends in the same. It does nothing about damaged
//! data files: they are named, and what is sound in them stays where it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::config::{Config, OnDamage};
use crate::data::format::{DATA, MANIFEST};
use crate::data::store::{Hold, Store};
use crate::engine::Engine;
use crate::engine::identity::{NAME, StoreLock};
use crate::error::Error;
use crate::inspect::read::{Access, LogView, Role, StoreView, Where, quarantine};
use crate::inspect::show::EndLine;
use crate::io::disk::Folder;
use crate::io::folder::DirFolder;
use crate::limits::{MANIFEST_SHARD, PAGE_BYTES};
use crate::recover::{Examined, OpenError, RecoveryReport, gap_in_words, gaps};
use crate::report::{Damage, Gap, TornTail};
use crate::types::ShardId;
use crate::wal::entry::{EntryKind, decode_entry};
use crate::wal::read::each_entry;
use crate::wal::ring::{RingVerdict, What};

/// How far a repair goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It says what it would do.
    DryRun,
    /// It does it, to a store with data files of ours.
    Repair,
    /// The same for a store without: nothing but its log is known, so whoever takes blocks out of it
    /// must not have taken any that are damaged there.
    LogAlone,
}

/// What is kept of a log, and what is lost.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// The shard; `None` for the manifest.
    pub shard: Option<u16>,
    /// Batches that are sound and stay.
    pub batches_kept: u64,
    /// Blocks in them; in the manifest, records.
    pub blocks_kept: u64,
    /// Blocks that the ring alone has, and that go into the log.
    pub blocks_replayed: u64,
    /// Damaged ranges.
    pub damage: Vec<Damage>,
    /// What is named in the log as lost, stream by stream.
    pub gaps: Vec<Gap>,
    /// Writes that did not arrive whole.
    pub torn: Vec<TornTail>,
    /// What there is to say of the ring.
    pub ring: Option<String>,
    /// Segments of whose header one copy is written anew.
    pub headers: Vec<u64>,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Repaired {
    /// `forebay.repair/1`.
    pub schema: &'static str,
    /// The store's id.
    pub store: String,
    /// Nothing was changed.
    pub dry_run: bool,
    /// What was wrong with IDENTITY, which is made anew.
    pub identity_wrong: Option<String>,
    /// One for each shard.
    pub shards: Vec<Plan>,
    /// The manifest of the data files.
    pub manifest: Option<Plan>,
    /// What went to quarantine, by path and length in bytes.
    pub quarantined: Vec<(String, u64)>,
    /// What the opening found and did.
    pub recovery: Option<RecoveryReport>,
}

/// Repairs the store in this place, which no engine may have open.
///
/// # Errors
/// [`Error::InUse`], [`Error::Config`], and as [`Engine::open_with`].
pub fn repair(at: &Where, mode: Mode) -> Result<Repaired, Error> {
    let store = StoreView::read(at, Access::Alone)?;
    let has_data = at.dir.join(DATA).join(MANIFEST).is_dir();
    if mode == Mode::Repair && !has_data {
        return Err(Error::Config(format!(
            "{} has no data files of ours, so only the program that takes its blocks knows what it has: open it there \
             with on_damage = salvage. If nothing ever took blocks out of it: --log-alone",
            at.dir.display()
        )));
    }
    let mut done = Repaired {
        schema: "forebay.repair/1",
        store: store.identity.store().to_string(),
        dry_run: mode == Mode::DryRun,
        identity_wrong: store.identity_wrong.clone(),
        shards: Vec::new(),
        manifest: None,
        quarantined: Vec::new(),
        recovery: None,
    };
    // As large a ring as the engine had, so that as much is kept in reserve for it.
    let mut ring = (0, 0);
    for shard in store.shards() {
        let view = store.shard(shard)?;
        for header in view.ring.copies.iter().flatten() {
            ring = (ring.0.max(header.bytes), ring.1.max(u64::from(header.slots)));
        }
        done.shards.push(Plan { shard: Some(shard.0), ..plan(&view.log, shard)? });
    }
    if let Some(manifest) = &store.manifest {
        done.manifest = Some(plan(&manifest.log, ShardId(MANIFEST_SHARD))?);
    }
    if mode == Mode::DryRun {
        return Ok(done);
    }
    let identity = store.identity.clone();
    drop(store);
    let before: BTreeSet<(String, u64)> = quarantine(&at.dir).into_iter().collect();
    if done.identity_wrong.is_some() {
        let _lock = StoreLock::take(&at.dir)?;
        keep_identity(&at.dir)?;
        identity.write(&at.dir)?;
    }
    let engine = Engine::open_with(config(at, identity.segment_bytes, ring), salvaging(has_data)?)?;
    done.recovery = Some(engine.report().clone());
    engine.close()?;
    let _lock = StoreLock::take(&at.dir)?;
    for plan in &mut done.shards {
        let name = format!("shard-{:04}", plan.shard.unwrap_or_default());
        mend_headers(&at.dir.join(name), &mut plan.headers)?;
    }
    if let Some(plan) = &mut done.manifest {
        mend_headers(&at.dir.join(DATA).join(MANIFEST), &mut plan.headers)?;
    }
    done.quarantined = quarantine(&at.dir).into_iter().filter(|kept| !before.contains(kept)).collect();
    Ok(done)
}

impl Repaired {
    /// Nothing is lost, and nothing had to be changed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let plans = || self.shards.iter().chain(&self.manifest);
        let whole = |plan: &Plan| plan.damage.is_empty() && plan.headers.is_empty() && plan.gaps.is_empty();
        self.identity_wrong.is_none() && plans().all(whole)
    }
}

fn plan(log: &LogView, shard: ShardId) -> Result<Plan, Error> {
    let examined: &Examined = match &log.examined {
        Ok(examined) => examined,
        Err(error) => return Err(Error::Config(format!("{}: {error}", EndLine::of(log).verdict))),
    };
    let mut plan = Plan {
        damage: examined.report.damage.clone(),
        gaps: gaps(examined).iter().filter_map(gap_in_words).collect(),
        torn: examined.report.torn.clone(),
        ring: examined.report.ring.clone(),
        ..Plan::default()
    };
    let halved =
        |file: &&crate::inspect::read::FileView| file.role == Role::Log && file.copies.iter().flatten().count() == 1;
    plan.headers = log.files.iter().filter(halved).filter_map(|file| Some(file.segment?.0)).collect();
    if let RingVerdict::Replay { entries, .. } = &examined.ring {
        plan.blocks_replayed = entries.iter().filter(|entry| matches!(entry.what, What::Block(_))).count() as u64;
    }
    let read = examined.each_batch(&log.folder, |batch| {
        plan.batches_kept += 1;
        each_entry(batch.bytes, &batch.header, &mut Vec::new(), |head, payload| {
            let block = decode_entry(head).filter(|entry| matches!(entry.kind, EntryKind::Own | EntryKind::Carried));
            plan.blocks_kept += u64::from(block.is_some_and(|block| block.payload_crc == crc32fast::hash(payload)));
        });
        Ok::<(), OpenError>(())
    });
    read.map_err(|error| Error::io(format!("shard {shard}"))(std::io::Error::other(error.to_string())))?;
    Ok(plan)
}

/// Options that fit the store, whatever its own program says.
fn config(at: &Where, segment_bytes: u64, (ring_bytes, ring_slots): (u64, u64)) -> Config {
    let mut config = Config::new(&at.dir).on_damage(OnDamage::Salvage).intake_rule(at.intake_rule);
    config.intake_dir.clone_from(&at.intake_dir);
    config.block_bytes_max = config.block_bytes_max.min(segment_bytes / 4);
    config.batch_bytes_max = config.batch_bytes_max.min(segment_bytes / 4);
    if ring_bytes > 0 {
        (config.intake_bytes, config.intake_slots) = (ring_bytes, ring_slots);
        config.block_bytes_max = config.block_bytes_max.min(ring_bytes / 2);
    }
    // However long the log is already.
    config.wal_bytes_max(1 << 50)
}

/// What the store of a repair's opening is.
#[cfg(feature = "parquet")]
fn salvaging(has_data: bool) -> Result<Box<dyn Store>, Error> {
    Ok(if has_data { Box::new(crate::inspect::salvaging::Salvaging::default()) } else { Box::new(Hold) })
}

#[cfg(not(feature = "parquet"))]
fn salvaging(has_data: bool) -> Result<Box<dyn Store>, Error> {
    match has_data {
        true => Err(Error::Config("this program was built without data files, and the store has some".to_owned())),
        false => Ok(Box::new(Hold)),
    }
}

/// A copy of the IDENTITY that cannot be read.
fn keep_identity(dir: &Path) -> Result<(), Error> {
    let context = || Error::io(format!("copying {} to quarantine", dir.join(NAME).display()));
    let bytes = match fs::read(dir.join(NAME)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(context())?,
    };
    let to = dir.join("quarantine");
    fs::create_dir_all(&to).map_err(context())?;
    let name = format!("IDENTITY-{:08x}.damaged", crc32fast::hash(&bytes));
    crate::engine::identity::replace_file(&to, &format!("{name}.tmp"), &name, &bytes)
}

/// Writes the whole copy of a segment's header over the damaged one, where one of these still is.
fn mend_headers(dir: &Path, segments: &mut Vec<u64>) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::io(format!("writing headers in {}", dir.display()))(error);
    let folder = DirFolder::open(dir).map_err(failed)?;
    let mut mended = Vec::new();
    for &segment in segments.iter() {
        let segment = crate::types::SegmentNo(segment);
        let name = crate::wal::segment::segment_name(segment);
        let there = folder.list().map_err(failed)?.iter().any(|(found, _)| *found == name);
        if !there {
            continue;
        }
        let copies = crate::inspect::read::copies(&folder, &name, segment).map_err(failed)?;
        let (header, at) = match copies {
            [Some(header), None] => (header, PAGE_BYTES),
            [None, Some(header)] => (header, 0),
            _ => continue,
        };
        folder.write(&name, at as u64, &header.encode()[..PAGE_BYTES]).map_err(failed)?;
        folder.sync(&name).map_err(failed)?;
        mended.push(segment.0);
    }
    *segments = mended;
    Ok(())
}
