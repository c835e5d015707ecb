//! The names of a simulated folder: those of now, those that are durable, and what a power cut makes of
//! the difference. Files are known by number; what is in them is `io/medium.rs`'s business.

use std::collections::BTreeMap;

use crate::io::chance::Chance;

/// How a power cut treats what is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All of it is lost.
    Lost,
    /// All that completed arrived.
    Kept,
    /// Each unit by itself.
    Units,
    /// Each write by itself, whole or not.
    Writes,
    /// A prefix in the order of submission; the write at the cut is torn.
    Prefix,
    /// A suffix: the earlier ones are lost.
    Suffix,
    /// Of each write only its first unit.
    Heads,
    /// Of each write all but its first unit.
    Tails,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Lost, Self::Kept, Self::Units, Self::Writes, Self::Prefix, Self::Suffix, Self::Heads, Self::Tails];
}

#[derive(Clone, Debug)]
enum Op {
    Set(String, usize),
    Remove(String, usize),
    Rename(String, String, usize),
}

/// One folder's names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    now: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    /// What leads from the durable names to those of now.
    ops: Vec<Op>,
}

impl Names {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.now.iter().map(|(name, &file)| (name.as_str(), file))
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.now.get(name).copied()
    }

    pub(crate) fn set(&mut self, name: &str, file: usize) {
        self.change(Op::Set(name.to_owned(), file));
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str, file: usize) {
        self.change(Op::Rename(from.to_owned(), to.to_owned(), file));
    }

    pub(crate) fn remove(&mut self, name: &str, file: usize) {
        self.change(Op::Remove(name.to_owned(), file));
    }

    fn change(&mut self, op: Op) {
        apply(&mut self.now, op.clone());
        self.ops.push(op);
    }

    /// All names are durable now.
    pub(crate) fn sync(&mut self) {
        self.ops.drain(..).for_each(|op| apply(&mut self.durable, op));
    }

    /// Another file takes this name, or none, and is durable under it.
    pub(crate) fn replace(&mut self, name: &str, file: Option<usize>) {
        match file {
            Some(file) => self.now.insert(name.to_owned(), file),
            None => self.now.remove(name),
        };
        self.durable.clone_from(&self.now);
        self.ops.clear();
    }

    /// The power fails: changes arrived in order, or those of each file by themselves.
    pub(crate) fn cut(&mut self, fate: Fate, chance: &mut Chance) {
        let ops = std::mem::take(&mut self.ops);
        let in_order = chance.percent(50);
        let kept = match fate {
            Fate::Lost => 0,
            Fate::Kept => ops.len(),
            _ => chance.below(ops.len() as u64 + 1) as usize,
        };
        let mut stopped: Vec<usize> = Vec::new();
        for (index, op) in ops.into_iter().enumerate() {
            let (Op::Set(_, file) | Op::Remove(_, file) | Op::Rename(_, _, file)) = op;
            let arrived = if in_order || matches!(fate, Fate::Lost | Fate::Kept) {
                index < kept
            } else {
                !stopped.contains(&file) && chance.percent(50)
            };
            match arrived {
                true => apply(&mut self.durable, op),
                false => stopped.push(file),
            }
        }
        self.now.clone_from(&self.durable);
    }
}

fn apply(names: &mut BTreeMap<String, usize>, op: Op) {
    match op {
        Op::Set(name, file) => {
            names.insert(name, file);
        }
        Op::Remove(name, _) => {
            names.remove(&name);
        }
        Op::Rename(from, to, file) => {
            names.remove(&from);
            names.insert(to, file);
        }
    }
}
