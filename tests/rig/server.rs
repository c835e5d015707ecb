//! The process that is the disk: one file of a FUSE file system, of which a loop device is made. It records
//! what comes, fails or delays it when told to, and turns into crash states.
//!
//! It answers questions on one socket ([`Ask`], a line of JSON each) and takes the marks of the engine's
//! process on another, each confirmed once it stands in the log: so what a mark says had happened before
//! everything that comes after it there.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use serde::{Deserialize, Serialize};

use crate::image::{BatchAt, Image, Mark, MarkKind, Recording, State, Step, What};
use crate::load::WRITERS;

/// The environment variable that makes this program the server, with its folder.
pub const SERVER: &str = "FOREBAY_RIG_SERVER";
/// The folder of the FUSE file system, the sockets, below the server's.
pub const FUSE: &str = "fuse";
pub const ASK: &str = "ask.sock";
pub const MARKS: &str = "marks.sock";

/// What the disk is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// To hold what this file holds.
    Load(String),
    /// To begin a recording at what it holds now.
    Record,
    /// To end it.
    Stop,
    /// The steps of recording so and so.
    Steps(usize),
    /// To hold a state of a recording.
    Become(usize, State),
    /// To forget recordings from this one on.
    Forget(usize),
    /// To write a recording to a file, its steps apart.
    Save(usize, String),
    /// To read it back.
    Restore(String, Vec<Step>),
    /// To fail or delay what comes once the engine's process says that it has opened the store; replaces what was
    /// asked before.
    Trouble(Trouble),
    /// How many writes and flushes failed.
    Troubled,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Recording(usize),
    Steps(Vec<Step>),
    Troubled(u64),
    Failed(String),
}

/// What is to go wrong.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trouble {
    /// The so-manieth write from then (1 is the next) fails with this errno, and so many after it.
    pub write: Option<Failing>,
    /// The same of flushes.
    pub flush: Option<Failing>,
    /// Milliseconds that each write and flush takes longer.
    pub delay_ms: u64,
    /// If not all of them: so many batches of the log.
    pub delayed_batches: Option<u64>,
    /// What a failed flush should have made durable is gone from the disk.
    pub flush_drops: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failing {
    pub nth: u64,
    pub times: u64,
    pub errno: Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    Io,
    NoSpace,
}

impl Failing {
    /// Whether this one fails.
    fn hits(&mut self) -> Option<Failure> {
        if self.nth > 1 {
            self.nth -= 1;
            return None;
        }
        let hit = self.times > 0;
        self.times -= u64::from(hit);
        hit.then_some(self.errno)
    }
}

impl From<Failure> for Errno {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Io => Self::EIO,
            Failure::NoSpace => Self::ENOSPC,
        }
    }
}

struct World {
    image: Image,
    /// The image at the last flush, for flushes that fail and drop; kept only where they may.
    flushed: Option<Image>,
    recordings: Vec<Recording>,
    recording: bool,
    /// What is to come when the store is open.
    planned: Trouble,
    trouble: Trouble,
    troubled: u64,
}

impl World {
    fn delay(&mut self, written: &[u8]) -> Duration {
        match &mut self.trouble.delayed_batches {
            Some(left) if *left > 0 && BatchAt::of(written).is_some() => *left -= 1,
            Some(_) => return Duration::ZERO,
            None => {}
        }
        Duration::from_millis(self.trouble.delay_ms)
    }

    fn log(&mut self, what: What) -> usize {
        match self.recordings.last_mut() {
            Some(recording) if self.recording => recording.push(what),
            _ => 0,
        }
    }

    fn log_write(&mut self, offset: usize, bytes: &[u8]) -> usize {
        match self.recordings.last_mut() {
            Some(recording) if self.recording => recording.push_write(offset, bytes),
            _ => 0,
        }
    }

    fn answer(&mut self, ask: Ask) -> std::io::Result<Answer> {
        let unknown = || std::io::Error::other("no such recording");
        match ask {
            Ask::Load(path) => self.image = Image::load(&path)?,
            Ask::Record => {
                self.recordings.push(Recording::new(self.image.clone()));
                self.recording = true;
                return Ok(Answer::Recording(self.recordings.len() - 1));
            }
            Ask::Stop => self.recording = false,
            Ask::Steps(number) => {
                let recording = self.recordings.get(number).ok_or_else(unknown)?;
                return Ok(Answer::Steps(recording.steps.clone()));
            }
            Ask::Become(number, state) => {
                self.recording = false;
                self.image = self.recordings.get(number).ok_or_else(unknown)?.state(&state);
            }
            Ask::Forget(number) => self.recordings.truncate(number),
            Ask::Save(number, path) => {
                let mut file = std::io::BufWriter::new(fs::File::create(path)?);
                self.recordings.get(number).ok_or_else(unknown)?.save(&mut file)?;
                file.flush()?;
            }
            Ask::Restore(path, steps) => {
                // The image is as long as the one that is held: of the same file system.
                let bytes = fs::read(&path)?;
                let (base, rest) = bytes.split_at(self.image.bytes());
                let part = format!("{path}.base");
                fs::write(&part, base)?;
                let base = Image::load(&part);
                fs::remove_file(&part)?;
                self.recordings.push(Recording::restore(base?, steps, rest));
                return Ok(Answer::Recording(self.recordings.len() - 1));
            }
            Ask::Trouble(trouble) => {
                (self.planned, self.trouble, self.troubled) = (trouble, Trouble::default(), 0);
                self.flushed = None;
            }
            Ask::Troubled => return Ok(Answer::Troubled(self.troubled)),
        }
        Ok(Answer::Done)
    }
}

#[derive(Clone)]
struct Disk(Arc<Mutex<World>>);

impl Disk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no thread of the server panics")
    }

    fn attr(&self, ino: u64) -> FileAttr {
        let is_disk = ino == 2;
        FileAttr {
            ino: INodeNo(ino),
            size: if is_disk { self.world().image.bytes() as u64 } else { 0 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: if is_disk { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Where the kernel lacks one of these, writes come one by one, which is a disk too.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    /// Whatever its name: there is one file. Its name tells whose it is.
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name.to_string_lossy().ends_with(".disk") {
            reply.entry(&Duration::ZERO, &self.attr(2), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attr(ino.0));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        self.world().image.read(offset as usize, &mut bytes);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut world = self.world();
        let write = world.log_write(offset as usize, data);
        let failure = world.trouble.write.as_mut().and_then(Failing::hits);
        let delay = world.delay(data);
        drop(world);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut world = self.world();
        match failure {
            None => world.image.write(offset as usize, data),
            Some(_) => world.troubled += 1,
        }
        world.log(What::Written { write, failed: failure.is_some() });
        drop(world);
        match failure {
            None => reply.written(data.len() as u32),
            Some(failure) => reply.error(failure.into()),
        }
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let mut world = self.world();
        let flush = world.log(What::Flush);
        let failure = world.trouble.flush.as_mut().and_then(Failing::hits);
        let delay = world.delay(&[]);
        drop(world);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut world = self.world();
        if world.flushed.is_some() {
            if failure.is_none() {
                world.flushed = Some(world.image.clone());
            } else if let Some(flushed) = world.flushed.clone() {
                world.image = flushed;
            }
        }
        world.troubled += u64::from(failure.is_some());
        world.log(What::Flushed { flush, failed: failure.is_some() });
        drop(world);
        match failure {
            None => reply.ok(),
            Some(failure) => reply.error(failure.into()),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }
}

/// Runs in the server's process only, until the process that started it is gone.
pub fn serve(dir: &Path) {
    let world = World {
        image: Image::load("/dev/null").expect("an empty image"),
        flushed: None,
        recordings: Vec::new(),
        recording: false,
        planned: Trouble::default(),
        trouble: Trouble::default(),
        troubled: 0,
    };
    let disk = Disk(Arc::new(Mutex::new(world)));
    let marks = UnixListener::bind(dir.join(MARKS)).expect("a socket");
    let asks = UnixListener::bind(dir.join(ASK)).expect("a socket");
    let mut config = fuser::Config::default();
    config.mount_options = vec![MountOption::FSName("forebay-rig".to_owned())];
    config.n_threads = Some(4);
    let session = fuser::spawn_mount(disk.clone(), dir.join(FUSE), &config).expect("a FUSE mount");
    let for_marks = disk.clone();
    std::thread::spawn(move || {
        for stream in marks.incoming().flatten() {
            let disk = for_marks.clone();
            std::thread::spawn(move || take_marks(&disk, stream));
        }
    });
    // One asker; when it is gone, so is this.
    let (stream, _) = asks.accept().expect("the rig connects");
    let mut answers = stream.try_clone().expect("a second handle");
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let ask: Ask = serde_json::from_str(&line).expect("a question");
        let answer = disk.world().answer(ask).unwrap_or_else(|error| Answer::Failed(error.to_string()));
        let mut text = serde_json::to_vec(&answer).expect("plain fields");
        text.push(b'\n');
        if answers.write_all(&text).is_err() {
            break;
        }
    }
    drop(session);
}

fn take_marks(disk: &Disk, mut stream: UnixStream) {
    let mut bytes = [0; Mark::BYTES];
    while stream.read_exact(&mut bytes).is_ok() {
        let mark = Mark::decode(&bytes).expect("a mark");
        let mut world = disk.world();
        world.log(What::Mark(mark));
        if (mark.kind, mark.writer) == (MarkKind::Opened, WRITERS - 1) {
            world.trouble = std::mem::take(&mut world.planned);
            world.flushed = world.trouble.flush_drops.then(|| world.image.clone());
        }
        drop(world);
        if stream.write_all(&[1]).is_err() {
            return;
        }
    }
}

/// The other end: who asks.
pub struct Asker {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Asker {
    pub fn connect(dir: &Path) -> Option<Self> {
        let stream = UnixStream::connect(dir.join(ASK)).ok()?;
        let reader = BufReader::new(stream.try_clone().ok()?);
        Some(Self { reader, stream })
    }

    pub fn ask(&mut self, ask: &Ask) -> Answer {
        let mut text = serde_json::to_vec(ask).expect("plain fields");
        text.push(b'\n');
        self.stream.write_all(&text).expect("the server is there");
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the server answers");
        match serde_json::from_str(&line) {
            Ok(Answer::Failed(why)) => panic!("{ask:?}: {why}"),
            Ok(answer) => answer,
            Err(error) => panic!("the server is gone: {error}: '{line}'"),
        }
    }
}
