//! Aligned byte buffers for direct I/O. One of the three files that may contain `unsafe`.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::limits::PAGE_BYTES;

/// A zeroed, fixed-size, 4 KiB-aligned buffer with a length that can shrink and grow within it.
pub struct AlignedBuf {
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
}

// SAFETY: the buffer owns its memory alone and has no interior mutability.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference only gives shared access to plain bytes.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer of `capacity` bytes, rounded up to 4 KiB; its length is its capacity.
    ///
    /// # Panics
    /// Where `capacity` is 0 or beyond `isize::MAX`.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "an empty buffer cannot be aligned");
        let capacity = capacity.next_multiple_of(PAGE_BYTES);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity, len: capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, PAGE_BYTES).expect("a capacity within isize::MAX")
    }

    /// Bytes that the buffer can hold.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the length. Bytes keep what they held: zero, or what was written there before.
    ///
    /// # Panics
    /// Where `len` is beyond the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "{len} of {} bytes", self.capacity);
        self.len = len;
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `capacity >= len` initialized bytes that this owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this same layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_bounded() {
        let mut buf = AlignedBuf::new(5000);
        assert_eq!((buf.capacity(), buf.len()), (8192, 8192));
        assert_eq!(buf.as_ptr() as usize % PAGE_BYTES, 0);
        assert!(buf.iter().all(|&byte| byte == 0));
        buf[4095] = 7;
        buf.set_len(4096);
        assert_eq!(buf.last(), Some(&7));
        assert!(std::panic::catch_unwind(move || buf.set_len(8193)).is_err());
    }
}
