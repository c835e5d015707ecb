//! Line protocol. Rows that are written are read back as they are; whatever is accepted says the same by
//! every way in which the crate reads it: checked, line by line, cut into pieces, alone, unjudged, and
//! written anew. What is refused is refused at a place in the text.

use std::collections::HashMap;

use crate::data::schema::ColumnType;
use crate::fuzz::choices::Choices;
use crate::limits::NAMES_BYTES_MAX;
use crate::serve::lines::{FieldValue, Row, check, line_end, lines, sound_rows};
use crate::types::{Block, Shape};

/// What texts are put together from, beside bytes as they come.
const WORDS: [&str; 48] = [
    "m",
    "cpu",
    "a",
    "b",
    "t",
    "f",
    ",",
    ",",
    " ",
    " ",
    "=",
    "=",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\\",
    "\\\\",
    "\\,",
    "\\ ",
    "\\=",
    "\"",
    "\\\"",
    "\"x\"",
    "#",
    "0",
    "1",
    "-1",
    "1i",
    "-7i",
    "7u",
    "18446744073709551615u",
    "9223372036854775808i",
    "1.5",
    "1e3",
    "1e400",
    ".5",
    "5.",
    "nan",
    "inf",
    "true",
    "F",
    "1700000000000000000",
    "9223372036854775808",
    "\u{e9}",
    "\u{20ac}",
    "+",
    "e",
];

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    match from.byte() % 4 {
        0 => judge(from.all()),
        1 => judge(soup(&mut from).as_bytes()),
        2 => {
            let (text, rows) = any_text(&mut from);
            let read: Vec<Made> = lines(text.as_bytes()).map(|line| Made::of(&line.expect("a sound text"))).collect();
            assert_eq!(read, rows, "rows are read as they were written: {text:?}");
            judge(text.as_bytes());
        }
        _ => {
            let mut text = any_text(&mut from).0.into_bytes();
            let length = text.len();
            from.rot(&mut text, (0, length));
            judge(&text);
        }
    }
}

/// Words and bytes in any order.
#[must_use]
pub fn soup(from: &mut Choices<'_>) -> String {
    let mut text = String::new();
    while !from.is_empty() && text.len() < 4096 {
        match from.byte() {
            at @ ..192 => text.push_str(WORDS[usize::from(at) % WORDS.len()]),
            _ => text.push(char::from(from.byte() % 128)),
        }
    }
    text
}

/// A row with all that it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Its measurement.
    pub measurement: String,
    /// Keys and values of its tags.
    pub tags: Vec<(String, String)>,
    /// Keys and values of its fields.
    pub fields: Vec<(String, FieldValue<'static>)>,
    /// Its time.
    pub time: Option<i64>,
}

impl Made {
    /// What a row says.
    #[must_use]
    pub fn of(row: &Row<'_>) -> Self {
        let owned = |value: FieldValue<'_>| match value {
            FieldValue::Float(value) => FieldValue::Float(value),
            FieldValue::Integer(value) => FieldValue::Integer(value),
            FieldValue::Unsigned(value) => FieldValue::Unsigned(value),
            FieldValue::Boolean(value) => FieldValue::Boolean(value),
            FieldValue::Text(text) => FieldValue::Text(text.into_owned().into()),
        };
        Self {
            measurement: row.measurement().into_owned(),
            tags: row.tags().map(|(key, value)| (key.into_owned(), value.into_owned())).collect(),
            fields: row.fields().map(|(key, value)| (key.into_owned(), owned(value))).collect(),
            time: row.time(),
        }
    }

    /// The row as a line, without a line end.
    #[must_use]
    pub fn text(&self) -> String {
        // There an equals sign is a plain byte.
        let mut text = escaped(&self.measurement).replace("\\=", "=");
        for (key, value) in &self.tags {
            text += &format!(",{}={}", escaped(key), escaped(value));
        }
        for (at, (key, value)) in self.fields.iter().enumerate() {
            let value = match value {
                FieldValue::Float(value) => format!("{value:?}"),
                FieldValue::Integer(value) => format!("{value}i"),
                FieldValue::Unsigned(value) => format!("{value}u"),
                FieldValue::Boolean(value) => value.to_string(),
                FieldValue::Text(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            };
            text += &format!("{}{}={value}", if at == 0 { " " } else { "," }, escaped(key));
        }
        if let Some(time) = self.time {
            text += &format!(" {time}");
        }
        text
    }
}

/// A name as a line spells it.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for char in name.chars() {
        if matches!(char, ',' | ' ' | '=' | '\\') {
            text.push('\\');
        }
        text.push(char);
    }
    text
}

/// A sound text and what its rows say.
pub fn any_text(from: &mut Choices<'_>) -> (String, Vec<Made>) {
    let (mut text, mut rows) = (String::new(), Vec::<Made>::new());
    for number in 0..from.byte() % 6 {
        let row = match rows.last() {
            // Lines of one shape are read in a way of their own.
            Some(last) if from.flag() => Made {
                tags: last.tags.iter().map(|(key, _)| (key.clone(), name(from))).collect(),
                fields: last.fields.iter().map(|(key, of)| (key.clone(), value(from, of.column_type()))).collect(),
                time: time(from),
                measurement: last.measurement.clone(),
            },
            _ => any_row(from),
        };
        if number > 0 {
            text += ["\n", "\r\n", "\n\n", "\n# a comment\n", " \n", "\n \t"][from.below(6)];
        }
        text += &row.text();
        rows.push(row);
    }
    if from.flag() {
        text.push('\n');
    }
    (text, rows)
}

fn any_row(from: &mut Choices<'_>) -> Made {
    let keys = |from: &mut Choices<'_>, count: usize| {
        let mut keys: Vec<String> = (0..count).map(|_| name(from)).collect();
        keys.sort();
        keys.dedup();
        let turn = count / 2 % keys.len().max(1);
        keys.rotate_left(turn);
        keys
    };
    let (tags, fields) = (from.below(4), 1 + from.below(20));
    let types = [ColumnType::Float, ColumnType::Integer, ColumnType::Unsigned, ColumnType::Boolean, ColumnType::String];
    Made {
        measurement: name(from),
        tags: keys(from, tags).into_iter().map(|key| (key, name(from))).collect(),
        fields: keys(from, fields)
            .into_iter()
            .map(|key| {
                let of = types[from.below(types.len())];
                (key, value(from, of))
            })
            .collect(),
        time: time(from),
    }
}

/// A name that a line can spell: not empty, without line ends, not a comment.
fn name(from: &mut Choices<'_>) -> String {
    let text = from.text(12);
    let name: String = text.chars().filter(|char| !matches!(char, '\n' | '\r' | '\t' | '#')).collect();
    if name.is_empty() { "n".to_owned() } else { name }
}

fn time(from: &mut Choices<'_>) -> Option<i64> {
    from.flag().then(|| from.number() as i64)
}

fn value(from: &mut Choices<'_>, of: ColumnType) -> FieldValue<'static> {
    match of {
        ColumnType::Float => {
            let value = f64::from_bits(from.number());
            FieldValue::Float(if value.is_finite() { value } else { from.number() as f64 })
        }
        ColumnType::Integer => FieldValue::Integer(from.number() as i64),
        ColumnType::Unsigned => FieldValue::Unsigned(from.number()),
        ColumnType::Boolean => FieldValue::Boolean(from.flag()),
        ColumnType::String | ColumnType::Tag => FieldValue::Text(from.text(20).into()),
    }
}

fn judge(text: &[u8]) {
    let read: Result<Vec<_>, _> = lines(text).collect();
    let checked = check(text);
    let read = match (read, &checked) {
        (Ok(read), Ok(_)) => read,
        (Err(one), Err(other)) => {
            assert_eq!(one, *other, "one error by every way");
            let newlines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
            assert!((1..=newlines + 1).contains(&one.line) && one.column >= 1, "{one}");
            assert!(one.column as usize <= text.len() + 1, "{one}");
            assert!(one.to_string().len() < 400, "a message has a bound");
            return;
        }
        (read, checked) => panic!("accepted by one way, refused by the other: {read:?} {checked:?}"),
    };
    let checked = checked.expect("looked at above");
    let rows: Vec<Made> = read.iter().map(|line| Made::of(line)).collect();
    assert_eq!(checked.rows as usize, rows.len());
    assert_eq!(checked.missing_times as usize, rows.iter().filter(|row| row.time.is_none()).count());
    let same = rows.windows(2).all(|two| two[0].measurement == two[1].measurement);
    let one = rows.first().filter(|_| same).map(|row| row.measurement.as_str());
    assert_eq!(checked.measurement.as_deref(), one);
    let unjudged: Vec<Made> = sound_rows(text).map(|row| Made::of(&row.expect("a sound text"))).collect();
    assert_eq!(unjudged, rows, "rows of a sound text say the same unjudged");
    let mut shapes: HashMap<Shape, Vec<(String, ColumnType)>> = HashMap::new();
    for (line, row) in read.iter().zip(&rows) {
        let from = line.start();
        let end = line_end(text, from).unwrap_or(text.len());
        assert_eq!(alone(&text[from..end]), std::slice::from_ref(row), "a line says the same alone");
        // A key's bound is that of its spelling, and written anew every backslash in it is escaped.
        let mut names = row.tags.iter().map(|(key, _)| key).chain(row.fields.iter().map(|(key, _)| key));
        if names.all(|key| escaped(key).len() <= NAMES_BYTES_MAX) {
            assert_eq!(alone(row.text().as_bytes()), std::slice::from_ref(row), "and written anew");
        }
        let mut keys = vec![(row.measurement.clone(), ColumnType::Tag)];
        for (key, of, at) in line.keys() {
            let first = key.chars().next().expect("a key");
            let there = std::str::from_utf8(&text[at..]).expect("a place between characters").chars().next();
            assert!(there == Some(first) || there == Some('\\'), "a key stands where it is said to");
            assert!(key.len() <= NAMES_BYTES_MAX);
            keys.push((key.into_owned(), of));
        }
        let names = row.tags.iter().map(|(key, _)| key).chain(row.fields.iter().map(|(key, _)| key));
        assert!(names.eq(keys[1..].iter().map(|(key, _)| key)), "the keys of a line are those of its row");
        assert_eq!(*shapes.entry(line.shape()).or_insert_with(|| keys.clone()), keys, "one shape, one set of keys");
    }
    let (mut at, mut pieces) = (0, Vec::new());
    while at < text.len() {
        let end = line_end(text, at).unwrap_or(text.len());
        assert!(end > at, "a cut goes on");
        pieces.extend(alone(&text[at..end]));
        at = end;
    }
    assert_eq!(pieces, rows, "a text that is cut says the same");
    if let Ok(block) = Block::lines(text.to_vec()) {
        assert_eq!(block.rows() as usize, rows.len());
        assert_eq!(block.table(), one.unwrap_or_default());
    } else {
        assert!(rows.is_empty() || one.is_some_and(|one| one.len() > NAMES_BYTES_MAX), "a sound text is a block");
    }
}

/// The rows of a text that is sound by itself.
fn alone(text: &[u8]) -> Vec<Made> {
    lines(text).map(|line| Made::of(&line.expect("a sound piece"))).collect()
}
