//! Options and IDENTITY. Any set of options is taken or refused, and one that is taken adds up; any text
//! is an IDENTITY or none, and one that is taken can be used and says the same when it is written.

use crate::config::{Config, IoChoice, SyncPolicy};
use crate::engine::identity::Identity;
use crate::fuzz::choices::Choices;
use crate::limits::{SEGMENT_BYTES, SHARDS_MAX};

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    match from.byte() % 4 {
        0 => {
            if let Ok(text) = std::str::from_utf8(from.all()) {
                judge_identity(text);
                judge_io(text);
            }
        }
        1 => options(&mut from),
        way => {
            let mut text = any_identity(&mut from).into_bytes();
            if way == 3 {
                let length = text.len();
                from.rot(&mut text, (0, length));
            }
            if let Ok(text) = std::str::from_utf8(&text) {
                judge_identity(text);
            }
        }
    }
}

fn any_identity(from: &mut Choices<'_>) -> String {
    let store = if from.flag() { "0123456789abcdef0123456789abcdef".to_owned() } else { from.text(40) };
    let identity = Identity {
        format: if from.flag() { 1 } else { from.short() },
        store,
        shards: from.number() as usize,
        segment_bytes: if from.flag() { 1 << (from.byte() % 40) } else { from.number() },
    };
    serde_json::to_string(&identity).expect("plain fields")
}

fn judge_identity(text: &str) {
    let Ok(identity) = Identity::parse(text) else { return };
    let store = identity.store().to_string().replace('-', "");
    assert_eq!(store, identity.store.to_lowercase(), "the store's id is what the text says");
    assert!((1..=SHARDS_MAX).contains(&identity.shards) && SEGMENT_BYTES.contains(&identity.segment_bytes));
    let again = serde_json::to_string(&identity).expect("plain fields");
    assert_eq!(Identity::parse(&again).ok(), Some(identity), "what is read can be written");
}

fn judge_io(text: &str) {
    if let Ok(io) = text.parse::<IoChoice>() {
        assert_eq!(io.to_string(), text);
    }
}

fn options(from: &mut Choices<'_>) {
    /// A number that may be a sound one for an option of this size.
    fn size(from: &mut Choices<'_>) -> u64 {
        match from.byte() % 4 {
            0 | 1 => 1 << (from.byte() % 64),
            2 => u64::from(from.word()),
            _ => from.number(),
        }
    }
    let mut config = Config::new("x").shards(1 + usize::from(from.byte() % 4));
    let asked = from.short();
    let is_asked = |option: u16| asked >> option & 1 == 1;
    if is_asked(0) {
        config = config.wal_level(from.byte() % 4);
    }
    if is_asked(1) {
        config = config.wal_fsync_period_ms(from.number());
    }
    if is_asked(2) {
        config = config.shards(from.number() as usize);
    }
    if is_asked(3) {
        config = config.segment_bytes(size(from));
    }
    if is_asked(4) {
        config = config.block_bytes_max(size(from));
    }
    if is_asked(5) {
        config = config.intake_bytes(size(from));
    }
    if is_asked(6) {
        config = config.intake_slots(size(from));
    }
    if is_asked(7) {
        config = config.batch_bytes_max(size(from));
    }
    if is_asked(8) {
        config = config.wal_bytes_max(size(from));
    }
    if is_asked(9) {
        config = config.append_deadline_ms(size(from)).buffer_bytes(size(from)).flush_period_ms(size(from));
    }
    if is_asked(10) {
        config = config.cpus((0..usize::from(from.short() % 512)).collect());
    }
    match config.check() {
        Err(error) => assert!(error.to_string().len() < 400, "a message has a bound: {error}"),
        Ok(()) => {
            let shards = config.shards_wanted();
            assert!((1..=SHARDS_MAX).contains(&shards));
            assert!(config.segments_max(shards) >= config.segments_least(), "a shard can work");
            assert!(config.log_bytes(shards) <= config.segments_max(shards).saturating_mul(config.segment_bytes));
            assert!(config.largest_batch_bytes() < config.segment_bytes, "the largest block fits a segment");
            let is_periodic = matches!(config.sync_policy(), SyncPolicy::Periodic { ms: 1..=180_000 });
            assert!(is_periodic || config.sync_policy() == SyncPolicy::Each || config.wal_level == 1);
        }
    }
}
