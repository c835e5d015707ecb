//! The rig as a test holds it: the server's process, the loop device over its file, the file system on that.
//! They are taken down in the opposite order, whatever happens.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::enclosure::{disk_name, set_boot};
use crate::image::{State, Step};
use crate::server::{Answer, Ask, Asker, FUSE, SERVER, Trouble};

/// The file systems that the rig puts on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fs {
    Ext4,
    Xfs,
    Btrfs,
}

impl Fs {
    pub const fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// As small as each can be made, with room for the log.
    const fn bytes(self) -> u64 {
        match self {
            Self::Ext4 => 48 << 20,
            Self::Xfs => 320 << 20,
            Self::Btrfs => 256 << 20,
        }
    }

    const fn mkfs_options(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["-q", "-b", "4096", "-J", "size=4", "-N", "2048", "-E", "nodiscard,lazy_itable_init=0"],
            Self::Xfs => &["-q", "-K"],
            Self::Btrfs => &["-q", "-K"],
        }
    }

    const fn mount_options(self) -> &'static str {
        match self {
            Self::Ext4 => "noatime,errors=remount-ro",
            // Images of one run have one UUID; none is mounted beside another.
            Self::Xfs => "noatime,nouuid",
            Self::Btrfs => "noatime",
        }
    }
}

pub struct Rig {
    pub dir: PathBuf,
    pub fs: Fs,
    server: Child,
    asker: RefCell<Asker>,
    boots: Cell<u64>,
}

impl Rig {
    /// A disk with an empty file system.
    pub fn start(dir: &Path, fs: Fs) -> Self {
        for folder in [FUSE, "mnt"] {
            std::fs::create_dir_all(dir.join(folder)).expect("a folder");
        }
        let server = Command::new(std::env::current_exe().expect("this program"))
            .args(["server", "--exact", "--nocapture"])
            .env(SERVER, dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("the server");
        let began = Instant::now();
        let asker = loop {
            if let Some(asker) = Asker::connect(dir) {
                break asker;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the server does not start");
            std::thread::sleep(Duration::from_millis(5));
        };
        let rig = Self { dir: dir.to_owned(), fs, server, asker: RefCell::new(asker), boots: Cell::new(1) };
        rig.format();
        // An empty recording keeps the empty file system.
        rig.record();
        rig.ask(&Ask::Stop);
        rig
    }

    fn format(&self) {
        let path = self.dir.join("new.img");
        std::fs::File::create(&path).and_then(|file| file.set_len(self.fs.bytes())).expect("a file");
        let made = Command::new(self.fs.mkfs()).args(self.fs.mkfs_options()).arg(&path).output().expect("mkfs");
        assert!(made.status.success(), "{}: {}", self.fs.mkfs(), String::from_utf8_lossy(&made.stderr));
        self.ask(&Ask::Load(path.display().to_string()));
        std::fs::remove_file(path).expect("removed");
    }

    /// The disk holds an empty file system again; recordings are forgotten.
    pub fn renew(&self) {
        self.become_state(0, &State::default());
        self.ask(&Ask::Forget(1));
    }

    /// The next opening is one after a reboot.
    pub fn reboot(&self) {
        self.boots.set(self.boots.get() + 1);
        self.set_boot(self.boots.get());
    }

    pub fn set_boot(&self, boot: u64) {
        set_boot(&self.dir, boot);
    }

    /// The store's folder, once it is mounted.
    pub fn store(&self) -> PathBuf {
        self.dir.join("mnt/store")
    }

    pub fn ask(&self, ask: &Ask) -> Answer {
        self.asker.borrow_mut().ask(ask)
    }

    /// Begins a recording at what the disk holds; its number.
    pub fn record(&self) -> usize {
        match self.ask(&Ask::Record) {
            Answer::Recording(number) => number,
            other => panic!("{other:?}"),
        }
    }

    pub fn steps(&self, recording: usize) -> Vec<Step> {
        self.ask(&Ask::Stop);
        self.steps_so_far(recording)
    }

    pub fn steps_so_far(&self, recording: usize) -> Vec<Step> {
        match self.ask(&Ask::Steps(recording)) {
            Answer::Steps(steps) => steps,
            other => panic!("{other:?}"),
        }
    }

    /// The disk holds this state from now on.
    pub fn become_state(&self, recording: usize, state: &State) {
        self.ask(&Ask::Become(recording, state.clone()));
    }

    pub fn trouble(&self, trouble: Trouble) {
        self.ask(&Ask::Trouble(trouble));
    }

    pub fn troubled(&self) -> u64 {
        match self.ask(&Ask::Troubled) {
            Answer::Troubled(count) => count,
            other => panic!("{other:?}"),
        }
    }

    /// Attaches the loop device and mounts the file system.
    pub fn mount(&self) -> Mounted<'_> {
        let disk = self.dir.join(FUSE).join(disk_name());
        let args = ["--direct-io=on", "--find", "--show"];
        let attached = Command::new("losetup").args(args).arg(&disk).output().expect("losetup");
        assert!(attached.status.success(), "losetup: {}", String::from_utf8_lossy(&attached.stderr));
        let device = String::from_utf8_lossy(&attached.stdout).trim().to_owned();
        let at = self.dir.join("mnt");
        let mounted = Command::new("mount")
            .args(["-t", self.fs.name(), "-o", self.fs.mount_options(), &device])
            .arg(&at)
            .output()
            .expect("mount");
        // Once mounted it stays until the file system is gone; detached by then whatever happens.
        let detached = Command::new("losetup").args(["--detach", &device]).status().expect("losetup");
        assert!(detached.success(), "losetup --detach {device}");
        assert!(mounted.status.success(), "mount: {}", String::from_utf8_lossy(&mounted.stderr));
        Mounted { _rig: self, at, device }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.join(FUSE)).stderr(Stdio::null()).status();
    }
}

/// A mounted file system; unmounted with this.
pub struct Mounted<'a> {
    _rig: &'a Rig,
    pub at: PathBuf,
    device: String,
}

impl Mounted<'_> {
    fn unmount(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let done = Command::new("umount").arg(&self.at).output().map_err(|error| error.to_string())?;
            if done.status.success() {
                break;
            }
            // Threads of an engine that was dropped may still be closing files.
            if began.elapsed() > Duration::from_secs(10) {
                return Err(String::from_utf8_lossy(&done.stderr).into_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let attached = Path::new("/sys/block").join(self.device.trim_start_matches("/dev/")).join("loop/backing_file");
        while std::fs::read_to_string(&attached).is_ok_and(|file| file.contains(&disk_name())) {
            if began.elapsed() > Duration::from_secs(20) {
                return Err(format!("{} stays attached", self.device));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.unmount() {
            let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
            assert!(std::thread::panicking(), "the file system does not unmount: {why}");
        }
    }
}
