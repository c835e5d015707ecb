//! The memory of an intake ring: where it lives, and every access to it. One of the three files
//! that may contain `unsafe`.
//!
//! [`Region`] is a mapping of the ring file (or of anonymous shared memory) whose byte area is mapped
//! twice in a row, so that nothing that wraps round needs a split. Slots are atomic words. The bytes
//! of a claim belong to the one who holds its [`Claimed`]; after publication they are read through
//! the one [`Reader`], and only until that gives them back. What may be claimed, and when, is decided
//! in `shard/claim.rs`; making the file is left to `shard/ring_file.rs`.
#![allow(unsafe_code)]
#![cfg_attr(forebay_model, allow(irrefutable_let_patterns))]

use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use crate::limits::INTAKE_UNIT_BYTES;
use crate::shard::claim::Claimed;
use crate::sync::{AtomicU64, Ordering, fence, point};
use crate::types::Seq;
use crate::wal::intake::{RingHeader, Slot, freed_word};

/// Bytes that are checksummed and copied before the next are touched.
pub(crate) const COPY_BYTES: usize = 4096;
/// Units behind a claim that are fetched ahead: a small block.
const UNITS_AHEAD: usize = 4;

/// A slot in memory: the layout of `SLOT`, as words.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct RawSlot([AtomicU64; 8]);

/// The memory of a ring.
#[derive(Debug)]
pub(crate) struct Region {
    slots: NonNull<RawSlot>,
    slot_mask: u64,
    area: NonNull<u8>,
    area_bytes: usize,
    freed_mark: NonNull<AtomicU64>,
    /// Reads 1; 0 in a forked child, where the rest is not mapped.
    alive: NonNull<AtomicU64>,
    header: RingHeader,
    seed: u64,
    #[cfg_attr(not(test), allow(dead_code))]
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    #[cfg(not(all(test, forebay_model)))]
    Mapped {
        /// Held for their `Drop`.
        _ring: map::Mapping,
        _alive: map::Mapping,
    },
    #[cfg(test)]
    Heap { area_len: usize },
}

// SAFETY: the pointers are to memory that the region owns until it is dropped. Slots and words are
// atomics; bytes are accessed under the rules of `copy_in` and `Reader::entry`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps a ring file of exactly `header.file_bytes()` bytes.
    ///
    /// # Errors
    /// What the system said.
    #[cfg(not(all(test, forebay_model)))]
    pub(crate) fn map(file: &impl std::os::fd::AsFd, header: &RingHeader) -> std::io::Result<Self> {
        use crate::wal::intake::{FREED_AT, SLOTS_AT};
        let (ring, alive) = map::ring(file.as_fd(), header)?;
        let base = ring.base();
        let at = |offset: usize| {
            assert!(offset < ring.len(), "within the mapping");
            // SAFETY: within the mapping.
            unsafe { base.add(offset) }
        };
        Ok(Self {
            slots: at(SLOTS_AT).cast(),
            slot_mask: u64::from(header.slots) - 1,
            area: at(header.area_at() as usize),
            area_bytes: header.bytes as usize,
            freed_mark: at(FREED_AT).cast(),
            alive: alive.base().cast(),
            header: *header,
            seed: header.slot_seed(),
            backing: Backing::Mapped { _ring: ring, _alive: alive },
        })
    }

    /// The model has no mappings, only [`heap`](Self::heap).
    #[cfg(all(test, forebay_model))]
    pub(crate) fn map(_: &impl std::os::fd::AsFd, _: &RingHeader) -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// The same on the heap, for the model and for miri.
    #[cfg(test)]
    pub(crate) fn heap(header: &RingHeader) -> Self {
        let slots: Box<[RawSlot]> = (0..header.slots).map(|_| RawSlot::default()).collect();
        let area: Box<[u8]> = vec![0; 2 * header.bytes as usize].into();
        let area_len = area.len();
        let word = |value| NonNull::from(Box::leak(Box::new(AtomicU64::new(value))));
        Self {
            slots: NonNull::from(Box::leak(slots)).cast(),
            slot_mask: u64::from(header.slots) - 1,
            area: NonNull::from(Box::leak(area)).cast(),
            area_bytes: header.bytes as usize,
            freed_mark: word(0),
            alive: word(1),
            header: *header,
            seed: header.slot_seed(),
            backing: Backing::Heap { area_len },
        }
    }

    /// The process is a forked child; nothing else may be called then.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        // SAFETY: mapped or allocated until the region is dropped, in a forked child too.
        unsafe { self.alive.as_ref() }.load(Ordering::Relaxed) == 0
    }

    /// Where the slot checksums start from.
    #[inline]
    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    /// The header of the ring.
    pub(crate) const fn header(&self) -> &RingHeader {
        &self.header
    }

    #[inline]
    fn slot(&self, seq: Seq) -> &RawSlot {
        // SAFETY: there are `slot_mask + 1` slots.
        unsafe { self.slots.add((seq.0 & self.slot_mask) as usize).as_ref() }
    }

    /// Copies bytes into a claim, `offset` bytes from its start.
    ///
    /// # Panics
    /// Where they would reach beyond the claim.
    #[inline]
    pub(crate) fn copy_in(&self, claimed: &mut Claimed, offset: usize, bytes: &[u8]) {
        let room = claimed.units() as usize * INTAKE_UNIT_BYTES;
        assert!(offset <= room && bytes.len() <= room - offset && room <= self.area_bytes, "within the claim");
        let at = (claimed.unit() as usize * INTAKE_UNIT_BYTES + offset) & (self.area_bytes - 1);
        point();
        // SAFETY: `at` is within the area and the length is at most the area's, which is mapped twice
        // in a row. The claim is its holder's alone (`claim.rs`), borrowed mutably, and not yet
        // published, so nobody else reads or writes these bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.area.as_ptr().add(at), bytes.len()) };
        self.mirror(at, bytes);
    }

    /// On the heap the second mapping is a second copy.
    #[inline(always)]
    fn mirror(&self, at: usize, bytes: &[u8]) {
        #[cfg(test)]
        if let Backing::Heap { .. } = self.backing {
            for (index, &byte) in bytes.iter().enumerate() {
                let place = at + index;
                let other = if place < self.area_bytes { place + self.area_bytes } else { place - self.area_bytes };
                // SAFETY: within the doubled area, and the claim's alone as in `copy_in`.
                unsafe { self.area.as_ptr().add(other).write(byte) };
            }
        }
        let _ = (at, bytes);
    }

    /// Copies a payload into a claim, `offset` bytes from its start; its CRC-32, from the same pass.
    #[inline]
    pub(crate) fn copy_in_with_crc(&self, claimed: &mut Claimed, offset: usize, payload: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for (index, chunk) in payload.chunks(COPY_BYTES).enumerate() {
            crc.update(chunk);
            self.copy_in(claimed, offset + index * COPY_BYTES, chunk);
        }
        crc.finalize()
    }

    /// Fetches for writing, so that it need not be waited for later: the slot of `seq`, and the first
    /// bytes behind a claim, which as a rule the same thread claims next.
    #[inline(always)]
    pub(crate) fn prefetch(&self, seq: Seq, claimed: &Claimed) {
        prefetch_line(ptr::from_ref(self.slot(seq)).cast());
        let behind = claimed.unit().wrapping_add(claimed.units()) as usize * INTAKE_UNIT_BYTES;
        let at = behind & (self.area_bytes - 1);
        for line in 0..UNITS_AHEAD {
            prefetch_line(self.area.as_ptr().wrapping_add(at + line * INTAKE_UNIT_BYTES));
        }
    }

    /// Fills the slot of `seq` and makes it visible, before anything that the caller reads after this.
    /// Nothing here calls or loops: who has taken a seq holds up all behind it.
    #[inline(always)]
    pub(crate) fn fill(&self, seq: Seq, words: [u64; 3], checksum: u64) {
        let slot = &self.slot(seq).0;
        // A slot that is being filled is never taken for that of an earlier seq.
        slot[0].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        slot[1].store(checksum.to_le(), Ordering::Relaxed);
        slot[2].store(words[0].to_le(), Ordering::Relaxed);
        slot[3].store(words[1].to_le(), Ordering::Relaxed);
        slot[4].store(words[2].to_le(), Ordering::Relaxed);
        slot[0].swap(seq.0.to_le(), Ordering::SeqCst);
    }
}

/// Asks for the cache line at `place`, to be written soon; nothing where there is no such instruction.
#[inline(always)]
fn prefetch_line(place: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a hint without effect on memory; every x86-64 has it or ignores it.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(place.cast()) };
    }
    let _ = place;
}

/// The one who reads what is published: the shard's.
#[derive(Debug)]
pub(crate) struct Reader {
    region: Arc<Region>,
    freed: Seq,
    seen: Seq,
}

impl Reader {
    /// The reader of a fresh region; there is no other way to have one.
    pub(crate) fn new(region: Region) -> Self {
        let before = region.header.first_seq.prev();
        Self { region: Arc::new(region), freed: before, seen: before }
    }

    /// The region.
    pub(crate) const fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The last seq of the published prefix, as far as it was looked at.
    pub(crate) const fn seen(&self) -> Seq {
        self.seen
    }

    /// The last seq that was given back.
    pub(crate) const fn freed(&self) -> Seq {
        self.freed
    }

    /// Looks at the next seq; its slot, if it is published.
    #[inline]
    pub(crate) fn see_next(&mut self) -> Option<Slot> {
        let next = self.seen.next();
        // Acquire: what was stored before the tag is there.
        let published = u64::from_le(self.region.slot(next).0[0].load(Ordering::Acquire)) == next.0;
        published.then(|| {
            self.seen = next;
            self.slot(next)
        })
    }

    /// The slot of a seq that was seen and not given back.
    ///
    /// # Panics
    /// Where it is none.
    #[inline]
    pub(crate) fn slot(&self, seq: Seq) -> Slot {
        assert!(self.freed < seq && seq <= self.seen, "published and not given back");
        let words = &self.region.slot(seq).0;
        let word = |index: usize| u64::from_le(words[index].load(Ordering::Relaxed));
        Slot::from_words([word(2), word(3), word(4)])
    }

    /// The header and payload of a seq that was seen and not given back.
    #[inline]
    pub(crate) fn entry(&self, seq: Seq) -> Option<(&[u8], &[u8])> {
        if seq <= self.freed || self.seen < seq {
            return None;
        }
        let span = self.slot(seq).span(&self.region.header).expect("a slot that this process filled");
        let bytes = span.header_bytes as usize + span.length as usize;
        // SAFETY: `Slot::span` has bounded the entry by the area, which is mapped twice in a row. Its
        // writer is done (the tag was read with acquire), and nobody writes there again before this
        // reader, which the slices borrow, gives it back through `&mut self`.
        let entry = unsafe { slice::from_raw_parts(self.region.area.as_ptr().add(span.at as usize), bytes) };
        Some(entry.split_at(span.header_bytes as usize))
    }

    /// Gives back everything up to `upto`: the caller may let it be claimed again after this.
    pub(crate) fn give_back(&mut self, upto: Seq) {
        assert!(upto <= self.seen, "only what was seen");
        self.freed = self.freed.max(upto);
        let word = freed_word(self.region.seed, self.region.header.first_seq, self.freed);
        // SAFETY: mapped or allocated as long as the region.
        unsafe { self.region.freed_mark.as_ref() }.store(word.to_le(), Ordering::Release);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        #[cfg(test)]
        if let Backing::Heap { area_len } = self.backing {
            // SAFETY: leaked in `heap` with these types and lengths, and nobody holds them any more.
            unsafe {
                let slots = ptr::slice_from_raw_parts_mut(self.slots.as_ptr(), self.slot_mask as usize + 1);
                drop(Box::from_raw(slots));
                drop(Box::from_raw(ptr::slice_from_raw_parts_mut(self.area.as_ptr(), area_len)));
                drop(Box::from_raw(self.freed_mark.as_ptr()));
                drop(Box::from_raw(self.alive.as_ptr()));
            }
        }
    }
}

#[cfg(not(all(test, forebay_model)))]
mod map {
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::ptr::{self, NonNull};
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

    use crate::limits::PAGE_BYTES;
    use crate::wal::intake::RingHeader;

    /// Mapped memory; unmapped with it, except in a forked child, where it may be somebody else's.
    #[derive(Debug)]
    pub(super) struct Mapping {
        base: NonNull<u8>,
        len: usize,
        process: u32,
    }

    impl Mapping {
        fn anonymous(len: usize, prot: ProtFlags) -> io::Result<Self> {
            // SAFETY: a new mapping at an address that the kernel chooses.
            let base = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
            let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
            Ok(Self { base, len, process: std::process::id() })
        }

        pub(super) const fn base(&self) -> NonNull<u8> {
            self.base
        }

        pub(super) const fn len(&self) -> usize {
            self.len
        }

        /// Maps a piece of a file over a part of this reservation.
        fn put(&self, at: usize, len: usize, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
            assert!(at <= self.len && len <= self.len - at, "within the reservation");
            // SAFETY: replaces a part of our own reservation, of which nobody holds a reference yet.
            unsafe {
                let place = self.base.as_ptr().add(at).cast();
                mmap(place, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED, file, offset)?;
            }
            Ok(())
        }

        fn advise(&self, advice: Advice) -> io::Result<()> {
            // SAFETY: our own mapping; the advice used here concerns forked children only.
            Ok(unsafe { madvise(self.base.as_ptr().cast(), self.len, advice) }?)
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            if self.process == std::process::id() {
                // SAFETY: our own mapping; whoever owns this holds the only way to it. It fails for
                // ranges that are none, which this is not.
                let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
            }
        }
    }

    /// Maps a ring, its byte area twice in a row, and a page that a fork wipes.
    pub(super) fn ring(file: BorrowedFd<'_>, header: &RingHeader) -> io::Result<(Mapping, Mapping)> {
        let (area_at, bytes) = (header.area_at() as usize, header.bytes as usize);
        let page = rustix::param::page_size();
        if !area_at.is_multiple_of(page) || !bytes.is_multiple_of(page) {
            let what = format!("the intake ring cannot be mapped with pages of {page} bytes: use more intake_slots");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let ring = Mapping::anonymous(area_at + 2 * bytes, ProtFlags::empty())?;
        ring.put(0, area_at + bytes, file, 0)?;
        ring.put(area_at + bytes, bytes, file, area_at as u64)?;
        ring.advise(Advice::LinuxDontFork)?;
        let alive = Mapping::anonymous(page.max(PAGE_BYTES), ProtFlags::READ | ProtFlags::WRITE)?;
        alive.advise(Advice::LinuxWipeOnFork)?;
        // SAFETY: the page is ours, writable, aligned, and zeroed, which is a valid word.
        unsafe { alive.base().cast::<AtomicU64>().as_ref() }.store(1, Ordering::Relaxed);
        Ok((ring, alive))
    }
}

#[cfg(all(test, not(forebay_model)))]
mod tests {
    use super::*;
    use crate::shard::claim::Counters;
    use crate::types::{Epoch, Nonce, ShardId, StoreId};

    fn header() -> RingHeader {
        RingHeader {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            boot: [9; 16],
            epoch: Epoch(4),
            nonce: Nonce(5),
            first_seq: Seq(1),
            slots: 64,
            bytes: 64 << 10,
        }
    }

    /// Mapped memory, which miri has not.
    #[cfg(not(miri))]
    fn mapped() -> Region {
        Region::map(&crate::shard::ring_file::memory(&header()).expect("memory"), &header()).expect("a mapping")
    }

    #[test]
    fn what_wraps_round_is_read_in_one_piece() {
        wraps_round(Region::heap(&header()));
        #[cfg(not(miri))]
        wraps_round(mapped());
    }

    fn wraps_round(region: Region) {
        let counters = Counters::new(64, 1024);
        let mut first = counters.try_claim(1000).expect("room");
        region.copy_in(&mut first, 0, &[1; 64_000]);
        counters.free(1, 1000);
        let mut claimed = counters.try_claim(100).expect("room");
        let (head, payload) = ([2; 24], vec![3; 6000]);
        assert_eq!(region.copy_in_with_crc(&mut claimed, 24, &payload), crc32fast::hash(&payload));
        region.copy_in(&mut claimed, 0, &head);
        let slot =
            Slot { claim_unit: 1000, claim_units: 100, length: 6000, header_bytes: 24, header_crc: 0, payload_crc: 0 };
        region.fill(Seq(1), slot.words(), 5);
        let mut reader = Reader::new(region);
        assert_eq!(reader.entry(Seq(1)), None, "not looked at");
        assert_eq!(reader.see_next(), Some(slot));
        assert_eq!(reader.see_next(), None);
        assert_eq!(reader.entry(Seq(1)), Some((&head[..], &payload[..])));
        reader.give_back(Seq(1));
        assert_eq!(reader.entry(Seq(1)), None, "given back");
    }

    #[test]
    #[should_panic(expected = "within the claim")]
    fn nothing_is_copied_beyond_a_claim() {
        let mut claimed = Counters::new(64, 1024).try_claim(2).expect("room");
        Region::heap(&header()).copy_in(&mut claimed, 100, &[0; 29]);
    }

    #[test]
    #[cfg(not(miri))]
    fn a_forked_child_knows_that_it_is_one() {
        use std::os::unix::process::CommandExt;

        let region = Arc::new(mapped());
        assert!(!region.is_forked());
        let inherited = Arc::clone(&region);
        let mut command = std::process::Command::new("true");
        // SAFETY: the closure reads one word and makes an error value of a number.
        unsafe {
            command.pre_exec(
                move || if inherited.is_forked() { Err(std::io::Error::from_raw_os_error(77)) } else { Ok(()) },
            );
        }
        let error = command.spawn().expect_err("the child must see that it is one");
        assert_eq!(error.raw_os_error(), Some(77));
        assert!(!region.is_forked());
    }
}
