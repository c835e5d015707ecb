//! Line protocol (InfluxDB, version 2): checked on the caller's thread, read again at flush.
//!
//! ```text
//! measurement[,tag=value...] field=value[,field=value...] [nanoseconds]
//! ```
//!
//! - Values of fields: float `1.5e3`, integer `-7i`, unsigned `7u`, boolean `t T true True TRUE` and
//!   `f F false False FALSE`, or a quoted string, in which `\"` and `\\` are escapes and line ends are plain bytes.
//! - Elsewhere a backslash escapes comma, space, equals sign (not in a measurement) and backslash; before
//!   anything else it is itself.
//! - Blank lines and lines that start with `#` are skipped. A line ends with `\n`, `\r\n` or the text.
//! - Refused: text that is not UTF-8, a tag or field given twice in a line, NaN and infinity, numbers
//!   that do not fit 64 bits, empty names.
//!
//! Promised: any bytes get an answer, without a panic and without recursion, in time proportional to
//! their number. Types of fields are not compared between lines; that is the store's affair. For it a
//! text's [`Shape`]s are noted as it is checked, so that whoever knows them need not read it again.

use std::borrow::Cow;
use std::ops::Deref;

use bytes::Bytes;
use memchr::memchr;
use smol_str::SmolStr;

use crate::data::schema::ColumnType;
use crate::limits::{BLOCK_SHAPES_MAX, NAMES_BYTES_MAX};
pub use crate::serve::line_error::{LineError, LineProblem};
pub use crate::serve::row::{Fields, Row, Tags};
use crate::serve::row::{PlainRows, next_row};
pub use crate::serve::token::FieldValue;
#[cfg(feature = "parquet")]
pub(crate) use crate::serve::token::read_value;
use crate::serve::token::{
    BACKSLASH, COMMA, EQUALS, NEWLINE, Names, SPACE, find, judge_value, name_end, place, quoted, shape_with, skip,
    string_end,
};
pub(crate) use crate::serve::token::{unescape, value_type};
use crate::types::{Block, BlockKind, Shape, ShapeAt};

/// What [`check`] found out about a sound text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// Lines that carry data.
    pub rows: u32,
    /// The measurement, where all rows have the same one.
    pub measurement: Option<Cow<'a, str>>,
    /// Rows without a time of their own.
    pub missing_times: u32,
    shapes: Noted,
}

/// Checks a whole text.
///
/// ```
/// let sound = forebay::serve::lines::check(b"weather,station=7 temp=21.5 1357002000000000000\n")?;
/// assert_eq!((sound.rows, sound.missing_times), (1, 0));
/// # Ok::<(), forebay::serve::lines::LineError>(())
/// ```
///
/// # Errors
/// The first thing that is wrong, and where.
pub fn check(text: &[u8]) -> Result<Checked<'_>, LineError> {
    let mut lines = lines(text);
    let mut checked = Checked { rows: 0, measurement: None, missing_times: 0, shapes: Noted::default() };
    let Some(first) = lines.next().transpose()? else { return Ok(checked) };
    let mut one_measurement = true;
    let mut next = Some(first);
    while let Some(line) = next {
        checked.rows = checked.rows.checked_add(1).ok_or_else(|| lines.error(LineProblem::TooManyLines))?;
        checked.missing_times += u32::from(line.time().is_none());
        checked.shapes.note(ShapeAt { shape: line.shape, at: line.start });
        one_measurement = one_measurement
            && (line.measurement_text() == first.measurement_text() || line.measurement() == first.measurement());
        next = lines.next().transpose()?;
    }
    checked.measurement = one_measurement.then(|| first.measurement());
    Ok(checked)
}

/// The distinct shapes of a text, each where it comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Noted {
    shapes: Vec<ShapeAt>,
    /// Which of them the last line has.
    last: usize,
    too_many: bool,
}

impl Noted {
    #[inline]
    fn note(&mut self, found: ShapeAt) {
        if self.shapes.get(self.last).is_none_or(|last| last.shape != found.shape) {
            self.change(found);
        }
    }

    fn change(&mut self, found: ShapeAt) {
        match self.shapes.iter().position(|other| other.shape == found.shape) {
            Some(known) => self.last = known,
            None if self.shapes.len() == BLOCK_SHAPES_MAX => self.too_many = true,
            None => {
                self.last = self.shapes.len();
                // Mostly there is only one.
                self.shapes.reserve_exact(if self.last == 0 { 1 } else { self.last });
                self.shapes.push(found);
            }
        }
    }

    /// All shapes, or none if they were too many to note.
    fn all(self) -> Box<[ShapeAt]> {
        if self.too_many { Box::default() } else { self.shapes.into() }
    }
}

/// Reads a text line by line. After an error there is nothing more.
#[must_use]
pub fn lines(text: &[u8]) -> Lines<'_> {
    match std::str::from_utf8(text) {
        Ok(sound) => Lines::new(sound, None),
        Err(error) => {
            let sound = std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default();
            Lines::new(sound, Some(sound.len()))
        }
    }
}

/// The place right behind the line that starts at `from`, its line end included; `None` where the
/// text ends first. Line ends within quoted strings do not count. For cutting text into blocks: it
/// judges nothing.
#[must_use]
pub fn line_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = skip(text, from, b" \t");
    if text.get(at) == Some(&b'#') {
        return find(text, at, NEWLINE).map(|end| end + 1);
    }
    at = name_end(text, at, SPACE | NEWLINE).0;
    loop {
        at = name_end(text, at, EQUALS | NEWLINE).0;
        if *text.get(at)? == b'\n' {
            return Some(at + 1);
        }
        at += 1;
        if text.get(at) == Some(&b'"') {
            at = string_end(text, at + 1)? + 1;
        }
        at = find(text, at, COMMA | NEWLINE)?;
    }
}

impl Block {
    /// A block of line protocol, checked. Its table is its one measurement, or empty for several.
    ///
    /// ```
    /// let block = forebay::Block::lines("meters,id=7 current=10.2,voltage=219i\n")?;
    /// assert_eq!((block.table(), block.rows()), ("meters", 1));
    /// # Ok::<(), forebay::serve::lines::LineError>(())
    /// ```
    ///
    /// # Errors
    /// The first thing that is wrong, and where; also a text without a single row.
    pub fn lines(text: impl Into<Bytes>) -> Result<Self, LineError> {
        let payload = text.into();
        let checked = check(&payload)?;
        if checked.rows == 0 {
            return Err(LineError { line: 1, column: 1, why: LineProblem::NoRows });
        }
        let table = SmolStr::from(checked.measurement.unwrap_or_default());
        if table.len() > NAMES_BYTES_MAX {
            let (line, column) = place(&payload, lines(&payload).next_start());
            return Err(LineError { line, column, why: LineProblem::LongMeasurement(table.len()) });
        }
        let (rows, shapes) = (checked.rows, checked.shapes.all());
        Ok(Self { kind: BlockKind::Lines, table, rows, payload, shapes })
    }
}

/// A sound line, borrowed from its text: a [`Row`], and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    row: Row<'a>,
    shape: Shape,
    /// Where it starts in its text, and where its fields do.
    start: usize,
    fields_start: usize,
}

impl<'a> Deref for Line<'a> {
    type Target = Row<'a>;

    fn deref(&self) -> &Row<'a> {
        &self.row
    }
}

impl<'a> Line<'a> {
    /// A hash over measurement, keys of tags, keys and types of fields, in the order of the line and as they
    /// are written there: lines of one shape have the same columns, but for accidents of 1 in 2^64.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Where it starts in its text, in bytes.
    pub(crate) const fn start(&self) -> usize {
        self.start
    }

    /// Keys of tags and fields with their types, in the order of the line, and where each key stands in the text.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (Cow<'a, str>, ColumnType, usize)> {
        let (mut tags, mut fields) = (self.tags(), self.fields());
        let (all_tags, all_fields) = (tags.left(), fields.left());
        let (tags_start, fields_start) = (self.start + self.measurement_text().len() + 1, self.fields_start);
        let tags = std::iter::from_fn(move || {
            let at = tags_start + all_tags - tags.left();
            tags.next().map(|(key, _)| (key, ColumnType::Tag, at))
        });
        let fields = std::iter::from_fn(move || {
            let at = fields_start + all_fields - fields.left();
            fields.next_raw().map(|(key, value)| (unescape(key), value_type(value.as_bytes()), at))
        });
        tags.chain(fields)
    }
}

/// The lines of a text; made by [`lines`].
#[derive(Debug)]
pub struct Lines<'a> {
    text: &'a str,
    at: usize,
    /// Where the line that was read last starts.
    line: usize,
    not_utf8: Option<usize>,
    names: Names<'a>,
    /// Of what was read of the line.
    shape: Shape,
    /// What the line before was made of.
    last: Like<'a>,
}

/// The names of a sound line, to read lines of its shape faster: those are known to be different, and
/// need only be found where they are expected.
#[derive(Debug, Default)]
struct Like<'a> {
    /// There is such a line, and it has no strings: those are read in full.
    is_known: bool,
    measurement: &'a str,
    /// Keys of tags, then of fields; each with its equals sign.
    tags: Vec<&'a str>,
    fields: Vec<(&'a str, ColumnType)>,
    shape: Shape,
}

impl<'a> Like<'a> {
    fn learn(&mut self, line: &Line<'a>) {
        self.measurement = line.measurement_text();
        self.shape = line.shape;
        self.tags.clear();
        self.fields.clear();
        self.tags.extend(line.tags().texts());
        self.fields.extend(line.fields().texts().map(|(key, value)| (key, value_type(value.as_bytes()))));
        self.is_known = self.fields.iter().all(|(_, of)| *of != ColumnType::String);
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(at) = self.not_utf8.take() {
            let error = self.error_at(at, LineProblem::NotUtf8);
            self.at = self.text.len();
            return Some(Err(error));
        }
        self.line = self.next_start();
        if self.line == self.text.len() {
            self.at = self.line;
            return None;
        }
        Some(self.read(self.line).map_err(|(at, why)| {
            self.at = self.text.len();
            self.error_at(at, why)
        }))
    }
}

impl<'a> Lines<'a> {
    fn new(text: &'a str, not_utf8: Option<usize>) -> Self {
        let (names, shape, last) = (Names::default(), Shape(0), Like::default());
        Self { text, at: 0, line: 0, not_utf8, names, shape, last }
    }

    /// Goes on with the line that starts at `at`.
    pub(crate) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// Where the next line with data starts; the text's length where there is none.
    fn next_start(&self) -> usize {
        next_row(self.text.as_bytes(), self.at)
    }

    /// Reads a line that has the names of the one before in their order, and values of the same types;
    /// `None` where it has not, or is written in any unusual way.
    #[inline]
    fn read_alike(&mut self, start: usize) -> Option<Line<'a>> {
        let bytes = self.text.as_bytes();
        let Like { is_known: true, measurement, tags, fields, shape } = &self.last else { return None };
        let mut at = start;
        let expect = |at: &mut usize, name: &str| {
            let end = *at + name.len();
            let found = bytes.get(*at..end) == Some(name.as_bytes());
            *at = end;
            found.then_some(())
        };
        expect(&mut at, measurement)?;
        for key in tags {
            expect(&mut at, ",")?;
            expect(&mut at, key)?;
            let end = find(bytes, at, COMMA | SPACE | EQUALS | NEWLINE | BACKSLASH)?;
            if end == at || !matches!(bytes[end], b',' | b' ') {
                return None;
            }
            at = end;
        }
        let tags = self.text.get(start + measurement.len() + 1..at).unwrap_or_default();
        expect(&mut at, " ")?;
        let fields_start = at;
        for (number, (key, of)) in fields.iter().enumerate() {
            if number > 0 {
                expect(&mut at, ",")?;
            }
            expect(&mut at, key)?;
            let end = self.token_end(at, COMMA | SPACE | NEWLINE);
            let value = &bytes[at..end];
            if value.is_empty() || value_type(value) != *of || judge_value(value).is_err() {
                return None;
            }
            at = end;
        }
        if bytes.get(at) == Some(&b',') {
            return None;
        }
        let (row, shape) = (Row::new(measurement, tags, &self.text[fields_start..at], None), *shape);
        let time = self.read_time(at).ok()?;
        Some(Line { row: row.at(time), shape, start, fields_start })
    }

    fn read(&mut self, start: usize) -> Result<Line<'a>, (usize, LineProblem)> {
        if let Some(line) = self.read_alike(start) {
            return Ok(line);
        }
        let line = self.read_any(start)?;
        self.last.learn(&line);
        Ok(line)
    }

    fn read_any(&mut self, start: usize) -> Result<Line<'a>, (usize, LineProblem)> {
        let bytes = self.text.as_bytes();
        let (measurement_end, _) = name_end(bytes, start, COMMA | SPACE | NEWLINE);
        if measurement_end == start {
            return Err((start, LineProblem::NoMeasurement));
        }
        let measurement = &self.text[start..measurement_end];
        let mut at = measurement_end;
        self.shape = shape_with(Shape(0), bytes, (start, measurement_end), ColumnType::Tag);
        self.names.clear();
        while bytes.get(at) == Some(&b',') {
            at = self.read_tag(at + 1)?;
        }
        let tags = self.text.get(measurement_end + 1..at).unwrap_or_default();
        let fields_start = skip(bytes, at, b" ");
        if self.after_end(fields_start).is_some() {
            return Err((fields_start, LineProblem::NoFields));
        }
        self.names.clear();
        at = self.read_field(fields_start)?;
        while bytes.get(at) == Some(&b',') {
            at = self.read_field(at + 1)?;
        }
        let fields = &self.text[fields_start..at];
        let time = self.read_time(at)?;
        Ok(Line { row: Row::new(measurement, tags, fields, time), shape: self.shape, start, fields_start })
    }

    /// Reads `key=value` of a tag; the place behind it: a comma or a space.
    fn read_tag(&mut self, start: usize) -> Result<usize, (usize, LineProblem)> {
        let bytes = self.text.as_bytes();
        let key_end = self.read_key(start, LineProblem::NoTagValue)?;
        let (end, _) = name_end(bytes, key_end + 1, COMMA | SPACE | EQUALS | NEWLINE);
        match bytes.get(end) {
            _ if end == key_end + 1 => Err((end, LineProblem::NoTagValue)),
            Some(b'=') => Err((end, LineProblem::StrayEquals)),
            Some(b',' | b' ') => {
                self.shape = shape_with(self.shape, bytes, (start, key_end), ColumnType::Tag);
                Ok(end)
            }
            _ => Err((end, LineProblem::NoFields)),
        }
    }

    /// Reads a key up to its equals sign, and sees that it is new in its list.
    fn read_key(&mut self, start: usize, no_value: LineProblem) -> Result<usize, (usize, LineProblem)> {
        let bytes = self.text.as_bytes();
        let (end, escaped) = name_end(bytes, start, COMMA | SPACE | EQUALS | NEWLINE);
        if end == start {
            return Err((start, LineProblem::NoKey));
        }
        if bytes.get(end) != Some(&b'=') {
            return Err((end, no_value));
        }
        if end - start > NAMES_BYTES_MAX {
            return Err((start, LineProblem::LongKey(end - start)));
        }
        let key = &self.text[start..end];
        if self.names.add(key, escaped) {
            return Err((start, LineProblem::Twice(quoted(key))));
        }
        Ok(end)
    }

    /// Reads `key=value` of a field; the place behind it: a comma, a space or the line's end.
    fn read_field(&mut self, start: usize) -> Result<usize, (usize, LineProblem)> {
        let bytes = self.text.as_bytes();
        let value = self.read_key(start, LineProblem::NoFieldValue)? + 1;
        if bytes.get(value) == Some(&b'"') {
            let Some(quote) = string_end(bytes, value + 1) else { return Err((value, LineProblem::OpenString)) };
            let end = quote + 1;
            self.shape = shape_with(self.shape, bytes, (start, value - 1), ColumnType::String);
            return match bytes.get(end) {
                Some(b',' | b' ') => Ok(end),
                _ if self.after_end(end).is_some() => Ok(end),
                _ => Err((end, LineProblem::AfterString)),
            };
        }
        let end = self.token_end(value, COMMA | SPACE | NEWLINE);
        match judge_value(&bytes[value..end]) {
            Ok(()) => {
                self.shape = shape_with(self.shape, bytes, (start, value - 1), value_type(&bytes[value..end]));
                Ok(end)
            }
            Err(_) if end == value => Err((value, LineProblem::NoFieldValue)),
            Err(why) => Err((value, why(quoted(&self.text[value..end])))),
        }
    }

    /// Reads what may follow the fields, and goes on to the next line.
    fn read_time(&mut self, at: usize) -> Result<Option<i64>, (usize, LineProblem)> {
        let start = skip(self.text.as_bytes(), at, b" ");
        if let Some(next) = self.after_end(start) {
            self.at = next;
            return Ok(None);
        }
        let end = self.token_end(start, SPACE | NEWLINE);
        let token = &self.text[start..end];
        let Ok(time) = token.parse::<i64>() else { return Err((start, LineProblem::Time(quoted(token)))) };
        let behind = skip(self.text.as_bytes(), end, b" ");
        let Some(next) = self.after_end(behind) else { return Err((behind, LineProblem::AfterTime)) };
        self.at = next;
        Ok(Some(time))
    }

    /// The end of a token that has no escapes; a `\r` that belongs to the line's end is not part of it.
    fn token_end(&self, start: usize, stops: u8) -> usize {
        let bytes = self.text.as_bytes();
        let end = find(bytes, start, stops).unwrap_or(bytes.len());
        let at_line_end = matches!(bytes.get(end), None | Some(b'\n'));
        if at_line_end && end > start && bytes[end - 1] == b'\r' { end - 1 } else { end }
    }

    /// The start of the next line, if a line ends at `at`.
    fn after_end(&self, at: usize) -> Option<usize> {
        match self.text.as_bytes().get(at..)? {
            [] => Some(at),
            [b'\n', ..] => Some(at + 1),
            [b'\r'] => Some(at + 1),
            [b'\r', b'\n', ..] => Some(at + 2),
            _ => None,
        }
    }

    fn error(&self, why: LineProblem) -> LineError {
        self.error_at(self.line, why)
    }

    /// What is wrong at this place of the text.
    pub(crate) fn error_at(&self, at: usize, why: LineProblem) -> LineError {
        let (line, column) = place(self.text.as_bytes(), at);
        LineError { line, column, why }
    }
}

/// The rows of a text that was found sound before, as [`lines`] reads them, but not judged again: that is
/// faster. Of another text they may be anything. For what comes out of the log, which was checked before.
///
/// # Errors
/// In the iterator, where the text turns out not to be sound after all.
pub fn sound_rows(text: &[u8]) -> impl Iterator<Item = Result<Row<'_>, LineError>> {
    // Within quotes a line end is a plain byte: such texts are read line by line.
    let plain = if memchr(b'"', text).is_some() { None } else { std::str::from_utf8(text).ok() };
    let (mut plain, mut judged) = match plain {
        Some(text) => (Some(PlainRows::new(text)), None),
        None => (None, Some(lines(text))),
    };
    std::iter::from_fn(move || match (&mut plain, &mut judged) {
        (Some(plain), _) => plain.next().map(Ok),
        (None, judged) => judged.as_mut()?.next().map(|line| line.map(|line| line.row)),
    })
}

#[cfg(test)]
mod tests;
