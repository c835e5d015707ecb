//! A test of the rig runs in a process of its own, in mount and process namespaces of its own: whatever ends
//! it, its processes end with it, and then its mounts and its loop devices, in that order. Its boot id is a
//! file of its own, so that a crash state can be opened as after a reboot.
//!
//! Needs root, FUSE and loop devices. Where they are missing a test is skipped, with the reason;
//! `REQUIRE_RIG=1` makes that a failure.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::device::Fs;

/// The environment variable that tells the test's own process its folder.
const INSIDE: &str = "FOREBAY_RIG_DIR";
/// What the names of a run's folder and of its disk begin with; its process id follows.
const FOLDER: &str = "rig-";
const DISK: &str = "forebay-rig-";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Runs `body` in the test's own process, with its folder. `name` is the test's, from the crate's root.
pub fn enclosed(name: &str, fs_kind: Fs, body: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        let dir = PathBuf::from(dir);
        end_with_the_parent();
        keep_panics(dir.join("panics"));
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
    remove_leftovers();
    let prefix = format!("{FOLDER}{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
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
    let panics = fs::read_to_string(dir.path().join("panics")).unwrap_or_default();
    assert!(status.success(), "{name}: {status}\n{panics}");
    assert!(dir.path().join("done").exists(), "{name}: no such test ran");
}

/// What the test's own process says of its panics is said again by the one that waits for it: in a long log the two
/// are far apart.
fn keep_panics(path: PathBuf) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let _ = fs::OpenOptions::new().create(true).append(true).open(&path).map(|mut file| writeln!(file, "{info}"));
        before(info);
    }));
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
    format!("{DISK}{}.disk", std::env::var("FOREBAY_RIG_OUTER").expect("inside"))
}

fn mount(args: &[&str]) {
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

/// Detaches loop devices and removes folders of runs that are gone: a test that is killed can leave its folder,
/// and a loop device if it was just being attached.
fn remove_leftovers() {
    let is_gone =
        |pid: Option<&str>| pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists());
    for line in attached().lines() {
        let Some((name, file)) = line.split_once(char::is_whitespace) else { continue };
        if is_gone(file.split(DISK).nth(1).and_then(|rest| rest.split('.').next())) {
            eprintln!("detaching {name}, left behind by an earlier run: {}", file.trim());
            let _ = Command::new("losetup").args(["--detach", name]).status();
        }
    }
    for entry in fs::read_dir(env!("CARGO_TARGET_TMPDIR")).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_gone(name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next())) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Loop devices and their files.
fn attached() -> String {
    let listed = Command::new("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).output();
    String::from_utf8_lossy(&listed.expect("losetup").stdout).into_owned()
}

/// Whatever happens to a test, nothing of it stays: neither processes, mounts nor loop devices.
#[test]
fn a_killed_test_leaves_nothing_behind() {
    if let Err(why) = available(Fs::Ext4) {
        assert!(std::env::var_os("REQUIRE_RIG").is_none(), "the rig cannot run here: {why}");
        eprintln!("SKIPPED: the rig cannot run here: {why}");
        return;
    }
    let mut test = Command::new(std::env::current_exe().expect("this program"))
        .args(["power_cut::ext4_at_level_1", "--exact"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a test");
    let disk = format!("{DISK}{}.", test.id());
    let wait = |until: &dyn Fn() -> bool, what: &str| {
        let began = Instant::now();
        while !until() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    wait(&|| attached().contains(&disk), "the test attaches its disk");
    test.kill().expect("a kill");
    test.wait().expect("an end");
    wait(&|| !attached().contains(&disk), "its loop device goes");
    let of_test = format!("{FOLDER}{}-", test.id());
    let runs = || {
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let mut commands = processes.map(|process| fs::read(process.path().join("environ")).unwrap_or_default());
        commands.any(|text| String::from_utf8_lossy(&text).contains(&of_test))
    };
    wait(&|| !runs(), "its processes go");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains("forebay-rig"), "{mounts}");
}
