//! The ring over real memory: threads, a full ring, closing, futures, and what a kill leaves.

use std::sync::atomic::AtomicUsize;
use std::task::{Wake as TaskWake, Waker};
use std::thread;
use std::time::Duration;

use super::*;
use crate::io::buf::AlignedBuf;
use crate::shard::consumer::{Consumer, WakeOn};
use crate::types::{BlockKind, Epoch, FileId, Generation, Nonce, SegmentNo, ShardId, StoreId, Stream};
use crate::wal::batch::{BatchBuilder, Begin, Place, Push};
use crate::wal::entry::{Entry, EntryKind, decode_entry};
use crate::wal::intake::RingHeader;
use crate::wal::ring::{Expect, LastLog, RingImage, RingVerdict, What, recover_ring};

const UNITS: u64 = 1024;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl TaskWake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn header() -> RingHeader {
    RingHeader {
        store: StoreId([7; 16]),
        shard: ShardId(3),
        boot: [9; 16],
        epoch: Epoch(4),
        nonce: Nonce(5),
        first_seq: Seq(100),
        slots: 64,
        bytes: UNITS * 64,
    }
}

fn ring() -> (Arc<Ring>, Consumer, Arc<Count>) {
    let count = Arc::new(Count::default());
    let (ring, consumer) = Ring::over(Region::heap(&header()), Arc::clone(&count) as Arc<dyn Wake>, false);
    (ring, consumer, count)
}

fn entry_of(writer: u32, number: u32, len: usize) -> (EncodedEntry, Vec<u8>) {
    let entry = Entry {
        kind: EntryKind::Own,
        block_kind: BlockKind::Raw,
        namespace: "n",
        table: "t",
        length: len as u32,
        received_at_ns: i64::from(writer) << 32 | i64::from(number),
        rows: 1,
        payload_crc: 0,
        identity: None,
    };
    (entry.encode(), (0..len).map(|at| (at as u32 * 7 + writer * 3 + number) as u8).collect())
}

fn in_an_hour() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Writer and number of a block; `None` for a void. Checks its bytes.
fn check(header: &[u8], payload: &[u8]) -> Option<(u32, u32)> {
    let entry = decode_entry(header).expect("a whole header");
    assert_eq!(crc32fast::hash(payload), entry.payload_crc);
    (entry.kind == EntryKind::Own).then(|| {
        let (writer, number) = ((entry.received_at_ns >> 32) as u32, entry.received_at_ns as u32);
        assert!(payload == entry_of(writer, number, payload.len()).1, "the bytes of {writer} {number}");
        (writer, number)
    })
}

fn drain_and_free(consumer: &mut Consumer) -> Vec<Option<(u32, u32)>> {
    let from = consumer.drained().0 + 1;
    let upto = consumer.look().published;
    consumer.skip(upto);
    let blocks =
        (from..=upto.0).map(|seq| consumer.entry(Seq(seq)).expect("there")).map(|(h, p)| check(h, p)).collect();
    consumer.free(upto);
    blocks
}

/// Fills the ring with one block, leaving so many units.
fn fill_but(ring: &Ring, units: u64) {
    let (mut entry, payload) = entry_of(0, 0, ((UNITS - units) * 64) as usize - 26);
    ring.try_publish(&mut entry, &payload).expect("room");
}

fn count_in_order(consumer: &mut Consumer, writers: u32, blocks: u32) {
    let mut next = vec![0; writers as usize];
    let mut total = 0;
    while total < writers * blocks {
        for block in drain_and_free(consumer) {
            let (writer, number) = block.expect("no void");
            assert_eq!(number, next[writer as usize], "in the writer's order, none twice, none missing");
            next[writer as usize] += 1;
            total += 1;
        }
        thread::yield_now();
    }
}

#[test]
fn every_block_of_many_writers_is_drained_once_in_order_over_many_laps() {
    let (writers, blocks) = if cfg!(miri) { (3, 40) } else { (8, 5000) };
    let count = Arc::new(Count::default());
    let (ring, mut consumer) = if cfg!(miri) {
        Ring::over(Region::heap(&header()), count, false)
    } else {
        Ring::in_memory(&header(), count).expect("a ring")
    };
    thread::scope(|scope| {
        for writer in 0..writers {
            let ring = &ring;
            scope.spawn(move || {
                for number in 0..blocks {
                    let len = [0, 38, 128, 700, 3000, 20_000][(number + writer) as usize % 6];
                    let (mut entry, payload) = entry_of(writer, number, len);
                    ring.publish_by(&mut entry, &payload, in_an_hour()).expect("room in time");
                }
            });
        }
        count_in_order(&mut consumer, writers, blocks);
    });
    assert_eq!(ring.last_given(), Seq(99 + u64::from(writers * blocks)));
    assert_eq!(consumer.unpublished(), 0);
}

#[test]
fn a_batch_takes_entries_from_the_ring_up_to_its_own_bound() {
    let (ring, mut consumer, _) = ring();
    for number in 0..10 {
        let (mut entry, payload) = entry_of(1, number, 900);
        ring.try_publish(&mut entry, &payload).expect("room");
    }
    let place = Place {
        store: StoreId([7; 16]),
        shard: ShardId(3),
        segment: SegmentNo(1),
        file_id: FileId(1),
        generation: Generation(1),
        epoch: Epoch(4),
        offset: 8192,
    };
    let own = Stream { origin: place.store, shard: place.shard, epoch: place.epoch, nonce: Nonce(5) };
    let begin = |first_seq| Begin {
        place,
        own,
        first_seq,
        soft_bytes: 8192,
        hard_bytes: 65536,
        ends: std::collections::HashMap::default(),
        vector: Vec::new(),
    };
    let upto = consumer.look().published;
    let mut batch = BatchBuilder::new(begin(Seq(100)), AlignedBuf::new(65536));
    assert_eq!(consumer.drain(&mut batch, upto), Push::BatchFull);
    assert_eq!((consumer.drained().next(), batch.entries()), (batch.next_seq(), 8));
    assert_eq!(consumer.look().bytes, 2 * 926);
    let mut rest = BatchBuilder::new(begin(batch.next_seq()), AlignedBuf::new(65536));
    assert_eq!(consumer.drain(&mut rest, upto), Push::Taken);
    assert_eq!((consumer.drained(), rest.entries()), (Seq(109), 2));
}

#[test]
fn room_is_the_rings_and_comes_back_when_it_is_freed() {
    let (ring, mut consumer, _) = ring();
    let (mut entry, payload) = entry_of(1, 1, UNITS as usize * 64);
    assert!(matches!(ring.try_publish(&mut entry, &payload), Err(Refused::TooLarge)));
    fill_but(&ring, 1);
    let (mut small, payload) = entry_of(1, 2, 39);
    assert!(matches!(ring.try_publish(&mut small, &payload), Err(Refused::Full)));
    let (mut fitting, payload) = entry_of(1, 3, 38);
    ring.try_publish(&mut fitting, &payload).expect("one unit");
    assert!(consumer.look().quarter_full);
    assert_eq!(drain_and_free(&mut consumer).len(), 2);
    for number in 0..64 {
        let (mut entry, payload) = entry_of(1, number, 0);
        ring.try_publish(&mut entry, &payload).expect("a slot");
    }
    assert!(matches!(ring.try_publish(&mut small, &[]), Err(Refused::Full)), "no slot");
}

#[test]
fn a_deadline_at_a_full_ring_passes_and_leaves_no_trace() {
    let (ring, mut consumer, _) = ring();
    fill_but(&ring, 1);
    let (mut entry, payload) = entry_of(1, 0, 100);
    let before = Instant::now();
    let refused = ring.publish_by(&mut entry, &payload, before + Duration::from_millis(30));
    assert!(matches!(refused, Err(Refused::Deadline)) && before.elapsed() >= Duration::from_millis(30));
    assert!(
        matches!(ring.try_publish(&mut entry_of(1, 1, 1).0, &[0]), Err(Refused::Full)),
        "full until a quarter is free"
    );
    assert_eq!(drain_and_free(&mut consumer), [Some((0, 0))]);
    ring.try_publish(&mut entry, &payload).expect("open again");
    assert_eq!(drain_and_free(&mut consumer), [Some((1, 0))]);
}

#[test]
fn the_line_is_served_in_its_order_and_nobody_overtakes_it() {
    let (ring, mut consumer, shard) = ring();
    // Three blocks of 300 units; the ring has 124 left.
    for number in 0..3 {
        let (mut entry, payload) = entry_of(0, number, 300 * 64 - 26);
        ring.try_publish(&mut entry, &payload).expect("room");
    }
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let (mut large, large_bytes) = entry_of(1, 0, 500 * 64);
    let (mut small, small_bytes) = entry_of(2, 0, 10);
    let mut first = ring.queue_ticket(in_an_hour());
    let mut second = ring.queue_ticket(in_an_hour());
    assert!(first.poll(&mut cx, &mut large, &large_bytes).is_pending());
    assert!(second.poll(&mut cx, &mut small, &small_bytes).is_pending(), "it would fit, and waits behind");
    assert_eq!(shard.take(), 2, "the shard learns of deadlines");
    consumer.look();
    consumer.skip(Seq(102));
    consumer.free(Seq(100));
    assert!(first.poll(&mut cx, &mut large, &large_bytes).is_pending() && count.take() == 0, "it does not fit yet");
    consumer.free(Seq(101));
    assert_eq!(count.take(), 2, "both are served");
    assert!(matches!(second.poll(&mut cx, &mut small, &small_bytes), Poll::Ready(Ok(Seq(103)))));
    assert!(matches!(first.poll(&mut cx, &mut large, &large_bytes), Poll::Ready(Ok(Seq(104)))));
    consumer.free(Seq(102));
    assert_eq!(drain_and_free(&mut consumer), [Some((2, 0)), Some((1, 0))]);
    ring.try_publish(&mut small, &small_bytes).expect("open again");
}

#[test]
fn a_future_that_leaves_lets_the_next_one_in_and_its_grant_becomes_a_void() {
    let (ring, mut consumer, _) = ring();
    fill_but(&ring, 1);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let (mut entry, payload) = entry_of(1, 0, 1000);
    let mut tickets: Vec<_> = (0..3).map(|_| ring.queue_ticket(in_an_hour())).collect();
    for ticket in &mut tickets {
        assert!(ticket.poll(&mut cx, &mut entry, &payload).is_pending());
    }
    tickets.remove(1);
    assert_eq!(drain_and_free(&mut consumer), [Some((0, 0))]);
    assert_eq!(count.take(), 2);
    tickets.remove(0);
    assert!(tickets[0].poll(&mut cx, &mut entry, &payload).is_ready());
    assert_eq!(drain_and_free(&mut consumer), [None, Some((1, 0))]);
}

#[test]
fn a_grant_that_is_not_used_is_taken_back_and_a_futures_deadline_passes() {
    let (ring, mut consumer, _) = ring();
    fill_but(&ring, 1);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let (mut entry, payload) = entry_of(1, 0, 1000);
    let now = Instant::now();
    let mut hasty = ring.queue_ticket(now + Duration::from_secs(5));
    let mut lazy = ring.queue_ticket(in_an_hour());
    assert!(hasty.poll(&mut cx, &mut entry, &payload).is_pending());
    assert!(lazy.poll(&mut cx, &mut entry, &payload).is_pending());
    assert_eq!(consumer.tick(now), Some(now + Duration::from_secs(5)));
    consumer.tick(now + Duration::from_secs(5));
    assert_eq!(count.take(), 1);
    assert!(matches!(hasty.poll(&mut cx, &mut entry, &payload), Poll::Ready(Err(Refused::Deadline))));
    assert_eq!(drain_and_free(&mut consumer), [Some((0, 0))]);
    assert_eq!((count.take(), consumer.unpublished()), (1, 1), "granted and not used");
    assert_eq!(consumer.tick(Instant::now() + Duration::from_secs(1)), None);
    assert_eq!((count.take(), consumer.look().unpublished), (1, false));
    assert_eq!(drain_and_free(&mut consumer), [None]);
    assert!(matches!(lazy.poll(&mut cx, &mut entry, &payload), Poll::Ready(Ok(_))), "it may join again");
}

#[test]
fn nothing_is_claimed_in_a_closed_ring_and_only_a_full_store_opens_it_again() {
    let (ring, mut consumer, _) = ring();
    let (mut entry, payload) = entry_of(1, 0, 1000);
    fill_but(&ring, 1);
    thread::scope(|scope| {
        let waits = scope.spawn(|| ring.publish_by(&mut entry.clone(), &payload, in_an_hour()));
        while !matches!(ring.counters.state(), crate::shard::claim::State::Full) {
            thread::yield_now();
        }
        ring.close(Closed::StoreFull);
        assert_eq!(drain_and_free(&mut consumer).len(), 1, "what was claimed before is handled");
        let mut other = entry.clone();
        assert!(matches!(ring.try_publish(&mut other, &payload), Err(Refused::Closed(Closed::StoreFull))));
        let soon = Instant::now() + Duration::from_millis(20);
        let hasty = ring.publish_by(&mut other, &payload, soon);
        assert!(matches!(hasty, Err(Refused::Closed(Closed::StoreFull))), "{hasty:?}");
        assert!(!waits.is_finished(), "room alone serves nobody while the store is full");
        ring.reopen();
        waits.join().expect("no panic").expect("served when it opens again");
    });
    ring.try_publish(&mut entry, &payload).expect("open again");
    ring.close(Closed::Closing);
    ring.close(Closed::StoreFull);
    ring.reopen();
    assert!(matches!(ring.closed(), Some(Closed::Closing)));
    assert!(matches!(ring.publish_by(&mut entry, &payload, in_an_hour()), Err(Refused::Closed(Closed::Closing))));
}

#[test]
fn a_fenced_ring_takes_what_is_carried_and_nothing_of_clients() {
    let (ring, mut consumer, _) = ring();
    let fenced = |refused| matches!(refused, Err(Refused::Closed(Closed::NotActive(NotActive::Standby))));
    let (mut entry, payload) = entry_of(1, 0, 1000);
    entry.set_payload_crc(crc32fast::hash(&payload));
    fill_but(&ring, 1);
    let mut cx = Context::from_waker(Waker::noop());
    let mut place = ring.queue_ticket_of_carried(in_an_hour());
    assert!(place.poll(&mut cx, &mut entry, &payload).is_pending(), "there is no room");
    thread::scope(|scope| {
        let waits = scope.spawn(|| ring.publish_by(&mut entry.clone(), &payload, in_an_hour()));
        while !ring.queue.has_a_line_of(2) {
            thread::yield_now();
        }
        ring.fence(Some(NotActive::Standby));
        assert!(fenced(waits.join().expect("no panic")), "a client that waits is refused");
    });
    assert_eq!(drain_and_free(&mut consumer).len(), 1);
    assert!(place.poll(&mut cx, &mut entry, &payload).is_ready(), "what is carried goes on waiting, and is taken");
    for _ in 0..100 {
        let mut place = ring.queue_ticket_of_carried(in_an_hour());
        assert!(place.poll(&mut cx, &mut entry, &payload).is_ready());
        assert!(ring.try_publish_carried(&mut entry, &payload).is_some(), "without a place in line");
        assert!(fenced(ring.try_publish(&mut entry.clone(), &payload)));
        assert!(fenced(ring.publish_by(&mut entry.clone(), &payload, in_an_hour())));
        drain_and_free(&mut consumer);
    }
    ring.close(Closed::StoreFull);
    assert_eq!(ring.try_publish_carried(&mut entry, &payload), None);
    let mut place = ring.queue_ticket_of_carried(in_an_hour());
    assert!(place.poll(&mut cx, &mut entry, &payload).is_pending(), "a full store takes nothing of anybody");
    ring.reopen();
    assert!(place.poll(&mut cx, &mut entry, &payload).is_ready());
    ring.fence(None);
    ring.try_publish(&mut entry, &payload).expect("taken again");
}

#[test]
fn a_dropped_claim_is_a_void_and_its_room_comes_back() {
    let (ring, mut consumer, _) = ring();
    for _ in 0..5 {
        assert!(ring.claim_and_drop(1000));
        assert_eq!(drain_and_free(&mut consumer), [None]);
    }
}

#[test]
fn the_shard_is_woken_for_what_it_asked_and_never_while_it_is_awake() {
    let (ring, mut consumer, wakes) = ring();
    let publish = |len| {
        let (mut entry, payload) = entry_of(1, 0, len);
        ring.try_publish(&mut entry, &payload).expect("room");
    };
    publish(10);
    assert_eq!(wakes.take(), 0);
    assert!(!consumer.prepare_sleep(WakeOn::Publication), "there is news");
    assert!(consumer.prepare_sleep(WakeOn::Publication), "it is known now");
    publish(10);
    publish(10);
    assert_eq!(wakes.take(), 1, "one call for one sleep");
    consumer.awake();
    drain_and_free(&mut consumer);
    assert!(consumer.prepare_sleep(WakeOn::Quarter));
    publish(100 * 64);
    assert_eq!(wakes.take(), 0, "less than a quarter");
    publish(156 * 64);
    publish(10);
    assert_eq!(wakes.take(), 1, "a quarter");
    consumer.awake();
    assert!(consumer.look().quarter_full && consumer.prepare_sleep(WakeOn::Quarter));
    publish(10);
    assert_eq!(wakes.take(), 0, "the shard knows");
}

#[test]
fn who_publishes_behind_an_unfinished_publication_does_not_wake_the_shard_in_vain() {
    let (ring, mut consumer, wakes) = ring();
    consumer.look();
    assert!(consumer.prepare_sleep(WakeOn::Publication));
    // A writer is stopped between taking its seq and filling the slot.
    let claimed = ring.counters.try_claim(1).expect("room");
    let seq = Seq(ring.next_seq.fetch_add(1, Ordering::SeqCst));
    for number in 0..5 {
        let (mut entry, payload) = entry_of(1, number, 10);
        ring.try_publish(&mut entry, &payload).expect("room");
    }
    assert_eq!(wakes.take(), 0, "the shard could do nothing");
    let void = void_entry();
    let slot = Ring::slot(&claimed, 0, void.bytes().len(), crc32fast::hash(void.bytes()), crc32fast::hash(&[]));
    ring.region.fill(seq, slot.words(), slot_checksum(slot.premix(ring.region.seed()), seq));
    ring.wake_if(Word(ring.asleep.load(Ordering::SeqCst)), seq);
    assert_eq!(wakes.take(), 1, "the one that was missing");
    assert_eq!(consumer.look().published, seq.next().next().next().next().next());
}

/// With a file, which miri does not map.
#[test]
#[cfg(not(miri))]
fn what_was_published_is_in_the_file_and_is_replayed_after_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("intake.ring");
    let (ring, mut consumer) = Ring::create(&path, &header(), Arc::new(Count::default())).expect("a ring");
    if !ring.is_shared_file() {
        return; // The folder for temporary files is on a file system that is not trusted.
    }
    let mut publish = |number: u32| {
        let (mut entry, payload) = entry_of(1, number, 700 * (number as usize % 9));
        ring.try_publish(&mut entry, &payload).expect("room");
    };
    for number in 0..150 {
        publish(number);
        drain_and_free(&mut consumer);
    }
    (150..160).for_each(&mut publish);
    assert!(ring.claim_and_drop(3));
    let last_log = LastLog {
        epoch: Epoch(4),
        nonce: Nonce(5),
        boot: [9; 16],
        seq: Seq(249),
        intake_done: Epoch(3),
        sealed: false,
        lost_to_damage: false,
    };
    let expect = Expect { store: StoreId([7; 16]), shard: ShardId(3), boot: [9; 16], last_log };
    // The mapping still stands: nothing was flushed, synced or closed.
    let bytes = std::fs::read(&path).expect("the file");
    let RingVerdict::Replay { header, entries, cut: None, .. } = recover_ring(&RingImage(Some(&bytes)), &expect) else {
        panic!("a ring to replay")
    };
    assert_eq!(entries.len(), 11);
    for (index, entry) in entries[..10].iter().enumerate() {
        let What::Block(span) = entry.what else { panic!("a block") };
        let mut scratch = Vec::new();
        let (head, payload) = RingImage(Some(&bytes)).entry(&header, &span, &mut scratch);
        assert_eq!(check(head, payload), Some((1, 150 + index as u32)));
    }
    assert_eq!(entries[10].what, What::Void);
    // The log lost what had been drained: the room was given back.
    let lost = Expect { last_log: LastLog { seq: Seq(150), ..last_log }, ..expect };
    let RingVerdict::Replay { cut: Some(cut), .. } = recover_ring(&RingImage(Some(&bytes)), &lost) else {
        panic!("cut as by a power cut")
    };
    assert_eq!(cut.by, crate::wal::ring::CutBy::LostLog);
}
