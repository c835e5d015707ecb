//! [`SchemaGate`]: refuses lines whose fields have another type than their table knows.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use smol_str::SmolStr;

use crate::data::schema::{ColumnType, Schemas, is_reserved};
use crate::data::store::Admission;
use crate::serve::lines::{Line, LineError, LineProblem, Lines, lines};
use crate::types::{Block, BlockKind, Shape, mix64};

/// Shapes that are remembered as sound; beyond that all are looked at anew.
const KNOWN_MAX: usize = 1 << 16;

/// Judges blocks by what the schemas say, and tells them what is new.
///
/// A shape that was found sound once is sound for ever: a key never changes its type. So a block whose
/// shapes are all known costs one look at a set. Shapes are hashes; where two meet, a block that should
/// have been refused is logged, and its field goes to the column of a conflict.
pub struct SchemaGate {
    schemas: Arc<RwLock<Schemas>>,
    known: RwLock<HashSet<u64>>,
}

/// The types of keys that a block brings.
type News = BTreeMap<(SmolStr, SmolStr), ColumnType>;

impl SchemaGate {
    /// A gate to these schemas.
    #[must_use]
    pub fn new(schemas: Arc<RwLock<Schemas>>) -> Self {
        Self { schemas, known: RwLock::default() }
    }

    /// Looks at lines of unknown shapes; all of them are sound, or none of them becomes known.
    fn admit_new(&self, namespace: &str, block: &Block, new: &[(u64, usize)]) -> Result<(), LineError> {
        let mut schemas = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        let mut text = lines(block.payload());
        let mut news = News::new();
        for &(_, at) in new {
            text.seek(at);
            if let Some(line) = text.next().transpose()? {
                judge(&schemas, namespace, &line, &text, &mut news)?;
            }
        }
        for ((table, key), of) in news {
            schemas.column(namespace, &table, &key, of);
        }
        drop(schemas);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() + new.len() > KNOWN_MAX {
            known.clear();
        }
        known.extend(new.iter().map(|(shape, _)| shape).take(KNOWN_MAX));
        Ok(())
    }
}

impl Admission for SchemaGate {
    fn admit(&self, namespace: &str, block: &Block) -> Result<(), LineError> {
        if block.kind() != BlockKind::Lines {
            return Ok(());
        }
        let seed = seed(namespace);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        let mut look = |shape, at| {
            let shape = in_namespace(seed, shape);
            if !known.contains(&shape) {
                new.push((shape, at));
            }
        };
        if block.shapes.is_empty() {
            // Too many to be noted: every line is looked at.
            let mut text = lines(block.payload());
            while let Some(line) = text.next().transpose()? {
                look(line.shape(), line.start());
            }
        } else {
            block.shapes.iter().for_each(|found| look(found.shape, found.at));
        }
        drop(known);
        if new.is_empty() { Ok(()) } else { self.admit_new(namespace, block, &new) }
    }

    fn learn(&self, namespace: &str, block: &Block) {
        if block.kind() != BlockKind::Lines {
            return;
        }
        let seed = seed(namespace);
        let mut schemas = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // A line that cannot be read here cannot be flushed either, and is reported then.
        for line in lines(block.payload()).map_while(Result::ok) {
            let shape = in_namespace(seed, line.shape());
            if known.contains(&shape) {
                continue;
            }
            let table = schemas.table_mut(namespace, &line.measurement());
            let mut sound = true;
            for (key, of, _) in line.keys() {
                match table.type_of(&key) {
                    Some(known) => sound &= known == of,
                    None if is_reserved(&key) => {}
                    None => {
                        table.column(&key, of);
                    }
                }
            }
            if sound && known.len() < KNOWN_MAX {
                known.insert(shape);
            }
        }
    }
}

/// A number for a namespace.
fn seed(namespace: &str) -> u64 {
    namespace.bytes().fold(namespace.len() as u64, |hash, byte| mix64(hash, u64::from(byte)))
}

fn in_namespace(seed: u64, shape: Shape) -> u64 {
    mix64(seed, shape.0)
}

/// Compares a line with what is known of its table and what the block brings so far, and notes what is new.
fn judge(
    schemas: &Schemas,
    namespace: &str,
    line: &Line<'_>,
    text: &Lines<'_>,
    news: &mut News,
) -> Result<(), LineError> {
    let name = SmolStr::from(line.measurement());
    let table = schemas.table(namespace, &name);
    for (key, of, at) in line.keys() {
        if is_reserved(&key) {
            continue;
        }
        let key = SmolStr::from(key);
        let known = table.and_then(|table| table.type_of(&key));
        let was = match known {
            Some(was) => was,
            None => *news.entry((name.clone(), key.clone())).or_insert(of),
        };
        if was != of {
            return Err(text.error_at(at, LineProblem::Type { key: key.as_str().into(), is: of, was }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::schema::ColumnType::*;

    fn gate() -> SchemaGate {
        SchemaGate::new(Arc::default())
    }

    fn admit(gate: &SchemaGate, text: &str) -> Result<(), (u64, LineProblem)> {
        let block = Block::lines(text.to_owned()).expect("sound");
        gate.admit("n", &block).map_err(|error| (error.line, error.why))
    }

    fn conflict(line: u64, key: &str, is: ColumnType, was: ColumnType) -> Result<(), (u64, LineProblem)> {
        Err((line, LineProblem::Type { key: key.into(), is, was }))
    }

    #[test]
    fn a_field_of_another_type_is_refused_with_its_line_and_both_types() {
        let gate = gate();
        assert_eq!(admit(&gate, "m a=1,b=2i\nm a=2"), Ok(()));
        assert_eq!(admit(&gate, "m a=1\n\n# no data\nm a=1i"), conflict(4, "a", Integer, Float));
        assert_eq!(admit(&gate, "m,a=x b=1i"), conflict(1, "a", Tag, Float));
        assert_eq!(admit(&gate, "m b=\"x\""), conflict(1, "b", String, Integer));
        assert_eq!(admit(&gate, "other a=1i,b=1u"), Ok(()));
        let error = gate.admit("n", &Block::lines("m a=t").expect("sound")).expect_err("a conflict").to_string();
        assert!(error.starts_with("line 1, column 3: 'a' is boolean here and float in its table"), "{error}");
        assert_eq!(gate.admit("elsewhere", &Block::lines("m a=t").expect("sound")), Ok(()));
    }

    #[test]
    fn a_block_that_contradicts_itself_is_refused_and_leaves_nothing_behind() {
        let gate = gate();
        assert_eq!(admit(&gate, "m x=1,new=1i\nm x=1i"), conflict(2, "x", Integer, Float));
        assert_eq!(admit(&gate, "m,x=1 x=1"), conflict(1, "x", Float, Tag));
        assert_eq!(admit(&gate, "m x=t,new=t"), Ok(()));
        assert_eq!(admit(&gate, "m new=1i"), conflict(1, "new", Integer, Boolean));
    }

    #[test]
    fn names_that_the_format_needs_never_conflict() {
        let gate = gate();
        assert_eq!(admit(&gate, "m time=1\nm time=1i\nm,day=x time=\"t\",a@float=1i\nm a@float=2"), Ok(()));
    }

    #[test]
    fn more_shapes_than_are_noted_are_judged_all_the_same() {
        let gate = gate();
        let many: std::string::String = (0..1000).map(|n| format!("m f{n}={n}\n")).collect();
        assert_eq!(admit(&gate, &many), Ok(()));
        assert_eq!(admit(&gate, "m f777=1i"), conflict(1, "f777", Integer, Float));
        assert_eq!(admit(&gate, &format!("{many}m f5=t")), conflict(1001, "f5", Boolean, Float));
    }

    #[test]
    fn what_is_in_the_log_counts_as_known_and_is_never_refused() {
        let gate = gate();
        gate.learn("n", &Block::lines("m a=1\nm a=1i,b=2i").expect("sound"));
        assert_eq!(admit(&gate, "m a=1i"), conflict(1, "a", Integer, Float));
        assert_eq!(admit(&gate, "m b=1i"), Ok(()));
        gate.learn("n", &Block::raw("m", &b"\xff"[..]));
    }
}
