//! Anonymous page-aligned memory, zeroed, touched only when used.

use std::io;
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
}
