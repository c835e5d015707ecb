//! What a sound line of line protocol says: measurement, tags, fields, time. What is sound is up to
//! [`lines`](super::lines).

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::serve::token::{
    COMMA, EQUALS, FieldValue, NEWLINE, SPACE, find, name_end, read_value, skip, string_end, unescape,
    unescape_measurement,
};

/// What a line says, borrowed from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    measurement: &'a str,
    tags: &'a str,
    fields: &'a str,
    time: Option<i64>,
}

impl<'a> Row<'a> {
    pub(super) const fn new(measurement: &'a str, tags: &'a str, fields: &'a str, time: Option<i64>) -> Self {
        Self { measurement, tags, fields, time }
    }

    pub(super) const fn at(self, time: Option<i64>) -> Self {
        Self { time, ..self }
    }

    /// The measurement without its escapes.
    #[must_use]
    pub fn measurement(&self) -> Cow<'a, str> {
        unescape_measurement(self.measurement)
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
    pub const fn tags(&self) -> Tags<'a> {
        Tags { rest: self.tags }
    }

    /// Keys and values of the fields, in the order of the line; at least one.
    #[must_use]
    pub const fn fields(&self) -> Fields<'a> {
        Fields { rest: self.fields }
    }

    /// Nanoseconds since 1970, where the line says so.
    #[must_use]
    pub const fn time(&self) -> Option<i64> {
        self.time
    }
}

/// The tags of a [`Row`].
#[derive(Clone, Debug)]
pub struct Tags<'a> {
    rest: &'a str,
}

impl<'a> Tags<'a> {
    /// Bytes that were not read yet.
    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The keys as they are written, each with its equals sign.
    pub(super) fn texts(mut self) -> impl Iterator<Item = &'a str> {
        std::iter::from_fn(move || {
            let rest = self.rest;
            let key_end = name_end(rest.as_bytes(), 0, EQUALS).0;
            self.next().map(|_| &rest[..=key_end])
        })
    }
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
        let value = self.rest.get(key_end + 1..value_end).unwrap_or_default();
        let pair = (unescape(&self.rest[..key_end]), unescape(value));
        self.rest = self.rest.get(value_end + 1..).unwrap_or_default();
        Some(pair)
    }
}

/// The fields of a [`Row`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Cow<'a, str>, FieldValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_raw().map(|(key, value)| (unescape(key), read_value(value)))
    }
}

impl<'a> Fields<'a> {
    /// The next key and value as they are written.
    #[inline]
    pub(crate) fn next_raw(&mut self) -> Option<(&'a str, &'a str)> {
        let bytes = self.rest.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        let key_end = name_end(bytes, 0, EQUALS).0;
        let start = key_end + 1;
        let value_end = if bytes.get(start) == Some(&b'"') {
            string_end(bytes, start + 1).map_or(bytes.len(), |quote| quote + 1)
        } else {
            find(bytes, start, COMMA).unwrap_or(bytes.len())
        };
        let pair = (&self.rest[..key_end], self.rest.get(start..value_end).unwrap_or_default());
        self.rest = self.rest.get(value_end + 1..).unwrap_or_default();
        Some(pair)
    }

    /// Bytes that were not read yet.
    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The keys as they are written, each with its equals sign, and the values.
    pub(super) fn texts(mut self) -> impl Iterator<Item = (&'a str, &'a str)> {
        std::iter::from_fn(move || {
            let rest = self.rest;
            self.next_raw().map(|(key, value)| (&rest[..=key.len()], value))
        })
    }
}

/// Where the next line with data starts, from the end of a line on; the text's length where there is none.
pub(super) fn next_row(bytes: &[u8], mut at: usize) -> usize {
    loop {
        at = skip(bytes, at, b" \t\r\n");
        if bytes.get(at) != Some(&b'#') {
            return at;
        }
        at = find(bytes, at, NEWLINE).unwrap_or(bytes.len());
    }
}

/// The end of what stands before `end` without bytes of `these` at its end.
#[inline]
fn trimmed(bytes: &[u8], mut end: usize, these: &[u8]) -> usize {
    while end > 0 && these.contains(&bytes[end - 1]) {
        end -= 1;
    }
    end
}

/// The rows of a sound text without quotes: every line end ends a line, and what follows the last space
/// is the time unless it has an equals sign.
#[derive(Debug)]
pub(super) struct PlainRows<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> PlainRows<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }
}

impl<'a> Iterator for PlainRows<'a> {
    type Item = Row<'a>;

    #[inline]
    fn next(&mut self) -> Option<Row<'a>> {
        let bytes = self.text.as_bytes();
        let start = next_row(bytes, self.at);
        if start == bytes.len() {
            return None;
        }
        let measurement_end = name_end(bytes, start, COMMA | SPACE).0;
        let tags_end = match memchr2(b' ', b'\\', &bytes[measurement_end..]).map(|found| measurement_end + found) {
            Some(end) if bytes[end] == b' ' => end,
            _ => name_end(bytes, measurement_end, SPACE).0,
        };
        let fields_start = skip(bytes, tags_end, b" ");
        let line_end = memchr(b'\n', &bytes[fields_start..]).map_or(bytes.len(), |found| fields_start + found);
        self.at = line_end;
        let end = trimmed(bytes, line_end, b"\r ");
        // Where the last word begins: a time is short.
        let word = bytes
            .get(fields_start..end)
            .unwrap_or_default()
            .iter()
            .rposition(|byte| *byte == b' ')
            .map(|space| fields_start + space + 1);
        let time = word.filter(|word| !bytes[*word..end].contains(&b'='));
        let (fields_end, time) = match time {
            Some(word) => (trimmed(bytes, word, b" "), self.text[word..end].parse().ok()),
            None => (end, None),
        };
        let fields = self.text.get(fields_start..fields_end).unwrap_or_default();
        let tags = self.text.get(measurement_end + 1..tags_end).unwrap_or_default();
        Some(Row::new(&self.text[start..measurement_end], tags, fields, time))
    }
}
