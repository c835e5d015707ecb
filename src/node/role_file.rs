//! The file ROLE of a store: what it is for its clients, under which term. Written before it counts.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::identity::replace_file;
use crate::error::Error;
use crate::repl::wire::Stand;
use crate::types::Term;

const NAME: &str = "ROLE";
const TEMPORARY: &str = "ROLE.tmp";
/// A ROLE is a hundred bytes; a longer file is none.
const BYTES_MAX: u64 = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    role: String,
    term: u64,
    active: String,
    /// CRC-32 of the other fields, as text with spaces between.
    check: u32,
}

impl Written {
    fn new(stand: Stand) -> Self {
        let (role, term, active) = (stand.role.to_string(), stand.term.0, stand.active.to_string());
        let check = crc32fast::hash(format!("{role} {term} {active}").as_bytes());
        Self { role, term, active, check }
    }

    fn stand(&self) -> Option<Stand> {
        let stand = Stand { role: self.role.parse().ok()?, term: Term(self.term), active: self.active.parse().ok()? };
        (Self::new(stand) == *self).then_some(stand)
    }
}

/// What the store in this folder is; `None` where nobody has said so yet.
///
/// # Errors
/// [`Error::Config`] where the file is damaged: it is not guessed who is active. [`Error::Io`].
pub fn read(dir: &Path) -> Result<Option<Stand>, Error> {
    let path = dir.join(NAME);
    let context = || format!("reading {}", path.display());
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() != ErrorKind::InvalidData => return Err(Error::io(context())(error)),
        Err(_) => text.clear(),
    }
    let stand = serde_json::from_str::<Written>(&text).ok().and_then(|written| written.stand());
    stand.map(Some).ok_or_else(|| {
        Error::Config(format!(
            "{} is damaged, so it is not known whether this store may accept. Ask the other sites (forebay status), \
             remove the file, and start it with role = \"standby\", or promote it",
            path.display()
        ))
    })
}

/// Puts it in place, durably.
///
/// # Errors
/// [`Error::Io`]; the old one stays.
pub fn write(dir: &Path, stand: Stand) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&Written::new(stand)).expect("plain fields");
    replace_file(dir, TEMPORARY, NAME, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repl::wire::Role;
    use crate::types::StoreId;

    #[test]
    fn a_role_reads_back_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(read(dir.path()).expect("there is none"), None);
        let stand = Stand { role: Role::Standby, term: Term(8), active: StoreId([7; 16]) };
        write(dir.path(), stand).expect("written");
        assert_eq!(read(dir.path()).expect("it is there"), Some(stand));
        let path = dir.path().join(NAME);
        let text = std::fs::read_to_string(&path).expect("text");
        for damaged in [text.replace('8', "9"), text.replace("standby", "active"), String::new(), "\u{0}".repeat(90)] {
            std::fs::write(&path, damaged).expect("written");
            let told = read(dir.path()).expect_err("damaged").to_string();
            assert!(told.contains("ROLE is damaged") && told.contains("promote"), "{told}");
        }
    }
}
