//! All targets by name, and inputs for them out of a seed: for whoever has no fuzzer at hand.

use crate::fuzz::{batch, config, lines, manifest, ring, scan, segment, wire};
use crate::io::chance::Chance;

/// Bytes of an input that is made from a seed, at most.
const INPUT_BYTES_MAX: u64 = 2048;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What is called with each input; it panics where a promise is broken.
    pub run: fn(&[u8]),
}

/// Every target; each has a program of its name in `fuzz/fuzz_targets`.
pub const TARGETS: [Target; 8] = [
    Target { name: "batch", run: batch::run },
    Target { name: "segment", run: segment::run },
    Target { name: "scan", run: scan::run },
    Target { name: "ring", run: ring::run },
    Target { name: "manifest", run: manifest::run },
    Target { name: "lines", run: lines::run },
    Target { name: "config", run: config::run },
    Target { name: "wire", run: wire::run },
];

/// The input of this seed: one of `known` with changes, or bytes as they fall, most of them small in some
/// inputs and any in others.
#[must_use]
pub fn input(seed: u64, known: &[Vec<u8>]) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    if !known.is_empty() && chance.percent(30) {
        let mut input = known[chance.below(known.len() as u64) as usize].clone();
        for _ in 0..=chance.below(6) {
            change(&mut input, &mut chance);
        }
        return input;
    }
    let bits = chance.within(3, INPUT_BYTES_MAX.ilog2().into());
    let length = 1 + chance.below(1 << bits);
    let (small, bound) = (chance.below(100), chance.within(1, 32));
    (0..length)
        .map(|_| if chance.percent(small) { chance.below(bound) as u8 } else { chance.next_u64() as u8 })
        .collect()
}

fn change(input: &mut Vec<u8>, chance: &mut Chance) {
    let at = chance.below(input.len() as u64 + 1) as usize;
    match chance.below(5) {
        0 => input.truncate(at.max(1)),
        1 => input.insert(at, chance.next_u64() as u8),
        2 if at < input.len() => drop(input.remove(at)),
        3 if at < input.len() => input[at] = chance.next_u64() as u8,
        _ if at < input.len() => input[at] ^= 1 << chance.below(8),
        _ => {}
    }
    if input.is_empty() {
        input.push(0);
    }
}
