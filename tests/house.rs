//! Habits of the house that a program can check: sizes, `unsafe`, ASCII, `allow`, and that what the
//! README and the docs show is what is there.

mod source;

use std::collections::BTreeMap;
use std::fs;

use source::files::{root, rust_files, walk};
use source::tokens::{self, Token};

/// Lines that a file may have outside its tests, and as many in them.
const LINES_MAX: usize = 700;

/// The files that may hold `unsafe`.
const UNSAFE_FILES: [&str; 3] = ["src/io/buf.rs", "src/io/uring.rs", "src/shard/intake.rs"];

/// Every lint that is allowed somewhere: file, lint. The list is to stay short.
const ALLOWED: &[(&str, &str)] = &[
    ("src/bin/load-test/verify_rows.rs", "dead_code"),
    ("src/io/buf.rs", "unsafe_code"),
    ("src/io/uring.rs", "unsafe_code"),
    // Its memory is a mapping, or in the model the heap: one kind at a time.
    ("src/shard/intake.rs", "dead_code"),
    ("src/shard/intake.rs", "irrefutable_let_patterns"),
    ("src/shard/intake.rs", "unsafe_code"),
    ("src/wal/codec.rs", "dead_code"),
    ("src/wal/codec.rs", "non_snake_case"),
    ("src/wal/codec.rs", "non_upper_case_globals"),
    ("src/wal/verdict.rs", "missing_docs"),
];

/// All Rust of the package.
fn all_rust() -> BTreeMap<String, String> {
    ["src", "tests", "examples", "benches", "fuzz/fuzz_targets"].into_iter().flat_map(rust_files).collect()
}

#[test]
fn no_file_is_longer_than_700_lines() {
    for (path, text) in all_rust() {
        let (code, tests) = lengths(&text);
        let is_tests = path.ends_with("/tests.rs");
        assert!(code <= LINES_MAX, "{path}: {code} lines{}", if is_tests { "" } else { " outside its tests" });
        assert!(tests <= LINES_MAX, "{path}: {tests} lines of tests");
    }
}

/// Lines outside and inside items for tests.
fn lengths(text: &str) -> (usize, usize) {
    let numbered = tokens::numbered(text);
    let plain: Vec<Token> = numbered.iter().map(|(_, token)| token.clone()).collect();
    let spans = tokens::test_spans(&plain);
    let tests: usize = spans.iter().map(|(from, to)| numbered[to - 1].0 + 1 - numbered[*from].0).sum();
    (text.lines().count() - tests, tests)
}

#[test]
fn lengths_are_counted_with_and_without_tests() {
    let text = "//! a\nfn f() {\n}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
    assert_eq!(lengths(text), (4, 4));
}

#[test]
fn unsafe_stands_in_three_files_and_says_why_it_is_sound() {
    for (path, text) in all_rust() {
        let problems = unsafe_problems(&text, UNSAFE_FILES.contains(&path.as_str()));
        assert!(problems.is_empty(), "{path}: {}", problems.join("; "));
    }
}

/// Each `unsafe` in `text` that may not be there, or stands without its reason.
fn unsafe_problems(text: &str, allowed: bool) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let numbered = tokens::numbered(text);
    let mut problems = Vec::new();
    for (at, (line, token)) in numbered.iter().enumerate() {
        if !token.is_ident(&["unsafe"]) {
            continue;
        }
        if !allowed {
            problems.push(format!("line {line}: unsafe outside {UNSAFE_FILES:?}"));
        }
        // An `unsafe fn` or trait states its contract in its documentation; clippy holds it to that.
        let next = numbered.get(at + 1).map(|(_, token)| token);
        let needs_reason = next == Some(&Token::Punct('{')) || next.is_some_and(|token| token.is_ident(&["impl"]));
        if needs_reason && !has_reason(&lines[..line - 1]) {
            problems.push(format!("line {line}: unsafe without a SAFETY comment above"));
        }
    }
    problems
}

/// Whether the lines end with a comment that begins `// SAFETY:`, perhaps followed by the beginning
/// of the statement.
fn has_reason(above: &[&str]) -> bool {
    let statement = |line: &&&str| !line.starts_with("//") && !line.is_empty() && !line.ends_with([';', '{', '}']);
    let above: Vec<&str> = above.iter().rev().map(|line| line.trim()).collect();
    let begun = above.iter().take_while(statement).count();
    let comment = above[begun..].iter().take_while(|line| line.starts_with("//"));
    comment.into_iter().any(|line| line.starts_with("// SAFETY:"))
}

#[test]
fn an_unsafe_without_its_reason_is_seen() {
    let count = |text: &str| unsafe_problems(text, true).len();
    assert_eq!(count("// SAFETY: it is.\nlet a = unsafe { f() };"), 0);
    assert_eq!(count("// SAFETY: it is,\n// and was.\nlet a =\n    unsafe { f() };"), 0);
    assert_eq!(count("// SAFETY: it is.\nunsafe impl Send for A {}"), 0);
    assert_eq!(count("let a = \"unsafe {\"; // unsafe {"), 0);
    assert_eq!(count("let a = unsafe { f() };"), 1);
    assert_eq!(count("// SAFETY: it is.\n\nlet a = unsafe { f() };"), 1);
    assert_eq!(count("// SAFETY: it is.\nlet b = 1;\nlet a = unsafe { f() };"), 1);
    assert_eq!(count("// It is safe.\nunsafe impl Send for A {}"), 1);
    assert_eq!(unsafe_problems("// SAFETY: it is.\nlet a = unsafe { f() };", false).len(), 1);
}

#[test]
fn no_lint_is_allowed_but_those_listed() {
    let mut found: Vec<(String, String)> = Vec::new();
    for (path, text) in all_rust() {
        found.extend(allowed_lints(&text).into_iter().map(|lint| (path.clone(), lint)));
    }
    found.sort();
    found.dedup();
    let listed: Vec<_> = ALLOWED.iter().map(|(path, lint)| ((*path).to_owned(), (*lint).to_owned())).collect();
    assert_eq!(found, listed, "what is allowed, and what tests/house.rs lists");
}

/// Lints in `#[allow(...)]`, `#[expect(...)]` and their inner forms.
fn allowed_lints(text: &str) -> Vec<String> {
    let tokens = tokens::tokens(text);
    let mut lints = Vec::new();
    for at in 1..tokens.len() {
        let is_attribute = matches!(tokens[at - 1], Token::Punct('[' | ',' | '('));
        if is_attribute && tokens[at].is_ident(&["allow", "expect"]) && tokens.get(at + 1) == Some(&Token::Punct('(')) {
            let end = tokens::close_of(&tokens, at + 1);
            let parts = tokens[at + 2..end].split(|token| *token == Token::Punct(','));
            lints.extend(parts.map(|part| {
                let names = part.iter().filter_map(|token| match token {
                    Token::Ident(name) => Some(name.as_str()),
                    _ => None,
                });
                names.collect::<Vec<_>>().join("::")
            }));
        }
    }
    lints
}

#[test]
fn every_form_of_allow_is_seen() {
    let text =
        "#![allow(a)] #[allow(clippy::b, c)] #[cfg_attr(x, expect(d))] fn f() { g.expect(\"e\") } // #[allow(f)]";
    assert_eq!(allowed_lints(text), ["a", "clippy::b", "c", "d"]);
}

#[test]
fn text_is_ascii() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples", "benches", "docs", "scripts", ".ci", "fuzz/fuzz_targets"] {
        walk(&root().join(folder), &mut |path| files.push(path.to_owned()));
    }
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "Cargo.toml"];
    files.extend(top.iter().map(|name| root().join(name)));
    for path in files {
        // Data is not ours to write.
        if path.starts_with(root().join("tests/data")) || path.starts_with(root().join("tests/golden")) {
            continue;
        }
        let bytes = fs::read(&path).expect("readable");
        let line = first_line_beyond_ascii(&bytes);
        assert_eq!(line, None, "{}: not ASCII in this line", path.display());
    }
}

fn first_line_beyond_ascii(bytes: &[u8]) -> Option<usize> {
    let at = bytes.iter().position(|byte| !byte.is_ascii())?;
    Some(1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count())
}

#[test]
fn a_letter_beyond_ascii_is_seen() {
    assert_eq!(first_line_beyond_ascii(b"plain\ntext\n"), None);
    assert_eq!(first_line_beyond_ascii("plain\nt\u{e9}xt\n".as_bytes()), Some(2));
}

#[test]
fn the_readme_shows_the_example_that_is_run() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let example = fs::read_to_string(root().join("examples/blocking.rs")).expect("examples/blocking.rs");
    let blocks = rust_blocks(&readme);
    assert_eq!(blocks.len(), 1, "the README has one Rust block");
    assert!(example.ends_with(&blocks[0]), "examples/blocking.rs does not end with the README's block");
    assert!(blocks[0].lines().count() <= 20, "an example of some 15 lines");
}

/// The Rust blocks of a Markdown text.
fn rust_blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = markdown;
    while let Some(at) = rest.find("```rust") {
        let body = &rest[at..];
        let body = &body[body.find('\n').map_or(body.len(), |end| end + 1)..];
        let end = body.find("```").expect("a block that ends");
        blocks.push(body[..end].to_owned());
        rest = &body[end + 3..];
    }
    blocks
}

#[test]
fn rust_blocks_are_found_in_markdown() {
    assert_eq!(rust_blocks("a\n```rust,no_run\nx\ny\n```\n```sh\nz\n```\n```rust\nw\n```\n"), ["x\ny\n", "w\n"]);
}

#[test]
fn every_path_that_the_docs_name_is_there() {
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/durability.md",
        "docs/data-files.md",
        "docs/operations.md",
        "docs/found-bugs.md",
        "docs/line-protocol.md",
        "benches/peers/README.md",
    ] {
        let text = fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        for name in named_paths(&text) {
            assert!(root().join(&name).exists(), "{page} names `{name}`, which is not there");
        }
    }
}

/// Paths into the package that stand in backquotes.
fn named_paths(text: &str) -> Vec<String> {
    const FOLDERS: [&str; 9] =
        ["src/", "tests/", "docs/", "examples/", "benches/", "scripts/", ".ci/", "results/", "fuzz/"];
    let quoted = text.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder)));
    let paths = paths.filter(|name| !name.contains([' ', '*', '{', '<']));
    // Of a test, `<file>::<name>`, the file.
    paths.map(|name| name.split("::").next().unwrap_or(name).to_owned()).collect()
}

#[test]
fn paths_are_found_in_backquotes() {
    assert_eq!(named_paths("see `src/types.rs`, `cargo test`, `scripts/x.sh now` and src/no.rs"), ["src/types.rs"]);
}

/// The faults that an engine without peers can meet: rows of the table in docs/durability.md.
const FAULTS: [u32; 33] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34,
    35, 36,
];

#[test]
fn every_fault_names_tests_that_are_there() {
    let page = fs::read_to_string(root().join("docs/durability.md")).expect("the page");
    let table = page.split("## Every fault and its proof").nth(1).expect("the table");
    let sources: BTreeMap<String, String> = ["src", "tests"].into_iter().flat_map(rust_files).collect();
    let mut rows = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        // The last cell is what `scripts/torture.sh --table` puts there.
        let [numbers, _, proof, _] = cells[..] else { panic!("four cells: {line}") };
        rows.extend(numbers.split(", ").map(|number| number.parse::<u32>().expect("a row's number")));
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        assert!(!named.is_empty(), "a row without a test: {line}");
        for name in named {
            let (file, test) = name.split_once("::").expect("file::test");
            let text = sources.get(file).unwrap_or_else(|| panic!("no file {file}: {line}"));
            assert!(text.contains(&format!("fn {test}(")) || text.contains(&format!("    {test}: ")), "no {name}");
        }
    }
    rows.sort_unstable();
    assert_eq!(rows, FAULTS, "every row, once");
}
