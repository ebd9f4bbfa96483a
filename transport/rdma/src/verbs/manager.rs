//! The connection manager's channel, and connections on their way from one channel to another.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::{io, ptr};

use super::check;
use crate::sys::{self, CmId, Library};

/// What the connection manager keeps for us of a request that is on its way: nobody's number.
pub(super) const ON_ITS_WAY: usize = 1 << 30;

/// A channel of the connection manager; stays as long as one of its names may be used.
pub(super) struct Channel {
    library: &'static Library,
    pub(super) raw: *mut sys::EventChannel,
}

// SAFETY: the library's calls with a channel may come from any thread, and it is destroyed by the last who has it.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    pub(super) fn new(library: &'static Library) -> Option<Self> {
        // SAFETY: no pointers; the result is checked.
        let raw = unsafe { (library.rdma_create_event_channel)() };
        (!raw.is_null()).then_some(Channel { library, raw })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        // SAFETY: lives as long as this.
        unsafe { (*self.raw).fd }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: nothing is left on it: whoever has a name on it keeps it.
        unsafe { (self.library.rdma_destroy_event_channel)(self.raw) };
    }
}

/// A request on its way from one device to another. Refused when it is dropped.
pub struct VerbsParcel {
    library: &'static Library,
    /// Until somebody has taken it.
    id: Option<*mut CmId>,
    /// That the name is on still.
    _from: Arc<Channel>,
}

// SAFETY: the library's objects are not tied to a thread, and whoever has this is the only one to use the name.
unsafe impl Send for VerbsParcel {}

impl VerbsParcel {
    /// # Safety
    /// The name is live, on this channel, and nobody else's from now on.
    pub(super) unsafe fn new(library: &'static Library, id: *mut CmId, from: Arc<Channel>) -> Self {
        // SAFETY: live.
        unsafe { (*id).context = ptr::without_provenance_mut(ON_ITS_WAY) };
        VerbsParcel { library, id: Some(id), _from: from }
    }

    /// The name, on another channel: what is told of it from now on is told there.
    ///
    /// # Errors
    /// The connection manager's.
    pub(super) fn bring_to(mut self, channel: &Channel) -> io::Result<*mut CmId> {
        let id = self.id.ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: both live. It waits for events of this name that are being read at this moment, and no longer.
        check(unsafe { (self.library.rdma_migrate_id)(id, channel.raw) })?;
        // It is on that channel now, and not refused with this.
        self.id.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for VerbsParcel {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        // SAFETY: ours and live; its events are acknowledged as they are taken.
        unsafe {
            (self.library.rdma_reject)(id, ptr::null(), 0);
            (self.library.rdma_destroy_id)(id);
        }
    }
}
