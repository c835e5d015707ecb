//! The public face: what an embedder relies on, at every setting and over both disks.

use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use forebay::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use forebay::store::{Hold, Null, Store, StoreError, Unit};
use forebay::types::{Position, Seq, ShardId};
use forebay::{Block, Config, Cursor, Durability, Engine, Error, IoChoice, OnDamage, Status, Why};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn small(dir: &Path) -> Config {
    Config::new(dir)
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(256 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(1024)
        .wal_bytes_max(64 << 20)
}

fn settings(dir: &Path) -> Vec<(&'static str, Config)> {
    vec![
        ("(1)", small(dir).wal_level(1)),
        ("(2,50)", small(dir).wal_level(2).wal_fsync_period_ms(50)),
        ("(2,0)", small(dir).wal_level(2).wal_fsync_period_ms(0)),
    ]
}

fn read_all(engine: &Engine) -> Vec<Vec<u8>> {
    let blocks = engine.subscribe(Cursor::start()).expect("a subscription").until_end();
    blocks.map(|delivered| delivered.expect("a block").block.payload().to_vec()).collect()
}

#[test]
fn what_was_appended_is_read_back_after_a_close_at_every_setting_and_disk() {
    for io in [IoChoice::Uring, IoChoice::Pwrite] {
        for index in 0..3 {
            let dir = folder();
            let (name, config) = settings(dir.path()).remove(index);
            let engine = Engine::open_with(config.clone().io(io), Box::new(Hold)).expect("opens");
            assert_eq!(engine.stats().io, io.to_string());
            let writer = engine.writer("plant7").expect("a writer");
            let mut receipts = Vec::new();
            for counter in 0..500u32 {
                let payload = vec![counter as u8; counter as usize * 7];
                receipts.push(writer.append(Block::raw("blobs", payload)).expect("an append"));
            }
            for receipt in &receipts {
                engine.wait(receipt, Durability::Synced).expect("a sync");
                assert!(engine.status_of(receipt).expect("known") >= Status::Durable(Durability::Synced));
            }
            engine.close().expect("a clean close");
            let engine = Engine::open_with(config.io(io), Box::new(Hold)).expect("opens again");
            assert!(engine.report().shards.iter().all(|shard| shard.sealed), "{name}: a clean stop leaves a seal");
            let blocks = read_all(&engine);
            assert_eq!(blocks.len(), 500, "{name}");
            for (counter, block) in blocks.iter().enumerate() {
                assert_eq!(block, &vec![counter as u8; counter * 7], "{name}");
            }
            assert!(
                receipts.iter().all(|receipt| engine.status_of(receipt).is_ok_and(|status| status != Status::Lost))
            );
        }
    }
}

#[test]
fn blocks_from_nothing_to_the_bound_are_taken_and_a_larger_one_comes_back() {
    let dir = folder();
    let engine = Engine::open_with(small(dir.path()), Box::new(Hold)).expect("opens");
    let writer = engine.writer("").expect("a writer");
    for bytes in [0, 1, 63, 64, 65, 4096, 131_072, 262_144] {
        writer.append(Block::raw("t", vec![7; bytes])).expect("within the bound");
    }
    let Err(Error::Rejected(rejected)) = writer.append(Block::raw("t", vec![7; 262_145])) else { panic!("too large") };
    assert_eq!(rejected.block.payload().len(), 262_145);
    assert!(matches!(rejected.why, Why::TooLarge { bytes: 262_145, max: 262_144 }), "{}", rejected.why);
    let long = "n".repeat(256);
    let rejected = writer.submit(Block::raw(long, vec![1])).err().expect("names too long");
    assert!(matches!(rejected.why, Why::NamesTooLong { bytes: 256 }));
    assert_eq!(read_all(&engine).len(), 8);
}

#[test]
fn a_store_in_use_is_refused_and_names_the_holder() {
    let dir = folder();
    let _engine = Engine::open_with(small(dir.path()), Box::new(forebay::store::Null)).expect("opens");
    let error = Engine::open_with(small(dir.path()), Box::new(forebay::store::Null)).err().expect("in use");
    assert_eq!(error.exit_code(), 73);
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
}

#[test]
fn the_number_of_shards_is_the_stores_and_the_error_says_so() {
    let dir = folder();
    drop(Engine::open_with(small(dir.path()), Box::new(forebay::store::Null)).expect("opens"));
    let error =
        Engine::open_with(small(dir.path()).shards(3), Box::new(forebay::store::Null)).err().expect("another number");
    assert!(error.to_string().contains("made with 2"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn waiting_for_synced_starts_a_sync_at_level_1() {
    let dir = folder();
    let engine = Engine::open_with(small(dir.path()).wal_level(1), Box::new(Hold)).expect("opens");
    let receipt = engine.writer("n").expect("a writer").append(Block::raw("t", &b"x"[..])).expect("an append");
    assert!(engine.status_of(&receipt).expect("known") <= Status::Durable(Durability::Written));
    // Of its own accord level 1 would sync after 30 s.
    engine.wait(&receipt, Durability::Synced).expect("a sync");
    assert_eq!(engine.status_of(&receipt).expect("known"), Status::Durable(Durability::Synced));
    let marks = engine.marks();
    for mark in marks {
        assert!(mark.accepted >= mark.written && mark.written >= mark.synced && mark.synced >= mark.flushed);
    }
}

/// The smallest executor: enough to show that none is needed.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn tickets_and_futures_need_no_runtime() {
    let dir = folder();
    let config = small(dir.path()).wal_level(2).wal_fsync_period_ms(0);
    let engine = Engine::open_with(config, Box::new(Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    let first = writer.submit(Block::raw("t", &b"1"[..])).expect("accepted");
    let second = writer.submit(Block::raw("t", &b"2"[..])).expect("accepted");
    let third = block_on(writer.append_async(Block::raw("t", &b"3"[..]))).expect("an append");
    let second = block_on(second).expect("acknowledged");
    let first = first.wait().expect("acknowledged");
    assert!(first.seq < second.seq && second.seq < third.seq);
    assert_eq!(read_all(&engine), [b"1", b"2", b"3"]);
}

#[test]
fn equal_keys_share_a_shard_and_its_order() {
    let dir = folder();
    let engine = Engine::open_with(small(dir.path()), Box::new(forebay::store::Null)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    let shard_of =
        |key: &str| writer.key(key.as_bytes()).append(Block::raw("t", &b"x"[..])).expect("an append").stream.shard;
    for key in ["a", "b", "some longer key", ""] {
        assert_eq!(shard_of(key), shard_of(key), "{key}");
    }
    let shards: std::collections::HashSet<_> = (0..64).map(|key| shard_of(&key.to_string())).collect();
    assert_eq!(shards.len(), 2, "keys are spread over both shards");
}

#[test]
fn nothing_is_taken_after_the_close_and_writers_outlive_the_engine() {
    let dir = folder();
    let engine = Engine::open_with(small(dir.path()), Box::new(forebay::store::Null)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    writer.append(Block::raw("t", &b"x"[..])).expect("an append");
    engine.close().expect("a clean close");
    let Err(Error::Rejected(rejected)) = writer.append(Block::raw("t", &b"y"[..])) else { panic!("closed") };
    assert!(matches!(rejected.why, Why::Closed), "{}", rejected.why);
    assert_eq!(rejected.block.payload(), b"y");
}

#[test]
fn the_log_is_trimmed_and_recycled_when_nobody_needs_it() {
    let dir = folder();
    let engine =
        Engine::open_with(small(dir.path()).wal_level(2).wal_fsync_period_ms(5), Box::new(Null)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    for counter in 0..1500u32 {
        writer.append(Block::raw("t", vec![counter as u8; 100_000])).expect("an append");
    }
    engine.sync().expect("a sync");
    let stats = engine.stats();
    assert!(stats.bytes_written > 140 << 20, "{}", stats.bytes_written);
    assert!(stats.wal_bytes_used <= stats.wal_bytes_max, "{} of {}", stats.wal_bytes_used, stats.wal_bytes_max);
    let files = |shard: &str| std::fs::read_dir(dir.path().join(shard)).expect("a folder").count() as u64;
    let segments = files("shard-0000") + files("shard-0001");
    assert!(segments << 20 <= stats.wal_bytes_max + (32 << 20), "{segments} files of 1 MiB");
    assert!(engine.marks().iter().any(|marks| marks.trimmed > Seq(0)));
}

/// A store that takes nothing for a while.
struct Slow {
    stalled: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<u64>>>,
    progress: Arc<AtomicU64>,
}

impl Store for Slow {
    fn progress(&mut self, _shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        if self.stalled.load(Ordering::Acquire) {
            return Err("stalled".into());
        }
        let mut taken = self.taken.lock().expect("no panic");
        for delivered in unit.by_ref() {
            let payload = delivered?.block;
            taken.push(u64::from_le_bytes(payload.payload()[..8].try_into()?));
        }
        self.progress.store(unit.upto().seq.0, Ordering::Release);
        Ok(())
    }
}

#[test]
fn a_stalled_store_holds_writers_up_within_the_bound_and_goes_on_by_itself() {
    let dir = folder();
    let stalled = Arc::new(AtomicBool::new(true));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let progress = Arc::new(AtomicU64::new(0));
    let store = Slow { stalled: Arc::clone(&stalled), taken: Arc::clone(&taken), progress: Arc::clone(&progress) };
    let config = small(dir.path()).shards(1).wal_bytes_max(12 << 20).buffer_bytes(1 << 20).append_deadline_ms(60_000);
    let engine = Engine::open_with(config, Box::new(store)).expect("opens");
    let done = AtomicU64::new(0);
    let total = 2000u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = engine.writer("n").expect("a writer");
            for counter in 0..total {
                let mut payload = vec![1; 20_000];
                payload[..8].copy_from_slice(&counter.to_le_bytes());
                writer.append(Block::raw("t", payload)).expect("an append");
                done.store(counter + 1, Ordering::Release);
            }
        });
        let began = Instant::now();
        let mut last = (0, Instant::now());
        // Writers come to a standstill at the bound.
        while last.1.elapsed() < Duration::from_millis(500) {
            let now = done.load(Ordering::Acquire);
            if now != last.0 {
                last = (now, Instant::now());
            }
            assert!(began.elapsed() < Duration::from_secs(50), "writers are never held up");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(last.0 < total, "the log is bounded");
        let stats = engine.stats();
        assert!(stats.wal_bytes_used <= stats.wal_bytes_max, "{} of {}", stats.wal_bytes_used, stats.wal_bytes_max);
        stalled.store(false, Ordering::Release);
    });
    assert_eq!(done.load(Ordering::Acquire), total);
    engine.close().expect("a clean close flushes the rest");
    assert_eq!(*taken.lock().expect("no panic"), (0..total).collect::<Vec<_>>(), "each block once, in order");
}

/// Takes 30 MB a second, whatever the CPUs do.
struct Steady;

impl Store for Steady {
    fn progress(&mut self, _shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        let began = Instant::now();
        for delivered in unit.by_ref() {
            delivered?;
        }
        let time = Duration::from_secs_f64(unit.bytes() as f64 / 30e6);
        std::thread::sleep(time.saturating_sub(began.elapsed()));
        Ok(())
    }
}

#[test]
fn writers_come_out_even_with_a_slow_store_before_the_bound_stops_them() {
    const BOUND: u64 = 256 << 20;
    let dir = folder();
    let config = small(dir.path()).shards(1).segment_bytes(4 << 20).buffer_bytes(1 << 20).wal_bytes_max(BOUND);
    let engine = Engine::open_with(config.wal_level(1), Box::new(Steady)).expect("opens");
    let (appended, mut used) = (AtomicU64::new(0), 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (writer, appended) = (engine.writer("n").expect("a writer"), &appended);
            scope.spawn(move || {
                while appended.fetch_add(64 << 10, Ordering::Relaxed) < BOUND + BOUND / 4 {
                    writer.append(Block::raw("t", vec![7; 64 << 10])).expect("an append");
                }
            });
        }
        while appended.load(Ordering::Relaxed) < BOUND + BOUND / 4 {
            used = used.max(engine.stats().wal_bytes_used);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(used > BOUND / 4, "{used} bytes: writers were slowed down too early");
    assert!(used < BOUND / 16 * 15, "{used} bytes: writers were stopped");
    engine.close().expect("closes");
}

#[test]
fn nothing_is_trimmed_between_the_open_and_the_first_subscriber() {
    // A shard's thread trims as soon as it runs, so a hold that comes after it has begun is too late now and
    // then: with many shards, whose threads are started one after another, more often.
    for attempt in 0..20 {
        let dir = folder();
        let config = small(dir.path()).shards(8).cpus(Vec::new()).wal_bytes_max(128 << 20).intake_slots(256);
        let engine = Engine::open_with(config.clone(), Box::new(Hold)).expect("opens");
        for shard in 0..8u8 {
            let writer = engine.writer("n").expect("a writer");
            writer.append(Block::raw("t", vec![shard])).expect("an append");
        }
        engine.close().expect("closes");
        let engine = Engine::open_with(config.hold_for_subscriber(true), Box::new(Null)).expect("opens");
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(read_all(&engine).len(), 8, "attempt {attempt}");
        engine.close().expect("closes");
    }
}

#[test]
fn a_subscription_follows_the_log_and_a_cursor_goes_on_where_it_ended() {
    let dir = folder();
    let config = small(dir.path()).shards(1).hold_for_subscriber(true);
    let engine = Engine::open_with(config, Box::new(forebay::store::Null)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    let numbers = |range: std::ops::Range<u32>| range.map(|number| number.to_le_bytes().to_vec()).collect::<Vec<_>>();
    for number in numbers(0..100) {
        writer.append(Block::raw("t", number)).expect("an append");
    }
    let mut subscription = engine.subscribe(Cursor::start()).expect("a subscription");
    let first: Vec<_> =
        (&mut subscription).take(60).map(|block| block.expect("a block").block.payload().to_vec()).collect();
    assert_eq!(first, numbers(0..60));
    let cursor = subscription.cursor();
    let mut later = engine.subscribe(cursor).expect("a second one");
    drop(subscription);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            (&mut later).take(90).map(|block| block.expect("a block").block.payload().to_vec()).collect::<Vec<_>>()
        });
        for number in numbers(100..150) {
            writer.append(Block::raw("t", number)).expect("an append");
        }
        assert_eq!(reader.join().expect("a reader"), numbers(60..150));
    });
}

#[test]
fn a_cursor_from_the_future_is_rewound_and_one_from_the_past_is_behind() {
    let dir = folder();
    let engine = Engine::open_with(small(dir.path()).shards(1), Box::new(Hold)).expect("opens");
    let receipt = engine.writer("n").expect("a writer").append(Block::raw("t", &b"x"[..])).expect("an append");
    let (epoch, nonce) = (receipt.stream.epoch, receipt.stream.nonce);
    engine.close().expect("a clean close");
    let engine = Engine::open_with(small(dir.path()).shards(1), Box::new(Hold)).expect("opens again");
    engine.writer("n").expect("a writer").append(Block::raw("t", &b"y"[..])).expect("an append");
    // This reader saw five blocks of the first epoch; the log that came back has one.
    let cursor = Cursor { positions: vec![Position { epoch, nonce, seq: Seq(5) }] };
    match engine.subscribe(cursor).err() {
        Some(Error::Rewound { to, .. }) => assert_eq!((to.epoch, to.seq), (epoch, receipt.seq)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_is_refused_by_name_and_salvage_keeps_all_but_what_is_lost() {
    let dir = folder();
    let config = small(dir.path()).shards(1).wal_level(2).wal_fsync_period_ms(0);
    let engine = Engine::open_with(config.clone(), Box::new(Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    // Each alone in a batch of one page, behind the one that says that the ring of before is done with.
    let receipts: Vec<_> =
        (0..100u8).map(|counter| writer.append(Block::raw("t", vec![counter; 100])).expect("an append")).collect();
    engine.close().expect("a clean close");

    let segment = std::fs::OpenOptions::new().write(true).open(dir.path().join("shard-0000/0000000000000001.wal"));
    let segment = segment.expect("the first segment");
    let offset = (SEGMENT_HEADER_BYTES + 40 * PAGE_BYTES + 250) as u64;
    segment.write_all_at(&[0xff; 4], offset).and_then(|()| segment.sync_all()).expect("damaged");
    for _ in 0..2 {
        let refused = Engine::open_with(config.clone(), Box::new(Hold)).err().expect("refused").to_string();
        assert!(refused.contains("WAL damaged: shard 0 segment 1 offset 0x2a000 seq 40..40"), "{refused}");
        assert!(refused.contains("on_damage=salvage"), "{refused}");
    }

    let engine = Engine::open_with(config.clone().on_damage(OnDamage::Salvage), Box::new(Hold)).expect("salvages");
    assert_eq!(engine.report().shards[0].damage.len(), 1);
    assert!(std::fs::read_dir(dir.path().join("quarantine")).expect("a folder").count() > 0);
    engine.close().expect("a clean close");
    let engine = Engine::open_with(config, Box::new(Hold)).expect("opens, and asks nothing more");
    assert!(engine.report().shards[0].damage.is_empty());
    let there: Vec<u8> = read_all(&engine).iter().map(|payload| payload[0]).collect();
    let lost = |counter: &u8| *counter + 1 == 40;
    assert_eq!(there, (0..100).filter(|counter| !lost(counter)).collect::<Vec<_>>());
    for (counter, receipt) in (0..100u8).zip(&receipts) {
        let status = engine.status_of(receipt).expect("known");
        assert_eq!(status == Status::Lost, lost(&counter), "{counter}: {status:?}");
    }
}

#[test]
fn what_is_sound_behind_a_damaged_beginning_of_a_segment_is_read_back() {
    let config = |dir: &std::path::Path| small(dir).shards(1).wal_level(2).wal_fsync_period_ms(0);
    // Its first batch alone, and its first two; of the second segment, and of the log's first. The first
    // segment ends with room left, so that the second one's damage counts from there.
    for (segment, pages) in [(2, 1), (2, 30), (1, 1), (1, 30)] {
        let dir = folder();
        let engine = Engine::open_with(config(dir.path()), Box::new(Hold)).expect("opens");
        let writer = engine.writer("n").expect("a writer");
        for counter in 0..30u8 {
            writer.append(Block::raw("t", vec![counter; 80_000])).expect("an append");
        }
        engine.close().expect("a clean close");
        let path = dir.path().join(format!("shard-0000/{segment:016x}.wal"));
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("a segment");
        for page in 0..pages {
            let at = (SEGMENT_HEADER_BYTES + page * PAGE_BYTES + 250) as u64;
            file.write_all_at(&[0xfe; 4], at).expect("damaged");
        }
        file.sync_all().expect("damaged");
        let engine =
            Engine::open_with(config(dir.path()).on_damage(OnDamage::Salvage), Box::new(Hold)).expect("salvages");
        let there = |engine: &Engine| read_all(engine).iter().map(|payload| payload[0]).collect::<Vec<u8>>();
        let kept = there(&engine);
        assert!(kept.len() >= 26 && kept.len() < 30 + usize::from(segment == 1), "segment {segment}: {kept:?}");
        assert!(kept.windows(2).all(|two| two[0] < two[1]), "{kept:?}");
        engine.close().expect("a clean close");
        let engine = Engine::open_with(config(dir.path()), Box::new(Hold)).expect("opens");
        assert_eq!(there(&engine), kept);
    }
}
