//! Line protocol (InfluxDB, version 2): checked on the caller's thread, read again at flush.
//!
//! ```text
//! measurement[,tag=value...] field=value[,field=value...] [nanoseconds]
//! ```
//!
//! - Values of fields: float `1.5e3`, integer `-7i`, unsigned `7u`, boolean `t T true True TRUE` and
//!   `f F false False FALSE`, or a quoted string, in which `\"` and `\\` are escapes and line ends are plain bytes.
//! - Elsewhere a backslash escapes comma, space, equals sign and backslash; before anything else it is itself.
//! - Blank lines and lines that start with `#` are skipped. A line ends with `\n`, `\r\n` or the text.
//! - Refused: text that is not UTF-8, a tag or field given twice in a line, NaN and infinity, numbers
//!   that do not fit 64 bits, empty names.
//!
//! Promised: any bytes get an answer, without a panic and without recursion, in time proportional to
//! their number. Types of fields are not compared between lines; that is the store's affair.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use smol_str::SmolStr;

use crate::limits::NAMES_BYTES_MAX;
pub use crate::serve::line_error::{LineError, LineProblem};
use crate::types::{Block, BlockKind};

/// What [`check`] found out about a sound text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// Lines that carry data.
    pub rows: u32,
    /// The measurement, where all rows have the same one.
    pub measurement: Option<Cow<'a, str>>,
    /// Rows without a time of their own.
    pub missing_times: u32,
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
    let mut checked = Checked { rows: 0, measurement: None, missing_times: 0 };
    let Some(first) = lines.next().transpose()? else { return Ok(checked) };
    let mut one_measurement = true;
    let mut next = Some(first);
    while let Some(line) = next {
        checked.rows = checked.rows.checked_add(1).ok_or_else(|| lines.error(LineProblem::TooManyLines))?;
        checked.missing_times += u32::from(line.time.is_none());
        one_measurement =
            one_measurement && (line.measurement == first.measurement || line.measurement() == first.measurement());
        next = lines.next().transpose()?;
    }
    checked.measurement = one_measurement.then(|| first.measurement());
    Ok(checked)
}

/// Reads a text line by line. After an error there is nothing more.
#[must_use]
pub fn lines(text: &[u8]) -> Lines<'_> {
    match std::str::from_utf8(text) {
        Ok(sound) => Lines { text: sound, at: 0, line: 0, not_utf8: None, names: Names::default() },
        Err(error) => {
            let sound = std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default();
            Lines { text: sound, at: 0, line: 0, not_utf8: Some(sound.len()), names: Names::default() }
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
        let rows = checked.rows;
        Ok(Self { kind: BlockKind::Lines, table, rows, payload })
    }
}

/// A sound line, borrowed from its text.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    measurement: &'a str,
    tags: &'a str,
    fields: &'a str,
    time: Option<i64>,
}

impl<'a> Line<'a> {
    /// The measurement without its escapes.
    #[must_use]
    pub fn measurement(&self) -> Cow<'a, str> {
        unescape(self.measurement)
    }

    /// The measurement as the line spells it, escapes included.
    #[must_use]
    pub const fn measurement_text(&self) -> &'a str {
        self.measurement
    }

    /// All tags as the line spells them, escapes included; lines with equal texts have equal tags.
    #[must_use]
    pub const fn tags_text(&self) -> &'a str {
        self.tags
    }

    /// Keys and values of the tags, in the order of the line.
    #[must_use]
    pub fn tags(&self) -> Tags<'a> {
        Tags { rest: self.tags }
    }

    /// Keys and values of the fields, in the order of the line; at least one.
    #[must_use]
    pub fn fields(&self) -> Fields<'a> {
        Fields { rest: self.fields }
    }

    /// Nanoseconds since 1970, where the line says so.
    #[must_use]
    pub const fn time(&self) -> Option<i64> {
        self.time
    }
}

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// A finite number.
    Float(f64),
    /// `7i`
    Integer(i64),
    /// `7u`
    Unsigned(u64),
    /// `true`
    Boolean(bool),
    /// A quoted string without its quotes and escapes.
    Text(Cow<'a, str>),
}

/// The tags of a [`Line`].
#[derive(Clone, Debug)]
pub struct Tags<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tags<'a> {
    type Item = (Cow<'a, str>, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.rest.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        let key_end = name_end(bytes, 0, EQUALS).0;
        let value_end = name_end(bytes, key_end + 1, COMMA).0;
        let pair = (unescape(&self.rest[..key_end]), unescape(&self.rest[key_end + 1..value_end]));
        self.rest = self.rest.get(value_end + 1..).unwrap_or_default();
        Some(pair)
    }
}

/// The fields of a [`Line`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Cow<'a, str>, FieldValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.rest.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        let key_end = name_end(bytes, 0, EQUALS).0;
        let start = key_end + 1;
        let value_end = if bytes[start] == b'"' {
            string_end(bytes, start + 1).map_or(bytes.len(), |quote| quote + 1)
        } else {
            find(bytes, start, COMMA).unwrap_or(bytes.len())
        };
        let pair = (unescape(&self.rest[..key_end]), read_value(&self.rest[start..value_end]));
        self.rest = self.rest.get(value_end + 1..).unwrap_or_default();
        Some(pair)
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
    /// Where the next line with data starts; the text's length where there is none.
    fn next_start(&self) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        loop {
            at = skip(bytes, at, b" \t\r\n");
            if bytes.get(at) != Some(&b'#') {
                return at;
            }
            at = find(bytes, at, NEWLINE).unwrap_or(bytes.len());
        }
    }

    fn read(&mut self, start: usize) -> Result<Line<'a>, (usize, LineProblem)> {
        let bytes = self.text.as_bytes();
        let (measurement_end, _) = name_end(bytes, start, COMMA | SPACE | NEWLINE);
        if measurement_end == start {
            return Err((start, LineProblem::NoMeasurement));
        }
        let measurement = &self.text[start..measurement_end];
        let mut at = measurement_end;
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
        Ok(Line { measurement, tags, fields, time })
    }

    /// Reads `key=value` of a tag; the place behind it: a comma or a space.
    fn read_tag(&mut self, start: usize) -> Result<usize, (usize, LineProblem)> {
        let bytes = self.text.as_bytes();
        let key_end = self.read_key(start, LineProblem::NoTagValue)?;
        let (end, _) = name_end(bytes, key_end + 1, COMMA | SPACE | EQUALS | NEWLINE);
        match bytes.get(end) {
            _ if end == key_end + 1 => Err((end, LineProblem::NoTagValue)),
            Some(b'=') => Err((end, LineProblem::StrayEquals)),
            Some(b',' | b' ') => Ok(end),
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
            return match bytes.get(end) {
                Some(b',' | b' ') => Ok(end),
                _ if self.after_end(end).is_some() => Ok(end),
                _ => Err((end, LineProblem::AfterString)),
            };
        }
        let end = self.token_end(value, COMMA | SPACE | NEWLINE);
        match judge_value(&bytes[value..end]) {
            Ok(()) => Ok(end),
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

    fn error_at(&self, at: usize, why: LineProblem) -> LineError {
        let (line, column) = place(self.text.as_bytes(), at);
        LineError { line, column, why }
    }
}

/// The names of one list of tags or fields, to find those that are given twice.
#[derive(Debug, Default)]
struct Names<'a> {
    /// A bit for each print of a name; a name whose bit is not set is new.
    prints: u64,
    /// Whether any name of this list has escapes.
    escaped: bool,
    few: Vec<&'a str>,
    many: HashSet<Cow<'a, str>>,
}

/// Beyond this many names they are hashed: comparing each with each would not be linear.
const FEW_NAMES: usize = 16;

impl<'a> Names<'a> {
    #[inline]
    fn clear(&mut self) {
        self.prints = 0;
        self.escaped = false;
        self.few.clear();
        if !self.many.is_empty() {
            self.many = HashSet::new();
        }
    }

    /// Adds a name that is not empty; whether it was there before.
    #[inline]
    fn add(&mut self, name: &'a str, escaped: bool) -> bool {
        let bytes = name.as_bytes();
        self.escaped |= escaped;
        let print = 1 << ((usize::from(bytes[0]) * 5 + usize::from(bytes[bytes.len() - 1]) * 3 + bytes.len()) % 64);
        let maybe = self.prints & print != 0;
        self.prints |= print;
        if self.few.len() < FEW_NAMES {
            let before = match self.escaped {
                // One name can then be written in two ways, with two prints.
                true => self.few.iter().any(|other| unescape(other) == unescape(name)),
                false => maybe && self.few.contains(&name),
            };
            self.few.push(name);
            return before;
        }
        if self.many.is_empty() {
            self.many.extend(self.few.iter().map(|other| unescape(other)));
        }
        !self.many.insert(unescape(name))
    }
}

const COMMA: u8 = 1;
const SPACE: u8 = 2;
const EQUALS: u8 = 4;
const NEWLINE: u8 = 8;
const BACKSLASH: u8 = 16;

/// What each byte means to the scanner.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    class[b',' as usize] = COMMA;
    class[b' ' as usize] = SPACE;
    class[b'=' as usize] = EQUALS;
    class[b'\n' as usize] = NEWLINE;
    class[b'\\' as usize] = BACKSLASH;
    class
};

/// The first place from `at` on whose byte is of one of the classes.
#[inline]
fn find(bytes: &[u8], at: usize, stops: u8) -> Option<usize> {
    let rest = bytes.get(at..)?;
    rest.iter().position(|&byte| CLASS[usize::from(byte)] & stops != 0).map(|found| at + found)
}

/// The end of a name: the first unescaped stop, or the text's end; and whether there are escapes.
#[inline]
fn name_end(bytes: &[u8], mut at: usize, stops: u8) -> (usize, bool) {
    let mut escaped = false;
    while let Some(found) = find(bytes, at, stops | BACKSLASH) {
        if bytes[found] != b'\\' {
            return (found, escaped);
        }
        let escapes = bytes.get(found + 1).is_some_and(|&next| is_escaped(next));
        escaped |= escapes;
        at = found + 1 + usize::from(escapes);
    }
    (bytes.len(), escaped)
}

/// Whether a backslash before this byte is an escape.
#[inline]
const fn is_escaped(byte: u8) -> bool {
    matches!(byte, b',' | b' ' | b'=' | b'\\')
}

/// The closing quote of a string whose content starts at `at`.
#[inline]
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'"' | b'\\')));
    }
}

/// The first place from `at` on whose byte is none of `these`.
#[inline]
fn skip(bytes: &[u8], mut at: usize, these: &[u8]) -> usize {
    while bytes.get(at).is_some_and(|byte| these.contains(byte)) {
        at += 1;
    }
    at
}

/// Judges a value that is not a string; the error lacks only the quoted value.
#[inline]
fn judge_value(token: &[u8]) -> Result<(), fn(Box<str>) -> LineProblem> {
    let (&last, front) = token.split_last().ok_or(LineProblem::Value as fn(_) -> _)?;
    let digits = match front {
        [b'-' | b'+', digits @ ..] => digits,
        digits => digits,
    };
    match last {
        b'i' | b'u' if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            // 18 digits always fit.
            let signed = front[0] == b'-' && last == b'u';
            let fits = (digits.len() <= 18 && !signed)
                || matches!(std::str::from_utf8(front), Ok(text)
                if if last == b'i' { text.parse::<i64>().is_ok() } else { text.parse::<u64>().is_ok() });
            if fits { Ok(()) } else { Err(LineProblem::Range) }
        }
        b'0'..=b'9' | b'.' => judge_float(token),
        _ if read_boolean(token).is_some() => Ok(()),
        _ => {
            let word = token.strip_prefix(b"-").or(token.strip_prefix(b"+")).unwrap_or(token);
            let not_finite = [&b"nan"[..], b"inf", b"infinity"].iter().any(|name| word.eq_ignore_ascii_case(name));
            Err(if not_finite { LineProblem::NotFinite } else { LineProblem::Value })
        }
    }
}

/// `[sign] digits [. digits] [e [sign] digits]`, with a digit on at least one side of the point.
#[inline]
fn judge_float(token: &[u8]) -> Result<(), fn(Box<str>) -> LineProblem> {
    let digits_from = |at: usize| at + token[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let start = usize::from(matches!(token[0], b'-' | b'+'));
    let mut at = digits_from(start);
    let mut digits = at - start;
    if token.get(at) == Some(&b'.') {
        let end = digits_from(at + 1);
        digits += end - at - 1;
        at = end;
    }
    let mantissa_end = at;
    if digits > 0 && matches!(token.get(at), Some(b'e' | b'E')) {
        let exponent = at + 1 + usize::from(matches!(token.get(at + 1), Some(b'-' | b'+')));
        at = digits_from(exponent.min(token.len()));
        if at <= exponent {
            return Err(LineProblem::Value);
        }
    }
    if digits == 0 || at != token.len() {
        return Err(LineProblem::Value);
    }
    // Without an exponent 300 digits always fit.
    let fits = (mantissa_end == at && digits <= 300)
        || std::str::from_utf8(token).is_ok_and(|text| text.parse::<f64>().is_ok_and(f64::is_finite));
    if fits { Ok(()) } else { Err(LineProblem::NotFinite) }
}

fn read_boolean(token: &[u8]) -> Option<bool> {
    match token {
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Some(true),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

/// Reads a value that was judged to be sound.
fn read_value(token: &str) -> FieldValue<'_> {
    let front = &token[..token.len().saturating_sub(1)];
    match token.as_bytes() {
        [b'"', .., b'"'] => FieldValue::Text(unescape_string(&token[1..token.len() - 1])),
        [.., b'i'] => FieldValue::Integer(front.parse().unwrap_or_default()),
        [.., b'u'] => FieldValue::Unsigned(front.parse().unwrap_or_default()),
        bytes => match read_boolean(bytes) {
            Some(value) => FieldValue::Boolean(value),
            None => FieldValue::Float(token.parse().unwrap_or_default()),
        },
    }
}

fn unescape(name: &str) -> Cow<'_, str> {
    without_escapes(name, is_escaped)
}

fn unescape_string(text: &str) -> Cow<'_, str> {
    without_escapes(text, |byte| matches!(byte, b'"' | b'\\'))
}

fn without_escapes(text: &str, is_escaped: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if !text.as_bytes().contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        match rest.as_bytes().get(at + 1) {
            Some(&next) if is_escaped(next) => {
                plain.push(char::from(next));
                rest = &rest[at + 2..];
            }
            _ => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// A name or value as messages show it.
fn quoted(text: &str) -> Box<str> {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

/// Line and column of a place, both from 1.
fn place(text: &[u8], at: usize) -> (u64, u32) {
    let before = &text[..at.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
    (line, u32::try_from(before.len() - line_start + 1).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
