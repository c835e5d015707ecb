//! What a crash state must give back: the promises P1 to P5, held against the marks before the cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use forebay::limits::BATCHES_IN_FLIGHT_MAX;
use forebay::{Cursor, Engine};
use serde::{Deserialize, Serialize};

use crate::data_rows::rows;
use crate::image::{Mark, MarkKind, Step, What};
use crate::load::{Load, Setting, Sink, WRITERS, name_of, payload, row_text};

/// A block by its name.
pub type Name = (u32, u64);

/// Where a block was said to stand: shard, epoch, seq.
pub type Place = (u16, u64, u64);

/// What was said before the cut.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Said {
    /// Every acknowledged block and its place.
    pub acked: Vec<(Name, Place)>,
    /// Blocks that must be there.
    pub must: BTreeSet<Name>,
    /// How many blocks of each writer there can be at most.
    pub most: Vec<u64>,
}

impl Said {
    /// Of a recording up to `cut`, after what was said before it began.
    pub fn before(steps: &[Step], cut: usize, setting: Setting, earlier: &Self) -> Self {
        let mut said = earlier.clone();
        said.most.resize(WRITERS as usize, 0);
        // P6: a call that fails counts as a power cut for what was not synced.
        let failed =
            |step: &&Step| matches!(step.what, What::Written { failed: true, .. } | What::Flushed { failed: true, .. });
        let now = steps[..cut].iter().find(failed).or(steps[..cut].last()).map_or(0, |step| step.at_ns);
        let window = window_ns(steps, setting);
        for step in &steps[..cut] {
            let What::Mark(mark) = step.what else { continue };
            let Mark { kind, writer, counter, shard, epoch, seq } = mark;
            let most = &mut said.most[(writer % WRITERS) as usize];
            match kind {
                MarkKind::Stalled
                | MarkKind::Failed
                | MarkKind::Full
                | MarkKind::Room
                | MarkKind::LongestWrite
                | MarkKind::LongestSync
                | MarkKind::Waited => {}
                // What a recovery gave back once is synced. One more may be on its way.
                MarkKind::Opened => {
                    said.must.extend((0..counter).map(|counter| (writer, counter)));
                    *most = counter + 1;
                    // What was lost is written again, elsewhere.
                    said.acked.retain(|((of, number), _)| *of != writer || *number < counter);
                }
                MarkKind::Acked | MarkKind::Synced => {
                    *most = (*most).max(counter + 2);
                    said.acked.push(((writer, counter), (shard, epoch, seq)));
                    let promised = kind == MarkKind::Synced
                        || match setting {
                            Setting::Level1 => false,
                            Setting::Period => step.at_ns.saturating_add(window) < now,
                            Setting::Each => true,
                        };
                    if promised {
                        said.must.insert((writer, counter));
                    }
                }
            }
        }
        said
    }

    /// If the process was killed there: nothing that was acknowledged may be lost.
    pub fn by_a_kill(mut self) -> Self {
        self.must.extend(self.acked.iter().map(|(name, _)| *name));
        self
    }
}

/// P2: max(P, one fsync) + one drain + one fsync, for as long as the engine's process could run. The engine says
/// what its calls took, since only it sees them: they wait for the file system's journal, and below a loop device
/// for the flushes of others. Where it came to no end it said nothing, and nothing is promised in time.
fn window_ns(steps: &[Step], setting: Setting) -> u64 {
    let longest = |of: MarkKind| {
        let counters = steps.iter().filter_map(|step| match step.what {
            What::Mark(Mark { kind, counter, .. }) if kind == of => Some(counter),
            _ => None,
        });
        counters.max()
    };
    let (Some(write), Some(fsync)) = (longest(MarkKind::LongestWrite), longest(MarkKind::LongestSync)) else {
        return u64::MAX;
    };
    let stall = longest(MarkKind::Stalled).unwrap_or(0);
    let took = |step: &Step| match step.what {
        What::Written { write: began, .. } | What::Flushed { flush: began, .. } => step.at_ns - steps[began].at_ns,
        _ => 0,
    };
    let slowest = steps.iter().map(took).max().unwrap_or(0);
    // What a call may wait for: a commit of the journal that is on its way (its blocks, a flush, the record, a
    // flush), the same once more for its own, a segment's making (two writes and a flush).
    let waited = longest(MarkKind::Waited).unwrap_or(0);
    let believed = 12 * slowest + 2 * stall + waited + 100_000_000;
    assert!(
        setting != Setting::Period || write.max(fsync) < believed,
        "the engine says that a write took {write} ns and a sync {fsync} ns, on a disk whose slowest call took {slowest} ns"
    );
    let drain = 1_000_000 + BATCHES_IN_FLIGHT_MAX as u64 * write;
    fsync.max(Setting::PERIOD_MS * 1_000_000) + drain + fsync + 2 * stall + 30_000_000
}

/// What was read back.
pub struct Found {
    /// In the order of delivery.
    pub blocks: Vec<(Name, Place)>,
}

impl Found {
    /// Reads all blocks of the log; an error where one is not what was written, or is there twice.
    pub fn read(engine: &Engine) -> Result<Self, String> {
        let mut blocks = Vec::new();
        let mut places = BTreeSet::new();
        let subscription = engine.subscribe(Cursor::start()).map_err(|error| error.to_string())?;
        for delivered in subscription.until_end() {
            let delivered = delivered.map_err(|error| format!("reading: {error}"))?;
            let stream = delivered.receipt.stream;
            let place = (stream.shard.0, stream.epoch.0, delivered.receipt.seq.0);
            let bytes = delivered.block.payload();
            let Some(name) = name_of(bytes) else { return Err(format!("P4: {place:?} is nobody's block")) };
            if bytes != payload(name.0, name.1) {
                return Err(format!("P4: block {name:?} at {place:?} is not what was written"));
            }
            if !places.insert(place) {
                return Err(format!("P4: {place:?} twice"));
            }
            blocks.push((name, place));
        }
        Ok(Self { blocks })
    }

    /// Reads the data files: a block is two rows, each of them there once.
    pub fn read_rows(load: &Load) -> Result<Self, String> {
        let mut blocks = Vec::new();
        let mut parts: BTreeMap<Place, Vec<Vec<String>>> = BTreeMap::new();
        for ([shard, epoch, seq, _], words) in rows(&load.store) {
            parts.entry((shard as u16, epoch as u64, seq as u64)).or_default().push(words);
        }
        for (place, rows) in parts {
            let word = |row: &[String], name: &str| {
                let found = row.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                found
                    .map(|word| word.trim_matches('"').to_owned())
                    .ok_or(format!("P4: no {name} in {row:?} at {place:?}"))
            };
            let number = |row: &[String], name| word(row, name)?.parse::<u64>().map_err(|error| error.to_string());
            let name = (number(&rows[0], "w")? as u32, number(&rows[0], "n")?);
            let is_whole = rows.len() == 2
                && (number(&rows[1], "w")? as u32, number(&rows[1], "n")?) == name
                && word(&rows[1], "text")? == row_text(name.0, name.1);
            if !is_whole {
                return Err(format!("P4: block {name:?} at {place:?} is there in part: {rows:?}"));
            }
            blocks.push((name, place));
        }
        Ok(Self { blocks })
    }

    /// Holds it against what was said. `lost` tells of blocks that damage took, by their place.
    pub fn check(&self, said: &Said, sink: Sink, lost: &dyn Fn(Place) -> bool) -> Result<(), String> {
        self.order(said, sink, lost)?;
        let there: HashMap<Name, Place> = self.blocks.iter().copied().collect();
        let placed: HashMap<Name, Place> = said.acked.iter().copied().collect();
        let mut first: BTreeMap<u16, Place> = BTreeMap::new();
        let mut last: BTreeMap<(u16, u64), u64> = BTreeMap::new();
        for &(name, place) in &self.blocks {
            if placed.get(&name).is_some_and(|said| *said != place) {
                return Err(format!("R7: block {name:?} was acknowledged at {:?} and is at {place:?}", placed[&name]));
            }
            let (shard, epoch, seq) = place;
            let low = first.entry(shard).or_insert(place);
            *low = (*low).min(place);
            let high = last.entry((shard, epoch)).or_insert(0);
            *high = (*high).max(seq);
        }
        // Where nothing holds the log, it begins later: but what it ends with is never given back.
        let trimmed = |place: Place| sink == Sink::Null && first.get(&place.0).is_some_and(|first| place < *first);
        for (name, place) in &said.acked {
            let (shard, epoch, seq) = *place;
            if there.contains_key(name) || trimmed(*place) || lost(*place) {
                continue;
            }
            if said.must.contains(name) {
                return Err(format!("P1, P2: block {name:?} at {place:?} was acknowledged and is lost"));
            }
            if last.get(&(shard, epoch)).is_some_and(|last| *last > seq) {
                return Err(format!("P2, P3: a hole: block {name:?} at {place:?} is lost, later ones are there"));
            }
        }
        let gone = said.must.iter().find(|name| !there.contains_key(name) && !placed.contains_key(name));
        match gone {
            Some(name) if sink != Sink::Null => Err(format!("an earlier recovery gave {name:?} back; it is lost")),
            _ => Ok(()),
        }
    }

    /// A writer's blocks are in order, without a hole, and none is there that was not yet written.
    fn order(&self, said: &Said, sink: Sink, lost: &dyn Fn(Place) -> bool) -> Result<(), String> {
        let placed: HashMap<Name, Place> = said.acked.iter().copied().collect();
        let mut next: HashMap<u32, u64> = HashMap::new();
        for &((writer, counter), place) in &self.blocks {
            let expected = match next.get(&writer) {
                Some(next) => *next,
                None if sink == Sink::Null => counter,
                None => 0,
            };
            let is_lost = |counter| placed.get(&(writer, counter)).is_some_and(|place| lost(*place));
            if counter < expected || !(expected..counter).all(is_lost) {
                return Err(format!(
                    "P4: writer {writer}: block {counter} at {place:?} stands where {expected} belongs"
                ));
            }
            next.insert(writer, counter + 1);
        }
        for (writer, count) in next {
            let most = said.most.get(writer as usize).copied().unwrap_or(0);
            if count > most {
                return Err(format!("P4: writer {writer} has {count} blocks, and can have written {most}"));
            }
        }
        Ok(())
    }
}

/// Nothing is lost to damage.
pub fn nothing(_place: Place) -> bool {
    false
}

/// Opens the store of a state, reads and checks it; then again, which must give the same.
pub fn open_and_check(load: &Load, said: &Said) -> Result<(), String> {
    let engine = load.open().map_err(|error| format!("not opened: {error}"))?;
    if load.sink == Sink::Parquet {
        // Flushes all that the log holds.
        engine.close().map_err(|error| format!("closing: {error}"))?;
        return Found::read_rows(load)?.check(said, load.sink, &nothing);
    }
    let found = Found::read(&engine)?;
    found.check(said, load.sink, &nothing)?;
    engine.close().map_err(|error| format!("closing: {error}"))?;
    if load.sink == Sink::Null {
        return Ok(());
    }
    let engine = load.open().map_err(|error| format!("not opened again: {error}"))?;
    let again = Found::read(&engine)?;
    if again.blocks != found.blocks {
        return Err(format!("R3: {} blocks, opened again {}", found.blocks.len(), again.blocks.len()));
    }
    engine.close().map_err(|error| format!("closing again: {error}"))
}
