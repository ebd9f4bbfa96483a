//! An opened device: its protection domain, its completion queue, the memory registered with it.
//!
//! The completion queue has room for everything that can be under way, so that it never overruns. Should it fail all the
//! same, nothing more is expected of it, and another port takes the connections to come.

use std::ffi::c_int;
use std::mem::{self, MaybeUninit};
use std::os::fd::RawFd;
use std::{io, ptr};

use slab::Slab;

use super::convert::read_completion;
use super::{FIRST_ENTRIES, TAKEN_AT_ONCE};
use crate::device::{Completion, Registration};
use crate::sys::{self, Library, Opaque};

pub(super) struct Port {
    library: &'static Library,
    context: *mut sys::Context,
    pub(super) domain: Opaque,
    channel: *mut sys::CompletionChannel,
    pub(super) queue: *mut sys::CompletionQueue,
    /// Entries that endpoints may fill together.
    promised: u32,
    registrations: Slab<*mut sys::MemoryRegion>,
    is_armed: bool,
    has_failed: bool,
}

impl Port {
    /// # Errors
    /// The device's.
    pub(super) fn new(library: &'static Library, context: *mut sys::Context) -> io::Result<Self> {
        let mut port = Port {
            library,
            context,
            domain: ptr::null_mut(),
            channel: ptr::null_mut(),
            queue: ptr::null_mut(),
            promised: 0,
            registrations: Slab::new(),
            is_armed: false,
            has_failed: false,
        };
        // SAFETY: an opened device, which the connection manager keeps open; results are checked in turn, and what was
        // made is destroyed with the port.
        unsafe {
            port.domain = made((library.ibv_alloc_pd)(context))?;
            port.channel = made((library.ibv_create_comp_channel)(context))?;
            let entries = FIRST_ENTRIES as c_int;
            port.queue = made((library.ibv_create_cq)(context, entries, ptr::null_mut(), port.channel, 0))?;
        }
        Ok(port)
    }

    /// Whether new connections over this device are its own.
    pub(super) fn serves(&self, context: *mut sys::Context) -> bool {
        self.context == context && !self.has_failed
    }

    /// Readable after [`Port::arm`] with a completion.
    pub(super) fn descriptor(&self) -> RawFd {
        // SAFETY: the channel lives as long as the port.
        unsafe { (*self.channel).fd }
    }

    /// Sets entries of the completion queue aside.
    pub(super) fn promise(&mut self, entries: u32) -> io::Result<()> {
        let library = self.library;
        // SAFETY: the queue lives as long as the port.
        let room = unsafe { (*self.queue).entries } as u32;
        let needed = self.promised + entries;
        if needed > room {
            let more = needed.max(room.saturating_mul(2));
            // SAFETY: as above.
            let error = unsafe { (library.ibv_resize_cq)(self.queue, more as c_int) };
            // A device that cannot double may yet have room for what is needed.
            // SAFETY: as above.
            if error != 0 && unsafe { (library.ibv_resize_cq)(self.queue, needed as c_int) } != 0 {
                return Err(io::Error::from_raw_os_error(error.abs()));
            }
        }
        self.promised = needed;
        Ok(())
    }

    /// Those entries are free again.
    pub(super) fn forgive(&mut self, entries: u32) {
        self.promised -= entries;
    }

    /// # Safety
    /// The memory stays until it is deregistered.
    pub(super) unsafe fn register(&mut self, start: *mut u8, bytes: usize) -> io::Result<Registration> {
        let access = sys::ACCESS_LOCAL_WRITE;
        // SAFETY: the memory stays, by the caller's promise; the domain lives as long as the port.
        let region = made(unsafe { (self.library.ibv_reg_mr)(self.domain, start.cast(), bytes, access) })?;
        // SAFETY: just made.
        let key = unsafe { (*region).local_key };
        Ok(Registration { id: self.registrations.insert(region) as u32, key })
    }

    pub(super) fn deregister(&mut self, registration: Registration) {
        let region = self.registrations.remove(registration.id as usize);
        // SAFETY: made by `register` and not deregistered since.
        unsafe { (self.library.ibv_dereg_mr)(region) };
    }

    /// Appends what has completed. Whether the queue fails now.
    pub(super) fn poll(&mut self, completions: &mut Vec<Completion>) -> bool {
        if self.promised == 0 || self.has_failed {
            return false;
        }
        let mut taken = [const { MaybeUninit::<sys::WorkCompletion>::uninit() }; TAKEN_AT_ONCE];
        // SAFETY: the queue lives as long as the port; room for as many as said.
        let count = unsafe {
            let poll = (*self.context).poll_cq.expect("every device can be polled");
            poll(self.queue, TAKEN_AT_ONCE as c_int, taken.as_mut_ptr().cast())
        };
        for completion in &taken[..count.max(0) as usize] {
            // SAFETY: the device has filled so many.
            completions.push(read_completion(unsafe { completion.assume_init_ref() }));
        }
        self.has_failed = count < 0;
        self.has_failed
    }

    /// Has the next completion make the descriptor readable.
    pub(super) fn arm(&mut self) {
        if self.promised == 0 || self.has_failed {
            return;
        }
        if mem::replace(&mut self.is_armed, true) {
            self.drain_notifications();
        }
        // SAFETY: the queue lives as long as the port.
        unsafe {
            let notify = (*self.context).req_notify_cq.expect("every device notifies");
            notify(self.queue, 0);
        }
    }

    /// Takes the notifications that are there; completions themselves stay.
    fn drain_notifications(&self) {
        let library = self.library;
        for _ in 0..TAKEN_AT_ONCE {
            let (mut queue, mut context) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: places for the results; the channel lives as long as the port and does not block.
            let got = unsafe { (library.ibv_get_cq_event)(self.channel, &raw mut queue, &raw mut context) };
            if got != 0 {
                return;
            }
            // SAFETY: one event of this queue was just taken.
            unsafe { (library.ibv_ack_cq_events)(queue, 1) };
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let library = self.library;
        // SAFETY: its endpoints are gone before it (see `VerbsDevice`), and nobody uses the memory any more; each of these
        // was made and not destroyed yet.
        unsafe {
            for (_, region) in &self.registrations {
                (library.ibv_dereg_mr)(*region);
            }
            if !self.queue.is_null() {
                (library.ibv_destroy_cq)(self.queue);
            }
            if !self.channel.is_null() {
                (library.ibv_destroy_comp_channel)(self.channel);
            }
            if !self.domain.is_null() {
                (library.ibv_dealloc_pd)(self.domain);
            }
        }
    }
}

/// What a call has made, unless it has not.
fn made<T>(result: *mut T) -> io::Result<*mut T> {
    if result.is_null() { Err(io::Error::last_os_error()) } else { Ok(result) }
}
