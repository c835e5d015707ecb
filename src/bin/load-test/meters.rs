//! The meters table of other load tools: 10,000 meters that report in turn, each row another one.
//!
//! A writer has its share of the meters to itself, and each reading of a meter has a later time than the
//! one before; so no two rows of a run are alike. Making a block must cost little beside checking and
//! logging it: the text of a few readings of every meter stands ready, and for a block a stretch of it is
//! copied and the times in the copy are written over, which always have 19 digits.

use std::fmt::Write;
use std::ops::Range;

use forebay::types::mix64;

/// Meters, all writers together.
pub const METERS: u64 = 10_000;
/// No row is longer than this.
pub const ROW_BYTES_MAX: u64 = 120;
/// Readings of each meter that stand ready; their values come again after so many.
const READINGS: u64 = 8;
/// From one reading of a meter to the next.
const STEP_NS: u64 = 1_000_000;
const TIME_DIGITS: usize = 19;
const LOCATIONS: [&str; 10] = [
    "California.SanFrancisco",
    "California.LosAngles",
    "California.SanDiego",
    "California.SanJose",
    "California.PaloAlto",
    "California.Campbell",
    "California.MountainView",
    "California.Sunnyvale",
    "California.SantaClara",
    "California.Cupertino",
];

/// One writer's meters.
pub struct Meters {
    /// Rows of the readings that stand ready, one behind the other.
    text: Vec<u8>,
    /// The place behind each of these rows.
    ends: Vec<usize>,
    /// Meters of this writer.
    meters: u64,
    /// Rows in a block.
    rows: u32,
    /// The time of the first reading.
    start_ns: u64,
    /// Rows that were made so far.
    made: u64,
}

impl Meters {
    /// The share of this writer, one of `writers`, in blocks of `rows`; the first reading of each meter
    /// has the time `start_ns` (since 1970, of 19 digits).
    pub fn new(rows: u32, (writer, writers): (u32, u32), start_ns: u64) -> Self {
        let mine = share(writer, writers);
        let meters = mine.end - mine.start;
        let (mut text, mut ends) = (String::new(), Vec::new());
        for reading in 0..READINGS {
            for meter in mine.clone() {
                row(&mut text, meter, reading, start_ns);
                ends.push(text.len());
            }
        }
        Self { text: text.into_bytes(), ends, meters, rows, start_ns, made: 0 }
    }

    /// The text of the next block.
    pub fn next(&mut self) -> Vec<u8> {
        let mut left = self.rows as usize;
        let mut block = Vec::with_capacity(self.text.len() * left / self.ends.len() + ROW_BYTES_MAX as usize);
        while left > 0 {
            let from = (self.made % self.ends.len() as u64) as usize;
            let rows = from..self.ends.len().min(from + left);
            left -= rows.len();
            self.copy(rows, &mut block);
        }
        block
    }

    /// Copies these rows and gives them their times.
    fn copy(&mut self, rows: Range<usize>, block: &mut Vec<u8>) {
        let text_start = rows.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        let shift = block.len();
        block.extend_from_slice(&self.text[text_start..self.ends[rows.end - 1]]);
        let mut reading = self.made / self.meters;
        let mut next_reading_at = (reading + 1) * self.meters;
        let mut digits = self.time(reading);
        for end in &self.ends[rows] {
            if self.made == next_reading_at {
                reading += 1;
                next_reading_at += self.meters;
                digits = self.time(reading);
            }
            // A row ends with its time and a line end.
            let line_end = end - text_start + shift - 1;
            block[line_end - TIME_DIGITS..line_end].copy_from_slice(&digits);
            self.made += 1;
        }
    }

    fn time(&self, reading: u64) -> [u8; TIME_DIGITS] {
        let mut digits = [0; TIME_DIGITS];
        let mut left = self.start_ns + reading * STEP_NS;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
        digits
    }
}

/// The meters of one of so many writers, who are no more than there are meters: each has one at least.
fn share(writer: u32, writers: u32) -> Range<u64> {
    let from = |writer: u32| u64::from(writer) * METERS / u64::from(writers);
    from(writer)..from(writer + 1)
}

fn row(text: &mut String, meter: u64, reading: u64, time_ns: u64) {
    let noise = mix64(meter, reading);
    let (group, location) = (meter % 10 + 1, LOCATIONS[(meter / 10 % 10) as usize]);
    let current = (8_000 + noise % 1_000 * 5) as f64 / 1e3;
    let voltage = 200 + (noise >> 20) % 50;
    let phase = ((noise >> 40) % 100) as f64 / 100.0;
    let _ = writeln!(
        text,
        "meters,groupid={group},id=d{meter},location={location} current={current},voltage={voltage}i,phase={phase} {time_ns:019}"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use forebay::Block;
    use forebay::serve::lines::lines;

    use super::*;

    const START_NS: u64 = 1_601_714_285_000_000_000;

    /// Meter and time of each row, in order.
    fn rows(text: &[u8]) -> Vec<(String, i64)> {
        let row = |line: forebay::serve::lines::Line<'_>| {
            let tags: BTreeMap<_, _> = line.tags().collect();
            let fields: Vec<_> = line.fields().map(|(key, _)| key.into_owned()).collect();
            assert_eq!(tags.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["groupid", "id", "location"]);
            assert_eq!(fields, ["current", "voltage", "phase"]);
            (tags["id"].clone().into_owned(), line.time().expect("a time"))
        };
        lines(text).map(|line| row(line.expect("sound"))).collect()
    }

    #[test]
    fn a_block_is_what_would_have_been_written_row_by_row() {
        for (block_rows, writers) in [(1000, 50), (7, 3), (1000, 1), (3, 10_000), (50_000, 50)] {
            let mut meters = Meters::new(block_rows, (0, writers), START_NS);
            let (mut found, mut wanted) = (Vec::new(), String::new());
            for _ in 0..5 {
                found.extend(meters.next());
            }
            let mine = share(0, writers);
            for n in 0..u64::from(block_rows) * 5 {
                let (meter, reading) = (mine.start + n % mine.end, n / mine.end);
                row(&mut wanted, meter, reading % READINGS, START_NS + reading * STEP_NS);
            }
            assert!(found == wanted.as_bytes(), "{block_rows} rows, {writers} writers");
        }
    }

    #[test]
    fn blocks_are_sound_and_no_row_comes_twice() {
        let mut seen = HashSet::new();
        for writer in 0..50 {
            let mut meters = Meters::new(1000, (writer, 50), START_NS);
            for _ in 0..3 {
                let block = Block::lines(meters.next()).expect("sound");
                assert_eq!((block.table(), block.rows()), ("meters", 1000));
                seen.extend(rows(block.payload()));
            }
        }
        assert_eq!(seen.len(), 150_000);
        let meters: HashSet<_> = seen.iter().map(|(meter, _)| meter).collect();
        assert_eq!(meters.len(), 10_000);
    }

    #[test]
    fn each_meter_is_of_one_writer_and_its_time_advances() {
        let mut meters = Meters::new(450, (3, 50), START_NS);
        let mut last = BTreeMap::new();
        for _ in 0..10 {
            for (meter, time) in rows(&meters.next()) {
                assert!(last.insert(meter, time).is_none_or(|before| before < time));
            }
        }
        assert_eq!(last.len(), 200);
        for writers in [1, 2, 3, 50, 7777, 10_000] {
            let shares: Vec<_> = (0..writers).map(|writer| share(writer, writers)).collect();
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[0].is_empty()), "{writers}");
            assert_eq!((shares[0].start, shares[writers as usize - 1].end), (0, METERS));
        }
    }

    #[test]
    fn no_row_is_longer_than_the_bound() {
        let mut longest = String::new();
        for meter in 9_900..METERS {
            for reading in 0..READINGS {
                let before = longest.len();
                row(&mut longest, meter, reading, START_NS);
                assert!(longest.len() - before <= ROW_BYTES_MAX as usize, "{}", &longest[before..]);
            }
        }
    }
}
