//! The records: JSON lines in the shape of `load-test --json`.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::env::{Env, memory_peak_bytes};
use crate::peer::{Engine, Options, Sync};
use crate::run::Measured;

/// Of runs, and of what cannot be run.
pub const SCHEMA: &str = "forebay.peers/1";
/// Of checks.
pub const CHECK_SCHEMA: &str = "forebay.peers-check/1";

/// Which versions were built.
const LOCK: &str = include_str!("../Cargo.lock");

/// What was asked for, and of whom.
pub fn head(schema: &str, engine: Engine, sync: Sync, writers: u32, block_bytes: usize) -> Value {
    json!({
        "schema": schema,
        "engine": engine.name(),
        "engine_version": engine.package().and_then(version),
        "settings": {
            "sync": sync,
            "writers": writers,
            "in_flight": 1,
            "block_bytes": block_bytes,
            "asked": engine.asked(sync),
        },
    })
}

/// A run in figures.
///
/// # Errors
/// None that can happen.
pub fn of(engine: Engine, options: Options<'_>, repeat: u32, measured: &Measured) -> Result<Value> {
    let blocks: u64 = measured.blocks.iter().sum();
    let bytes = blocks * options.block_bytes as u64;
    let mut line = head(SCHEMA, engine, options.sync, measured.blocks.len() as u32, options.block_bytes);
    let rest = json!({
        "repeat": repeat,
        "seconds": round3(measured.seconds),
        "blocks": blocks,
        "bytes": bytes,
        "blocks_per_s": round3(blocks as f64 / measured.seconds),
        "bytes_per_s": round3(bytes as f64 / measured.seconds),
        "ack_us": percentiles(&measured.ack_ns),
        "writer_blocks": { "min": measured.blocks.iter().min(), "max": measured.blocks.iter().max() },
        "device_flushes": measured.flushes,
        "memory_peak_bytes": memory_peak_bytes(),
        "env": serde_json::to_value(Env::of(options.dir))?,
    });
    add(&mut line, rest);
    Ok(line)
}

/// Puts the fields of `more` behind those of `line`.
pub fn add(line: &mut Value, more: Value) {
    if let (Value::Object(line), Value::Object(more)) = (line, more) {
        line.extend(more);
    }
}

fn percentiles(ns: &Histogram<u64>) -> Value {
    let us = |ns: f64| round3(ns / 1e3);
    let at = |quantile| us(ns.value_at_quantile(quantile).min(ns.max()) as f64);
    json!({
        "min": us(ns.min() as f64),
        "mean": us(ns.mean()),
        "p50": at(0.5),
        "p90": at(0.9),
        "p95": at(0.95),
        "p99": at(0.99),
        "p999": at(0.999),
        "max": us(ns.max() as f64),
    })
}

fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The version of a package in Cargo.lock.
fn version(package: &str) -> Option<&'static str> {
    let (_, rest) = LOCK.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_peer_has_a_version() {
        for engine in Engine::value_variants() {
            if let Some(package) = engine.package() {
                assert!(version(package).is_some(), "{package}");
            }
        }
        assert_eq!(version("no-such-package"), None);
    }
}
