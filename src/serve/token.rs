//! Names and values of line protocol, within a line: where they end, whether they are sound, what they
//! say, and the running hash of a line's [`Shape`]. What may follow what is up to [`lines`](super::lines).

use std::borrow::Cow;
use std::collections::HashSet;

use crate::data::schema::ColumnType;
use crate::serve::line_error::LineProblem;
use crate::types::{Shape, mix64};

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

impl FieldValue<'_> {
    /// Its type.
    #[must_use]
    pub const fn column_type(&self) -> ColumnType {
        match self {
            Self::Float(_) => ColumnType::Float,
            Self::Integer(_) => ColumnType::Integer,
            Self::Unsigned(_) => ColumnType::Unsigned,
            Self::Boolean(_) => ColumnType::Boolean,
            Self::Text(_) => ColumnType::String,
        }
    }
}

/// The type of a sound value: its first and last byte tell.
#[inline]
pub(crate) fn value_type(token: &[u8]) -> ColumnType {
    match token {
        [b'"', ..] => ColumnType::String,
        [.., b'i'] => ColumnType::Integer,
        [.., b'u'] => ColumnType::Unsigned,
        [.., b'0'..=b'9' | b'.'] => ColumnType::Float,
        _ => ColumnType::Boolean,
    }
}

/// The shape of a line after one more of its names, which stands at `from..to` in the text, as it is written
/// there. The type of the measurement is a tag's.
#[inline]
pub(super) fn shape_with(shape: Shape, text: &[u8], (from, to): (usize, usize), of: ColumnType) -> Shape {
    // Spread over the whole word: a difference here must not meet one between two names.
    let kind = ((to - from) as u64 * 8 + of as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut state = shape.0 ^ kind;
    let mut at = from;
    while to - at > 8 {
        state = mix64(state, word(text, at, 8));
        at += 8;
    }
    Shape(mix64(state, word(text, at, to - at)))
}

/// Up to 8 bytes of the text as a number.
#[inline]
fn word(text: &[u8], at: usize, count: usize) -> u64 {
    match text.get(at..at + 8) {
        Some(eight) => {
            let whole = u64::from_le_bytes(eight.try_into().expect("8 bytes"));
            whole & (u64::MAX >> (8 * (8 - count) as u32).min(63))
        }
        None => text[at..at + count].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The names of one list of tags or fields, to find those that are given twice.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
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
    pub(super) fn clear(&mut self) {
        self.prints = 0;
        self.escaped = false;
        self.few.clear();
        if !self.many.is_empty() {
            self.many = HashSet::new();
        }
    }

    /// Adds a name that is not empty; whether it was there before.
    #[inline]
    pub(super) fn add(&mut self, name: &'a str, escaped: bool) -> bool {
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

pub(super) const COMMA: u8 = 1;
pub(super) const SPACE: u8 = 2;
pub(super) const EQUALS: u8 = 4;
pub(super) const NEWLINE: u8 = 8;
pub(super) const BACKSLASH: u8 = 16;

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
pub(super) fn find(bytes: &[u8], at: usize, stops: u8) -> Option<usize> {
    let rest = bytes.get(at..)?;
    rest.iter().position(|&byte| CLASS[usize::from(byte)] & stops != 0).map(|found| at + found)
}

/// The end of a name: the first unescaped stop, or the text's end; and whether there are escapes.
#[inline]
pub(super) fn name_end(bytes: &[u8], mut at: usize, stops: u8) -> (usize, bool) {
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
pub(super) fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
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
pub(super) fn skip(bytes: &[u8], mut at: usize, these: &[u8]) -> usize {
    while bytes.get(at).is_some_and(|byte| these.contains(byte)) {
        at += 1;
    }
    at
}

/// Judges a value that is not a string; the error lacks only the quoted value.
#[inline]
pub(super) fn judge_value(token: &[u8]) -> Result<(), fn(Box<str>) -> LineProblem> {
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
pub(crate) fn read_value(token: &str) -> FieldValue<'_> {
    let front = token.get(..token.len().saturating_sub(1)).unwrap_or_default();
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

pub(crate) fn unescape(name: &str) -> Cow<'_, str> {
    without_escapes(name, is_escaped)
}

/// Of a measurement: there an equals sign is a plain byte.
pub(super) fn unescape_measurement(name: &str) -> Cow<'_, str> {
    without_escapes(name, |byte| byte != b'=' && is_escaped(byte))
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
pub(super) fn quoted(text: &str) -> Box<str> {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

/// Line and column of a place, both from 1.
pub(super) fn place(text: &[u8], at: usize) -> (u64, u32) {
    let before = &text[..at.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
    (line, u32::try_from(before.len() - line_start + 1).unwrap_or(u32::MAX))
}
