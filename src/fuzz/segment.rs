//! Segment headers and file names. A header reads back as it was written, as long as one copy is whole;
//! with rot in both it is refused or says the same; whatever is read can be written.

use crate::fuzz::choices::Choices;
use crate::fuzz::log::any_header;
use crate::limits::{HANDLED_RANGES_MAX, NUMBER_MAX, PAGE_BYTES, SEGMENT_FILE_BYTES, SEGMENT_HEADER_BYTES};
use crate::wal::codec::crc_before;
use crate::wal::segment::{FileName, Handled, SEGMENT, SegmentHeader, new_name, parse_name, segment_name, spare_name};

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    match from.byte() % 4 {
        0 => built(&mut from),
        1 => crafted(&mut from),
        2 => {
            let mut bytes = from.all().to_vec();
            bytes.resize(SEGMENT_HEADER_BYTES, 0);
            for copy in bytes.chunks_exact_mut(PAGE_BYTES) {
                make_right(copy);
            }
            writable_if_read(&bytes);
        }
        _ => names(&mut from),
    }
}

fn built(from: &mut Choices<'_>) {
    let number = from.number();
    let header = any_header(from, number);
    let sound = header.encode();
    let read = SegmentHeader::decode(&sound);
    if read.as_ref() != Ok(&header) {
        assert!(read.is_err() && !is_usable(&header), "a header is as it was written: {header:?} {read:?}");
        return;
    }
    let mut bytes = sound.clone();
    from.rot(&mut bytes, (0, PAGE_BYTES));
    assert_eq!(SegmentHeader::decode(&bytes).as_ref(), Ok(&header), "one whole copy is enough");
    from.rot(&mut bytes, (PAGE_BYTES, SEGMENT_HEADER_BYTES));
    if let Ok(read) = SegmentHeader::decode(&bytes) {
        assert_eq!(read, header, "rot is not believed");
    }
    let end = from.below(SEGMENT_HEADER_BYTES);
    assert!(SegmentHeader::decode(&bytes[..end]).is_err(), "half a header is none");
}

/// A header that the engine could have written.
fn is_usable(header: &SegmentHeader) -> bool {
    let sound = |range: &Handled| range.is_in_bounds() && range.resume_segment <= header.segment;
    let places = header.handled.iter().all(sound);
    let pin = header.pin.unwrap_or_default();
    let numbers = [header.segment.0, pin.segment.0, pin.batch.0, pin.seq.0];
    places && numbers.into_iter().all(|number| number <= NUMBER_MAX)
}

fn crafted(from: &mut Choices<'_>) {
    let number = from.number();
    let mut bytes = any_header(from, number).encode();
    for copy in bytes.chunks_exact_mut(PAGE_BYTES) {
        from.rot(copy, (0, SEGMENT::BYTES));
        make_right(copy);
    }
    writable_if_read(&bytes);
}

/// Makes the checksum of one copy right.
pub fn make_right(copy: &mut [u8]) {
    let sum = crc_before(SEGMENT::crc, copy);
    SEGMENT::crc.put(copy, &sum.to_le_bytes());
}

fn writable_if_read(bytes: &[u8]) {
    let Ok(header) = SegmentHeader::decode(bytes) else { return };
    assert!(header.handled.len() <= HANDLED_RANGES_MAX && SEGMENT_FILE_BYTES.contains(&header.segment_bytes));
    assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header), "what is read can be written");
}

fn names(from: &mut Choices<'_>) {
    let number = from.number();
    let name = match from.byte() % 4 {
        0 => segment_name(crate::types::SegmentNo(number)),
        1 => spare_name(crate::types::FileId(number)),
        2 => new_name(crate::types::FileId(number)),
        _ => String::new(),
    };
    let mut bytes = name.into_bytes();
    bytes.extend(from.take(4));
    let length = bytes.len();
    from.rot(&mut bytes, (0, length));
    let name = String::from_utf8_lossy(&bytes);
    let again = match parse_name(&name) {
        FileName::Segment(segment) => segment_name(segment),
        FileName::Spare(file_id) => spare_name(file_id),
        FileName::New(file_id) => new_name(file_id),
        FileName::Other => return,
    };
    assert_eq!(again, name, "one name for one file");
}
