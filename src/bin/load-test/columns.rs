//! Columns in figures: how many values, and a sum that does not depend on the order of the rows.

use std::collections::HashMap;
use std::fmt;

use forebay::serve::lines::{FieldValue, Line};
use forebay::types::mix64;
use serde::Serialize;

use crate::workload::hash_of;

/// The column of a row's time.
const TIME: &str = "time";

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Of a tag.
    Tag(&'a str),
    /// A number.
    Float(f64),
    /// A whole number.
    Integer(i64),
    /// A whole number without a sign.
    Unsigned(u64),
    /// A truth value.
    Boolean(bool),
    /// Of a field.
    Text(&'a str),
}

impl Value<'_> {
    /// The word for its type.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Tag(_) => "tag",
            Self::Float(_) => "float",
            Self::Integer(_) => "integer",
            Self::Unsigned(_) => "unsigned",
            Self::Boolean(_) => "boolean",
            Self::Text(_) => "string",
        }
    }

    /// A hash of key, type and value; of a float, of all its bits.
    pub fn hash(&self, key: &str) -> u64 {
        let value = match self {
            Self::Tag(text) | Self::Text(text) => hash_of(text.as_bytes()),
            Self::Float(value) => value.to_bits(),
            Self::Integer(value) => *value as u64,
            Self::Unsigned(value) => *value,
            Self::Boolean(value) => u64::from(*value),
        };
        mix64(mix64(hash_of(key.as_bytes()), hash_of(self.word().as_bytes())), value)
    }
}

/// Key and value of each tag and field of a line.
pub fn each_value(line: &Line<'_>, see: &mut dyn FnMut(&str, Value<'_>)) {
    for (key, value) in line.tags() {
        see(&key, Value::Tag(&value));
    }
    for (key, value) in line.fields() {
        let value = match &value {
            FieldValue::Float(value) => Value::Float(*value),
            FieldValue::Integer(value) => Value::Integer(*value),
            FieldValue::Unsigned(value) => Value::Unsigned(*value),
            FieldValue::Boolean(value) => Value::Boolean(*value),
            FieldValue::Text(value) => Value::Text(value),
        };
        see(&key, value);
    }
}

/// Columns of tables.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    tables: HashMap<String, Keys>,
}

/// By key, and then by the word for the type, of which a key seldom has two.
type Keys = HashMap<String, Vec<(&'static str, Column)>>;

impl Columns {
    /// Counts a value.
    pub fn add(&mut self, table: &str, key: &str, value: Value<'_>) {
        let column = self.column(table, key, value.word());
        column.values += 1;
        column.hash = column.hash.wrapping_add(value.hash(""));
        match value {
            Value::Tag(text) | Value::Text(text) => column.sum.add_whole(text.len() as i128),
            Value::Float(value) => column.sum.add_float(value),
            Value::Integer(value) => column.sum.add_whole(value.into()),
            Value::Unsigned(value) => column.sum.add_whole(value.into()),
            Value::Boolean(value) => column.sum.add_whole(value.into()),
        }
    }

    /// Counts a row's time.
    pub fn add_time(&mut self, table: &str, time_ns: i64) {
        self.add(table, TIME, Value::Integer(time_ns));
    }

    /// Counts what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (table, keys) in &other.tables {
            for (key, columns) in keys {
                for (word, from) in columns {
                    let column = self.column(table, key, word);
                    column.values += from.values;
                    column.hash = column.hash.wrapping_add(from.hash);
                    column.sum.add_whole(from.sum.whole);
                    from.sum.parts.iter().for_each(|part| column.sum.add_float(*part));
                }
            }
        }
    }

    /// Puts what went in beside what is in the data files, sorted by table and column.
    pub fn compare(&self, in_files: &Self) -> Vec<Compared> {
        let mut both = self.clone();
        both.merge(in_files);
        let mut compared = Vec::new();
        for (table, keys) in &both.tables {
            for (key, columns) in keys {
                for (word, _) in columns {
                    let (input, files) = (self.find(table, key, word), in_files.find(table, key, word));
                    compared.push(Compared {
                        table: table.clone(),
                        column: key.clone(),
                        kind: word,
                        input: Figures::of(&input),
                        files: Figures::of(&files),
                        equal: input == files,
                    });
                }
            }
        }
        compared.sort_by(|a, b| (&a.table, &a.column, a.kind).cmp(&(&b.table, &b.column, b.kind)));
        compared
    }

    fn column(&mut self, table: &str, key: &str, word: &'static str) -> &mut Column {
        if !self.tables.contains_key(table) {
            self.tables.insert(table.to_owned(), HashMap::new());
        }
        let keys = self.tables.get_mut(table).expect("it was inserted");
        if !keys.contains_key(key) {
            keys.insert(key.to_owned(), Vec::new());
        }
        let columns = keys.get_mut(key).expect("it was inserted");
        let at = columns.iter().position(|(of, _)| *of == word).unwrap_or_else(|| {
            columns.push((word, Column::default()));
            columns.len() - 1
        });
        &mut columns[at].1
    }

    fn find(&self, table: &str, key: &str, word: &str) -> Column {
        let columns = self.tables.get(table).and_then(|keys| keys.get(key)).into_iter().flatten();
        columns.filter(|(of, _)| *of == word).map(|(_, column)| column.clone()).next().unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default)]
struct Column {
    values: u64,
    sum: Sum,
    /// The wrapping sum of the hashes of all values.
    hash: u64,
}

impl PartialEq for Column {
    fn eq(&self, other: &Self) -> bool {
        // Sums beyond the greatest float are no numbers any more; the hashes still are.
        let (sum, others) = (self.sum.float(), other.sum.float());
        let same_sum = sum == others || !sum.is_finite() && !others.is_finite();
        same_sum && (self.values, self.hash, self.sum.whole) == (other.values, other.hash, other.sum.whole)
    }
}

/// A column on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The table.
    pub table: String,
    /// The key, or `time`.
    pub column: String,
    /// The word for its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What went in.
    pub input: Figures,
    /// What is in the data files.
    pub files: Figures,
    /// Whether they hold the same values, each equally often: their hashes are compared too.
    pub equal: bool,
}

/// A column's figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Values; what is null is none.
    pub values: u64,
    /// Their sum, exactly rounded; of texts, the sum of their lengths in bytes; of truth values, how many are true.
    pub sum: String,
}

impl Figures {
    fn of(column: &Column) -> Self {
        let sum = if column.sum.parts.is_empty() { column.sum.whole.to_string() } else { column.sum.to_string() };
        Self { values: column.values, sum }
    }
}

/// An exact sum: of whole numbers as it is; of floats as parts that do not overlap (after Shewchuk), so
/// that the order of adding makes no difference.
#[derive(Clone, Debug, Default)]
struct Sum {
    whole: i128,
    parts: Vec<f64>,
}

impl Sum {
    fn add_whole(&mut self, value: i128) {
        self.whole = self.whole.wrapping_add(value);
    }

    fn add_float(&mut self, value: f64) {
        let (mut high, mut kept) = (value, 0);
        for at in 0..self.parts.len() {
            let part = self.parts[at];
            let (larger, smaller) = if high.abs() < part.abs() { (part, high) } else { (high, part) };
            high = larger + smaller;
            let rest = smaller - (high - larger);
            if rest != 0.0 {
                self.parts[kept] = rest;
                kept += 1;
            }
        }
        self.parts.truncate(kept);
        self.parts.push(high);
    }

    /// The sum of the floats, rounded once.
    fn float(&self) -> f64 {
        let mut parts = self.parts.iter().rev();
        let (mut high, mut rest) = (0.0, 0.0);
        for &part in parts.by_ref() {
            let before = high;
            high = before + part;
            rest = part - (high - before);
            if rest != 0.0 {
                break;
            }
        }
        // Half way between two floats the next smaller part says which is nearer.
        if let Some(&next) = parts.next()
            && (rest < 0.0 && next < 0.0 || rest > 0.0 && next > 0.0)
            && (high + rest * 2.0) - high == rest * 2.0
        {
            high += rest * 2.0;
        }
        high
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.float().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float_sum(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = Sum::default();
        values.into_iter().for_each(|value| sum.add_float(value));
        sum.float()
    }

    #[test]
    fn sums_of_floats_are_exact_in_any_order() {
        assert_eq!(float_sum([0.1; 10]), 1.0);
        assert_eq!(float_sum([1e100, 1.0, -1e100]), 1.0);
        assert_eq!(float_sum([1e16, 1.0, 1e-16]), 1e16 + 2.0, "half way and a little more");
        assert_eq!(float_sum([-1e16, -1.0, -1e-16]), -1e16 - 2.0);
        assert_eq!(float_sum([1e16, 1.0]), 1e16);
        assert_eq!(float_sum([]), 0.0);
        let values: Vec<f64> = (0..1000).map(|at| (mix64(1, at) as f64 - 9e18) * 10f64.powi(at as i32 % 40)).collect();
        let forwards = float_sum(values.iter().copied());
        assert_eq!(forwards, float_sum(values.iter().rev().copied()));
        assert_ne!(values.iter().sum::<f64>(), values.iter().rev().sum::<f64>(), "a plain sum is not");
    }

    #[test]
    fn the_hash_tells_key_type_and_value() {
        let all = [
            Value::Tag("1"),
            Value::Text("1"),
            Value::Float(1.0),
            Value::Float(-0.0),
            Value::Float(0.0),
            Value::Integer(1),
            Value::Unsigned(1),
            Value::Boolean(true),
            Value::Integer(-1),
        ];
        let mut hashes: Vec<u64> = all.iter().flat_map(|value| [value.hash("a"), value.hash("b")]).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 2 * all.len());
    }

    #[test]
    fn columns_are_equal_whoever_counted_and_differ_where_a_value_does() {
        let mut whole = Columns::default();
        let mut halves = [Columns::default(), Columns::default()];
        for at in 0..100_u32 {
            for columns in [&mut whole, &mut halves[at as usize % 2]] {
                columns.add("t", "f", Value::Float(f64::from(at) * 0.1));
                columns.add("t", "s", Value::Text("four"));
                columns.add_time("t", at.into());
            }
        }
        let mut merged = Columns::default();
        halves.iter().rev().for_each(|half| merged.merge(half));
        let compared = whole.compare(&merged);
        assert!(compared.iter().all(|column| column.equal && column.input == column.files), "{compared:?}");
        let told: Vec<_> = compared.iter().map(|column| (column.column.as_str(), column.input.sum.as_str())).collect();
        assert_eq!(told, [("f", "495"), ("s", "400"), ("time", "4950")]);
        // One value more on one side, and two that have the same sum.
        merged.add("t", "u", Value::Unsigned(7));
        merged.add("t", "time", Value::Integer(1));
        merged.add("t", "time", Value::Integer(-1));
        whole.add_time("t", 0);
        whole.add_time("t", 0);
        let unequal: Vec<_> = whole.compare(&merged).into_iter().filter(|column| !column.equal).collect();
        assert_eq!(unequal.iter().map(|column| column.column.as_str()).collect::<Vec<_>>(), ["time", "u"]);
        assert_eq!(unequal[0].input, unequal[0].files, "the hashes tell what counts and sums do not");
        assert_eq!((unequal[1].input.values, unequal[1].files.values), (0, 1));
    }
}
