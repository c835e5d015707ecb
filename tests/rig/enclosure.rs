//! A test of the rig runs in a process of its own, in mount and process namespaces of its own: whatever ends
//! it, its processes end with it, and then its mounts and its loop devices, in that order. Its boot id is a
//! file of its own, so that a crash state can be opened as after a reboot.
//!
//! Needs root, FUSE and loop devices. Where they are missing a test is skipped, with the reason;
//! `REQUIRE_RIG=1` makes that a failure.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::device::Fs;

/// The environment variable that tells the test's own process its folder.
const INSIDE: &str = "FOREBAY_RIG_DIR";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Runs `body` in the test's own process, with its folder. `name` is the test's, from the crate's root.
pub fn enclosed(name: &str, fs_kind: Fs, body: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        let dir = PathBuf::from(dir);
        end_with_the_parent();
        set_boot(&dir, 1);
        mount(&["--bind", &boot_file(&dir).display().to_string(), BOOT_ID]);
        body(&dir);
        fs::write(dir.join("done"), "").expect("a file");
        return;
    }
    if let Err(why) = available(fs_kind) {
        assert!(std::env::var_os("REQUIRE_RIG").is_none(), "the rig cannot run here: {why}");
        eprintln!("SKIPPED: {name}: the rig cannot run here: {why}");
        return;
    }
    detach_leftovers();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut child = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation=private", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, dir.path())
        .env("FOREBAY_RIG_OUTER", std::process::id().to_string())
        // Held open by this process: when it is gone, the child sees the end and ends too.
        .stdin(Stdio::piped())
        .spawn()
        .expect("unshare");
    let held = child.stdin.take();
    let status = child.wait().expect("an end");
    drop(held);
    assert!(status.success(), "{name}: {status}");
    assert!(dir.path().join("done").exists(), "{name}: no such test ran");
}

fn end_with_the_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        // The first process of its namespace: all others there are killed with it.
        std::process::exit(3);
    });
}

fn boot_file(dir: &Path) -> PathBuf {
    dir.join("boot_id")
}

/// Sets the boot id that processes of this test read.
pub fn set_boot(dir: &Path, boot: u64) {
    fs::write(boot_file(dir), format!("00000000-0000-4000-8000-{boot:012x}\n")).expect("a boot id");
}

/// The name of this run's disk, by which leftovers are known.
pub fn disk_name() -> String {
    format!("forebay-rig-{}.disk", std::env::var("FOREBAY_RIG_OUTER").expect("inside"))
}

pub fn mount(args: &[&str]) {
    let done = Command::new("mount").args(args).output().expect("mount");
    assert!(done.status.success(), "mount {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn available(fs_kind: Fs) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        fs::OpenOptions::new().read(true).write(true).open(device).map_err(|error| format!("{device}: {error}"))?;
    }
    for program in ["unshare", "losetup", "mount", fs_kind.mkfs()] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|error| format!("{program}: {error}"))?;
    }
    let tried = Command::new("unshare").args(["--mount", "--pid", "--fork", "--mount-proc", "true"]).output();
    let tried = tried.map_err(|error| error.to_string())?;
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).into_owned()) }
}

/// Detaches loop devices of runs that are gone: killed between attaching one and mounting it.
fn detach_leftovers() {
    let listed = Command::new("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).output();
    let listed = String::from_utf8_lossy(&listed.expect("losetup").stdout).into_owned();
    for line in listed.lines() {
        let Some((name, file)) = line.split_once(char::is_whitespace) else { continue };
        let of_run = file.split("forebay-rig-").nth(1).and_then(|rest| rest.split('.').next());
        if of_run.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            eprintln!("detaching {name}, left behind by an earlier run: {}", file.trim());
            let _ = Command::new("losetup").args(["--detach", name]).status();
        }
    }
}
