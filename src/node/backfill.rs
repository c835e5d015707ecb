//! A link to a follower that is behind the log: data files go over it, asked for one by one; then it begins anew.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep_until;

use crate::data::dir_tree::checksum;
use crate::data::format::HeldFile;
use crate::data::store::Holding;
use crate::engine::backfill::TookOver;
use crate::engine::outbound::Told;
use crate::error::Error;
use crate::node::ended::Ended;
use crate::node::frames::{Incoming, Outgoing, beats, heartbeat};
use crate::node::home::{Home, changed, superseded};
use crate::node::pace::{FILL_BYTES, Rate};
use crate::node::status::{Backfill, LinkStatus, Way};
use crate::repl::link_error::LinkError;
use crate::repl::receiver::Refused;
use crate::repl::wire::{FILES_MAX, Frame, Holding as Part, PIECE_BYTES_MAX, ROWS_MAX, Reason, Stand};
use crate::types::StoreId;

/// The folder, below the store's, of files that have come from a source and are not taken over yet.
const FOLDER: &str = "backfill";
/// Bytes that a takeover leaves to the log.
const SPARE_BYTES: u64 = 256 << 20;
/// Files and streams that a source may offer.
const OFFERED_MAX: usize = 1 << 20;

/// Hands data files on to a follower that lacks what has left the log.
pub(super) async fn supply(
    home: &Home,
    peer: StoreId,
    told: Told,
    (newer, mut stand): (&Notify, watch::Receiver<Stand>),
    (incoming, outgoing): (&mut Incoming, &mut Outgoing),
    address: &str,
) -> Result<Infallible, Ended> {
    let engine = Arc::clone(&home.engine);
    let holding = tokio::select! {
        holding = beside(spawn_blocking(move || engine.holding(&told)), outgoing) => holding??,
        _ = stand.changed() => return Err(changed(home)),
        () = newer.notified() => return Err(superseded()),
    };
    let bytes_left: u64 = holding.files.iter().map(|file| file.bytes).sum();
    let mut left = Backfill { files: holding.files.len() as u64, files_left: holding.files.len() as u64, bytes_left };
    tracing::info!(
        "{peer} at {address} is behind the log: {} data files of {bytes_left} bytes are handed on",
        left.files
    );
    let lengths: HashMap<u64, u64> = holding.files.iter().map(|file| (file.no, file.bytes)).collect();
    for frame in in_frames(holding) {
        outgoing.push(Frame::Holding(frame));
    }
    let mut rate = Rate::new(home.way.rate_bytes_per_s);
    let mut tick = beats();
    // The file that was asked for, its number, and where the next piece begins.
    let mut open: Option<(Arc<File>, u64, u64)> = None;
    loop {
        let asked = open.clone();
        let may_read = asked.is_some() && outgoing.waiting() < FILL_BYTES && rate.may();
        tokio::select! {
            frame = incoming.next() => match frame?.0 {
                Frame::Want { no, from } => {
                    if lengths.get(&no).is_none_or(|length| from >= *length) {
                        return Err(Ended::protocol("it asks for what was not offered of data files"));
                    }
                    let engine = Arc::clone(&home.engine);
                    let file = beside(spawn_blocking(move || engine.data_file(no)), outgoing).await??;
                    open = Some((Arc::new(file), no, from));
                }
                // Of what it took before.
                Frame::Heartbeat(_) | Frame::Ack(_) => {}
                Frame::Bye(bye) => {
                    home.meet_bye(peer, &bye)?;
                    return Err(Ended::Bye(bye));
                }
                _ => return Err(Ended::protocol("a follower that is behind the log asks for data files")),
            },
            sent = outgoing.send(), if !outgoing.is_empty() => sent?,
            () = sleep_until(rate.from()), if !rate.may() => {}
            piece = read_piece(asked, &lengths, rate.at_once(PIECE_BYTES_MAX)), if may_read => {
                let (no, from, bytes) = piece?;
                let upto = from + bytes.len() as u64;
                let is_last = upto >= lengths[&no];
                left.bytes_left = left.bytes_left.saturating_sub(bytes.len() as u64);
                left.files_left -= u64::from(is_last).min(left.files_left);
                let sent = outgoing.push(Frame::Piece { no, from, bytes });
                home.moved(peer, Way::Out, sent);
                rate.spent(sent);
                open = open.filter(|_| !is_last).map(|(file, no, _)| (file, no, upto));
            }
            _ = tick.tick() => {
                let backfill = Some(left);
                home.report(peer, LinkStatus { backfill, ..LinkStatus::up(peer, Way::Out, address) });
                outgoing.push(heartbeat(0, left.bytes_left));
            }
            _ = stand.changed() => return Err(changed(home)),
            () = newer.notified() => return Err(superseded()),
        }
    }
}

async fn read_piece(
    open: Option<(Arc<File>, u64, u64)>,
    lengths: &HashMap<u64, u64>,
    most: usize,
) -> Result<(u64, u64, Vec<u8>), Ended> {
    let Some((file, no, from)) = open else { return std::future::pending().await };
    let count = (lengths[&no] - from).min(most.max(1) as u64) as usize;
    let read = spawn_blocking(move || {
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, from).map(|()| bytes)
    });
    let read = joined(read).await?.map_err(Error::io(format!("reading data file {no}")))?;
    Ok((no, from, read))
}

/// What is offered, as frames; the last one says so.
fn in_frames(holding: Holding) -> Vec<Part> {
    let ends: Vec<_> = holding.ends.into_iter().collect();
    let of_ends = ends.chunks(ROWS_MAX).map(|ends| Part { ends: ends.to_vec(), ..Part::default() });
    let of_gaps = holding.gaps.chunks(ROWS_MAX).map(|gaps| Part { gaps: gaps.to_vec(), ..Part::default() });
    let of_files = holding.files.chunks(FILES_MAX).map(|files| Part { files: files.to_vec(), ..Part::default() });
    let mut frames: Vec<Part> = of_ends.chain(of_gaps).chain(of_files).collect();
    frames.push(Part { last: true, ..Part::default() });
    frames
}

/// Takes over the data files of a source whose log begins too late for this store. Returns only as an end of the link:
/// it begins anew behind what was taken over.
pub(super) async fn take_over(
    home: &Home,
    peer: StoreId,
    first: Part,
    mut stand: watch::Receiver<Stand>,
    (incoming, outgoing): (&mut Incoming, &mut Outgoing),
    address: &str,
) -> Result<Infallible, Ended> {
    if !home.engine.has_data_files() {
        return Err(Ended::Here {
            reason: Reason::Behind,
            text: "this store is behind the log of its source, and keeps no data files: start it anew from a copy of \
                   the source"
                .to_owned(),
        });
    }
    let Ok(permit) = Arc::clone(&home.takeover).try_acquire_owned() else {
        return Err(LinkError::Refused(Refused::Busy).into());
    };
    let holding = tokio::select! {
        holding = offered(home, peer, first, incoming, outgoing) => holding?,
        _ = stand.changed() => return Err(changed(home)),
    };
    // Before anything is asked for: it may be refused.
    if home.engine.wanted(&holding)?.ends.is_empty() {
        return Err(Ended::Here {
            reason: Reason::Behind,
            text: "this store is behind the log of its source, whose data files have nothing that it lacks: start it anew \
                   from a copy of the source"
                .to_owned(),
        });
    }
    for (stream, after, before) in &holding.gaps {
        tracing::warn!(
            "blocks {}..{} of stream {}/{}/{} are lost at {peer}: what of them is not here is lost here with it",
            after.next(),
            before.prev(),
            stream.origin,
            stream.shard,
            stream.epoch
        );
    }
    let folder = home.dir().join(FOLDER).join(peer.to_string());
    let (of_folder, offer, stops) = (folder.clone(), holding.files.clone(), Arc::clone(&home.stops));
    let mut missing = beside(spawn_blocking(move || still_missing(&of_folder, offer, &stops)), outgoing).await??;
    missing.reverse();
    let bytes_left: u64 = missing.iter().map(|(file, has)| file.bytes - has).sum();
    // As received, and as taken over.
    let needed = bytes_left + holding.files.iter().map(|file| file.bytes).sum::<u64>() + SPARE_BYTES;
    let free = free_bytes(&folder)?;
    if free < needed {
        return Err(Ended::Here {
            reason: Reason::Behind,
            text: format!(
                "this store is behind the log of its source; taking its data files over needs {needed} bytes, and {free} \
                 are free at {}: make room",
                folder.display()
            ),
        });
    }
    let mut left = Backfill { files: holding.files.len() as u64, files_left: missing.len() as u64, bytes_left };
    tracing::warn!(
        "this store is behind the log of {peer} at {address}: {} data files with {bytes_left} bytes to come are taken over",
        left.files
    );
    let mut tick = beats();
    let mut current: Option<Arriving> = None;
    loop {
        if current.is_none() {
            let Some((file, has)) = missing.pop() else { break };
            outgoing.push(Frame::Want { no: file.no, from: has });
            let of_folder = folder.clone();
            current = Some(beside(spawn_blocking(move || Arriving::open(&of_folder, file, has)), outgoing).await??);
        }
        tokio::select! {
            frame = incoming.next() => match frame? {
                (Frame::Piece { no, from, bytes }, moved) => {
                    home.moved(peer, Way::In, moved);
                    let mut arriving = current.take().expect("one that was asked for");
                    left.bytes_left = left.bytes_left.saturating_sub(bytes.len() as u64);
                    let put = spawn_blocking(move || {
                        arriving.put(no, from, &bytes)?;
                        if arriving.is_whole() { arriving.check().map(|()| None) } else { Ok(Some(arriving)) }
                    });
                    current = beside(put, outgoing).await??;
                    left.files_left -= u64::from(current.is_none());
                }
                (Frame::Heartbeat(_), _) => {}
                (Frame::Bye(bye), _) => {
                    home.meet_bye(peer, &bye)?;
                    return Err(Ended::Bye(bye));
                }
                _ => return Err(Ended::protocol("a source that hands data files on sends pieces of them")),
            },
            sent = outgoing.send(), if !outgoing.is_empty() => sent?,
            _ = tick.tick() => {
                home.report(peer, LinkStatus { backfill: Some(left), ..LinkStatus::up(peer, Way::In, address) });
                outgoing.push(heartbeat(0, 0));
            }
            _ = stand.changed() => return Err(changed(home)),
        }
    }
    let (engine, stops) = (Arc::clone(&home.engine), Arc::clone(&home.stops));
    // It goes on where the link ends meanwhile, and nobody else begins before it is done.
    let took = beside(
        spawn_blocking(move || {
            let _permit = permit;
            let paths: Vec<PathBuf> = holding.files.iter().map(|file| path_of(&folder, file)).collect();
            let took = engine.take_over(&holding, &paths, &stops)?;
            fs::remove_dir_all(&folder).map_err(Error::io(format!("removing {}", folder.display())))?;
            Ok::<TookOver, LinkError>(took)
        }),
        outgoing,
    );
    let TookOver { streams, rows } = took.await??;
    let text = format!("{rows} rows of {streams} streams were taken over from data files; it goes on with the log");
    tracing::info!("{peer} at {address}: {text}");
    Err(Ended::Here { reason: Reason::Stop, text })
}

/// All that the source offers.
async fn offered(
    home: &Home,
    peer: StoreId,
    mut part: Part,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
) -> Result<Holding, Ended> {
    let mut all = Holding::default();
    let mut tick = beats();
    loop {
        all.ends.extend(part.ends);
        all.gaps.extend(part.gaps);
        all.files.extend(part.files);
        if all.ends.len().max(all.gaps.len()).max(all.files.len()) > OFFERED_MAX {
            return Err(Ended::protocol("more data files or streams than can be"));
        }
        if part.last {
            return if are_files(&all.files) { Ok(all) } else { Err(Ended::protocol("data files that none can be")) };
        }
        part = loop {
            tokio::select! {
                frame = incoming.next() => match frame?.0 {
                    Frame::Holding(part) => break part,
                    Frame::Heartbeat(_) => {}
                    Frame::Bye(bye) => {
                        home.meet_bye(peer, &bye)?;
                        return Err(Ended::Bye(bye));
                    }
                    _ => return Err(Ended::protocol("a source that hands data files on says all of them at once")),
                },
                sent = outgoing.send(), if !outgoing.is_empty() => sent?,
                _ = tick.tick() => drop(outgoing.push(heartbeat(0, 0))),
            }
        };
    }
}

/// Each is something, and there once; together they have a length.
fn are_files(files: &[HeldFile]) -> bool {
    let numbers: HashSet<u64> = files.iter().map(|file| file.no).collect();
    let bytes = files.iter().try_fold(0u64, |bytes, file| bytes.checked_add(file.bytes));
    numbers.len() == files.len() && bytes.is_some() && files.iter().all(|file| file.bytes > 0)
}

/// Bytes that are free where this folder is.
fn free_bytes(folder: &Path) -> Result<u64, Error> {
    let of = rustix::fs::statvfs(folder).map_err(io::Error::from);
    let of = of.map_err(Error::io(format!("asking for the room at {}", folder.display())))?;
    Ok(of.f_bavail.saturating_mul(of.f_frsize))
}

/// Blocks come from this peer's log: what is left of its data files is of no use.
pub(super) fn remove_left(home: &Home, peer: StoreId) {
    let Ok(permit) = Arc::clone(&home.takeover).try_acquire_owned() else { return };
    let folder = home.dir().join(FOLDER).join(peer.to_string());
    spawn_blocking(move || {
        let _permit = permit;
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("removing {}: {error}", folder.display());
            }
            _ => {}
        }
    });
}

/// Removes what has come from stores that are no peers any more.
pub(super) fn remove_strangers(home: &Home) {
    let Ok(folders) = fs::read_dir(home.dir().join(FOLDER)) else { return };
    for folder in folders.flatten() {
        let name = folder.file_name();
        if !home.peers.iter().any(|peer| name.to_str() == Some(&peer.store.to_string()))
            && let Err(error) = fs::remove_dir_all(folder.path())
        {
            tracing::warn!("removing {}: {error}", folder.path().display());
        }
    }
}

/// Waits for work on another thread, and lets the peer know meanwhile that the link is alive.
async fn beside<T>(work: JoinHandle<T>, outgoing: &mut Outgoing) -> Result<T, Ended> {
    let mut tick = beats();
    let work = joined(work);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            sent = outgoing.send(), if !outgoing.is_empty() => sent?,
            _ = tick.tick() => drop(outgoing.push(heartbeat(0, 0))),
        }
    }
}

async fn joined<T>(work: JoinHandle<T>) -> Result<T, Ended> {
    work.await.map_err(|error| Ended::Io(io::Error::other(error)))
}

/// A file as it is while it arrives.
fn path_of(folder: &Path, file: &HeldFile) -> PathBuf {
    folder.join(format!("{:012}-{:08x}", file.no, file.crc))
}

/// Which of these files are not there as a whole, and how many bytes of each are; what is not of them is removed.
fn still_missing(folder: &Path, files: Vec<HeldFile>, stops: &AtomicBool) -> Result<Vec<(HeldFile, u64)>, Error> {
    let io = || Error::io(format!("looking at {}", folder.display()));
    fs::create_dir_all(folder).map_err(io())?;
    let known: HashMap<PathBuf, u64> = files.iter().map(|file| (path_of(folder, file), file.bytes)).collect();
    for entry in fs::read_dir(folder).map_err(io())? {
        let path = entry.map_err(io())?.path();
        if !known.contains_key(&path) {
            fs::remove_file(&path).map_err(io())?;
        }
    }
    let mut missing = Vec::new();
    for file in files {
        if stops.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let path = path_of(folder, &file);
        let has = match File::open(&path) {
            Ok(there) => checksum(&there).map_err(io())?,
            Err(error) if error.kind() == ErrorKind::NotFound => (0, 0),
            Err(error) => return Err(io()(error)),
        };
        match has {
            whole if whole == (file.crc, file.bytes) => {}
            // What is long enough and is not it is no part of it.
            (_, bytes) => missing.push((file.clone(), if bytes < file.bytes { bytes } else { 0 })),
        }
    }
    Ok(missing)
}

/// A file that is being received.
struct Arriving {
    of: HeldFile,
    path: PathBuf,
    file: File,
    has: u64,
}

impl Arriving {
    fn open(folder: &Path, of: HeldFile, has: u64) -> Result<Self, Error> {
        let path = path_of(folder, &of);
        let io = || Error::io(format!("opening {}", path.display()));
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(has == 0).write(true).open(&path).map_err(io())?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(has)).map_err(io())?;
        Ok(Self { of, path, file, has })
    }

    fn put(&mut self, no: u64, from: u64, bytes: &[u8]) -> Result<(), Ended> {
        if no != self.of.no || from != self.has || bytes.len() as u64 > self.of.bytes - self.has || bytes.is_empty() {
            return Err(Ended::protocol("a piece of a data file that was not asked for"));
        }
        self.file.write_all(bytes).map_err(Error::io(format!("writing {}", self.path.display())))?;
        self.has += bytes.len() as u64;
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.has == self.of.bytes
    }

    /// What has arrived is what was sent.
    fn check(self) -> Result<(), Ended> {
        let io = || Error::io(format!("reading {}", self.path.display()));
        let there = File::open(&self.path).and_then(|file| checksum(&file)).map_err(io())?;
        if there == (self.of.crc, self.of.bytes) {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(io())?;
        Err(Error::Store(format!(
            "data file {} of the source arrived damaged, or is damaged there (`forebay verify` says which); it is asked for \
             again",
            self.of.no
        ))
        .into())
    }
}
