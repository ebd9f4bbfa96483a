//! Anonymous page-aligned memory, zeroed, touched only when used.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

/// A mapping of its own.
pub(crate) struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone; nothing in it is tied to a thread.
unsafe impl Send for Pages {}

impl Pages {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        // Miri knows no other flag; this one only says that memory is not to be set aside.
        let no_reserve = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | no_reserve;
        // SAFETY: a fresh anonymous mapping; the result is checked.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Pages { base, len })
    }

    /// The first byte.
    #[inline]
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes in it.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, not used after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Bytes at an address that reading and writing past the page cache can use; they grow up to their capacity only.
pub struct AlignedBuf {
    pages: Pages,
    len: usize,
}

impl AlignedBuf {
    /// What its address is a multiple of, in bytes.
    pub const ALIGNMENT: usize = 4096;

    /// An empty one with room for at least so many bytes; memory is taken as it is used.
    ///
    /// # Panics
    /// If there is no address space left.
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = bytes.max(1).next_multiple_of(Self::ALIGNMENT);
        let pages = Pages::new(capacity).expect("address space for a buffer");
        AlignedBuf { pages, len: 0 }
    }

    /// How many bytes it has room for.
    pub fn capacity(&self) -> usize {
        self.pages.len()
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let at = self.len;
        self.resize(at + bytes.len());
        self[at..].copy_from_slice(bytes);
    }

    /// Makes it so long; bytes that appear are whatever was there before, zeros at first.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn resize(&mut self, bytes: usize) {
        assert!(bytes <= self.capacity(), "a buffer grows up to its capacity");
        self.len = bytes;
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: inside the mapping, which this value owns, and initialised, since mappings begin as zeros.
        unsafe { std::slice::from_raw_parts(self.pages.base(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed for writing by this one alone.
        unsafe { std::slice::from_raw_parts_mut(self.pages.base(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_zero_and_may_be_written_by_whoever_has_it() {
        let pages = Pages::new(3 * 4096 + 1).unwrap();
        let pages = std::thread::spawn(move || {
            // SAFETY: inside the mapping, which nobody else uses.
            let bytes = unsafe { std::slice::from_raw_parts_mut(pages.base(), pages.len()) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(7);
            pages
        })
        .join()
        .unwrap();
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(pages.base(), pages.len()) };
        assert!(bytes.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_buffer_is_aligned_and_keeps_what_was_appended() {
        let mut buffer = AlignedBuf::with_capacity(5000);
        assert_eq!(buffer.capacity(), 8192);
        buffer.extend_from_slice(b"one");
        buffer.extend_from_slice(b"two");
        assert_eq!(&buffer[..], b"onetwo");
        assert_eq!(buffer.as_ptr().addr() % AlignedBuf::ALIGNMENT, 0);
        buffer.clear();
        buffer.resize(4);
        assert_eq!(&buffer[..], b"onet");
    }
}
