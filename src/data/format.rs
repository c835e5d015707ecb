//! What the manifest of the data files says: its records as JSON text, and the names of files.
//!
//! ```text
//! data/<namespace>/<table>/day=YYYY-MM-DD/<number>.parquet   a data file
//! data/_tmp/<number>.tmp                                     one that no record names as committed
//! data/_manifest/                                            a log of records, in the WAL's format
//! ```
//!
//! A file's number is given once and grows. A transaction is one record, or several of which the last
//! says so; it counts as a whole or not at all. A record that says `anew` begins the state anew: the
//! manifest writes its whole state at each open, and whenever it has grown, and then drops what came before.

use serde::{Deserialize, Serialize};

use crate::types::{Chain, Epoch, Nonce, Position, Seq, ShardId, StoreId, Stream, mix64};

/// The folder of data files, below the store's.
pub const DATA: &str = "data";
/// The folder of temporary files, below the data folder.
pub const TMP: &str = "_tmp";
/// The folder of the manifest, below the data folder.
pub const MANIFEST: &str = "_manifest";
/// The end of a data file's name.
pub const SUFFIX: &str = ".parquet";
/// What an escaped name is cut to, in bytes, so that it fits a file system's names.
const NAME_BYTES_MAX: usize = 200;

/// A data file's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileNo(pub u64);

impl FileNo {
    /// The path of the temporary file, below the data folder.
    #[must_use]
    pub fn tmp_path(self) -> String {
        format!("{TMP}/{:012}.tmp", self.0)
    }

    /// The path of the data file of this part, below the data folder.
    #[must_use]
    pub fn path(self, part: &PartName) -> String {
        format!("{}/{:012}{SUFFIX}", part.folder(), self.0)
    }

    /// The number in the name of a data file, if it is one.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?.strip_suffix(SUFFIX)?;
        (name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok().map(Self))?
    }
}

/// What a data file holds rows of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartName {
    /// The writers' namespace.
    pub namespace: String,
    /// The table.
    pub table: String,
    /// Rows of line protocol, or raw blocks.
    pub kind: PartKind,
    /// The UTC day of the rows' times, in days since 1970-01-01.
    pub day: i32,
}

/// What the rows of a data file were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// Line protocol: typed columns.
    Lines,
    /// Raw blocks: one row each.
    Raw,
}

impl PartName {
    /// The folder of its files, below the data folder.
    #[must_use]
    pub fn folder(&self) -> String {
        let raw = if self.kind == PartKind::Raw { "@raw" } else { "" };
        let (year, month, day) = civil(self.day);
        format!("{}/{}{raw}/day={year:04}-{month:02}-{day:02}", escaped(&self.namespace), escaped(&self.table))
    }
}

/// A name as a folder's name: letters, digits, `-`, `_`, `.` (the last two not first) and what is not
/// ASCII stay, other bytes become `%XX`; long names are cut and end with a hash.
#[must_use]
pub fn escaped(name: &str) -> String {
    use std::fmt::Write;
    if name.is_empty() {
        return "%".to_owned();
    }
    let mut out = String::with_capacity(name.len());
    for (at, char) in name.char_indices() {
        let plain = char.is_ascii_alphanumeric() || char == '-' || (at > 0 && matches!(char, '_' | '.'));
        if plain || !char.is_ascii() {
            out.push(char);
        } else {
            let _ = write!(out, "%{:02X}", char as u32);
        }
    }
    if out.len() > NAME_BYTES_MAX {
        let hash = name.bytes().fold(name.len() as u64, |hash, byte| mix64(hash, u64::from(byte)));
        let cut = (0..=NAME_BYTES_MAX - 18).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
        out.truncate(cut);
        let _ = write!(out, "%~{hash:016x}");
    }
    out
}

/// The day of a time in nanoseconds since 1970.
#[must_use]
pub const fn day_of(time_ns: i64) -> i32 {
    time_ns.div_euclid(86_400_000_000_000) as i32
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar.
#[must_use]
pub const fn civil(day: i32) -> (i32, u32, u32) {
    // Years are counted from March, so that the leap day is a year's last.
    let from_0000 = day as i64 + 719_468;
    let era = from_0000.div_euclid(146_097);
    let of_era = from_0000.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * march_month + 2) / 5 + 1) as u32;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 } as u32;
    ((year_of_era + era * 400) as i32 + (month <= 2) as i32, month, day)
}

/// A data file as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its number.
    pub no: FileNo,
    /// What it holds rows of.
    #[serde(flatten)]
    pub part: PartName,
    /// Its rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC-32 of its bytes.
    pub crc: u32,
    /// The smallest time in it, in nanoseconds since 1970.
    pub time_min: i64,
    /// The largest.
    pub time_max: i64,
}

impl DataFile {
    /// Its path, below the data folder.
    #[must_use]
    pub fn path(&self) -> String {
        self.no.path(&self.part)
    }
}

/// A file of what a store hands on to another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldFile {
    /// Its number: no other file of that store has the same.
    pub no: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC-32 of its bytes.
    pub crc: u32,
    /// What it holds, as the store says that to one of its kind.
    pub about: String,
}

/// A column of a table: the type that its key was first seen with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaColumn {
    /// The namespace.
    pub namespace: String,
    /// The table.
    pub table: String,
    /// The tag's or field's key.
    pub key: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// How far the files hold a shard's blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardProgress {
    /// The shard.
    pub shard: u16,
    /// The epoch of the position in the shard's log.
    pub epoch: u64,
    /// Its nonce.
    pub nonce: u64,
    /// Its seq.
    pub seq: u64,
    /// Streams with blocks in what was added, and where each ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamUpto>,
}

impl ShardProgress {
    /// The position in the shard's log.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { epoch: Epoch(self.epoch), nonce: Nonce(self.nonce), seq: Seq(self.seq) }
    }
}

/// The part of a stream that data files hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamUpto {
    /// The store that accepted it: 32 hex digits.
    pub origin: String,
    /// The shard that accepted it.
    pub shard: u16,
    /// The opening.
    pub epoch: u64,
    /// Its nonce.
    pub nonce: u64,
    /// The last number of it.
    pub seq: u64,
    /// The stream's chain up to there.
    pub chain: u64,
}

impl StreamUpto {
    /// A stream up to here.
    #[must_use]
    pub fn new(stream: Stream, seq: Seq, chain: Chain) -> Self {
        let origin = stream.origin.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let Stream { shard, epoch, nonce, .. } = stream;
        Self { origin, shard: shard.0, epoch: epoch.0, nonce: nonce.0, seq: seq.0, chain: chain.0 }
    }

    /// The stream; `None` where the origin is no identity of a store.
    #[must_use]
    pub fn stream(&self) -> Option<Stream> {
        if self.origin.len() != 32 || !self.origin.is_ascii() {
            return None;
        }
        let mut origin = [0; 16];
        for (byte, at) in origin.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(&self.origin[at..at + 2], 16).ok()?;
        }
        let origin = StoreId(origin);
        Some(Stream { origin, shard: ShardId(self.shard), epoch: Epoch(self.epoch), nonce: Nonce(self.nonce) })
    }
}

/// A record of the manifest: a transaction, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The transaction's number: no other transaction near it in the log has the same.
    pub transaction: u64,
    /// The part's number in its transaction, from 0.
    pub part: u32,
    /// It is the last part.
    pub last: bool,
    /// The state begins anew with this transaction.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// The next number of a file is at least this.
    pub next_file: FileNo,
    /// Files that are committed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<DataFile>,
    /// Files that are to be removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<FileNo>,
    /// Files that were found to be gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forget: Vec<FileNo>,
    /// Files whose removal is to be finished, in a state that begins anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doomed: Vec<DataFile>,
    /// Columns that are new.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<SchemaColumn>,
    /// Where shards stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<ShardProgress>,
    /// Streams whose blocks up to there were taken over in files of another store.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<StreamUpto>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(day_of(-1)), (1969, 12, 31));
        assert_eq!(civil(day_of(1_357_002_000_000_000_000)), (2013, 1, 1));
        assert_eq!(civil(day_of(951_782_400_000_000_000)), (2000, 2, 29));
        assert_eq!(civil(day_of(i64::MAX)), (2262, 4, 11));
        assert_eq!(civil(day_of(i64::MIN)), (1677, 9, 21));
    }

    #[test]
    fn names_stay_within_their_folder_and_apart() {
        let names = ["", ".", "..", "a/b", "a%2Fb", "_x", "x_", ".x", "a b", "gr\u{fc}n", "%", "a=b", "\0"];
        let escaped: Vec<String> = names.iter().map(|name| escaped(name)).collect();
        for (name, escaped) in names.iter().zip(&escaped) {
            assert!(!escaped.is_empty() && !escaped.starts_with(['.', '_']), "{name:?}");
            assert!(!escaped.contains(['/', '\0', '=', ' ']), "{name:?}");
        }
        let apart: std::collections::BTreeSet<&String> = escaped.iter().collect();
        assert_eq!(apart.len(), names.len());
        let long = "/".repeat(255);
        let (one, other) = (super::escaped(&long), super::escaped(&long[1..]));
        assert!(one.len() <= NAME_BYTES_MAX && one != other);
    }

    #[test]
    fn a_file_is_known_by_its_name() {
        let part = PartName { namespace: "n".into(), table: "t/1".into(), kind: PartKind::Raw, day: 15_706 };
        let path = FileNo(42).path(&part);
        assert_eq!(path, "n/t%2F1@raw/day=2013-01-01/000000000042.parquet");
        assert_eq!(FileNo::of_path(&path), Some(FileNo(42)));
        assert_eq!(FileNo::of_path("n/t/day=2013-01-01/export.parquet"), None);
        assert_eq!(FileNo::of_path(&FileNo(42).tmp_path()), None);
    }

    #[test]
    fn a_stream_survives_its_text() {
        let stream = Stream { origin: StoreId([9; 16]), shard: ShardId(3), epoch: Epoch(4), nonce: Nonce(u64::MAX) };
        let upto = StreamUpto::new(stream, Seq(5), Chain(6));
        let text = serde_json::to_string(&upto).expect("plain fields");
        assert_eq!(serde_json::from_str::<StreamUpto>(&text).expect("reads").stream(), Some(stream));
    }
}
