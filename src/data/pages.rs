//! The pages of a column with their checksums, which the library verifies but does not write.
//!
//! A page is a header in Thrift's compact protocol, and its bytes. The header says what a reader needs;
//! statistics of pages stand in the file's column index.

use parquet::basic::{Encoding, PageType};
use parquet::column::page::{CompressedPage, PageWriteSpec, PageWriter};
use parquet::errors::ParquetError;

/// Thrift's compact types.
const I32: u8 = 5;
const STRUCT: u8 = 12;

/// Appends pages to a buffer, which is one column of a row group in the end.
pub struct Pages<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Pages<'a> {
    /// Begins a column, in an empty buffer.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }
}

impl PageWriter for Pages<'_> {
    fn write_page(&mut self, page: CompressedPage) -> Result<PageWriteSpec, ParquetError> {
        let offset = self.out.len();
        write_header(&page, self.out)?;
        let header_bytes = self.out.len() - offset;
        self.out.extend_from_slice(page.data());
        Ok(PageWriteSpec {
            page_type: page.page_type(),
            uncompressed_size: page.uncompressed_size() + header_bytes,
            compressed_size: page.compressed_size() + header_bytes,
            num_values: page.num_values(),
            offset: offset as u64,
            bytes_written: (self.out.len() - offset) as u64,
        })
    }

    fn close(&mut self) -> Result<(), ParquetError> {
        Ok(())
    }
}

/// `PageHeader` of parquet.thrift.
fn write_header(page: &CompressedPage, out: &mut Vec<u8>) -> Result<(), ParquetError> {
    let number = |of: &str, number: usize| {
        i32::try_from(number).map_err(|_| ParquetError::General(format!("a page with {number} {of}")))
    };
    let (values, encoding) = (number("values", page.num_values() as usize)?, page.encoding() as i32);
    let levels = Encoding::RLE as i32;
    let (id, of_kind) = match page.page_type() {
        PageType::DATA_PAGE => (5, &[values, encoding, levels, levels][..]),
        PageType::DICTIONARY_PAGE => (7, &[values, encoding][..]),
        other => return Err(ParquetError::General(format!("a page of the type {other}"))),
    };
    let crc = crc32fast::hash(page.data());
    let mut header = Fields { out, last: 0 };
    header.i32(1, page.page_type() as i32);
    header.i32(2, number("bytes", page.uncompressed_size())?);
    header.i32(3, number("bytes", page.compressed_size())?);
    header.i32(4, crc.cast_signed());
    header.begin(id, STRUCT);
    let mut inner = Fields { out: header.out, last: 0 };
    (1..).zip(of_kind).for_each(|(id, value)| inner.i32(id, *value));
    inner.end();
    header.end();
    Ok(())
}

/// Fields of a structure, by increasing id.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    last: u8,
}

impl Fields<'_> {
    fn begin(&mut self, id: u8, of: u8) {
        self.out.push((id - self.last) << 4 | of);
        self.last = id;
    }

    fn i32(&mut self, id: u8, value: i32) {
        self.begin(id, I32);
        // Zigzag, then seven bits at a time.
        let mut left = (value << 1 ^ value >> 31).cast_unsigned();
        while left >= 0x80 {
            self.out.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.out.push(left as u8);
    }

    fn end(&mut self) {
        self.out.push(0);
    }
}
