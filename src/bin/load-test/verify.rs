//! The proof after a run: every acknowledged block is there once, byte for byte, in its writer's
//! order, and nothing that was never submitted. A block that was submitted but not acknowledged may
//! or may not be there.
//!
//! Kept for it: three numbers per writer for raw blocks, a hash per block for blocks of lines.

use std::collections::HashMap;

use forebay::Block;

use crate::columns::Compared;
use crate::workload::{hash_of, identity_of, marked_payload};

/// Problems that are told in full; more are only counted.
const PROBLEMS_TOLD: usize = 10;

/// What one writer did.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Blocks that it submitted.
    pub submitted: u64,
    /// The first so many of them were acknowledged.
    pub acked: u64,
    /// The hash of each block submitted, where blocks bear no identity.
    pub hashes: Vec<u64>,
}

/// What came of a proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged blocks that are there as they should be.
    pub verified: u64,
    /// Acknowledged blocks that are not there.
    pub lost: u64,
    /// Everything else that is wrong: twice, out of order, changed, never submitted.
    pub wrong: u64,
    /// The first few of all these, in words.
    pub problems: Vec<String>,
    /// Rows of acknowledged blocks that are in data files, where those are what was proven.
    pub rows: Option<u64>,
    /// Columns of the input and of the data files, side by side.
    pub columns: Vec<Compared>,
}

impl Verdict {
    /// Whether all is as it should be.
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.wrong == 0
    }

    /// Counts something wrong.
    pub fn problem(&mut self, text: impl FnOnce() -> String) {
        self.wrong += 1;
        self.tell(text);
    }

    /// Says why, the first few times.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.problems.len() < PROBLEMS_TOLD {
            self.problems.push(text());
        }
    }
}

/// Compares what is read back with what was written.
pub struct Verifier<'a> {
    run: u64,
    ledgers: &'a [Ledger],
    /// The store was new: whatever is in it must be of this run.
    new_store: bool,
    /// The next counter that may come from each writer.
    next: Vec<u64>,
    /// Where each hash stands: writer and counter, in order; and how many of them were seen.
    by_hash: HashMap<u64, (Vec<(u32, u64)>, usize)>,
    verdict: Verdict,
}

impl<'a> Verifier<'a> {
    /// For blocks that bear their identity, or (where ledgers have hashes) for blocks of lines.
    pub fn new(run: u64, ledgers: &'a [Ledger], new_store: bool) -> Self {
        let mut by_hash: HashMap<u64, (Vec<(u32, u64)>, usize)> = HashMap::new();
        for (writer, ledger) in ledgers.iter().enumerate() {
            for (counter, &hash) in ledger.hashes.iter().enumerate() {
                by_hash.entry(hash).or_default().0.push((writer as u32, counter as u64));
            }
        }
        Self { run, ledgers, new_store, next: vec![0; ledgers.len()], by_hash, verdict: Verdict::default() }
    }

    /// Takes the next block of the store.
    pub fn see(&mut self, block: &Block) {
        if self.by_hash.is_empty() { self.see_marked(block) } else { self.see_lines(block) }
    }

    fn see_marked(&mut self, block: &Block) {
        let payload = block.payload();
        let (run, writer, counter) = match identity_of(payload) {
            Some(identity) if identity.0 == self.run => identity,
            _ if !self.new_store => return,
            Some((run, ..)) => return self.verdict.problem(|| format!("a block of another run, {run:x}")),
            None => return self.verdict.problem(|| format!("a block of {} bytes of nobody", payload.len())),
        };
        let Some(ledger) = self.ledgers.get(writer as usize).filter(|ledger| counter < ledger.submitted) else {
            return self.verdict.problem(|| format!("block {counter} of writer {writer} was never submitted"));
        };
        if payload != marked_payload(run, writer, counter, payload.len()) {
            return self.verdict.problem(|| format!("block {counter} of writer {writer} has other bytes"));
        }
        self.in_order(writer, counter, ledger.acked);
    }

    fn in_order(&mut self, writer: u32, counter: u64, acked: u64) {
        let next = self.next[writer as usize];
        if counter < next {
            return self.verdict.problem(|| format!("block {counter} of writer {writer} twice or behind {}", next - 1));
        }
        self.miss(writer, next, counter.min(acked));
        self.verdict.verified += u64::from(counter < acked);
        self.next[writer as usize] = counter + 1;
    }

    fn see_lines(&mut self, block: &Block) {
        let Some((places, seen)) = self.by_hash.get_mut(&hash_of(block.payload())) else {
            if self.new_store {
                self.verdict.problem(|| format!("a block of {} rows was never submitted", block.rows()));
            }
            return;
        };
        *seen += 1;
        // Only a text that is there once has a place of its own.
        if let [(writer, counter)] = places[..] {
            self.in_order(writer, counter, self.ledgers[writer as usize].acked);
        }
    }

    fn miss(&mut self, writer: u32, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // Texts that stand at several places are counted at the end.
        let of_many = |counter: &u64| {
            let hash = self.ledgers[writer as usize].hashes.get(*counter as usize);
            hash.is_some_and(|hash| self.by_hash[hash].0.len() > 1)
        };
        let missing: Vec<u64> = (from..to).filter(|counter| !of_many(counter)).collect();
        self.verdict.lost += missing.len() as u64;
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            self.verdict.tell(|| format!("blocks {first}..={last} of writer {writer} are missing"));
        }
    }

    /// The verdict, once the whole store was seen.
    pub fn finish(mut self) -> Verdict {
        for (writer, ledger) in self.ledgers.iter().enumerate() {
            self.miss(writer as u32, self.next[writer], ledger.acked);
        }
        for (places, seen) in self.by_hash.values().filter(|(places, _)| places.len() > 1) {
            let acked = places.iter().filter(|(writer, at)| *at < self.ledgers[*writer as usize].acked).count();
            self.verdict.verified += acked.min(*seen) as u64;
            self.verdict.lost += acked.saturating_sub(*seen) as u64;
            if *seen > places.len() {
                self.verdict.problem(|| format!("a block submitted {} times is there {seen} times", places.len()));
            } else if *seen < acked {
                self.verdict.tell(|| format!("a block acknowledged {acked} times is there {seen} times"));
            }
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 42;

    fn raw(writer: u32, counter: u64) -> Block {
        Block::raw("blobs", marked_payload(RUN, writer, counter, 64))
    }

    fn verdict(ledgers: &[Ledger], blocks: &[Block]) -> (u64, u64, u64) {
        let mut verifier = Verifier::new(RUN, ledgers, true);
        blocks.iter().for_each(|block| verifier.see(block));
        let verdict = verifier.finish();
        assert_eq!(verdict.holds(), verdict.problems.is_empty(), "{verdict:?}");
        (verdict.verified, verdict.lost, verdict.wrong)
    }

    #[test]
    fn raw_blocks_must_be_there_once_in_order_and_unchanged() {
        let ledgers = [Ledger { submitted: 3, acked: 2, hashes: vec![] }, Ledger::default()];
        let all = [raw(0, 0), raw(0, 1), raw(0, 2)];
        assert_eq!(verdict(&ledgers, &all), (2, 0, 0));
        assert_eq!(verdict(&ledgers, &all[..2]), (2, 0, 0), "what was not acknowledged may be missing");
        assert_eq!(verdict(&ledgers, &all[..1]), (1, 1, 0));
        assert_eq!(verdict(&ledgers, &all[1..]), (1, 1, 0));
        assert_eq!(verdict(&ledgers, &[]), (0, 2, 0));
        assert_eq!(verdict(&ledgers, &[raw(0, 0), raw(0, 0), raw(0, 1)]), (2, 0, 1));
        assert_eq!(verdict(&ledgers, &[raw(0, 1), raw(0, 0)]), (1, 1, 1));
        assert_eq!(verdict(&ledgers, &[raw(0, 0), raw(0, 1), raw(0, 3)]), (2, 0, 1));
        assert_eq!(verdict(&ledgers, &[raw(0, 0), raw(0, 1), raw(1, 0)]), (2, 0, 1));
        assert_eq!(verdict(&ledgers, &[raw(0, 0), raw(0, 1), Block::raw("t", "x")]), (2, 0, 1));
        let mut changed = marked_payload(RUN, 0, 1, 64);
        changed[60] ^= 1;
        assert_eq!(verdict(&ledgers, &[raw(0, 0), Block::raw("blobs", changed)]), (1, 1, 1));
    }

    #[test]
    fn an_older_store_may_hold_other_blocks() {
        let ledgers = [Ledger { submitted: 1, acked: 1, hashes: vec![] }];
        let mut verifier = Verifier::new(RUN, &ledgers, false);
        verifier.see(&Block::raw("t", "somebody's"));
        verifier.see(&raw(0, 0));
        assert_eq!(verifier.finish(), Verdict { verified: 1, ..Verdict::default() });
    }

    #[test]
    fn blocks_of_lines_are_told_by_their_text() {
        let block = |text: &'static str| Block::lines(text).expect("sound");
        let hash = |text: &str| hash_of(text.as_bytes());
        let (a, b, c) = ("m f=1 1\n", "m f=2 2\n", "m f=3 3\n");
        let ledgers = [
            Ledger { submitted: 3, acked: 3, hashes: vec![hash(a), hash(b), hash(c)] },
            Ledger { submitted: 2, acked: 1, hashes: vec![hash(c), hash(c)] },
        ];
        let all = [block(a), block(b), block(c), block(c)];
        assert_eq!(verdict(&ledgers, &all), (4, 0, 0));
        assert_eq!(verdict(&ledgers, &all[..3]), (3, 1, 0));
        assert_eq!(verdict(&ledgers, &all[1..]), (3, 1, 0));
        assert_eq!(verdict(&ledgers, &[block(b), block(a), block(c), block(c)]), (3, 1, 1));
        let five: Vec<_> = all.iter().cloned().chain([block(c), block(c)]).collect();
        assert_eq!(verdict(&ledgers, &five), (4, 0, 1));
        assert_eq!(verdict(&ledgers, &[&all[..], &[block("m f=4 4\n")]].concat()), (4, 0, 1));
    }
}
