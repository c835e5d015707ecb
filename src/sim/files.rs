//! One history of the data files and their manifest, from one seed: flushes of several shards side by
//! side, merges, retention, files that somebody removes by hand; kills, power cuts, I/O errors and full
//! disks in between, and openings that are cut short themselves. After each opening everything is held
//! against the history.
//!
//! It runs the real [`DataFiles`] and [`Manifest`]; what happens in a life is in `sim/files_life.rs`.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::config::OnDamage;
use crate::data::files::{DataFiles, FilesError, Settled};
use crate::data::manifest::{MANIFEST_SHARD, Manifest, ManifestError, ManifestSetup};
use crate::data::tree::Tree;
use crate::io::chance::Chance;
use crate::io::disk::Folder;
use crate::io::medium::{Fate, Faults, Flaws, FolderNo, Medium};
use crate::io::sim::SharedMedium;
use crate::io::sim_tree::SharedTree;
use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::planted::{Mutant, is_planted, plant};
use crate::recover::{Kept, OpenError, Quarantine};
use crate::sim::check::Kind;
use crate::sim::files_check::{FilesModel, Row};
use crate::sim::files_life::{FilesSummary, Plan, STORE, World};
use crate::sim::plan::CRASH_LOOP;
use crate::sim::world::{Run, Tracing, Violation};
use crate::types::{Nonce, mix64};
use crate::wal::batch::Place;
use crate::wal::segment::{FileName, SegmentHeader, parse_name};
use crate::wal::verdict::{Check, Stamps, check};

/// Attempts to open after which an opening counts as hung.
const ATTEMPTS_MAX: u32 = 200;

/// Runs a history of data files.
///
/// # Errors
/// The first promise that did not hold.
pub fn run_files(run: &Run) -> Result<(FilesSummary, String), Box<Violation>> {
    plant(run.mutant);
    let mut world = World::new(run);
    // A panic of the engine is a violation like any other.
    let result = catch_unwind(AssertUnwindSafe(|| world.history())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    plant(None);
    let trace = world.medium.lock().trace().to_owned();
    match result {
        Ok(()) => Ok((world.summary, trace)),
        Err(what) => {
            let (kind, what) = (Kind::Other, format!("data files: {what}"));
            Err(Box::new(Violation { seed: run.seed, life: world.life, kind, what, trace }))
        }
    }
}

struct Bin;

impl Quarantine for Bin {
    fn keep(&mut self, _: Kept<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

/// What an opening came to.
type OpenedFiles = (DataFiles, Settled, usize);

impl World {
    fn new(run: &Run) -> Self {
        let seed = Chance::new(mix64(run.seed, 0xf11e));
        let mut chance = seed.fork(1);
        let plan = Plan {
            unit: chance.pick(&[512, 4096]),
            segment_bytes: chance.pick(&[16, 16, 24, 32, 64]) << 10,
            shards: (chance.within(1, 3) as u32).min(run.limits.writers_max.max(1)) as u16,
            parts: chance.within(1, 8),
            lives: (chance.within(1, 6) as u32).min(run.limits.lives_max),
            actions: (chance.pick(&[3, 10, 25, 60])).min(run.limits.blocks_max),
        };
        let mut medium = Medium::new(seed.fork(2), plan.unit);
        medium.flaws = Flaws {
            no_folder_sync: is_planted(Mutant::NoFolderSync),
            retry_sync: is_planted(Mutant::RetrySync),
            no_locks: is_planted(Mutant::RecycleWithoutLock),
            no_write_sync: is_planted(Mutant::AckBeforeSync),
        };
        if run.trace == Tracing::On {
            medium.keep_trace();
            medium.note(|| format!("data files, seed {} {plan:?}", run.seed));
        }
        let medium = SharedMedium::new(medium);
        let tree = SharedTree::new(medium.clone(), seed.fork(3));
        Self {
            plan,
            chance,
            seed,
            medium,
            tree,
            model: FilesModel::default(),
            held: Vec::new(),
            boot: 1,
            life: 0,
            rotten: false,
            salvaging: false,
            summary: FilesSummary::default(),
        }
    }

    fn history(&mut self) -> Result<(), String> {
        for life in 0..self.plan.lives {
            self.life = life;
            // Each life has numbers of its own, so that a shorter history is a prefix of a longer one.
            self.chance = self.seed.fork(u64::from(life) + 100);
            let deaths = if self.chance.percent(3) { CRASH_LOOP } else { self.chance.pick(&[0, 0, 0, 1, 2]) };
            let Some(mut files) = self.open(deaths)? else { return Ok(()) };
            self.arm();
            for _ in 0..self.chance.within(0, u64::from(self.plan.actions)) {
                if self.is_dead() {
                    break;
                }
                self.act(&mut files)?;
            }
            drop(files);
            self.summary.lives += 1;
            self.end()?;
            if self.chance.percent(8) {
                self.rot();
            }
        }
        self.life = self.plan.lives;
        self.open(0)?;
        // Once more, as one that nobody uses is opened: nothing changes.
        self.medium.lock().kill();
        self.open(0).map(|_| ())
    }

    /// What goes wrong in a life.
    fn arm(&mut self) {
        let mut faults = Faults::default();
        match self.chance.below(8) {
            0 | 1 => faults.last_call = Some(self.chance.below(300)),
            2 => faults.write_error = Some(self.chance.below(80)),
            3 => faults.sync_error = Some(self.chance.below(80)),
            4 => faults.full = true,
            _ => {}
        }
        self.note(|| format!("life with {faults:?}"));
        self.medium.lock().faults = faults;
    }

    /// The life is over.
    fn end(&mut self) -> Result<(), String> {
        self.held.clear();
        let full = self.medium.lock().faults.full && self.chance.percent(70);
        self.medium.lock().faults = Faults { full, ..Faults::default() };
        self.crash();
        self.model.check_names(&self.tree)
    }

    fn crash(&mut self) {
        let end = self.chance.percent(50).then(|| self.chance.pick(&Fate::ALL));
        self.crash_in(end);
    }

    /// A power cut, or a kill.
    fn crash_in(&mut self, end: Option<Fate>) {
        match end {
            None => self.medium.lock().kill(),
            Some(fate) => {
                self.medium.lock().cut_power(fate);
                self.boot += 1;
            }
        }
    }

    /// Opens the files, dying `deaths` times on the way, and checks what it finds. `None` where damage
    /// was refused for good.
    fn open(&mut self, mut deaths: u32) -> Result<Option<DataFiles>, String> {
        let mut on_damage = OnDamage::Refuse;
        if self.summary.openings > 0 && deaths == CRASH_LOOP && self.chance.percent(50) {
            self.medium.lock().faults.full = true;
        }
        for _ in 0..ATTEMPTS_MAX {
            let calls = self.chance.pick(&[8, 30, 60]);
            self.medium.lock().faults.last_call = (deaths > 0).then(|| self.chance.below(calls));
            let opened = self.try_open(on_damage);
            if self.is_dead() {
                deaths = deaths.saturating_sub(1);
                self.salvaging |= on_damage == OnDamage::Salvage;
                self.summary.cut_openings += 1;
                self.crash();
                continue;
            }
            self.medium.lock().faults.last_call = None;
            match opened {
                Ok((files, settled, damages)) => {
                    self.opened(&files, &settled, damages, on_damage)?;
                    self.medium.lock().faults.full = false;
                    if self.model.is_ahead() {
                        // The salvage has lost a flush, and kept a later merge of its files: those blocks
                        // would be flushed once more.
                        return Ok(None);
                    }
                    return Ok(Some(files));
                }
                Err(FilesError::Manifest(ManifestError::Log(OpenError::Damaged(damaged))))
                    if self.rotten && on_damage == OnDamage::Refuse =>
                {
                    self.note(|| format!("refused: {damaged}"));
                    self.summary.refused += 1;
                    on_damage = OnDamage::Salvage;
                }
                Err(FilesError::Manifest(error @ ManifestError::Records(_))) if self.rotten => {
                    self.note(|| format!("refused for good: {error}"));
                    return Ok(None);
                }
                Err(error) => return Err(format!("not opened: {error}")),
            }
        }
        Err("the files cannot be opened".to_owned())
    }

    fn try_open(&mut self, on_damage: OnDamage) -> Result<OpenedFiles, FilesError> {
        let mut draw = self.chance.fork(4);
        let setup = ManifestSetup {
            store: STORE,
            boot: u128::from(self.boot).to_le_bytes(),
            on_damage,
            nonce: Nonce(self.chance.next_u64()),
            segment_bytes: self.plan.segment_bytes,
        };
        let folder = Arc::new(self.medium.folder());
        let draw = Box::new(move || draw.next_u64());
        let (manifest, report) = Manifest::open(folder, &setup, &mut |_| Box::new(Bin), draw)?;
        let mut files = DataFiles::new(Arc::new(self.tree.tree()), manifest);
        let settled = files.settle()?;
        self.note(|| format!("settled: {settled:?}"));
        if on_damage == OnDamage::Salvage {
            // They go to quarantine.
            settled.unknown.iter().for_each(|path| self.tree.remove_by_hand(path));
            let synced = self.tree.tree().sync_folders(&settled.unknown);
            synced.map_err(FilesError::io("syncing the folders of data files"))?;
        }
        if !settled.missing.is_empty() && (on_damage == OnDamage::Salvage || self.model.check_report(&settled).is_ok())
        {
            let rows: BTreeSet<Row> =
                settled.missing.iter().filter_map(|path| self.model.rows_by_hand(path)).flatten().copied().collect();
            self.model.may_go(rows);
            match files.forget(&settled.missing) {
                Err(error) if error.is_no_space() => {}
                other => other?,
            }
        }
        Ok((files, settled, report.damage.len()))
    }

    fn opened(
        &mut self,
        files: &DataFiles,
        settled: &Settled,
        damages: usize,
        on_damage: OnDamage,
    ) -> Result<(), String> {
        if on_damage == OnDamage::Salvage {
            if damages == 0 && !std::mem::take(&mut self.salvaging) {
                return Err("salvaged without a word".to_owned());
            }
            self.summary.salvaged += 1;
            self.model.salvaged(files.catalog(), &self.tree, settled);
        } else {
            self.model.check_report(settled)?;
        }
        let rows = self.model.check(files.catalog(), &self.tree, settled)?;
        self.model.settled(files.catalog(), settled);
        self.check_size(files)?;
        self.note(|| format!("opened: {rows} rows in {} files", files.catalog().files.len()));
        self.summary.openings += 1;
        self.summary.rows += rows as u64;
        for word in [rows as u64, files.catalog().files.len() as u64, files.catalog().next_file.0] {
            self.summary.digest = mix64(self.summary.digest, word);
        }
        Ok(())
    }

    /// The manifest's length is in proportion to its state.
    fn check_size(&self, files: &DataFiles) -> Result<(), String> {
        let names = self.medium.folder().list().map_err(|error| error.to_string())?;
        let room = self.plan.segment_bytes as usize - SEGMENT_HEADER_BYTES;
        let state: usize = files.catalog().anew(0, room / 2).len() + 1;
        let bound = 10 + 4 * state;
        if names.len() > bound {
            return Err(format!("{} files of the manifest for a state of at most {state}: {names:?}", names.len()));
        }
        Ok(())
    }

    /// Flips a bit of a batch of the manifest, or of what stands behind the last.
    fn rot(&mut self) {
        let folder = self.medium.folder();
        let mut names: Vec<(String, u64)> = folder.list().unwrap_or_default();
        names.retain(|(name, _)| matches!(parse_name(name), FileName::Segment(_)));
        if names.is_empty() {
            return;
        }
        let (name, bytes) = names[self.chance.below(names.len() as u64) as usize].clone();
        let mut content = vec![0; bytes as usize];
        let Ok(count) = folder.read(&name, 0, &mut content) else { return };
        let Ok(header) = SegmentHeader::decode(&content[..count]) else { return };
        debug_assert_eq!(header.shard, MANIFEST_SHARD);
        let stamps = Stamps::new(&header);
        let mut end = SEGMENT_HEADER_BYTES;
        while end + PAGE_BYTES <= count {
            match check(&content[end..count], &Place::new(&header, end as u32), &stamps) {
                Check::Sound(batch) => end += batch.length as usize,
                _ => break,
            }
        }
        let from = if self.chance.percent(80) && end > SEGMENT_HEADER_BYTES { SEGMENT_HEADER_BYTES } else { 0 };
        let at = self.chance.within(from as u64, end as u64 - 1) as usize;
        let bit = self.chance.below(8);
        self.medium.lock().rot(FolderNo(0), &name, at, |bytes| bytes[0] ^= 1 << bit);
        self.note(|| format!("rot: {name} {at:#x} bit {bit}"));
        self.rotten = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::format::{FileNo, Record, SchemaColumn};

    /// A store, flushed twice by two shards, merged, its oldest files removed, closed, opened, flushed.
    fn script(world: &mut World) -> Result<(), String> {
        let Some(mut files) = attempt(world)? else { return Ok(()) };
        for (shard, blocks) in [(0, 4), (1, 3), (0, 2), (1, 2)] {
            world.flush(&mut files, shard, blocks)?;
            world.commit_held(&mut files)?;
        }
        world.merge(&mut files, 4)?;
        world.commit_held(&mut files)?;
        let oldest = files.catalog().files.keys().take(2).copied().collect();
        world.retain(&mut files, oldest)?;
        drop(files);
        if world.is_dead() {
            return Ok(());
        }
        world.crash_in(None);
        let Some(mut files) = attempt(world)? else { return Ok(()) };
        world.flush(&mut files, 0, 3)?;
        world.commit_held(&mut files)
    }

    /// One attempt to open; `None` if the process died.
    fn attempt(world: &mut World) -> Result<Option<DataFiles>, String> {
        match world.try_open(OnDamage::Refuse) {
            _ if world.is_dead() => Ok(None),
            Ok((files, settled, damages)) => {
                world.opened(&files, &settled, damages, OnDamage::Refuse)?;
                Ok(Some(files))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn small_world() -> World {
        let mut world = World::new(&Run::default());
        world.plan = Plan { unit: 512, segment_bytes: 16 << 10, shards: 2, parts: 2, lives: 1, actions: 0 };
        world
    }

    #[test]
    fn a_crash_at_each_step_loses_nothing_and_shows_nothing_twice() {
        for end in Fate::ALL.into_iter().map(Some).chain([None]) {
            let mut deaths = 0;
            for last_call in 0.. {
                let mut world = small_world();
                world.medium.lock().faults.last_call = Some(last_call);
                let what = |what: String| panic!("death in call {last_call}, then {end:?}: {what}");
                script(&mut world).unwrap_or_else(what);
                let died = world.is_dead();
                deaths += u64::from(died);
                world.held.clear();
                world.medium.lock().faults = Faults::default();
                world.crash_in(end);
                world.model.check_names(&world.tree).unwrap_or_else(what);
                let mut files =
                    world.open(0).unwrap_or_else(|wrong| panic!("{last_call}, {end:?}: {wrong}")).expect("open");
                world.flush(&mut files, 1, 2).unwrap_or_else(what);
                world.commit_held(&mut files).unwrap_or_else(what);
                world.crash_in(end);
                world.open(0).unwrap_or_else(|wrong| panic!("{last_call}, {end:?}, once more: {wrong}"));
                if !died {
                    assert_eq!(world.summary.failed, 0);
                    break;
                }
            }
            assert!(deaths > 100, "{deaths} deaths");
        }
    }

    /// A store with a state of so many blocks more, on a disk that is full.
    fn full_world(blocks: u64) -> World {
        let mut world = small_world();
        world.plan.parts = 8;
        script(&mut world).expect("carried out");
        world.crash_in(None);
        let mut files = world.open(0).expect("opens").expect("nothing is damaged");
        for _ in 0..blocks {
            world.flush(&mut files, 1, 1).and_then(|()| world.commit_held(&mut files)).expect("committed");
        }
        drop(files);
        world.crash_in(None);
        world.medium.lock().faults.full = true;
        world
    }

    #[test]
    fn a_crash_loop_in_the_opening_on_a_full_disk_ends_in_an_open_store() {
        // The state fills one batch, then several, then several segments.
        for (blocks, last_call) in
            [0, 30, 60, 140].into_iter().flat_map(|blocks| (0..70).map(move |call| (blocks, call)))
        {
            let mut world = full_world(blocks);
            for _ in 0..6 {
                world.medium.lock().faults.last_call = Some(last_call);
                let died = attempt(&mut world).map(drop);
                died.unwrap_or_else(|wrong| panic!("{blocks} blocks, death in call {last_call}: {wrong}"));
                world.crash_in(None);
            }
            world.medium.lock().faults.last_call = None;
            world.open(0).expect("opens").expect("nothing is damaged");
        }
    }

    #[test]
    fn a_crash_loop_in_a_salvage_on_a_full_disk_ends_in_an_open_store() {
        let mut salvaged = 0;
        for (rot, last_call) in (0..30).flat_map(|rot| (0..60).step_by(3).map(move |call| (rot, call + rot % 3))) {
            let mut world = full_world(rot % 3 * 30);
            world.chance = world.seed.fork(rot);
            world.rot();
            for left in (0..6).rev() {
                world.medium.lock().faults.last_call = (left > 0).then_some(last_call);
                match world.try_open(OnDamage::Salvage) {
                    Err(FilesError::Manifest(ManifestError::Records(_))) if !world.is_dead() => break,
                    Err(error) if !world.is_dead() => panic!("rot {rot}, death in call {last_call}: {error}"),
                    _ => {}
                }
                salvaged += u32::from(left == 0);
                world.crash_in(None);
            }
        }
        assert!(salvaged > 300, "{salvaged} came to their ends");
    }

    #[test]
    fn the_number_of_a_file_without_a_record_is_not_given_again() {
        let mut world = small_world();
        drop(world.open(0).expect("opens"));
        world.crash_in(None);
        for no in [41, u64::MAX] {
            let path = format!("n/t0/day=1970-01-01/{no:012}.parquet");
            world.tree.tree().create(&path).and_then(|mut file| file.sync()).expect("made");
            let (_, settled, _) = world.try_open(OnDamage::Salvage).expect("opens");
            assert_eq!(settled.unknown, [path]);
            world.crash_in(None);
        }
        let (mut files, ..) = world.try_open(OnDamage::Refuse).expect("opens");
        assert_eq!(files.next_no(), FileNo(42));
    }

    #[test]
    fn a_row_longer_than_a_segment_is_refused_and_nothing_has_changed() {
        let mut world = small_world();
        let mut files = world.open(0).expect("opens").expect("a new store");
        let column = |key: usize| {
            let (namespace, table, kind) = ("n".to_owned(), "t".to_owned(), "float".to_owned());
            let columns = vec![SchemaColumn { namespace, table, key: "k".repeat(key), kind }];
            Record { columns, ..Record::default() }
        };
        let error = files.commit(column(9_000)).expect_err("too long");
        assert!(matches!(error, FilesError::Manifest(ManifestError::LongRow(_))), "{error}");
        for key in (6_000..7_200).step_by(7) {
            files.settle().expect("settled");
            match files.commit(column(key)) {
                Ok(()) | Err(FilesError::Manifest(ManifestError::LongRow(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert!(files.catalog().columns.len() > 20);
    }
}
