//! Our reading of line protocol against that of the crate `influxdb-line-protocol`, on made and on changed
//! texts. Where both take a text they must read the same; where only one takes it, or they read it
//! differently, that must be one of the differences in `docs/line-protocol.md`, which are listed here too.
//!
//! `FOREBAY_FUZZ_RUNS` sets the number of texts, `FOREBAY_FUZZ_ONLY=<seed>` runs one of them.

use std::collections::BTreeMap;
use std::path::Path;

use forebay::fuzz::choices::Choices;
use forebay::fuzz::lines::{Made, any_text, soup};
use forebay::fuzz::targets::input;
use forebay::serve::lines::{FieldValue, LineProblem, lines};

/// Texts where nothing else is asked for.
const RUNS: u64 = 40_000;

/// A way in which the two differ. Each has a row in `docs/line-protocol.md` and an example below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    // Only we take it.
    CarriageReturn,
    TrailingSpace,
    SpelledNumber,
    PlusTime,
    BackslashAtEnd,
    TabInName,
    NulInMeasurement,
    QuoteInComment,
    // Only they take it.
    Twice,
    EqualsInTagValue,
    CommaInKey,
    NotFinite,
    LongKey,
    EscapedLineEnd,
    QuoteBehindLeadingSpace,
}

use Difference::*;

/// Each difference: the words that its row in the documentation begins with, and a text that shows it.
const EXAMPLES: [(Difference, &str, &str); 15] = [
    (CarriageReturn, "a carriage return at a line's start or before its end", "m f=1\r\n"),
    (TrailingSpace, "spaces behind the fields", "m f=1 \n"),
    (SpelledNumber, "`+1`, `+1i`, `5.`, `.5`, `1.e3`", "m f=.5,g=5.,h=+1i"),
    (PlusTime, "a time with a plus sign", "m f=1 +5"),
    (BackslashAtEnd, "a name that ends with a backslash", "m,t=C:\\\\ f=1"),
    (TabInName, "a tab in a name", "m,t=a\tb f=1"),
    (NulInMeasurement, "a byte 0 in a measurement", "m\0 f=1"),
    (QuoteInComment, "a comment with a quote or a backslash", "# a=\"\nm f=1\nm f=2"),
    (Twice, "a key twice in a line", "m,a=1,a=2 f=1"),
    (EqualsInTagValue, "an equals sign in a tag's value", "m,a=b=c f=1"),
    (CommaInKey, "a comma in a key", "m,a,b=1 f=1"),
    (NotFinite, "a float beyond 64 bits", "m f=1e400"),
    (LongKey, "a key of more than 255 bytes", "m kkkkkkkk=1"),
    (EscapedLineEnd, "a backslash before a line's end", "m,t=a\\\nb f=1"),
    (QuoteBehindLeadingSpace, "a quote in a name", " m=\" f=1\nn f=1"),
];

/// What the other crate reads.
fn theirs(text: &str) -> Result<Vec<Made>, String> {
    use influxdb_line_protocol::FieldValue as Theirs;
    let value = |value: &Theirs<'_>| match value {
        Theirs::I64(value) => FieldValue::Integer(*value),
        Theirs::U64(value) => FieldValue::Unsigned(*value),
        Theirs::F64(value) => FieldValue::Float(*value),
        Theirs::Boolean(value) => FieldValue::Boolean(*value),
        Theirs::String(text) => FieldValue::Text(text.to_string().into()),
    };
    let lines = influxdb_line_protocol::parse_lines(text).map(|line| {
        let line = line.map_err(|error| error.to_string())?;
        let tags = line.series.tag_set.iter().flatten().map(|(key, value)| (key.to_string(), value.to_string()));
        Ok(Made {
            measurement: line.series.measurement.to_string(),
            tags: tags.collect(),
            fields: line.field_set.iter().map(|(key, of)| (key.to_string(), value(of))).collect(),
            time: line.timestamp,
        })
    });
    lines.collect()
}

fn ours(text: &str) -> Result<Vec<Made>, LineProblem> {
    lines(text.as_bytes()).map(|line| line.map(|line| Made::of(&line)).map_err(|error| error.why)).collect()
}

/// How the two differ on this text, if they do; in words where it is no known difference.
fn compare(text: &str) -> Result<Option<Difference>, String> {
    let (ours, theirs) = (ours(text), theirs(text));
    let known = match (&ours, &theirs) {
        (Ok(one), Ok(other)) if one == other => return Ok(None),
        (Err(_), Err(_)) => return Ok(None),
        (Ok(_), Ok(_)) if text.contains("\\\n") => Some(EscapedLineEnd),
        (_, Ok(rows)) if rows.iter().any(|row| row.measurement.starts_with('\r')) => Some(CarriageReturn),
        (Ok(_), Ok(_)) => None,
        (Ok(rows), Err(_)) => only_ours(text, rows),
        (Err(problem), Ok(rows)) => only_theirs(text, problem, rows),
    };
    known.map(Some).ok_or_else(|| format!("an unknown difference: {text:?}\nours: {ours:?}\ntheirs: {theirs:?}"))
}

/// What is in the rows themselves, then what is in their spelling. The last is proven by writing the rows
/// anew: without it, they too must take and read them as we do.
fn only_ours(text: &str, rows: &[Made]) -> Option<Difference> {
    let names = |row: &Made| {
        let tags = row.tags.iter().flat_map(|(key, value)| [key.clone(), value.clone()]);
        let fields = row.fields.iter().map(|(key, _)| key.clone());
        std::iter::once(row.measurement.clone()).chain(tags).chain(fields).collect::<Vec<_>>()
    };
    if rows.iter().flat_map(names).any(|name| name.ends_with('\\')) {
        return Some(BackslashAtEnd);
    }
    if rows.iter().flat_map(names).any(|name| name.contains('\t')) {
        return Some(TabInName);
    }
    if rows.iter().any(|row| row.measurement.contains('\0')) {
        return Some(NulInMeasurement);
    }
    let plain: Vec<String> = rows.iter().map(Made::text).collect();
    if theirs(&plain.join("\n")).ok().as_deref() != Some(rows) {
        return None;
    }
    let ends_with_space = text.split('\n').any(|line| line.trim_end_matches('\r').ends_with(' '));
    let commented = text.split('\n').any(|line| {
        let line = line.trim_start_matches([' ', '\t', '\r']);
        line.starts_with('#') && line.contains(['"', '\\'])
    });
    let leading_space = text.split('\n').any(|line| line.starts_with([' ', '\t', '\r']));
    let quoted_name = leading_space && rows.iter().flat_map(names).any(|name| name.contains('"'));
    let number = text.split([',', ' ', '\n', '\r', '=']).any(|token| {
        token.starts_with(['+', '.'])
            || token.starts_with("-.")
            || token.ends_with('.')
            || token.contains(".e")
            || token.contains(".E")
    });
    let plus_time = text.contains(" +");
    [
        (text.contains('\r'), CarriageReturn),
        (commented, QuoteInComment),
        (ends_with_space, TrailingSpace),
        (plus_time && !text.contains("=+"), PlusTime),
        (number, SpelledNumber),
        (quoted_name, QuoteBehindLeadingSpace),
    ]
    .into_iter()
    .find_map(|(there, difference)| there.then_some(difference))
}

/// What we refuse says why.
fn only_theirs(text: &str, problem: &LineProblem, rows: &[Made]) -> Option<Difference> {
    let keys = |row: &Made| {
        let tags = row.tags.iter().map(|(key, _)| key.clone());
        tags.chain(row.fields.iter().map(|(key, _)| key.clone())).collect::<Vec<_>>()
    };
    let not_finite = |row: &Made| {
        row.fields.iter().any(|(_, value)| matches!(value, FieldValue::Float(value) if !value.is_finite()))
    };
    match problem {
        LineProblem::Twice(_) => Some(Twice),
        LineProblem::StrayEquals => Some(EqualsInTagValue),
        LineProblem::NoTagValue if rows.iter().any(|row| row.tags.iter().any(|(_, value)| value.contains('='))) => {
            Some(EqualsInTagValue)
        }
        LineProblem::NotFinite(_) if rows.iter().any(not_finite) => Some(NotFinite),
        LineProblem::LongKey(_) => Some(LongKey),
        _ if text.contains("\\\n") => Some(EscapedLineEnd),
        LineProblem::NoTagValue | LineProblem::NoFieldValue | LineProblem::NoKey
            if rows.iter().flat_map(keys).any(|key| key.contains(',')) =>
        {
            Some(CommaInKey)
        }
        _ => None,
    }
}

/// The text of a seed: words in any order, or sound rows, as they are or changed; mostly one line.
fn text(seed: u64) -> String {
    let bytes = input(seed, &[]);
    let mut from = Choices::new(&bytes);
    let way = from.byte();
    let mut text = match way % 3 {
        0 => soup(&mut from).into_bytes(),
        _ => any_text(&mut from).0.into_bytes(),
    };
    if way % 3 == 2 {
        let length = text.len();
        from.rot(&mut text, (0, length));
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if way < 128 { text } else { text.lines().next().unwrap_or_default().to_owned() }
}

#[test]
fn texts_are_read_as_the_other_crate_reads_them_but_for_the_listed_differences() {
    let runs = std::env::var("FOREBAY_FUZZ_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number"));
    let seeds = match std::env::var("FOREBAY_FUZZ_ONLY") {
        Ok(only) => only.parse().map_or(0..0, |seed: u64| seed..seed + 1),
        Err(_) => 0..runs,
    };
    let (mut same, mut both_take) = (0, 0);
    let mut seen: BTreeMap<Difference, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        let text = text(seed);
        match compare(&text) {
            Ok(None) => {
                same += 1;
                both_take += u64::from(ours(&text).is_ok());
            }
            Ok(Some(difference)) => *seen.entry(difference).or_default() += 1,
            Err(what) => panic!(
                "{what}\nto repeat it: FOREBAY_FUZZ_ONLY={seed} cargo test --features sim --test \
                 line_protocol_differential"
            ),
        }
    }
    println!("{same} texts without a difference, {both_take} of them taken; {seen:?}");
    if seeds.end - seeds.start >= 1000 {
        assert!(both_take * 5 > seeds.end - seeds.start, "too few texts that both take: {both_take}");
        assert!((same - both_take) * 20 > seeds.end - seeds.start, "too few texts that both refuse");
    }
}

#[test]
fn each_difference_is_shown_by_its_example_and_has_its_row_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/line-protocol.md");
    let page = std::fs::read_to_string(path).expect("docs/line-protocol.md");
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 3).collect();
    for (difference, words, example) in EXAMPLES {
        let example =
            if difference == LongKey { example.replace("kkkkkkkk", &"k".repeat(256)) } else { example.into() };
        let found = compare(&example);
        assert_eq!(found, Ok(Some(difference)), "{example:?}: {:?} {:?}", ours(&example), theirs(&example));
        assert!(rows.iter().any(|row| row.starts_with(&format!("| {words}"))), "no row for {words}");
    }
    assert_eq!(rows.len(), EXAMPLES.len() + 1, "as many rows as differences, and the table's head");
}
