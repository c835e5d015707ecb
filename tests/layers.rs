//! Holds the house to its layers: a file imports only files that stand above it in [`LAYERS`].
//!
//! The list is the authority. A file may import lower layers and, inside its layer, the files listed
//! before it. `mod.rs` and `lib.rs` hold documentation, `mod` lines and re-exports; an import through
//! a re-export counts as an import of the file behind it. Each program under `src/bin` is a crate of
//! its own, with the library below it. What stands under `#[cfg(test)]` or `#[cfg(doctest)]` is
//! exempt, and so is a file that is declared there. The checker reads tokens, not types: it sees every path that
//! begins with `crate`, `$crate`, `super` or `self`, in `use` trees and anywhere else.

mod source;

use std::collections::BTreeMap;

use source::files;
use source::tokens::{self, Token};

/// Layers from the lowest up; inside a layer a file may import those listed before it.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "L0 words, bounds, options, errors, counters, atomics, planted bugs, aligned memory",
        &[
            "src/limits.rs",
            "src/types.rs",
            "src/stats.rs",
            "src/report.rs",
            "src/data/schema.rs",
            "src/serve/line_error.rs",
            "src/error.rs",
            "src/config.rs",
            "src/sync.rs",
            "src/planted.rs",
            "src/io/buf.rs",
        ],
    ),
    (
        "L1 formats: bytes <-> values, no I/O",
        &[
            "src/wal/codec.rs",
            "src/wal/segment.rs",
            "src/wal/entry.rs",
            "src/wal/batch.rs",
            "src/wal/vector.rs",
            "src/wal/read.rs",
            "src/wal/verdict.rs",
            "src/wal/intake.rs",
            "src/wal/ring.rs",
            "src/serve/token.rs",
            "src/serve/row.rs",
            "src/serve/lines.rs",
            "src/data/format.rs",
            "src/repl/stand.rs",
            "src/repl/asks.rs",
            "src/repl/entries.rs",
            "src/repl/wire.rs",
        ],
    ),
    (
        "L2 traits of the outside world",
        &["src/io/disk.rs", "src/data/store.rs", "src/data/schema_gate.rs", "src/data/tree.rs"],
    ),
    (
        "L3 decisions: no thread but a reader's, no file but through a trait",
        &[
            "src/wal/log.rs",
            "src/wal/breaks.rs",
            "src/wal/scan.rs",
            "src/io/maker.rs",
            "src/recover/examined.rs",
            "src/recover/lost.rs",
            "src/recover/read.rs",
            "src/recover/examine.rs",
            "src/recover/blocks.rs",
            "src/recover/append.rs",
            "src/recover/carry_out.rs",
            "src/repl/receiver.rs",
            "src/repl/sender.rs",
            "src/repl/asked.rs",
            "src/repl/narrow.rs",
            "src/repl/compare.rs",
            "src/repl/link_error.rs",
            "src/repl/role.rs",
            "src/data/catalog.rs",
            "src/data/manifest.rs",
            "src/data/files.rs",
            "src/shard/marks.rs",
            "src/shard/commit.rs",
            "src/shard/event.rs",
            "src/shard/core.rs",
        ],
    ),
    (
        "L4 the outside: rings, threads, files",
        &[
            "src/io/clock.rs",
            "src/io/rests.rs",
            "src/io/waker.rs",
            "src/io/folder.rs",
            "src/io/quarantine.rs",
            "src/io/segments.rs",
            "src/io/uring.rs",
            "src/io/pwrite.rs",
            "src/io/chance.rs",
            "src/io/sim_names.rs",
            "src/io/medium.rs",
            "src/io/sim.rs",
            "src/io/tree_state.rs",
            "src/io/sim_tree.rs",
            "src/shard/claim.rs",
            "src/shard/intake.rs",
            "src/shard/queue.rs",
            "src/shard/ring_file.rs",
            "src/shard/ring.rs",
            "src/shard/consumer.rs",
            "src/shard/waiters.rs",
            "src/io/read_ahead.rs",
            "src/shard/shipping.rs",
            "src/shard/tail.rs",
            "src/shard/pace.rs",
            "src/shard/shared.rs",
            "src/shard/driver.rs",
            "src/shard/thread.rs",
            "src/shard/handle.rs",
            "src/logged.rs",
            "src/reader.rs",
            "src/data/flusher.rs",
            "src/data/dir_tree.rs",
            "src/data/rows.rs",
            "src/data/pages.rs",
            "src/data/encode.rs",
            "src/data/repeated.rs",
            "src/data/sorted.rs",
            "src/data/decode.rs",
            "src/data/merge.rs",
            "src/data/parquet_files.rs",
            "src/data/handover.rs",
            "src/data/upkeep.rs",
            "src/data/parquet.rs",
        ],
    ),
    (
        "L5 the face; the simulator's world; bodies of the fuzz targets",
        &[
            "src/engine/identity.rs",
            "src/engine/inner.rs",
            "src/engine/ticket.rs",
            "src/engine/writer.rs",
            "src/engine/subscription.rs",
            "src/engine/chains.rs",
            "src/engine/inbound.rs",
            "src/engine/outbound.rs",
            "src/engine/open.rs",
            "src/engine/replicate.rs",
            "src/engine/backfill.rs",
            "src/engine/tools.rs",
            "src/node/config.rs",
            "src/node/role_file.rs",
            "src/node/ended.rs",
            "src/node/status.rs",
            "src/node/compared.rs",
            "src/node/packed.rs",
            "src/node/frames.rs",
            "src/node/tls.rs",
            "src/node/home.rs",
            "src/node/answer.rs",
            "src/node/pace.rs",
            "src/node/backfill.rs",
            "src/node/link.rs",
            "src/node/compare.rs",
            "src/node/certs.rs",
            "src/node/control.rs",
            "src/node/net.rs",
            "src/node/run.rs",
            "src/probe/device.rs",
            "src/probe/measure.rs",
            "src/probe/predict.rs",
            "src/fuzz/choices.rs",
            "src/fuzz/log.rs",
            "src/fuzz/batch.rs",
            "src/fuzz/segment.rs",
            "src/fuzz/scan.rs",
            "src/fuzz/ring.rs",
            "src/fuzz/manifest.rs",
            "src/fuzz/lines.rs",
            "src/fuzz/config.rs",
            "src/fuzz/wire.rs",
            "src/fuzz/targets.rs",
            "src/inspect/identity.rs",
            "src/inspect/read.rs",
            "src/inspect/show.rs",
            "src/inspect/verify.rs",
            "src/inspect/salvaging.rs",
            "src/inspect/repair.rs",
            "src/sim/another.rs",
            "src/sim/blocks.rs",
            "src/sim/check.rs",
            "src/sim/plan.rs",
            "src/sim/ring.rs",
            "src/sim/life.rs",
            "src/sim/shard.rs",
            "src/sim/files_check.rs",
            "src/sim/files_life.rs",
            "src/sim/meddle.rs",
            "src/sim/world.rs",
            "src/sim/flips.rs",
            "src/sim/files.rs",
            "src/sim/site_shard.rs",
            "src/sim/sites_check.rs",
            "src/sim/site.rs",
            "src/sim/site_link.rs",
            "src/sim/sites.rs",
            "src/sim/shrink.rs",
        ],
    ),
    (
        "L6 programs",
        &[
            "src/bin/forebay/out.rs",
            "src/bin/forebay/files.rs",
            "src/bin/forebay/merge.rs",
            "src/bin/forebay/inspect.rs",
            "src/bin/forebay/verify_peer.rs",
            "src/bin/forebay/verify.rs",
            "src/bin/forebay/repair.rs",
            "src/bin/forebay/probe.rs",
            "src/bin/forebay/node.rs",
            "src/bin/forebay/rehearse/proxy.rs",
            "src/bin/forebay/rehearse/record.rs",
            "src/bin/forebay/rehearse/site.rs",
            "src/bin/forebay/rehearse/rehearsal.rs",
            "src/bin/forebay/rehearse/command.rs",
            "src/bin/forebay/rehearse/mod.rs",
            "src/bin/forebay/main.rs",
            "src/bin/load-test/input.rs",
            "src/bin/load-test/meters.rs",
            "src/bin/load-test/workload.rs",
            "src/bin/load-test/args.rs",
            "src/bin/load-test/stats.rs",
            "src/bin/load-test/env.rs",
            "src/bin/load-test/progress.rs",
            "src/bin/load-test/interrupt.rs",
            "src/bin/load-test/target.rs",
            "src/bin/load-test/watch.rs",
            "src/bin/load-test/columns.rs",
            "src/bin/load-test/verify.rs",
            "src/bin/load-test/verify_rows.rs",
            "src/bin/load-test/data_files.rs",
            "src/bin/load-test/baseline.rs",
            "src/bin/load-test/engine.rs",
            "src/bin/load-test/run.rs",
            "src/bin/load-test/report.rs",
            "src/bin/load-test/tables.rs",
            "src/bin/load-test/plot.rs",
            "src/bin/load-test/session.rs",
            "src/bin/load-test/main.rs",
            "src/bin/simulate/main.rs",
        ],
    ),
];

#[test]
fn files_import_only_what_stands_above_them_in_the_list() {
    let sources = files::rust_files("src");
    let problems = check(LAYERS, &sources);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Everything that is wrong with `sources` (path to text) under `layers`.
fn check(layers: &[(&str, &[&str])], sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    let listed = layers.iter().flat_map(|(_, files)| *files);
    let place: BTreeMap<&str, usize> = listed.enumerate().map(|(place, file)| (*file, place)).collect();
    let parsed: BTreeMap<&str, Vec<Token>> =
        sources.iter().map(|(path, text)| (path.as_str(), without_tests(&tokens::tokens(text)))).collect();
    for file in place.keys() {
        if !sources.contains_key(*file) {
            problems.push(format!("{file}: listed, but not there"));
        }
    }
    let count = layers.iter().map(|(_, files)| files.len()).sum::<usize>();
    if count != place.len() {
        problems.push("a file is listed twice".to_owned());
    }
    let tree = Tree { parsed: &parsed };
    for (path, tokens) in &parsed {
        if is_for_tests(path, sources) {
            continue;
        }
        if is_index(path) {
            if let Err(what) = only_index(tokens) {
                problems.push(format!("{path}: holds more than documentation, mod lines and re-exports: {what}"));
            }
            continue;
        }
        let Some(mine) = place.get(path) else {
            problems.push(format!("{path}: not listed in tests/layers.rs"));
            continue;
        };
        if let Some(name) = hidden_module(path, tokens) {
            problems.push(format!("{path}: declares the module `{name}`; only mod.rs, lib.rs and main.rs do"));
        }
        for import in imports(path, tokens) {
            match tree.file_of(&import) {
                None => problems.push(format!("{path}: `{}` leads to no file", import.join("::"))),
                Some(target) if target == *path => {}
                Some(target) => match place.get(target.as_str()) {
                    Some(theirs) if theirs < mine => {}
                    _ => problems.push(format!("{path}: imports {target}, which is not below it")),
                },
            }
        }
    }
    problems
}

/// What is compiled into the product.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let spans = tokens::test_spans(tokens);
    let inside = |at: usize| spans.iter().any(|(from, to)| (*from..*to).contains(&at));
    tokens.iter().enumerate().filter(|(at, _)| !inside(*at)).map(|(_, token)| token.clone()).collect()
}

/// A file that only says what is in its folder.
fn is_index(path: &str) -> bool {
    path.ends_with("/mod.rs") || path == "src/lib.rs"
}

/// A file that its parent declares behind `#[cfg(test)]`.
fn is_for_tests(path: &str, sources: &BTreeMap<String, String>) -> bool {
    let Some((folder, name)) = path.trim_end_matches(".rs").rsplit_once('/') else { return false };
    let parents = ["/mod.rs", "/lib.rs", "/main.rs", ".rs"].map(|end| format!("{folder}{end}"));
    let Some(parent) = parents.iter().find_map(|parent| sources.get(parent)) else { return false };
    let tokens = tokens::tokens(parent);
    let declares = |span: &[Token]| {
        let mut three = span.windows(3);
        three.any(|three| three[0].is_ident(&["mod"]) && three[1].is_ident(&[name]) && three[2] == Token::Punct(';'))
    };
    tokens::test_spans(&tokens).into_iter().any(|(from, to)| declares(&tokens[from..to]))
}

/// The folder in which a file's crate has its root.
fn crate_root(path: &str) -> &str {
    match path.strip_prefix("src/bin/").and_then(|rest| rest.find('/')) {
        Some(end) => &path[.."src/bin/".len() + end],
        None => "src",
    }
}

/// The module that a file is, as a path of names behind its crate's root folder.
fn module_of(path: &str) -> Vec<String> {
    let root = crate_root(path);
    let mut names: Vec<String> = path[root.len() + 1..].trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        names.pop();
    }
    std::iter::once(root.to_owned()).chain(names).collect()
}

/// Every path in `tokens` that begins in this crate, absolute: the crate's root folder, then names.
fn imports(path: &str, tokens: &[Token]) -> Vec<Vec<String>> {
    let file = module_of(path);
    let inline = inline_modules(tokens);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = tokens[at].is_ident(&["crate", "super", "self"]);
        let inside = at > 0 && tokens[at - 1] == Token::PathSep;
        // `self.x` and `pub(super)` are no paths; `$crate::x` is.
        if !begins || inside || tokens.get(at + 1) != Some(&Token::PathSep) {
            at += 1;
            continue;
        }
        let around = inline.iter().filter(|(_, from, to)| (*from..*to).contains(&at)).map(|(name, ..)| name.clone());
        let module: Vec<String> = file.iter().cloned().chain(around).collect();
        let mut base = if tokens[at].is_ident(&["crate"]) { module[..1].to_vec() } else { module };
        if tokens[at].is_ident(&["super"]) {
            base.pop();
        }
        let mut rest = at + 2;
        while tokens.get(rest).is_some_and(|token| token.is_ident(&["super"])) {
            base.pop();
            rest += 2;
        }
        at = tree(tokens, rest, &base, &mut found);
    }
    found
}

/// Reads a use tree (or a plain path) at `at`; appends its leaves, each behind `base`.
fn tree(tokens: &[Token], mut at: usize, base: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = base.to_vec();
    loop {
        match tokens.get(at) {
            Some(Token::Ident(name)) if name == "self" => at += 1,
            Some(Token::Ident(name)) => {
                path.push(name.clone());
                at += 1;
            }
            Some(Token::Punct('{')) => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != Token::Punct('}')) {
                    at = tree(tokens, at, &path, found);
                    while matches!(tokens.get(at), Some(Token::Punct(',')))
                        || tokens.get(at).is_some_and(|token| token.is_ident(&["as"]))
                    {
                        at += if tokens[at].is_ident(&["as"]) { 2 } else { 1 };
                    }
                }
                return at + 1;
            }
            Some(Token::Punct('*')) => at += 1,
            _ => {}
        }
        if tokens.get(at) == Some(&Token::PathSep)
            && matches!(tokens.get(at + 1), Some(Token::Ident(_) | Token::Punct('{' | '*')))
        {
            at += 1;
            continue;
        }
        found.push(path);
        return at;
    }
}

/// The files that are there, to look up what a path leads to.
struct Tree<'a> {
    parsed: &'a BTreeMap<&'a str, Vec<Token>>,
}

impl Tree<'_> {
    /// The file that defines what an absolute path names.
    fn file_of(&self, path: &[String]) -> Option<String> {
        self.resolve(path, 8)
    }

    fn resolve(&self, path: &[String], fuel: usize) -> Option<String> {
        let fuel = fuel.checked_sub(1)?;
        for length in (1..=path.len()).rev() {
            let place = path[..length].join("/");
            let plain = format!("{place}.rs");
            if length > 1 && self.parsed.contains_key(plain.as_str()) {
                return Some(plain);
            }
            let index = ["mod", "lib", "main"].map(|name| format!("{place}/{name}.rs"));
            let Some(index) = index.into_iter().find(|file| self.parsed.contains_key(file.as_str())) else { continue };
            if index.ends_with("/main.rs") {
                return Some(index);
            }
            // The folder itself, or a name in it that must be a re-export.
            let name = path.get(length)?;
            return exports(&index, &self.parsed[index.as_str()])
                .into_iter()
                .filter(|(public, _)| public == name)
                .find_map(|(_, target)| self.resolve(&target, fuel));
        }
        None
    }
}

/// What an index re-exports: public name and absolute path. Paths may begin with a child module.
fn exports(path: &str, tokens: &[Token]) -> Vec<(String, Vec<String>)> {
    let module = module_of(path);
    let mut found = Vec::new();
    let uses = tokens.iter().enumerate().filter(|(_, token)| token.is_ident(&["use"]));
    for (at, _) in uses {
        let mut leaves = Vec::new();
        match tokens.get(at + 1) {
            Some(first) if first.is_ident(&["crate", "super", "self"]) => {
                let end = at + tokens[at..].iter().position(|token| *token == Token::Punct(';')).unwrap_or(0);
                leaves = imports(path, &tokens[at + 1..end]);
            }
            _ => {
                tree(tokens, at + 1, &module, &mut leaves);
            }
        }
        found.extend(leaves.into_iter().filter_map(|leaf| Some((leaf.last()?.clone(), leaf))));
    }
    found
}

/// Modules in braces, outer ones first: name, and where they begin and end.
fn inline_modules(tokens: &[Token]) -> Vec<(String, usize, usize)> {
    let begins = tokens.windows(3).enumerate().filter_map(|(at, three)| match three {
        [keyword, Token::Ident(name), Token::Punct('{')] if keyword.is_ident(&["mod"]) => Some((at + 2, name)),
        _ => None,
    });
    begins.map(|(open, name)| (name.clone(), open, tokens::close_of(tokens, open))).collect()
}

/// A file that is declared outside `mod.rs`, `lib.rs` and `main.rs`: the house has one plan.
fn hidden_module(path: &str, tokens: &[Token]) -> Option<String> {
    tokens
        .windows(3)
        .find_map(|three| match three {
            [keyword, Token::Ident(name), Token::Punct(';')] if keyword.is_ident(&["mod"]) => Some(name.clone()),
            _ => None,
        })
        .filter(|_| !path.ends_with("/main.rs"))
}

/// Whether an index holds only `mod` lines and re-exports; documentation is no token.
fn only_index(tokens: &[Token]) -> Result<(), String> {
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == Token::Punct('#') {
            let open = at + tokens[at..].iter().position(|token| *token == Token::Punct('[')).unwrap_or(0);
            at = tokens::close_of(tokens, open) + 1;
            continue;
        }
        let item = at;
        let public = tokens[at].is_ident(&["pub"]);
        if public {
            at += 1;
            if tokens.get(at) == Some(&Token::Punct('(')) {
                at = tokens::close_of(tokens, at) + 1;
            }
        }
        let end = at + tokens[at..].iter().position(|token| *token == Token::Punct(';')).unwrap_or(tokens.len() - at);
        let is_mod = tokens.get(at).is_some_and(|token| token.is_ident(&["mod"])) && end == at + 2;
        let is_export = public && tokens.get(at).is_some_and(|token| token.is_ident(&["use"]));
        if !is_mod && !is_export {
            return Err(format!("{:?}", tokens[item..tokens.len().min(item + 6)].iter().collect::<Vec<_>>()));
        }
        at = end + 1;
    }
    Ok(())
}

/// The checker over a small house: what `src/high.rs` and the index of `src/part` say.
fn problems_of(high: &str, index: &str) -> Vec<String> {
    let layers: &[(&str, &[&str])] =
        &[("low", &["src/low.rs", "src/part/inner.rs"]), ("high", &["src/high.rs", "src/top.rs"])];
    let files = [
        ("src/lib.rs", "pub mod low; pub mod part; pub mod high; pub mod top; pub use top::Top;"),
        ("src/low.rs", "pub struct Low;"),
        ("src/part/mod.rs", index),
        ("src/part/inner.rs", "use super::super::low::Low; pub struct Inner(Low);"),
        ("src/high.rs", high),
        ("src/top.rs", "use crate::high; pub struct Top;"),
    ];
    check(layers, &files.map(|(path, text)| (path.to_owned(), text.to_owned())).into())
}

const INDEX: &str = "//! What is here.\nmod inner;\npub use inner::Inner;";

#[test]
fn a_sound_house_has_no_problems() {
    let high = "use crate::low::Low; use crate::part::Inner; use crate::{low, part::{Inner as Other}};
        /* use crate::top; */ // crate::top::Top
        const TEXT: &str = \"crate::top::Top\"; const RAW: &str = r#\"\" crate::top \"#; const C: char = '\"';
        fn f<'a>(_: &'a crate::low::Low) { let _ = crate::part::Inner::new::<crate::low::Low>(); }
        mod inline { use super::f; use super::super::low::Low; }
        #[cfg(test)] mod tests { use crate::top::Top; }";
    assert_eq!(problems_of(high, INDEX), Vec::<String>::new());
}

#[test]
fn every_way_to_import_upwards_is_seen() {
    for high in [
        "use crate::top::Top;",
        "use crate::{low::Low, top::Top};",
        "use crate::{low::{Low as Renamed}, top as roof};",
        "use crate::top::*;",
        "use super::top::Top;",
        "mod inline { mod twice { use super::super::super::top::Top; } }",
        "mod inline { use crate::top::Top; }",
        "use crate::Top;",
        "fn f() { crate::top::f(); }",
        "fn f(_: Option<crate::Top>) {}",
        "macro_rules! m { () => { $crate::top::f() }; }",
        "const A: char = '\\''; use crate::top::Top;",
        "const A: &str = \"\\\"\"; use crate::top::Top;",
        "const A: &[u8] = br##\"\"# \"##; use crate::top::Top;",
        "/* /* nested */ */ use crate::top::Top;",
        "fn f<'a>() {} use crate::top::Top;",
        "#[cfg(test)] mod tests { fn f() { let _ = '}'; } } use crate::top::Top;",
        "#[cfg(not(test))] use crate::top::Top;",
        "#[cfg(test)] use crate::low::{Low}; use crate::top::Top;",
    ] {
        assert_eq!(problems_of(high, INDEX), ["src/high.rs: imports src/top.rs, which is not below it"], "{high}");
    }
}

#[test]
fn what_cannot_be_followed_is_a_problem() {
    let first = |high, index| problems_of(high, index).into_iter().next().unwrap_or_default();
    assert!(first("use crate::part::Hidden;", INDEX).contains("`src::part::Hidden` leads to no file"));
    assert!(first("use crate::part;", INDEX).contains("leads to no file"));
    assert!(first("mod deeper;", INDEX).contains("declares the module `deeper`"));
}

#[test]
fn an_index_with_logic_is_a_problem() {
    for index in ["mod inner; pub use inner::Inner; fn f() {}", "mod inner; pub use inner::Inner; use inner::Other;"] {
        let problems = problems_of("", index);
        assert!(problems[0].starts_with("src/part/mod.rs: holds more than"), "{problems:?}");
    }
    let attributed = "#![allow(x)] #[cfg(y)] pub(crate) mod inner; pub use inner::Inner;";
    assert_eq!(problems_of("", attributed), Vec::<String>::new());
}

#[test]
fn list_and_files_must_agree() {
    let text = |path: &str| (path.to_owned(), String::new());
    let problems = check(&[("one", &["src/a.rs", "src/gone.rs"])], &[text("src/a.rs"), text("src/b.rs")].into());
    assert_eq!(problems, ["src/gone.rs: listed, but not there", "src/b.rs: not listed in tests/layers.rs"]);
    assert_eq!(check(&[("one", &["src/a.rs", "src/a.rs"])], &[text("src/a.rs")].into()), ["a file is listed twice"]);
}

#[test]
fn a_file_for_tests_is_exempt_only_where_it_is_declared_as_one() {
    let layers: &[(&str, &[&str])] = &[("one", &["src/a.rs"])];
    let files = |declared: &str| {
        let inner = ("src/a/tests.rs".to_owned(), "use crate::nowhere::Thing;".to_owned());
        check(layers, &[("src/a.rs".to_owned(), declared.to_owned()), inner].into())
    };
    assert_eq!(files("#[cfg(all(test, not(x)))]\nmod tests;"), Vec::<String>::new());
    assert_eq!(files("mod tests;").len(), 2);
    assert_eq!(files("#[cfg(not(test))] mod tests;").len(), 2);
}

#[test]
fn a_program_is_a_crate_of_its_own() {
    let layers: &[(&str, &[&str])] = &[("bin", &["src/bin/x/args.rs", "src/bin/x/run.rs", "src/bin/x/main.rs"])];
    let files = |args: &str| {
        let run = ("src/bin/x/run.rs".to_owned(), "use crate::args::Args; use forebay::Engine;".to_owned());
        let main = ("src/bin/x/main.rs".to_owned(), "mod args; mod run; fn main() { crate::run::go() }".to_owned());
        [("src/bin/x/args.rs".to_owned(), args.to_owned()), run, main].into()
    };
    assert_eq!(check(layers, &files("pub struct Args;")), Vec::<String>::new());
    let problems = check(layers, &files("use crate::run::Run;"));
    assert_eq!(problems, ["src/bin/x/args.rs: imports src/bin/x/run.rs, which is not below it"]);
}
