//! A file of line protocol, plain or gzip, cut into pieces of whole lines for the writers.
//!
//! One thread reads and cuts; the writers check. Whoever finds something wrong names the line of the file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use forebay::Block;
use forebay::serve::lines::{LineError, LineProblem, line_end};

const READ_BYTES: usize = 256 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Some lines of the file.
#[derive(Debug)]
pub struct Piece {
    /// The file's line at which it begins, from 1.
    pub line: u64,
    /// Its text.
    pub text: Bytes,
}

/// What is wrong with an input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be opened.
    #[error("{path}: {cause}", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Its name says gzip, its content does not.
    #[error("{path}: line 1: not a gzip file, though its name ends in .gz", path = .path.display())]
    NotGzip {
        /// The file.
        path: PathBuf,
    },
    /// It ends too early, or cannot be read on.
    #[error("{path}: line {line}: {cause}: the file is cut or damaged behind this line", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The last line that was begun.
        line: u64,
        /// What was said.
        cause: std::io::Error,
    },
    /// A line that fits no block; most often a quote that is never closed.
    #[error("{path}: line {line}: a line of more than {max} bytes; is a quote not closed?", path = .path.display())]
    LongLine {
        /// The file.
        path: PathBuf,
        /// The line at which it begins.
        line: u64,
        /// The bound.
        max: usize,
    },
    /// A bad line.
    #[error("input: {0}")]
    Line(LineError),
    /// A file without data.
    #[error("{path}: line {line}: no line with data in the whole file", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// Its last line.
        line: u64,
    },
}

/// Makes a block of a piece; `None` where it has only comments and blank lines.
///
/// # Errors
/// The first bad line, with its number in the file.
pub fn check_piece(piece: Piece) -> Result<Option<Block>, InputError> {
    match Block::lines(piece.text) {
        Ok(block) => Ok(Some(block)),
        Err(error) if error.why == LineProblem::NoRows => Ok(None),
        Err(error) => Err(InputError::Line(LineError { line: error.line + piece.line - 1, ..error })),
    }
}

/// Reads the file and deals its pieces to the writers in turn, until the end or until one is gone.
///
/// # Errors
/// What is wrong with the file; the whole lines before that were dealt.
pub fn deal(path: &Path, rows: u32, piece_bytes_max: usize, writers: &[SyncSender<Piece>]) -> Result<(), InputError> {
    let mut cutter = Cutter { path, rows, max: piece_bytes_max, text: Vec::new(), line: 1, pieces: 0 };
    let mut source = open(path)?;
    loop {
        let old = cutter.text.len();
        cutter.text.resize(old + READ_BYTES, 0);
        let read = source.read(&mut cutter.text[old..]);
        cutter.text.truncate(old + *read.as_ref().unwrap_or(&0));
        let at_end = !matches!(read, Ok(bytes) if bytes > 0);
        while let Some(piece) = cutter.cut(at_end && read.is_ok())? {
            let writer = &writers[cutter.pieces % writers.len()];
            cutter.pieces += 1;
            if writer.send(piece).is_err() {
                return Ok(());
            }
        }
        match read {
            Ok(0) if cutter.pieces == 0 => return Err(InputError::Empty { path: path.into(), line: cutter.line }),
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => {
                // Whole lines before the damage still go in.
                cutter.rows = 1;
                while let Some(piece) = cutter.cut(false)? {
                    if writers[cutter.pieces % writers.len()].send(piece).is_err() {
                        break;
                    }
                    cutter.pieces += 1;
                }
                return Err(InputError::Read { path: path.into(), line: cutter.line, cause });
            }
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn Read>, InputError> {
    let failed = |cause| InputError::Open { path: path.into(), cause };
    let mut file = BufReader::with_capacity(READ_BYTES, File::open(path).map_err(failed)?);
    if file.fill_buf().map_err(failed)?.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(MultiGzDecoder::new(file)));
    }
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Err(InputError::NotGzip { path: path.into() });
    }
    Ok(Box::new(file))
}

struct Cutter<'a> {
    path: &'a Path,
    rows: u32,
    max: usize,
    text: Vec<u8>,
    /// The file's line at which `text` begins.
    line: u64,
    pieces: usize,
}

impl Cutter<'_> {
    /// Cuts a piece of `rows` lines off the text, or of fewer at the file's end or where they are
    /// large; `None` where more must be read first.
    fn cut(&mut self, at_end: bool) -> Result<Option<Piece>, InputError> {
        let mut end = 0;
        let mut rows = 0;
        while rows < self.rows {
            let next = match line_end(&self.text, end) {
                Some(next) => next,
                None if at_end && end < self.text.len() => self.text.len(),
                None if self.text.len() - end > self.max => return self.long_line(end),
                None if at_end => break,
                None if self.text.len() > self.max => break,
                None => return Ok(None),
            };
            if next - end > self.max {
                return self.long_line(end);
            }
            if next > self.max {
                break;
            }
            end = next;
            rows += 1;
        }
        if end == 0 {
            return Ok(None);
        }
        let rest = self.text.split_off(end);
        let text = Bytes::from(std::mem::replace(&mut self.text, rest));
        let line = self.line;
        self.line += text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        Ok(Some(Piece { line, text }))
    }

    /// A line that is too long: what is before it is a piece of its own first.
    fn long_line(&mut self, start: usize) -> Result<Option<Piece>, InputError> {
        if start == 0 {
            return Err(InputError::LongLine { path: self.path.into(), line: self.line, max: self.max });
        }
        let rest = self.text.split_off(start);
        let text = Bytes::from(std::mem::replace(&mut self.text, rest));
        let line = self.line;
        self.line += text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        Ok(Some(Piece { line, text }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::sync_channel;

    use super::*;

    const WEATHER: &[u8] = include_bytes!("../../../tests/data/nyc-weather-2000.lp");

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).expect("in memory");
        encoder.finish().expect("in memory")
    }

    /// Rows of each block in the order of dealing, and how it ended.
    fn dealt(name: &str, content: &[u8], rows: u32, max: usize) -> (Vec<u32>, Result<(), InputError>) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        let (sender, receiver) = sync_channel(100_000);
        let outcome = deal(&path, rows, max, &[sender]);
        let mut found = Vec::new();
        for piece in receiver {
            match check_piece(piece) {
                Ok(block) => found.extend(block.map(|block| block.rows())),
                Err(error) => return (found, Err(error)),
            }
        }
        (found, outcome)
    }

    #[test]
    fn plain_and_gzip_files_give_all_lines_in_blocks() {
        for (name, content) in [("w.lp", WEATHER.to_vec()), ("w.lp.gz", gzip(WEATHER)), ("no-suffix", gzip(WEATHER))] {
            let (rows, end) = dealt(name, &content, 300, 1 << 20);
            assert!(end.is_ok(), "{name}");
            assert_eq!(rows, [300, 300, 300, 300, 300, 300, 200], "{name}");
        }
        let (rows, end) = dealt("w.lp", WEATHER, 300, 10_000);
        assert!(end.is_ok() && rows.len() > 7 && rows.iter().sum::<u32>() == 2000, "{rows:?}");
    }

    #[test]
    fn two_gzip_members_are_one_file() {
        let mut content = gzip(b"m f=1\n");
        content.extend(gzip(b"m f=2"));
        let (rows, end) = dealt("two.gz", &content, 10, 1000);
        assert!(end.is_ok());
        assert_eq!(rows, [2]);
    }

    #[test]
    fn a_bad_line_is_named_by_its_line_in_the_file() {
        let mut text = WEATHER.to_vec();
        text.extend(b"# note\nweather,origin=EWR temp=cold 1\n");
        for (name, content) in [("bad.lp", text.clone()), ("bad.lp.gz", gzip(&text))] {
            let (rows, end) = dealt(name, &content, 300, 1 << 20);
            let message = end.expect_err("a bad line").to_string();
            assert_eq!(rows.iter().sum::<u32>(), 1800, "whole blocks before it are taken");
            assert!(message.contains("line 2002, column 25: field value 'cold'"), "{message}");
        }
    }

    #[test]
    fn a_cut_gzip_stream_is_an_error_and_whole_lines_before_it_are_taken() {
        let content = gzip(WEATHER);
        let (rows, end) = dealt("cut.gz", &content[..content.len() / 2], 100, 1 << 20);
        let message = end.expect_err("a cut file").to_string();
        let taken: u32 = rows.iter().sum();
        assert!((1..2000).contains(&taken), "{taken} rows");
        assert!(message.contains(&format!("line {}:", taken + 1)), "{taken} rows, but: {message}");
        let (_, tail) = dealt("cut.gz", &content[..content.len() - 4], 100, 1 << 20);
        assert!(tail.is_err(), "a missing checksum is a cut file");
    }

    #[test]
    fn what_is_no_gzip_is_told_so() {
        let message = dealt("text.gz", b"m f=1\n", 10, 1000).1.expect_err("not gzip").to_string();
        assert!(message.contains("line 1: not a gzip file"), "{message}");
    }

    #[test]
    fn a_quote_that_is_never_closed_ends_at_the_bound() {
        let mut text = b"m f=1\nm f=\"".to_vec();
        text.extend(vec![b'x'; 3000]);
        let (rows, end) = dealt("open.lp", &text, 10, 1000);
        assert_eq!(rows, [1]);
        assert!(end.expect_err("too long").to_string().contains("line 2: a line of more than 1000 bytes"));
    }

    #[test]
    fn files_without_data_or_not_there_are_errors() {
        assert!(dealt("empty.lp", b"", 10, 1000).1.is_err());
        let missing = deal(Path::new("/nowhere/at/all"), 1, 1, &[]).expect_err("no file").to_string();
        assert!(missing.contains("/nowhere/at/all"), "{missing}");
    }
}
