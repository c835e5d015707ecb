//! `load-test` as scripts see it: exit codes, what stands on stdout, real input proven at each setting.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use forebay::{BlockKind, Config, Cursor, Engine, store};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;
use tempfile::TempDir;

const WEATHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nyc-weather-2000.lp");
/// Sizes that make a small store, quickly.
const SMALL: &str = "--shards 2 --intake-bytes 1m --segment-bytes 1m --block-bytes-max 256k";
/// A log that is soon full: little more than such a store needs at least.
const SMALL_LOG: &str = "--wal-bytes-max 200m";

/// Exit code, stdout and stderr in a folder of its own.
fn load_test(dir: &TempDir, options: &str) -> (i32, String, String) {
    let output = Command::cargo_bin("load-test")
        .expect("built")
        .current_dir(dir.path())
        .args(options.split_whitespace())
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn misuse_exits_2_and_names_the_option() {
    for (options, named) in [
        ("--wal-fsync-period 100", "--wal-fsync-period"),
        ("--wal-level 2 --wal-fsync-period 180001", "--wal-fsync-period"),
        ("--wal-level 3", "--wal-level"),
        ("--store disk", "--store"),
        #[cfg(not(feature = "parquet"))]
        ("--store parquet", "build it with the feature 'parquet'"),
        ("--rows-per-block 200000", "--rows-per-block 200000"),
        ("--block-bytes 1 --rows-per-block 1", "--block-bytes"),
        ("--nonsense", "--nonsense"),
    ] {
        let (code, out, err) = load_test(&folder(), options);
        assert_eq!((code, out.as_str()), (2, ""), "{options}: {err}");
        assert!(err.contains(named), "{options}: {err}");
    }
}

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let dir = folder();
    fs::create_dir(dir.path().join("mine")).expect("made");
    fs::write(dir.path().join("mine/file"), "x").expect("written");
    let (code, _, err) = load_test(&dir, "--dir mine");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("neither empty nor a store"), "{err}");
    assert!(dir.path().join("mine/file").exists());
}

/// The runs on stdout.
fn runs(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn with_json_on_stdout_there_is_one_object_per_run_and_nothing_else() {
    let dir = folder();
    let options = "--writers 4 --seconds 0.2 --warmup 0.1 --repeat 2 --baseline --json - --hdr x.hlog --plot x.svg";
    let (code, out, err) = load_test(&dir, &format!("{options} {SMALL}"));
    assert_eq!(code, 0, "{err}");
    let runs = runs(&out);
    let tables = if cfg!(feature = "parquet") { 2 } else { 1 };
    assert_eq!(runs.len(), 12 * tables, "{out}");
    let kinds: Vec<_> = runs.iter().map(|run| (run["engine"].as_str(), &run["settings"]["wal_level"])).collect();
    assert_eq!(kinds[0], (Some("forebay"), &1.into()));
    assert_eq!(kinds[1], (Some("file"), &1.into()), "the baseline runs in turn with the engine");
    assert!(runs.iter().all(|run| run["blocks"].as_u64() > Some(0)), "{out}");
    let is_stored = |run: &Value| run["settings"]["store"] == "parquet" && run["settings"]["rows_per_block"] == 1000;
    for (at, run) in runs.iter().enumerate() {
        assert_eq!(is_stored(run), at >= 12 && run["engine"] == "forebay", "{run}");
        assert_eq!(run["stored"]["rows"].as_u64() >= run["rows"].as_u64(), is_stored(run), "{run}");
    }
    for drop in ["(2,3000) against (1)", "(2,0) against (2,3000)"] {
        assert_eq!(err.matches(drop).count(), 2 * tables, "of engine and file in each table: {err}");
    }
    assert!(err.contains("The log alone: raw blocks of 4096 bytes, store none"), "{err}");
    assert!(err.contains("The whole path"), "{err}");
    assert_eq!(err.matches("insert delay").count(), 1, "{err}");
    assert!(fs::read_to_string(dir.path().join("x.svg")).expect("a picture").contains("(2,0)"));
    let histograms = fs::read_to_string(dir.path().join("x.hlog")).expect("a log");
    assert_eq!(histograms.matches("Tag=").count(), runs.len());
    assert!(!dir.path().join("forebay-load-test").exists(), "what was made is removed");
}

#[test]
fn the_plain_file_alone_is_a_run_of_its_own() {
    let options = "--wal-level 1 --block-bytes 4k --baseline=only --writers 2 --seconds 0.3 --warmup 0 --json -";
    let (code, out, err) = load_test(&folder(), options);
    assert_eq!(code, 0, "{err}");
    let runs = runs(&out);
    assert_eq!((runs.len(), &runs[0]["engine"]), (1, &"file".into()), "{out}");
    let steps = runs[0]["timeline"]["bytes"].as_array().expect("a time line");
    let bytes: u64 = steps.iter().map(|step| step.as_u64().expect("bytes")).sum();
    assert!(bytes > 0 && Some(bytes) <= runs[0]["bytes"].as_u64(), "{out}");
}

#[test]
fn the_weather_is_there_once_at_each_setting() {
    let options = format!("--input {WEATHER} --rows-per-block 20 --store none --verify --json - {SMALL}");
    let (code, out, err) = load_test(&folder(), &options);
    assert_eq!(code, 0, "{err}");
    let runs = runs(&out);
    for run in &runs {
        assert_eq!((&run["rows"], &run["blocks"]), (&2000.into(), &100.into()));
        assert_eq!((&run["verified_blocks"], &run["lost_blocks"]), (&100.into(), &0.into()));
    }
    assert_eq!(runs.len(), 3);
}

#[test]
#[cfg(feature = "parquet")]
fn the_weather_is_in_the_data_files_at_each_setting_column_by_column() {
    let options = format!("--input {WEATHER} --rows-per-block 20 --verify --json - {SMALL}");
    let (code, out, err) = load_test(&folder(), &options);
    assert_eq!(code, 0, "{err}");
    let runs = runs(&out);
    assert_eq!(runs.len(), 3);
    for run in &runs {
        assert_eq!(run["settings"]["store"], "parquet");
        assert_eq!((&run["rows"], &run["verified_rows"]), (&2000.into(), &2000.into()));
        assert_eq!((&run["verified_blocks"], &run["lost_blocks"]), (&100.into(), &0.into()));
        let columns = run["columns"].as_array().expect("columns");
        assert!(columns.iter().all(|column| column["equal"] == true && column["input"] == column["files"]), "{run}");
        let time = columns.iter().find(|column| column["column"] == "time").expect("a column of times");
        // As `awk '{sum += $NF}'` would have it with enough digits.
        let text = fs::read_to_string(WEATHER).expect("the sample");
        let times = text.lines().map(|line| line.rsplit(' ').next().expect("a time").parse::<i128>().expect("a time"));
        assert_eq!(
            (&time["files"]["values"], &time["files"]["sum"]),
            (&2000.into(), &times.sum::<i128>().to_string().into())
        );
    }
    assert!(err.contains("(2,0) run 1: 2,000 rows of input, 2,000 rows in data files"), "{err}");
    assert!(err.contains("| yes") && !err.contains("| NO"), "{err}");
}

/// Runs with these options at each setting, and expects every acknowledged block to be there.
fn assert_proven(options: &str) -> Vec<Value> {
    let options = format!("{options} --writers 8 --seconds 0.2 --warmup 0.1 --repeat 1 --verify --json - {SMALL}");
    let (code, out, err) = load_test(&folder(), &options);
    assert_eq!(code, 0, "{options}: {err}");
    let runs = runs(&out);
    assert_eq!(runs.len(), 3, "{options}: {out}");
    for run in &runs {
        assert!(run["verified_blocks"].as_u64() >= run["blocks"].as_u64(), "{options}: {run}");
        assert!(run["blocks"].as_u64() > Some(0), "{options}: {run}");
        assert_eq!((&run["lost_blocks"], &run["wrong_blocks"]), (&0.into(), &0.into()), "{options}: {run}");
    }
    runs
}

#[test]
fn raw_and_meters_blocks_are_proven_at_each_setting() {
    for workload in ["--block-bytes 100", "--rows-per-block 10", "--block-bytes 4k --in-flight 4", "--rate 2000/s"] {
        for run in assert_proven(&format!("{workload} --store none")) {
            assert!(run["verified_rows"].is_null() && run["stored"].is_null(), "{workload}: {run}");
        }
    }
}

#[test]
#[cfg(feature = "parquet")]
fn rows_in_data_files_are_proven_at_each_setting() {
    for workload in [
        "--rows-per-block 10",
        "--rows-per-block 1000 --in-flight 4 --buffer-bytes 1m",
        "--rows-per-block 100 --rate 400/s",
        "--block-bytes 4k --buffer-bytes 256k",
    ] {
        for run in assert_proven(&format!("{workload} --store parquet")) {
            let rows = run["settings"]["rows_per_block"].as_u64().unwrap_or(1);
            let blocks = run["verified_blocks"].as_u64().expect("a count");
            assert_eq!(run["verified_rows"], blocks * rows, "{workload}: {run}");
            assert!(run["stored"]["rows"].as_u64() >= run["rows"].as_u64(), "{workload}: {run}");
        }
    }
}

#[test]
#[cfg(feature = "parquet")]
fn a_store_with_data_files_is_used_again_and_proven_again() {
    let dir = folder();
    let options = format!("--writers 4 --seconds 0.2 --warmup 0 --verify --keep --json - {SMALL}");
    let mut rows = 0;
    for (at, workload) in
        ["--rows-per-block 100", "--rows-per-block 100", "--block-bytes 4k --store parquet"].iter().enumerate()
    {
        let (code, out, err) = load_test(&dir, &format!("{workload} --wal-level 1 --dir mine {options}"));
        assert_eq!(code, 0, "run {at}: {err}");
        let run = &runs(&out)[0];
        assert_eq!((&run["lost_blocks"], &run["wrong_blocks"]), (&0.into(), &0.into()), "run {at}: {run}");
        rows += run["verified_rows"].as_u64().expect("a count");
        let listing = forebay::engine::tools::list_files(&dir.path().join("mine")).expect("a list");
        assert_eq!(listing.files.iter().map(|file| file.rows).sum::<u64>(), rows, "run {at}: what was there is kept");
    }
    // Without data files there is nothing that could say how far they hold the log.
    let plain = format!("--wal-level 1 --store none --dir plain --keep {SMALL} --seconds 0.2 --warmup 0");
    assert_eq!(load_test(&dir, &plain).0, 0);
    let (code, _, err) = load_test(&dir, &format!("--store parquet --dir plain {SMALL}"));
    assert!(code == 1 && err.contains("--dir plain: a store without data files: use --store none"), "{code}: {err}");
}

#[test]
fn a_bad_line_exits_1_with_its_number_and_keeps_what_was_acknowledged() {
    let dir = folder();
    let mut text = fs::read_to_string(WEATHER).expect("the sample");
    text.push_str("weather,origin=EWR temp=cold 1\n");
    fs::write(dir.path().join("bad.lp"), text).expect("written");
    let (code, _, err) =
        load_test(&dir, &format!("--input bad.lp --rows-per-block 100 --dir kept --wal-level 1 {SMALL}"));
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("line 2001, column 25: field value 'cold'"), "{err}");
    assert!(err.contains("were acknowledged before") && err.contains("kept in kept"), "{err}");
    assert!(Path::new(&dir.path().join("kept")).exists());
}

/// A load-test under way; killed if the test fails.
struct Running(Option<Child>);

impl Running {
    fn start(dir: &TempDir, options: &str) -> Self {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("load-test"));
        Self::spawn(command.args(options.split_whitespace()), dir)
    }

    fn spawn(command: &mut std::process::Command, dir: &TempDir) -> Self {
        let command = command.current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().expect("it starts")))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it runs")
    }

    fn pid(&mut self) -> Pid {
        Pid::from_child(self.child())
    }

    /// Waits until its writers have written for a moment.
    fn wait_for_writers(&mut self) {
        let tasks = format!("/proc/{}/task", self.child().id());
        wait_until("writers", || {
            let tasks = fs::read_dir(&tasks).into_iter().flatten().flatten();
            let mut names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
            names.any(|name| name.starts_with("writer-"))
        });
        thread::sleep(Duration::from_millis(500));
    }

    fn interrupt(&mut self) {
        let pid = self.pid();
        kill_process(pid, Signal::INT).expect("a signal");
    }

    fn runs_still(&mut self) -> bool {
        self.child().try_wait().expect("a child").is_none()
    }

    /// Exit code, stdout and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        wait_until("an end", || !self.runs_still());
        let output = self.0.take().expect("it ran").wait_with_output().expect("its output");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "no {what} within a minute");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ctrl_c_ends_the_run_early_and_shows_what_was_measured() {
    let dir = folder();
    let options = format!("--wal-level 1 --repeat 2 --seconds 3600 --warmup 0 --verify --json - {SMALL}");
    // The log, which is held, must not end the run first.
    let mut run = Running::start(&dir, &format!("{options} --rate 200/s"));
    run.wait_for_writers();
    run.interrupt();
    let (code, out, err) = run.end();
    assert_eq!(code, Some(130), "{err}");
    let measured: Value = serde_json::from_str(&out).expect("one line of JSON");
    assert_eq!(measured["ended_early"], "interrupted");
    assert!(measured["blocks"].as_u64() > Some(0) && measured["seconds"].as_f64() < Some(60.0), "{out}");
    assert_eq!((&measured["verified_blocks"], &measured["lost_blocks"]), (&measured["blocks"], &0.into()), "{out}");
    assert!(err.contains("Interrupted: 1 of 2 runs") && err.contains("records/second"), "{err}");
    assert!(!dir.path().join("forebay-load-test").exists(), "what was made is removed");
}

#[test]
fn ctrl_c_in_the_warm_up_measures_nothing() {
    let dir = folder();
    let mut run = Running::start(&dir, &format!("--wal-level 1 --warmup 3600 {SMALL}"));
    run.wait_for_writers();
    run.interrupt();
    let (code, out, err) = run.end();
    assert_eq!(code, Some(130), "{err}");
    assert!(out.contains("Interrupted: 0 of 1 runs") && !out.contains("records/second"), "{out}");
}

#[test]
fn a_second_ctrl_c_ends_it_at_once() {
    let dir = folder();
    // An input that never comes: the first one cannot be obeyed.
    let input = dir.path().join("input");
    rustix::fs::mknodat(rustix::fs::CWD, &input, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let _open = fs::File::options().read(true).write(true).open(&input).expect("opened");
    let mut run = Running::start(&dir, &format!("--input input --wal-level 1 {SMALL}"));
    run.wait_for_writers();
    run.interrupt();
    thread::sleep(Duration::from_millis(500));
    assert!(run.runs_still(), "the first one waits for the input");
    run.interrupt();
    assert_eq!(run.end().0, Some(130));
}

#[test]
fn a_folder_in_use_exits_73_and_is_left_alone() {
    let dir = folder();
    for keep in ["", "--keep"] {
        let options = format!("--wal-level 1 --seconds 3600 --warmup 0 {keep} {SMALL}");
        let mut run = Running::start(&dir, &options);
        run.wait_for_writers();
        let (code, _, err) = load_test(&dir, &options);
        assert_eq!(code, 73, "{err}");
        assert!(err.contains("forebay-load-test is in use by"), "{err}");
        run.interrupt();
        let (code, _, err) = run.end();
        assert_eq!(code, Some(130), "{err}");
        assert_eq!(dir.path().join("forebay-load-test").exists(), keep == "--keep");
    }
}

#[test]
fn a_short_write_exits_74_and_keeps_what_was_written() {
    for io in ["uring", "pwrite"] {
        let dir = folder();
        // The signal that comes with the limit would kill it; the limit itself is set once it runs.
        let mut shell = std::process::Command::new("sh");
        let path = assert_cmd::cargo::cargo_bin!("load-test");
        let line = format!("trap '' XFSZ; exec {} \"$@\"", path.display());
        let options = format!("--wal-level 1 --seconds 3600 --warmup 0 --io {io} {SMALL}");
        let mut run = Running::spawn(shell.args(["-c", &line, "sh"]).args(options.split_whitespace()), &dir);
        run.wait_for_writers();
        let limit = Rlimit { current: Some(100_000), maximum: None };
        let pid = run.pid();
        prlimit(Some(pid), Resource::Fsize, limit).expect("a limit");
        let (code, _, err) = run.end();
        assert_eq!(code, Some(74), "{io}: {err}");
        let error = err.lines().find(|line| line.starts_with("error: ")).expect("the error");
        assert!(error.starts_with("error: fatal: write(shard"), "{io}: {err}");
        assert_eq!(error.matches("fatal").count(), 1, "{io}: {err}");
        assert!(err.contains("were acknowledged before") && err.contains("kept in forebay-load-test"), "{io}: {err}");
    }
}

#[test]
fn an_existing_store_is_used_and_keeps_what_is_there() {
    let dir = folder();
    let sizes = format!("{SMALL} {SMALL_LOG}");
    let input = format!("--input {WEATHER} --rows-per-block 20 --store none --wal-level 1 --dir mine");
    let (code, _, err) = load_test(&dir, &format!("{input} --keep {sizes}"));
    assert_eq!(code, 0, "{err}");
    // It writes until the log is nearly full: one that were trimmed would lose its beginning.
    let options = format!("--dir mine --wal-level 1 --seconds 3600 --warmup 0 --json - {sizes}");
    let (code, out, err) = load_test(&dir, &options);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("the log, held for what was there before, is 3/4 full"), "{err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    let config = Config::new(dir.path().join("mine")).segment_bytes(1 << 20).block_bytes_max(256 << 10);
    let config = config.batch_bytes_max(256 << 10).intake_bytes(1 << 20);
    let engine = Engine::open_with(config, Box::new(store::Hold)).expect("opens");
    let blocks = engine.subscribe(Cursor::start()).expect("a subscription").until_end();
    let blocks = blocks.map(|delivered| delivered.expect("a block").block);
    let rows: u32 = blocks.filter(|block| block.kind() == BlockKind::Lines).map(|block| block.rows()).sum();
    assert_eq!(rows, 2000, "the weather is still there");
}

#[test]
fn a_verified_run_ends_when_its_log_is_nearly_full() {
    let options = format!("--wal-level 1 --seconds 3600 --warmup 0 --verify --json - {SMALL} {SMALL_LOG}");
    let (code, out, err) = load_test(&folder(), &options);
    assert_eq!(code, 0, "{err}");
    let run: Value = serde_json::from_str(&out).expect("one line of JSON");
    let why = run["ended_early"].as_str().expect("a reason");
    assert!(why.contains("the log, held for --verify, is 3/4 full"), "{why}");
    assert!(err.contains(why), "{err}");
    assert_eq!((&run["verified_blocks"], &run["lost_blocks"]), (&run["blocks"], &0.into()), "{out}");
}

/// Exit code, stdout and stderr of a run under a seccomp filter that answers io_uring_setup with
/// this error.
fn load_test_without_io_uring(dir: &TempDir, options: &str, errno: Errno) -> (i32, String, String) {
    let action = SeccompAction::Errno(errno.raw_os_error() as u32);
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    /// Everywhere: it is younger than the common numbering of system calls.
    const IO_URING_SETUP: i64 = 425;
    let filter = SeccompFilter::new([(IO_URING_SETUP, Vec::new())].into(), SeccompAction::Allow, action, arch);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a sound filter");
    on_a_thread_of_its_own(|| {
        seccompiler::apply_filter(&program).expect("a filter");
        load_test(dir, options)
    })
}

/// What a thread gives up, it gives up for good; the programs that it starts have it no more either.
fn on_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

/// What `--io auto` must do where io_uring is blocked: run to its end, say so once, and lose nothing.
fn assert_fell_back((code, out, err): (i32, String, String), cause: &str) {
    assert_eq!(code, 0, "{err}");
    assert_eq!(err.matches("WARN").count(), 1, "{err}");
    assert!(err.contains("io_uring cannot be used") && err.contains(cause) && err.contains("Cure: "), "{err}");
    let runs: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(runs.len(), 3, "{out}");
    for run in runs {
        assert_eq!((&run["settings"]["io"], &run["lost_blocks"]), (&"pwrite".into(), &0.into()), "{run}");
        assert!(run["verified_blocks"].as_u64() >= run["blocks"].as_u64() && run["blocks"].as_u64() > Some(0), "{run}");
    }
}

const ALL_VERIFIED: &str = "--store none --writers 8 --seconds 0.2 --warmup 0 --repeat 1 --verify --json -";

#[test]
fn where_io_uring_is_blocked_the_same_is_done_without_it_after_one_warning() {
    for (errno, cause) in [(Errno::PERM, "kernel.io_uring_disabled"), (Errno::NOSYS, "this kernel has no io_uring")] {
        let options = format!("{ALL_VERIFIED} {SMALL}");
        assert_fell_back(load_test_without_io_uring(&folder(), &format!("--io auto {options}"), errno), cause);
        let (code, out, err) = load_test_without_io_uring(&folder(), &format!("--io uring {options}"), errno);
        assert_eq!((code, out.as_str()), (74, ""), "{err}");
        assert!(err.contains("error: setting io_uring up") && err.contains(cause) && err.contains("Cure: "), "{err}");
    }
}

#[test]
fn where_too_little_memory_may_be_locked_it_is_done_without_io_uring() {
    let dir = folder();
    let options = format!("--io auto {ALL_VERIFIED} {SMALL}");
    let mut shell = std::process::Command::new("sh");
    let program = assert_cmd::cargo::cargo_bin!("load-test");
    shell.args(["-c", "ulimit -l 0; exec \"$@\"", "sh"]).arg(program).args(options.split_whitespace());
    let (code, out, err) = on_a_thread_of_its_own(|| {
        // Root may lock what it likes as long as it can have this; others never had it.
        let _ = remove_capability_from_bounding_set(CapabilitySet::IPC_LOCK);
        Running::spawn(&mut shell, &dir).end()
    });
    if out.contains("\"io\":\"uring\"") {
        // From Linux 5.12 until rings counted as locked memory again.
        assert_eq!((code, err.matches("WARN").count()), (Some(0), 0), "{err}");
        println!("this kernel does not count rings as locked memory");
    } else {
        assert_fell_back((code.expect("an exit code"), out, err), "the limit is 0 KiB");
    }
}
