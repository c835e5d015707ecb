//! The ring and the waiters under a model checker that runs them in random interleavings, one after
//! the other: `scripts/model.sh`. A thread that would sleep for ever ends the run as a deadlock. Each
//! planted bug must be found, or the model proves nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use crate::error::NotActive;
use crate::shard::consumer::{Consumer, WakeOn};
use crate::shard::intake::Region;
use crate::shard::ring::{Closed, Refused, Ring, Wake};
use crate::shard::waiters::{Mark, Waited};
use crate::sync::{MUTANT, Mutant};
use crate::types::{BlockKind, Epoch, Nonce, Seq, ShardId, StoreId};
use crate::wal::entry::{EncodedEntry, Entry, EntryKind, decode_entry};
use crate::wal::intake::RingHeader;

const RUNS: usize = 20_000;
const RUNS_TO_FIND_A_BUG: usize = 20_000;

/// A ring of 4 slots and 4 units: one block of three units and the next must wait.
fn header() -> RingHeader {
    RingHeader {
        store: StoreId([1; 16]),
        shard: ShardId(0),
        boot: [2; 16],
        epoch: Epoch(3),
        nonce: Nonce(4),
        first_seq: Seq(10),
        slots: 4,
        bytes: 256,
    }
}

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Bell {
    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn entry_of(writer: u8, number: u8, len: usize) -> (EncodedEntry, Vec<u8>) {
    let entry = Entry {
        kind: EntryKind::Own,
        block_kind: BlockKind::Raw,
        namespace: "",
        table: "",
        length: len as u32,
        received_at_ns: i64::from(writer) << 8 | i64::from(number),
        rows: 1,
        payload_crc: 0,
        identity: None,
    };
    (entry.encode(), vec![writer * 16 + number; len])
}

/// What one entry holds: the writer and number of a block, or `None` for a void. Panics where its
/// bytes are not those that were published.
fn check(header: &[u8], payload: &[u8]) -> Option<(u8, u8)> {
    let entry = decode_entry(header).expect("a whole header");
    assert_eq!(crc32fast::hash(payload), entry.payload_crc, "a whole payload");
    (entry.kind == EntryKind::Own).then_some((entry.received_at_ns as u64 as u16 >> 8) as u8).map(|writer| {
        assert!(payload.iter().all(|&byte| byte == writer * 16 + entry.received_at_ns as u8), "the writer's payload");
        (writer, entry.received_at_ns as u8)
    })
}

/// Drains until the ring is closed and empty; all blocks in order, and how many voids.
fn drain_all(mut consumer: Consumer, bell: &Bell, on: WakeOn) -> (Vec<(u8, u8)>, usize) {
    let (mut blocks, mut voids) = (Vec::new(), 0);
    let ring = Arc::clone(consumer.ring());
    loop {
        let closed = matches!(ring.closed(), Some(Closed::Closing));
        let look = consumer.look();
        if look.published > consumer.drained() {
            let from = consumer.drained().0 + 1;
            consumer.skip(look.published);
            let seen: Vec<_> = (from..=look.published.0)
                .map(|seq| consumer.entry(Seq(seq)).expect("published and not freed"))
                .map(|(header, payload)| check(header, payload))
                .collect();
            // While the batch is written its blocks stay as they are.
            thread::yield_now();
            for (seq, seen) in (from..).zip(&seen) {
                let (header, payload) = consumer.entry(Seq(seq)).expect("not freed");
                assert_eq!(check(header, payload), *seen, "overwritten while it was readable");
            }
            voids += seen.iter().filter(|seen| seen.is_none()).count();
            blocks.extend(seen.into_iter().flatten());
            consumer.free(look.published);
        } else if closed && consumer.unpublished() == 0 {
            return (blocks, voids);
        } else if closed {
            thread::yield_now();
        } else if consumer.prepare_sleep(on) {
            bell.sleep();
            consumer.awake();
        }
    }
}

type Drained = (Vec<(u8, u8)>, usize);

/// A ring, and a shard that drains it.
fn start(on: WakeOn) -> (Arc<Bell>, Arc<Ring>, thread::JoinHandle<Drained>) {
    let bell = Arc::new(Bell::default());
    let (ring, consumer) = Ring::over(Region::heap(&header()), Arc::clone(&bell) as Arc<dyn Wake>, false);
    let wakes = Arc::clone(&bell);
    (bell, ring, thread::spawn(move || drain_all(consumer, &wakes, on)))
}

/// So many writers of two blocks each, which end as the ring is closed for this reason; what was accepted of them.
fn writers_until(
    ring: &Arc<Ring>,
    writers: u8,
    is_end: fn(&Closed) -> bool,
) -> Vec<thread::JoinHandle<Vec<(Seq, (u8, u8))>>> {
    let write = |writer: u8| {
        let ring = Arc::clone(ring);
        thread::spawn(move || {
            let mut accepted = Vec::new();
            for number in 0..2u8 {
                let (mut entry, payload) = entry_of(writer, number, 150);
                let was_closed = ring.closed().is_some();
                match ring.publish_by(&mut entry, &payload, Instant::now() + Duration::from_secs(3600)) {
                    Ok(seq) => {
                        assert!(!was_closed, "accepted after the close");
                        accepted.push((seq, (writer, number)));
                    }
                    Err(Refused::Deadline) => {}
                    Err(Refused::Closed(why)) if is_end(&why) => return accepted,
                    Err(other) => panic!("{other:?}"),
                }
            }
            accepted
        })
    };
    (1..=writers).map(write).collect()
}

/// Writers with deadlines that may pass, one of whom drops a claim; what was accepted is drained.
fn writers_and_shard(on: WakeOn) {
    let (bell, ring, shard) = start(on);
    let writers: Vec<_> = (1..=3u8)
        .map(|writer| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let mut accepted = Vec::new();
                let mut dropped = 0;
                for number in 0..3u8 {
                    if (writer, number) == (2, 1) {
                        dropped += usize::from(ring.claim_and_drop(1));
                        continue;
                    }
                    let (mut entry, payload) = entry_of(writer, number, [10, 150, 60][usize::from(number)]);
                    match ring.publish_by(&mut entry, &payload, Instant::now() + Duration::from_secs(3600)) {
                        Ok(seq) => accepted.push((seq, (writer, number))),
                        Err(Refused::Deadline) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                (accepted, dropped)
            })
        })
        .collect();
    let mut accepted = Vec::new();
    let mut dropped = 0;
    for writer in writers {
        let (mine, voids) = writer.join().unwrap();
        assert!(mine.is_sorted(), "a writer's blocks keep their order");
        accepted.extend(mine);
        dropped += voids;
    }
    ring.close(Closed::Closing);
    bell.wake();
    let (blocks, voids) = shard.join().unwrap();
    accepted.sort_unstable();
    let accepted: Vec<_> = accepted.into_iter().map(|(_, block)| block).collect();
    assert_eq!(blocks, accepted, "each accepted block once, in the order of the seqs");
    assert_eq!(voids, dropped, "a void for each dropped claim, and no other");
}

/// The ring is closed in the middle: nothing that is claimed afterwards, all that was claimed before.
fn close_in_the_middle() {
    let (bell, ring, shard) = start(WakeOn::Publication);
    let writers = writers_until(&ring, 3, |why| matches!(why, Closed::Closing));
    ring.close(Closed::Closing);
    bell.wake();
    let mut accepted: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    accepted.sort_unstable();
    let accepted: Vec<_> = accepted.into_iter().map(|(_, block)| block).collect();
    assert_eq!(shard.join().unwrap(), (accepted, 0));
}

/// The ring is fenced in the middle: no client's block that is claimed afterwards, and all that are carried here.
fn fence_in_the_middle() {
    let (bell, ring, shard) = start(WakeOn::Publication);
    let later = Instant::now() + Duration::from_secs(3600);
    let writers = writers_until(&ring, 2, |why| matches!(why, Closed::NotActive(_)));
    let carrier = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            let mut context = Context::from_waker(Waker::noop());
            (0..2u8)
                .map(|number| {
                    let (mut entry, payload) = entry_of(3, number, 60);
                    entry.set_payload_crc(crc32fast::hash(&payload));
                    if let Some(seq) = ring.try_publish_carried(&mut entry, &payload) {
                        return (seq, (3, number));
                    }
                    let mut place = ring.queue_ticket_of_carried(later);
                    loop {
                        match place.poll(&mut context, &mut entry, &payload) {
                            Poll::Ready(seq) => return (seq.expect("a carried block is taken"), (3, number)),
                            Poll::Pending => thread::yield_now(),
                        }
                    }
                })
                .collect::<Vec<_>>()
        })
    };
    ring.fence(Some(NotActive::Standby));
    let mut accepted: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    accepted.extend(carrier.join().unwrap());
    ring.fence(None);
    let (mut entry, payload) = entry_of(1, 3, 10);
    match ring.publish_by(&mut entry, &payload, later) {
        Ok(seq) => accepted.push((seq, (1, 3))),
        Err(Refused::Deadline) => {}
        Err(other) => panic!("the fence is over: {other:?}"),
    }
    ring.close(Closed::Closing);
    bell.wake();
    accepted.sort_unstable();
    let accepted: Vec<_> = accepted.into_iter().map(|(_, block)| block).collect();
    assert_eq!(shard.join().unwrap(), (accepted, 0));
}

fn mark_and_waiters() {
    let mark = Arc::new(Mark::new(Seq(0)));
    let waiters: Vec<_> = [1, 31, 32, 40, 41 + 2048]
        .map(|seq| {
            let mark = Arc::clone(&mark);
            thread::spawn(move || {
                let waited = mark.wait(Seq(seq), None);
                assert_eq!(waited, if seq <= 40 { Waited::Reached } else { Waited::Failed });
                assert!(seq > 40 || mark.at() >= Seq(seq));
            })
        })
        .into();
    for to in [31, 33, 40] {
        mark.advance(Seq(to));
    }
    mark.fail();
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

fn runs(body: impl Fn() + Send + Sync + 'static, runs: usize) {
    MUTANT.set(Mutant::Sound);
    shuttle::check_random(body, runs);
}

#[test]
fn model_each_accepted_block_is_drained_once_and_nobody_sleeps_for_ever() {
    runs(|| writers_and_shard(WakeOn::Publication), RUNS);
}

#[test]
fn model_close_lets_nothing_in_and_loses_nothing() {
    runs(close_in_the_middle, RUNS);
}

#[test]
fn model_a_fence_lets_no_client_in_and_all_that_is_carried() {
    runs(fence_in_the_middle, RUNS);
}

#[test]
fn model_a_mark_wakes_all_whom_it_passes() {
    runs(mark_and_waiters, RUNS);
}

/// Who had claimed before the shard asked may publish without a wake: it has a timer beside it.
#[test]
fn model_a_quarter_wakes_the_shard() {
    let body = || {
        let bell = Arc::new(Bell::default());
        let (ring, mut consumer) = Ring::over(Region::heap(&header()), Arc::clone(&bell) as Arc<dyn Wake>, false);
        let writers: Vec<_> = (1..=2u8)
            .map(|writer| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let (mut entry, payload) = entry_of(writer, 0, 10);
                    ring.try_publish(&mut entry, &payload).expect("room for both");
                })
            })
            .collect();
        let news = consumer.look().quarter_full || !consumer.prepare_sleep(WakeOn::Quarter);
        let claimed_before = consumer.unpublished() > 0;
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(news || claimed_before || *bell.rung.lock().unwrap(), "a quarter waits and nobody said so");
    };
    runs(body, RUNS);
}

#[test]
fn model_finds_each_planted_bug() {
    let writers: fn() = || writers_and_shard(WakeOn::Publication);
    for (mutant, scene) in [
        (Mutant::PublishedBeforeTheCopy, writers),
        (Mutant::NoFence, writers),
        (Mutant::NoSecondLook, writers),
        (Mutant::NoVoid, writers),
        (Mutant::NoLookInLine, writers),
        (Mutant::FreedWhileReadable, writers),
        (Mutant::NoFenceInLine, fence_in_the_middle),
    ] {
        let found = catch_unwind(AssertUnwindSafe(|| {
            MUTANT.set(mutant);
            shuttle::check_random(scene, RUNS_TO_FIND_A_BUG);
        }));
        MUTANT.set(Mutant::Sound);
        assert!(found.is_err(), "{mutant:?} was not found");
    }
}
