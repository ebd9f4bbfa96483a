//! Waking a transport from another thread: an eventfd behind a flag, so that only the first of many wakes costs a
//! system call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Waker;

/// The waker of the real transports.
pub(crate) struct EventWaker {
    told: AtomicBool,
    eventfd: OwnedFd,
}

impl EventWaker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(EventWaker { told: AtomicBool::new(false), eventfd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// What becomes readable at every wake. It is watched for edges and never read: its counter does not overflow in
    /// this machine's life.
    pub(crate) fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Whether somebody called since the last time. Costs one load when nobody did.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        // Acquire, paired with the release in `wake`: what the waker did before, the woken thread sees.
        self.told.load(Ordering::Relaxed) && self.told.swap(false, Ordering::AcqRel)
    }
}

impl Waker for EventWaker {
    fn wake(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight valid bytes; the descriptor lives as long as `self`. The write cannot fail in a way that
            // matters: the counter is either raised or already high, readable in both cases.
            unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}
