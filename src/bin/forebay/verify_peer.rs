//! `forebay verify --peer`: compares the store of a running node with that of one of its peers.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use forebay::node::control::verify_peer;
use forebay::types::StoreId;
use serde_json::Value;

use crate::out::{CHECK_FAILED, count, with_schema};

const SCHEMA: &str = "forebay.verify-peer/1";

/// Compares it; 3 where something differs.
pub fn run(dir: &Path, peer: StoreId, json: bool) -> Result<ExitCode> {
    let found = verify_peer(dir, peer)?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", with_schema(SCHEMA, &found))?;
    } else {
        for stream in found["streams"].as_array().into_iter().flatten() {
            writeln!(out, "{}", line(stream))?;
        }
        if let Some(more @ 1..) = found["unlisted"].as_u64() {
            writeln!(out, "and {}; --json has the counts", count(more, "more stream"))?;
        }
        writeln!(out, "{}", summary(&found))?;
    }
    out.flush()?;
    Ok(if found["differing"] == 0 { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
}

fn line(stream: &Value) -> String {
    let text = |key: &str| stream[key].as_str().unwrap_or_default();
    let (here, there) = (&stream["here"], &stream["there"]);
    let name = format!("stream {}/{}/{}", text("origin"), stream["shard"], stream["epoch"]);
    let same = |else_where: &str| match stream["identical_upto"].as_u64() {
        Some(upto) => format!("identical up to seq {upto}"),
        None => format!("not compared: the log {else_where} begins behind that"),
    };
    match text("standing") {
        "behind" => {
            format!("{name}: behind by {}: seq {here} here, {there} there; {}", most(there, here), same("there"))
        }
        "ahead" => format!("{name}: ahead by {}: seq {here} here, {there} there; {}", most(here, there), same("here")),
        "only-here" => format!("{name}: only here, up to seq {here}"),
        "only-there" => format!("{name}: only there, up to seq {there}"),
        "folded" => format!(
            "{name} and those before it: one hash over several, and not the one of what the other has, which may have \
             less of them, or another history"
        ),
        _ => format!("{name}: {}", difference(stream)),
    }
}

/// Seqs are not dense, so there are no more blocks than that.
fn most(more: &Value, less: &Value) -> String {
    let most = more.as_u64().unwrap_or(0).saturating_sub(less.as_u64().unwrap_or(0));
    if most == 1 { "1 block".to_owned() } else { format!("at most {most} blocks") }
}

fn difference(stream: &Value) -> String {
    let first = &stream["first_difference"];
    let upto = match stream["identical_upto"].as_u64() {
        Some(0) => "identical in nothing".to_owned(),
        Some(upto) => format!("identical up to seq {upto}"),
        None => "not identical".to_owned(),
    };
    let is_lost = |side: &str| first[side]["what"] == "lost";
    match (first["seq"].as_u64(), first["by"].as_u64()) {
        (Some(seq), _) => {
            format!(
                "{upto}; first difference at seq {seq}: {} here, {} there",
                what(&first["here"]),
                what(&first["there"])
            )
        }
        (None, Some(by)) if is_lost("here") || is_lost("there") => {
            let (this, other) = if is_lost("here") { ("here", "there") } else { ("there", "here") };
            format!("{upto}; blocks behind that and up to seq {by} are lost {this}, and {other} they are not")
        }
        (None, Some(by)) if stream["identical_upto"].is_null() => {
            format!("differs at seq {by} or before; others were looked into first")
        }
        (None, Some(by)) => {
            format!("{upto}; it differs at seq {by}, and what was between is not in both logs any more")
        }
        (None, None) => "and those before it: two hashes over the same streams differ".to_owned(),
    }
}

fn what(found: &Value) -> String {
    match found["what"].as_str() {
        Some("block") => {
            format!("a block of {} bytes (CRC-32 {})", found["bytes"], found["crc"].as_str().unwrap_or_default())
        }
        Some("not-in-log") => "a block that is not in the log".to_owned(),
        Some("lost") => "a lost block".to_owned(),
        _ => "no block".to_owned(),
    }
}

fn summary(found: &Value) -> String {
    let number = |key: &str| found[key].as_u64().unwrap_or(0);
    let kinds = [
        ("identical", "the same"),
        ("behind", "behind"),
        ("ahead", "ahead"),
        ("only_here", "only here"),
        ("only_there", "only there"),
        ("folded", "folded"),
        ("differing", "differing"),
    ];
    let all: u64 = kinds.iter().map(|(key, _)| number(key)).sum();
    let parts = kinds.iter().filter(|(key, _)| number(key) > 0);
    let parts: Vec<String> = parts.map(|(key, words)| format!("{} {words}", number(key))).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    let (streams, peer) = (count(all, "stream"), found["peer"].as_str().unwrap_or_default());
    if number("differing") > 0 {
        return format!("not identical with {peer}: {streams}{parts}");
    }
    let upto = match all == number("identical") + number("folded") {
        true => "the end",
        false => "where both stand",
    };
    let untold = match number("untold") {
        0 => String::new(),
        untold => format!("; of {untold} the logs cannot tell"),
    };
    format!("identical up to {upto} with {peer}: {streams}{parts}{untold}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_say_where_streams_differ() {
        let of = |changes: Value| {
            let mut stream = json!({
                "origin": "o", "shard": 1, "epoch": 7, "standing": "differing", "here": 9, "there": 12,
                "identical_upto": 4, "first_difference": null,
            });
            for (key, value) in changes.as_object().expect("an object") {
                stream[key] = value.clone();
            }
            line(&stream)
        };
        let block = |crc| json!({ "what": "block", "bytes": 3, "crc": crc });
        let exact = json!({ "seq": 5, "by": 5, "here": block("0a"), "there": block("0b") });
        let lost = json!({ "seq": null, "by": 6, "here": { "what": "lost" }, "there": null });
        let between = json!({ "seq": null, "by": 6, "here": null, "there": null });
        for (changes, says) in [
            (
                json!({ "first_difference": exact }),
                "identical up to seq 4; first difference at seq 5: a block of 3 bytes (CRC-32 0a) here, a block of 3 \
                 bytes (CRC-32 0b) there",
            ),
            (
                json!({ "first_difference": lost }),
                "identical up to seq 4; blocks behind that and up to seq 6 are lost here, and there they are not",
            ),
            (
                json!({ "first_difference": between, "identical_upto": 0 }),
                "identical in nothing; it differs at seq 6, and what was between is not in both logs any more",
            ),
            (
                json!({ "first_difference": between, "identical_upto": null }),
                "differs at seq 6 or before; others were looked into first",
            ),
            (
                json!({ "standing": "behind", "identical_upto": 9 }),
                "behind by at most 3 blocks: seq 9 here, 12 there; identical up to seq 9",
            ),
            (
                json!({ "standing": "ahead", "here": 13, "identical_upto": null }),
                "ahead by 1 block: seq 13 here, 12 there; not compared: the log here begins behind that",
            ),
            (json!({ "standing": "only-there", "here": null }), "only there, up to seq 12"),
        ] {
            assert_eq!(of(changes), format!("stream o/1/7: {says}"));
        }
    }

    #[test]
    fn the_summary_claims_no_more_than_what_was_found() {
        let of = |identical, behind, differing| {
            summary(&json!({ "peer": "p", "identical": identical, "behind": behind, "differing": differing }))
        };
        assert_eq!(of(3, 0, 0), "identical up to the end with p: 3 streams (3 the same)");
        assert_eq!(of(3, 1, 0), "identical up to where both stand with p: 4 streams (3 the same, 1 behind)");
        assert_eq!(of(0, 0, 1), "not identical with p: 1 stream (1 differing)");
        let untold = summary(&json!({ "peer": "p", "identical": 1, "ahead": 2, "untold": 1 }));
        assert!(untold.ends_with("3 streams (1 the same, 2 ahead); of 1 the logs cannot tell"), "{untold}");
        assert_eq!(of(0, 0, 0), "identical up to the end with p: 0 streams");
    }
}
