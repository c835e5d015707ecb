//! Reading and writing fixed fields by name: the layouts of `wal/mod.rs` as constants.

/// The version that stands in every header.
pub const FORMAT_VERSION: u16 = 1;

/// Declares a record: a constant per field (offset and size) and the table of all of them.
macro_rules! layout {
    ($(#[$doc:meta])* $record:ident { $($field:ident: $size:expr),* $(,)? }) => {
        $(#[$doc])*
        #[allow(non_snake_case, non_upper_case_globals)]
        pub(crate) mod $record {
            use $crate::wal::codec::Field;
            $crate::wal::codec::layout!(@fields 0, $($field: $size,)*);
            #[cfg(test)]
            pub(crate) const ALL: &[(&str, Field)] = &[$((stringify!($field), $field)),*];
        }
    };
    (@fields $at:expr, $field:ident: $size:expr, $($rest:tt)*) => {
        #[allow(dead_code)]
        pub(crate) const $field: Field = Field { at: $at, size: $size };
        $crate::wal::codec::layout!(@fields $at + $size, $($rest)*);
    };
    (@fields $at:expr,) => {
        /// The record's length in bytes.
        #[allow(dead_code)]
        pub(crate) const BYTES: usize = $at;
    };
}
pub(crate) use layout;

/// A field of a record: where it stands and how long it is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) at: usize,
    pub(crate) size: usize,
}

impl Field {
    pub(crate) fn of(self, record: &[u8]) -> &[u8] {
        &record[self.at..self.at + self.size]
    }

    #[inline]
    pub(crate) fn u8(self, record: &[u8]) -> u8 {
        record[self.at]
    }

    #[inline]
    pub(crate) fn u16(self, record: &[u8]) -> u16 {
        u16::from_le_bytes(self.array(record))
    }

    #[inline]
    pub(crate) fn u32(self, record: &[u8]) -> u32 {
        u32::from_le_bytes(self.array(record))
    }

    #[inline]
    pub(crate) fn u64(self, record: &[u8]) -> u64 {
        u64::from_le_bytes(self.array(record))
    }

    #[inline]
    pub(crate) fn array<const N: usize>(self, record: &[u8]) -> [u8; N] {
        debug_assert_eq!(self.size, N);
        record[self.at..self.at + N].try_into().expect("a slice of N bytes")
    }

    #[inline]
    pub(crate) fn put(self, record: &mut [u8], bytes: &[u8]) {
        debug_assert_eq!(self.size, bytes.len());
        record[self.at..self.at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The crc of a record whose last field is that crc.
pub(crate) fn crc_before(field: Field, record: &[u8]) -> u32 {
    crc32fast::hash(&record[..field.at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Both columns of the table in `wal/mod.rs`: record name -> (field, offset, size).
    fn documented() -> BTreeMap<String, Vec<(String, Field)>> {
        const SECOND_COLUMN: usize = 34;
        let mut records: BTreeMap<String, Vec<(String, Field)>> = BTreeMap::new();
        let mut open = [None::<String>, None];
        for line in include_str!("mod.rs").lines().filter_map(|line| line.strip_prefix("//! ")) {
            let (left, right) = line.split_at(line.len().min(SECOND_COLUMN));
            for (column, text) in [left, right].into_iter().enumerate() {
                if let Some((_, rest)) = text.split_once('(')
                    && let Some((name, "")) = rest.trim_end().split_once(')')
                    && name.bytes().all(|byte| byte.is_ascii_uppercase())
                {
                    open[column] = Some(name.to_owned());
                }
                let words: Vec<&str> = text.split_whitespace().collect();
                if let ([at, size, field], Some(record)) = (words.as_slice(), &open[column])
                    && let (Ok(at), Ok(size)) = (at.parse(), size.parse())
                {
                    records.entry(record.clone()).or_default().push(((*field).to_owned(), Field { at, size }));
                }
            }
        }
        records
    }

    #[test]
    fn the_documented_table_is_the_format() {
        use crate::wal::{batch, entry, intake, segment};
        let documented = documented();
        let records: [(&str, &[(&str, Field)]); 8] = [
            ("SEGMENT", segment::SEGMENT::ALL),
            ("HANDLED", segment::HANDLED::ALL),
            ("BATCH", batch::BATCH::ALL),
            ("STREAM", batch::STREAM::ALL),
            ("ENTRY", entry::ENTRY::ALL),
            ("IDENTITY", entry::IDENTITY::ALL),
            ("RING", intake::RING::ALL),
            ("SLOT", intake::SLOT::ALL),
        ];
        for (name, fields) in records {
            let fields: Vec<_> = fields.iter().map(|(field, at)| ((*field).to_owned(), *at)).collect();
            assert_eq!(documented.get(name), Some(&fields), "{name}");
        }
    }
}
