//! The device of the real calls: libibverbs and the connection manager.
//!
//! 1. One protection domain and one completion queue for all endpoints of an opened device, of this thread's.
//! 2. Events of the connection manager are acknowledged as they are taken, so destroying never waits for them.
//! 3. One descriptor becomes readable for everything: an epoll of the manager's channel and the completion channels.

mod convert;
mod manager;
mod port;

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use slab::Slab;

use crate::device::{
    Completion, Depth, Device, DeviceEvent, PRIVATE_BYTES, ReceiveRequest, Registration, SendRequest,
};
use crate::sys::{self, CmEvent, CmId, Library, Unavailable};

use convert::{error_number, private, raw_addr, raw_piece, socket_addr};
pub use manager::VerbsParcel;
use manager::{Channel, ON_ITS_WAY};
use port::Port;

/// How long the way to a peer is looked for, for the address and for the route.
const RESOLVE_TIMEOUT_MS: c_int = 2_000;
/// Completions and events taken a call at most.
const TAKEN_AT_ONCE: usize = 128;
/// Opened devices, and completion queues that have failed, at most.
const MOST_PORTS: u8 = 128;
/// Entries of a completion queue at first.
const FIRST_ENTRIES: u32 = 1024;
/// Sends posted at once at most, and pieces of each.
const POSTED_AT_ONCE: usize = 64;
/// Inline bytes asked for, in this order, until a device agrees.
const INLINE_BYTES: [u32; 4] = [256, 128, 64, 0];
/// How often a send is tried again without an answer. Soft-RoCE takes 7 for no limit, and a peer that is gone for one that
/// is slow.
const RETRIES: u8 = 6;
/// How often it is where the receiver has no room: 7 is for ever.
const NOT_READY_RETRIES: u8 = 7;

/// [`Device`] over libibverbs.
pub struct VerbsDevice {
    library: &'static Library,
    ports: Vec<Port>,
    channel: Arc<Channel>,
    listeners: Slab<*mut CmId>,
    endpoints: Slab<Endpoint>,
    /// To be destroyed once their events are acknowledged.
    doomed: Vec<*mut CmId>,
    epoll: OwnedFd,
}

// SAFETY: the libraries' objects are not tied to a thread, and this is used by one at a time.
unsafe impl Send for VerbsDevice {}

struct Endpoint {
    id: *mut CmId,
    port: u8,
    /// Entries of the completion queue that are its own.
    entries: u32,
}

/// Marks the number of a listener in what the connection manager keeps for us.
const LISTENER: usize = 1 << 31;

impl VerbsDevice {
    /// Loads the libraries and looks for devices.
    ///
    /// # Errors
    /// What is missing.
    pub fn new() -> Result<Self, Unavailable> {
        let library = Library::load()?;
        if !has_devices(library) {
            return Err(Unavailable("this host has no RDMA device".into()));
        }
        let failed = |what: &str| {
            let error = io::Error::last_os_error();
            Unavailable(format!("{what}: {error}"))
        };
        // SAFETY: no pointers; the result is checked.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(failed("no descriptor for events"));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let Some(channel) = Channel::new(library) else {
            return Err(failed("the connection manager cannot be used (/dev/infiniband/rdma_cm)"));
        };
        let device = VerbsDevice {
            library,
            channel: Arc::new(channel),
            ports: Vec::new(),
            listeners: Slab::new(),
            endpoints: Slab::new(),
            doomed: Vec::new(),
            epoll,
        };
        device
            .watch(device.channel.descriptor())
            .map_err(|error| Unavailable(format!("no room for events: {error}")))?;
        Ok(device)
    }

    /// Makes the descriptor return at once where nothing is there, and adds it to the one that callers wait for.
    fn watch(&self, fd: RawFd) -> io::Result<()> {
        // SAFETY: no pointers; the results are checked.
        unsafe {
            let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
            check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
        }
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: a live event.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    fn create_id(&self, number: usize) -> io::Result<*mut CmId> {
        let mut id = ptr::null_mut();
        let context = ptr::without_provenance_mut(number);
        // SAFETY: a place for the result; the channel lives as long as `self`.
        check(unsafe {
            (self.library.rdma_create_id)(self.channel.raw, &raw mut id, context, sys::PORT_SPACE_TCP)
        })?;
        Ok(id)
    }

    /// The port of an opened device, made when it is first met.
    fn port(&mut self, context: *mut sys::Context) -> io::Result<u8> {
        if let Some(at) = self.ports.iter().position(|port| port.serves(context)) {
            return Ok(at as u8);
        }
        let number = u8::try_from(self.ports.len()).ok().filter(|number| *number < MOST_PORTS);
        let Some(number) = number else { return Err(io::Error::other("too many devices")) };
        let port = Port::new(self.library, context)?;
        self.watch(port.descriptor())?;
        self.ports.push(port);
        Ok(number)
    }

    fn read_event(&mut self, event: &CmEvent) -> Option<DeviceEvent> {
        // SAFETY: the event is not acknowledged yet, so its id lives.
        let number = unsafe { (*event.id).context }.addr();
        if event.kind == sys::CM_CONNECT_REQUEST {
            return self.requested(event, number);
        }
        if number & LISTENER != 0 {
            let is_lost = event.kind == sys::CM_DEVICE_REMOVAL;
            return if is_lost { self.lost_listener(number & !LISTENER) } else { None };
        }
        if number & ON_ITS_WAY != 0 {
            // Whoever gets it notices when it answers.
            return None;
        }
        let endpoint = number as u32;
        let failed = |error| Some(DeviceEvent::Failed { endpoint, error });
        match event.kind {
            sys::CM_ADDR_RESOLVED => {
                // SAFETY: the id is ours.
                match check(unsafe { (self.library.rdma_resolve_route)(event.id, RESOLVE_TIMEOUT_MS) }) {
                    Ok(_) => None,
                    Err(error) => failed(error.raw_os_error().unwrap_or(libc::EHOSTUNREACH)),
                }
            }
            sys::CM_ROUTE_RESOLVED => {
                // SAFETY: as above; the device is known by now.
                let context = unsafe { (*event.id).verbs };
                match self.port(context) {
                    Ok(port) => {
                        self.endpoints.get_mut(number)?.port = port;
                        Some(DeviceEvent::Resolved { endpoint, port })
                    }
                    Err(error) => failed(error.raw_os_error().unwrap_or(libc::ENODEV)),
                }
            }
            sys::CM_ADDR_ERROR | sys::CM_ROUTE_ERROR | sys::CM_UNREACHABLE => {
                failed(error_number(event.status, libc::EHOSTUNREACH))
            }
            sys::CM_CONNECT_ERROR => failed(error_number(event.status, libc::ECONNREFUSED)),
            sys::CM_REJECTED => Some(DeviceEvent::Rejected { endpoint, private: private(event) }),
            sys::CM_ESTABLISHED => Some(DeviceEvent::Established { endpoint, private: private(event) }),
            sys::CM_DISCONNECTED => Some(DeviceEvent::Disconnected { endpoint }),
            sys::CM_DEVICE_REMOVAL => Some(DeviceEvent::Lost { endpoint, error: libc::ENODEV }),
            sys::CM_ADDR_CHANGE => Some(DeviceEvent::Lost { endpoint, error: libc::EADDRNOTAVAIL }),
            _ => None,
        }
    }

    fn lost_listener(&mut self, listener: usize) -> Option<DeviceEvent> {
        self.doomed.push(self.listeners.try_remove(listener)?);
        Some(DeviceEvent::ListenerLost { listener: listener as u32 })
    }

    fn requested(&mut self, event: &CmEvent, listener: usize) -> Option<DeviceEvent> {
        // SAFETY: the id of a request is new and ours.
        let (context, peer, local) = unsafe {
            let id = &*event.id;
            (id.verbs, socket_addr(&id.destination), socket_addr(&id.source))
        };
        let port = self.port(context);
        let (Ok(port), Some(peer), Some(local)) = (port, peer, local) else {
            // SAFETY: as above.
            unsafe { (self.library.rdma_reject)(event.id, ptr::null(), 0) };
            self.doomed.push(event.id);
            return None;
        };
        let endpoint = self.endpoints.insert(Endpoint { id: event.id, port, entries: 0 });
        // SAFETY: as above.
        unsafe { (*event.id).context = ptr::without_provenance_mut(endpoint) };
        Some(DeviceEvent::Request {
            listener: (listener & !LISTENER) as u32,
            endpoint: endpoint as u32,
            port,
            peer,
            local,
            private: private(event),
        })
    }

    fn destroy_doomed(&mut self) {
        for id in self.doomed.drain(..) {
            // SAFETY: ours, and all its events are acknowledged.
            unsafe { (self.library.rdma_destroy_id)(id) };
        }
    }

    fn parameters(private: &[u8]) -> sys::ConnectionParameters {
        sys::ConnectionParameters {
            private_data: private.as_ptr().cast(),
            private_data_bytes: private.len().min(PRIVATE_BYTES) as u8,
            responder_resources: 1,
            initiator_depth: 1,
            flow_control: 0,
            retry_count: RETRIES,
            not_ready_retry_count: NOT_READY_RETRIES,
            shared_receives: 0,
            queue_pair: 0,
        }
    }

    /// The endpoint's queue pair; `None` before it is opened.
    fn queue_pair(&self, endpoint: u32) -> io::Result<*mut sys::QueuePair> {
        let id = self.endpoints[endpoint as usize].id;
        // SAFETY: the id lives as long as the endpoint.
        let pair = unsafe { (*id).queue_pair };
        if pair.is_null() { Err(io::ErrorKind::NotConnected.into()) } else { Ok(pair) }
    }
}

impl Drop for VerbsDevice {
    fn drop(&mut self) {
        let library = self.library;
        self.destroy_doomed();
        for number in self.endpoints.iter().map(|(number, _)| number as u32).collect::<Vec<_>>() {
            self.release(number);
        }
        for listener in self.listeners.drain() {
            // SAFETY: ours, and its events are acknowledged.
            unsafe { (library.rdma_destroy_id)(listener) };
        }
        // The ports go now, then the channel, with the last request that came over it.
    }
}

impl Device for VerbsDevice {
    type Parcel = VerbsParcel;

    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(u32, SocketAddr)> {
        let number = self.listeners.vacant_key();
        let id = self.create_id(LISTENER | number)?;
        let mut raw = raw_addr(addr);
        // SAFETY: a live id and address; results are checked.
        let listening = unsafe {
            check((self.library.rdma_bind_addr)(id, (&raw mut raw).cast()))
                .and_then(|_| check((self.library.rdma_listen)(id, backlog.min(1024) as c_int)))
        };
        if let Err(error) = listening {
            // SAFETY: ours, without events.
            unsafe { (self.library.rdma_destroy_id)(id) };
            return Err(error);
        }
        // SAFETY: the address that it was bound to.
        let local = unsafe { socket_addr(&(*id).source) }.unwrap_or(addr);
        self.listeners.insert(id);
        Ok((number as u32, local))
    }

    fn unlisten(&mut self, listener: u32) {
        if let Some(id) = self.listeners.try_remove(listener as usize) {
            // SAFETY: ours, and its events are acknowledged as they are taken.
            unsafe { (self.library.rdma_destroy_id)(id) };
        }
    }

    fn resolve(&mut self, addr: SocketAddr) -> io::Result<u32> {
        let number = self.endpoints.vacant_key();
        let id = self.create_id(number)?;
        let mut raw = raw_addr(addr);
        // SAFETY: a live id and address, no source address; the result is checked.
        let started = check(unsafe {
            (self.library.rdma_resolve_addr)(id, ptr::null_mut(), (&raw mut raw).cast(), RESOLVE_TIMEOUT_MS)
        });
        if let Err(error) = started {
            // SAFETY: ours, without events.
            unsafe { (self.library.rdma_destroy_id)(id) };
            return Err(error);
        }
        self.endpoints.insert(Endpoint { id, port: 0, entries: 0 });
        Ok(number as u32)
    }

    fn open(&mut self, endpoint: u32, depth: Depth) -> io::Result<u32> {
        let (id, port) = {
            let endpoint = &self.endpoints[endpoint as usize];
            (endpoint.id, endpoint.port)
        };
        let entries = depth.sends + depth.receives;
        self.ports[usize::from(port)].promise(entries)?;
        let &Port { domain, queue, .. } = &self.ports[usize::from(port)];
        let mut last = io::Error::from_raw_os_error(libc::ENOMEM);
        for inline_bytes in INLINE_BYTES {
            let mut attributes = sys::QueuePairAttributes {
                context: ptr::null_mut(),
                send_queue: queue,
                receive_queue: queue,
                shared_receives: ptr::null_mut(),
                capacities: sys::Capacities {
                    sends: depth.sends,
                    receives: depth.receives,
                    send_pieces: 2,
                    receive_pieces: 1,
                    inline_bytes,
                },
                kind: sys::QP_TYPE_RC,
                signal_all: 0,
            };
            // SAFETY: a live id without a queue pair, and its port's own domain and queue.
            match check(unsafe { (self.library.rdma_create_qp)(id, domain, &raw mut attributes) }) {
                Ok(_) => {
                    self.endpoints[endpoint as usize].entries = entries;
                    return Ok(attributes.capacities.inline_bytes.min(inline_bytes));
                }
                Err(error) => last = error,
            }
        }
        self.ports[usize::from(port)].forgive(entries);
        Err(last)
    }

    fn connect(&mut self, endpoint: u32, private: &[u8]) -> io::Result<()> {
        let mut parameters = Self::parameters(private);
        let id = self.endpoints[endpoint as usize].id;
        // SAFETY: live; the private data is copied during the call.
        check(unsafe { (self.library.rdma_connect)(id, &raw mut parameters) }).map(drop)
    }

    fn accept(&mut self, endpoint: u32, private: &[u8]) -> io::Result<()> {
        let mut parameters = Self::parameters(private);
        let id = self.endpoints[endpoint as usize].id;
        // SAFETY: as above.
        check(unsafe { (self.library.rdma_accept)(id, &raw mut parameters) }).map(drop)
    }

    fn reject(&mut self, endpoint: u32, private: &[u8]) {
        let id = self.endpoints[endpoint as usize].id;
        // SAFETY: as above. It fails only where the other side has gone.
        unsafe { (self.library.rdma_reject)(id, private.as_ptr().cast(), private.len() as u8) };
        self.release(endpoint);
    }

    fn hand_over(&mut self, endpoint: u32) -> VerbsParcel {
        let gone = self.endpoints.remove(endpoint as usize);
        debug_assert_eq!(gone.entries, 0, "it was not answered");
        // SAFETY: live and ours until now; its event is acknowledged.
        unsafe { VerbsParcel::new(self.library, gone.id, self.channel.clone()) }
    }

    fn take_over(&mut self, parcel: VerbsParcel) -> io::Result<(u32, u8)> {
        let id = parcel.bring_to(&self.channel)?;
        let endpoint = self.endpoints.insert(Endpoint { id, port: 0, entries: 0 });
        // SAFETY: live, and nobody else's any more.
        let context = unsafe {
            (*id).context = ptr::without_provenance_mut(endpoint);
            (*id).verbs
        };
        match self.port(context) {
            Ok(port) => {
                self.endpoints[endpoint].port = port;
                Ok((endpoint as u32, port))
            }
            Err(error) => {
                self.reject(endpoint as u32, &[]);
                Err(error)
            }
        }
    }

    fn disconnect(&mut self, endpoint: u32) {
        let id = self.endpoints[endpoint as usize].id;
        // SAFETY: live. It fails only where there is nothing to disconnect.
        unsafe { (self.library.rdma_disconnect)(id) };
    }

    fn release(&mut self, endpoint: u32) {
        let Some(gone) = self.endpoints.try_remove(endpoint as usize) else { return };
        // SAFETY: ours; its events are acknowledged as they are taken.
        unsafe {
            if !(*gone.id).queue_pair.is_null() {
                (self.library.rdma_destroy_qp)(gone.id);
            }
            (self.library.rdma_destroy_id)(gone.id);
        }
        if gone.entries > 0 {
            self.ports[usize::from(gone.port)].forgive(gone.entries);
        }
    }

    unsafe fn register(&mut self, port: u8, start: *mut u8, bytes: usize) -> io::Result<Registration> {
        // SAFETY: the caller's promise.
        unsafe { self.ports[usize::from(port)].register(start, bytes) }
    }

    fn deregister(&mut self, port: u8, registration: Registration) {
        self.ports[usize::from(port)].deregister(registration);
    }

    unsafe fn post_sends(&mut self, endpoint: u32, sends: &[SendRequest]) -> io::Result<()> {
        let pair = self.queue_pair(endpoint)?;
        for sends in sends.chunks(POSTED_AT_ONCE) {
            let mut pieces = [[sys::Piece { address: 0, bytes: 0, key: 0 }; 2]; POSTED_AT_ONCE];
            let mut requests = [const { MaybeUninit::<sys::SendRequest>::uninit() }; POSTED_AT_ONCE];
            let (base, first) = (pieces.as_mut_ptr(), requests.as_mut_ptr().cast::<sys::SendRequest>());
            for (at, send) in sends.iter().enumerate() {
                let mut flags = 0;
                flags |= if send.signaled { sys::SEND_SIGNALED } else { 0 };
                flags |= if send.inline { sys::SEND_INLINE } else { 0 };
                // SAFETY: `at` is below the length of both arrays.
                unsafe {
                    *base.add(at) = send.pieces.map(raw_piece);
                    first.add(at).write(sys::SendRequest {
                        id: send.token,
                        next: if at + 1 < sends.len() { first.add(at + 1) } else { ptr::null_mut() },
                        pieces: base.add(at).cast(),
                        piece_count: c_int::from(send.piece_count),
                        opcode: if send.immediate.is_some() { sys::WR_SEND_WITH_IMM } else { sys::WR_SEND },
                        flags,
                        immediate: send.immediate.unwrap_or(0).to_be(),
                        _rest: [0; 11],
                    });
                }
            }
            let mut bad = ptr::null_mut();
            // SAFETY: a live pair and a list of requests that ends; the function is there on every device.
            let error = unsafe {
                let post = (*(*pair).context).post_send.expect("every device can send");
                post(pair, first, &raw mut bad)
            };
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error.abs()));
            }
        }
        Ok(())
    }

    unsafe fn post_receives(&mut self, endpoint: u32, receives: &[ReceiveRequest]) -> io::Result<()> {
        let pair = self.queue_pair(endpoint)?;
        for receives in receives.chunks(POSTED_AT_ONCE) {
            let mut pieces = [sys::Piece { address: 0, bytes: 0, key: 0 }; POSTED_AT_ONCE];
            let mut requests = [const { MaybeUninit::<sys::ReceiveRequest>::uninit() }; POSTED_AT_ONCE];
            let (base, first) = (pieces.as_mut_ptr(), requests.as_mut_ptr().cast::<sys::ReceiveRequest>());
            for (at, receive) in receives.iter().enumerate() {
                // SAFETY: `at` is below the length of both arrays.
                unsafe {
                    *base.add(at) = raw_piece(receive.piece);
                    first.add(at).write(sys::ReceiveRequest {
                        id: receive.token,
                        next: if at + 1 < receives.len() { first.add(at + 1) } else { ptr::null_mut() },
                        pieces: base.add(at),
                        piece_count: 1,
                    });
                }
            }
            let mut bad = ptr::null_mut();
            // SAFETY: as for sends.
            let error = unsafe {
                let post = (*(*pair).context).post_recv.expect("every device can receive");
                post(pair, first, &raw mut bad)
            };
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error.abs()));
            }
        }
        Ok(())
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> Option<u8> {
        let mut failed = None;
        for (number, port) in self.ports.iter_mut().enumerate() {
            if port.poll(completions) {
                failed = Some(number as u8);
            }
        }
        failed
    }

    fn arm(&mut self) {
        self.ports.iter_mut().for_each(Port::arm);
    }

    fn events(&mut self, events: &mut Vec<DeviceEvent>) {
        for _ in 0..TAKEN_AT_ONCE {
            let mut event: *mut CmEvent = ptr::null_mut();
            // SAFETY: a place for the result; the channel does not block.
            if unsafe { (self.library.rdma_get_cm_event)(self.channel.raw, &raw mut event) } != 0 {
                return;
            }
            // SAFETY: just taken, and acknowledged once, after everything was read out of it.
            let told = self.read_event(unsafe { &*event });
            events.extend(told);
            // SAFETY: as above.
            unsafe { (self.library.rdma_ack_cm_event)(event) };
            self.destroy_doomed();
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.epoll.as_raw_fd())
    }
}

fn has_devices(library: &Library) -> bool {
    let mut count = 0;
    // SAFETY: a place for the count; the list is given back.
    unsafe {
        let list = (library.ibv_get_device_list)(&raw mut count);
        if !list.is_null() {
            (library.ibv_free_device_list)(list);
        }
        !list.is_null() && count > 0
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        if let Err(missing) = VerbsDevice::new() {
            let text = missing.to_string();
            assert!(
                ["librdmacm", "no RDMA device", "/dev/infiniband"].iter().any(|part| text.contains(part)),
                "{text}"
            );
        }
    }
}
