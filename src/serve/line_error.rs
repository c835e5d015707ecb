//! What can be wrong with line protocol, in words for whoever wrote it.

use crate::data::schema::ColumnType;
use crate::limits::NAMES_BYTES_MAX;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {why}")]
pub struct LineError {
    /// The line of the text, from 1; line ends within strings count.
    pub line: u64,
    /// The byte in that line, from 1.
    pub column: u32,
    /// What is wrong there.
    pub why: LineProblem,
}

/// What can be wrong with a line. Names and values are cut to their first 40 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// Bytes that are no text.
    #[error("not UTF-8")]
    NotUtf8,
    /// Only comments and blank lines.
    #[error("no line with data in the whole text")]
    NoRows,
    /// More rows than can be counted.
    #[error("more than 4294967295 lines in one text")]
    TooManyLines,
    /// The line starts with a comma.
    #[error("a measurement is missing")]
    NoMeasurement,
    /// A table name must be shorter. Its length in bytes.
    #[error("the measurement has {0} bytes; at most {NAMES_BYTES_MAX} together with the namespace")]
    LongMeasurement(usize),
    /// A tag or field without a name.
    #[error("a key is missing")]
    NoKey,
    /// A tag without a value.
    #[error("a tag needs '=' and a value")]
    NoTagValue,
    /// A second equals sign in a tag.
    #[error("'=' in a tag's value must be written '\\='")]
    StrayEquals,
    /// The line ends before its fields.
    #[error("a space and at least one field are missing")]
    NoFields,
    /// A field without a value.
    #[error("a field needs '=' and a value")]
    NoFieldValue,
    /// The text ends within a string.
    #[error("the string that begins here is never closed")]
    OpenString,
    /// Something behind a string's closing quote.
    #[error("after a string only ',', a space or the line's end can follow")]
    AfterString,
    /// Not a value.
    #[error("field value '{0}' is neither a number, boolean nor quoted string")]
    Value(Box<str>),
    /// A float that is not finite.
    #[error("field value '{0}' is not a finite number")]
    NotFinite(Box<str>),
    /// An integer that does not fit.
    #[error("integer '{0}' does not fit 64 bits")]
    Range(Box<str>),
    /// One name twice in a line's tags, or in its fields.
    #[error("key '{0}' is given twice in this line")]
    Twice(Box<str>),
    /// A key has another type in its table, or earlier in the text.
    #[error(
        "'{key}' is {is} here and {was} in its table; write it as {was}, or under another name. Nothing of the text was taken"
    )]
    Type {
        /// The key.
        key: Box<str>,
        /// What it is here.
        is: ColumnType,
        /// What it was first.
        was: ColumnType,
    },
    /// A key must be shorter. Its length in bytes.
    #[error("a key has {0} bytes; at most {NAMES_BYTES_MAX} fit")]
    LongKey(usize),
    /// Not a time.
    #[error("time '{0}' is not a 64-bit number of nanoseconds")]
    Time(Box<str>),
    /// Something behind the time.
    #[error("nothing can follow the time")]
    AfterTime,
}
