//! What is known of the tables of line protocol: the type of each key, and what its column is called.
//!
//! The first type that a key is seen with is its type in that table, tags included. Its column has the
//! key's name. Values of another type go to a column of their own, `<key>@<type>`: nothing that is in the
//! log is ever without a place. Two kinds of keys always have such a column, whatever their type: the names
//! that a data file needs for itself ([`RESERVED`]), and keys that already end in `@` and a type's word,
//! which could not be told from a column of this kind. So two keys, or two types of one key, never meet in
//! one column.
//!
//! Pure: who asks first, and what is written down where, is up to the callers. A writer's block is asked
//! about before it is accepted (by the gate), a block of the log as it is
//! flushed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, format_smolstr};

/// Names of columns that every data file of lines has, and the name of its partition.
pub const RESERVED: [&str; 8] = ["time", "day", "_received_at", "_origin", "_shard", "_epoch", "_seq", "_row"];

/// What a column of line protocol holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ColumnType {
    /// Texts of a tag.
    Tag,
    /// 64-bit floating point numbers.
    Float,
    /// 64-bit integers.
    Integer,
    /// 64-bit integers without a sign.
    Unsigned,
    /// Truth values.
    Boolean,
    /// Texts of a field.
    String,
}

impl ColumnType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Tag, Self::Float, Self::Integer, Self::Unsigned, Self::Boolean, Self::String];

    /// Its name, in lower case.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Float => "float",
            Self::Integer => "integer",
            Self::Unsigned => "unsigned",
            Self::Boolean => "boolean",
            Self::String => "string",
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A word that names no [`ColumnType`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no type of a column; those are tag, float, integer, unsigned, boolean, string")]
pub struct NoColumnType(pub String);

impl FromStr for ColumnType {
    type Err = NoColumnType;

    fn from_str(word: &str) -> Result<Self, NoColumnType> {
        Self::ALL.into_iter().find(|of| of.word() == word).ok_or_else(|| NoColumnType(word.to_owned()))
    }
}

/// Why a column is called what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is the key's own column, and has its name.
    Own,
    /// The key's name is taken by the format; the column is `<key>@<type>`.
    Reserved,
    /// The key has this other type in the table; the column is `<key>@<type>`.
    Conflict(ColumnType),
}

/// The column of a key and a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in data files.
    pub name: SmolStr,
    /// Why it has this name.
    pub placed: Placed,
    /// Nobody has asked for it before, since the schemas were loaded: a conflict is worth a warning.
    pub is_new: bool,
}

/// A key's type in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    of: ColumnType,
    is_recorded: bool,
}

/// One table: its keys and their types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSchema {
    keys: BTreeMap<SmolStr, Key>,
    /// Columns beside those of the keys that were asked for.
    aside: BTreeSet<SmolStr>,
}

impl TableSchema {
    /// The column for values of this type under this key; a key that is new has this type from now on.
    pub fn column(&mut self, key: &str, of: ColumnType) -> Column {
        let placed = match self.keys.get(key) {
            _ if is_reserved(key) => Placed::Reserved,
            Some(known) if known.of != of => Placed::Conflict(known.of),
            Some(_) => return Column { name: key.into(), placed: Placed::Own, is_new: false },
            None => {
                self.keys.insert(key.into(), Key { of, is_recorded: false });
                return Column { name: key.into(), placed: Placed::Own, is_new: true };
            }
        };
        let name = format_smolstr!("{key}@{of}");
        let is_new = self.aside.insert(name.clone());
        Column { name, placed, is_new }
    }

    /// The type that a key has, where it has one: reserved keys have none.
    #[must_use]
    pub fn type_of(&self, key: &str) -> Option<ColumnType> {
        self.keys.get(key).map(|known| known.of)
    }

    /// All keys that have a type, sorted.
    pub fn keys(&self) -> impl Iterator<Item = (&SmolStr, ColumnType)> {
        self.keys.iter().map(|(key, known)| (key, known.of))
    }

    /// Keys whose type is not [recorded](Self::recorded) yet, sorted.
    pub fn unrecorded(&self) -> impl Iterator<Item = (&SmolStr, ColumnType)> {
        self.keys.iter().filter(|(_, known)| !known.is_recorded).map(|(key, known)| (key, known.of))
    }

    /// Notes that a key's type has been written down where it survives.
    pub fn recorded(&mut self, key: &str) {
        if let Some(known) = self.keys.get_mut(key) {
            known.is_recorded = true;
        }
    }

    /// Takes a key's type as it was written down. Where the key has one already, that stays.
    pub fn insert_recorded(&mut self, key: &str, of: ColumnType) {
        if !is_reserved(key) {
            self.keys.entry(key.into()).or_insert(Key { of, is_recorded: true });
            self.recorded(key);
        }
    }
}

/// Whether a key can have no column of its own name.
#[must_use]
pub fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key) || key.rsplit_once('@').is_some_and(|(_, word)| word.parse::<ColumnType>().is_ok())
}

/// All tables, by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schemas {
    namespaces: BTreeMap<SmolStr, BTreeMap<SmolStr, TableSchema>>,
}

impl Schemas {
    /// A table to change: for many questions about one table, ask for it once.
    pub fn table_mut(&mut self, namespace: &str, table: &str) -> &mut TableSchema {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert(namespace.into(), BTreeMap::new());
        }
        let tables = self.namespaces.get_mut(namespace).expect("it was inserted");
        if !tables.contains_key(table) {
            tables.insert(table.into(), TableSchema::default());
        }
        tables.get_mut(table).expect("it was inserted")
    }

    /// A table, if anything is known of it.
    #[must_use]
    pub fn table(&self, namespace: &str, table: &str) -> Option<&TableSchema> {
        self.namespaces.get(namespace)?.get(table)
    }

    /// The column for values of this type under this key; a key that is new has this type from now on.
    pub fn column(&mut self, namespace: &str, table: &str, key: &str, of: ColumnType) -> Column {
        self.table_mut(namespace, table).column(key, of)
    }

    /// All tables as (namespace, table, schema), sorted.
    pub fn tables(&self) -> impl Iterator<Item = (&SmolStr, &SmolStr, &TableSchema)> {
        self.namespaces
            .iter()
            .flat_map(|(namespace, tables)| tables.iter().map(move |(table, schema)| (namespace, table, schema)))
    }
}

#[cfg(test)]
mod tests {
    use super::ColumnType::*;
    use super::*;

    fn own(name: &str, is_new: bool) -> Column {
        Column { name: name.into(), placed: Placed::Own, is_new }
    }

    #[test]
    fn words_of_types_read_back_alike_in_text_and_json() {
        for of in ColumnType::ALL {
            assert_eq!(of.to_string().parse(), Ok(of));
            assert_eq!(serde_json::to_string(&of).expect("a word"), format!("\"{of}\""));
            assert_eq!(serde_json::from_str::<ColumnType>(&format!("\"{of}\"")).expect("a word"), of);
        }
        let error = "Float".parse::<ColumnType>().expect_err("no word");
        assert!(error.to_string().starts_with("'Float' is no type of a column; those are tag, float,"), "{error}");
    }

    #[test]
    fn the_first_type_of_a_key_wins_and_others_go_beside_it() {
        let mut schemas = Schemas::default();
        assert_eq!(schemas.column("n", "t", "a", Float), own("a", true));
        assert_eq!(schemas.column("n", "t", "a", Float), own("a", false));
        let beside = |is_new| Column { name: "a@integer".into(), placed: Placed::Conflict(Float), is_new };
        assert_eq!(schemas.column("n", "t", "a", Integer), beside(true));
        assert_eq!(schemas.column("n", "t", "a", Integer), beside(false));
        let tag = Column { name: "a@tag".into(), placed: Placed::Conflict(Float), is_new: true };
        assert_eq!(schemas.column("n", "t", "a", Tag), tag, "a tag is a type too");
        assert_eq!(schemas.column("n", "other", "a", Integer), own("a", true), "tables know nothing of each other");
        assert_eq!(schemas.column("m", "t", "a", String), own("a", true), "nor do namespaces");
    }

    #[test]
    fn names_that_the_format_needs_are_never_a_keys_own() {
        let mut table = TableSchema::default();
        for key in RESERVED {
            for of in [Integer, Tag] {
                let column = table.column(key, of);
                assert_eq!((column.name, column.placed), (format_smolstr!("{key}@{of}"), Placed::Reserved));
            }
        }
        table.insert_recorded("time", Integer);
        assert_eq!(table.keys().count(), 0, "they have no type");
    }

    #[test]
    fn no_key_can_pose_as_the_column_of_a_conflict() {
        let mut table = TableSchema::default();
        table.column("a", Float);
        let mut names = BTreeSet::new();
        for key in ["a", "a@integer", "a@integer@integer", "a@", "@", "a@int", "time", "time@tag"] {
            for of in ColumnType::ALL {
                assert!(names.insert(table.column(key, of).name), "{key} {of}");
            }
        }
        assert_eq!(table.type_of("a@int"), Some(Tag), "an ordinary key: int is no word of ours");
        assert_eq!(table.type_of("a@integer"), None);
    }

    #[test]
    fn what_is_recorded_is_told_from_what_is_not() {
        let mut schemas = Schemas::default();
        let table = schemas.table_mut("n", "t");
        table.insert_recorded("b", Tag);
        table.column("c", Float);
        table.column("a", Boolean);
        table.column("a", Float);
        let keys =
            |of: Vec<(&SmolStr, ColumnType)>| of.iter().map(|(key, of)| format!("{key}:{of}")).collect::<Vec<_>>();
        assert_eq!(keys(table.unrecorded().collect()), ["a:boolean", "c:float"]);
        table.recorded("a");
        assert_eq!(keys(table.unrecorded().collect()), ["c:float"]);
        table.insert_recorded("c", Integer);
        assert_eq!(keys(table.keys().collect()), ["a:boolean", "b:tag", "c:float"], "what was first stays");
        let all: Vec<_> = schemas.tables().map(|(namespace, table, _)| (namespace.as_str(), table.as_str())).collect();
        assert_eq!(all, [("n", "t")]);
        assert_eq!(schemas.table("n", "t").and_then(|table| table.type_of("b")), Some(Tag));
        assert!(schemas.table("n", "x").is_none());
    }
}
