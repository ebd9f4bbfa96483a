//! What is used of libibverbs and librdmacm: their data as C lays it out, their functions found at run time.
//!
//! The layouts are those of the libraries' stable ABI on 64-bit Linux (librdmacm.so.1, libibverbs.so.1), checked below
//! when this is compiled. Only fields that are read or written here have names. What the libraries' headers do in inline
//! functions, posting and polling, goes through the function pointers of a [`Context`].

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem::{offset_of, size_of};
use std::sync::OnceLock;

/// A pointer that only the libraries look behind.
pub(crate) type Opaque = *mut c_void;

pub(crate) const QP_TYPE_RC: c_uint = 2;
pub(crate) const WR_SEND: c_uint = 2;
pub(crate) const WR_SEND_WITH_IMM: c_uint = 3;
pub(crate) const SEND_SIGNALED: c_uint = 2;
pub(crate) const SEND_INLINE: c_uint = 8;
pub(crate) const ACCESS_LOCAL_WRITE: c_int = 1;
pub(crate) const WC_OPCODE_RECV: c_uint = 128;
pub(crate) const WC_FLAG_WITH_IMM: c_uint = 2;
pub(crate) const PORT_SPACE_TCP: c_int = 0x0106;

pub(crate) const CM_ADDR_RESOLVED: c_uint = 0;
pub(crate) const CM_ADDR_ERROR: c_uint = 1;
pub(crate) const CM_ROUTE_RESOLVED: c_uint = 2;
pub(crate) const CM_ROUTE_ERROR: c_uint = 3;
pub(crate) const CM_CONNECT_REQUEST: c_uint = 4;
pub(crate) const CM_CONNECT_ERROR: c_uint = 6;
pub(crate) const CM_UNREACHABLE: c_uint = 7;
pub(crate) const CM_REJECTED: c_uint = 8;
pub(crate) const CM_ESTABLISHED: c_uint = 9;
pub(crate) const CM_DISCONNECTED: c_uint = 10;
pub(crate) const CM_DEVICE_REMOVAL: c_uint = 11;
pub(crate) const CM_ADDR_CHANGE: c_uint = 14;

/// An opened device.
#[repr(C)]
pub(crate) struct Context {
    pub(crate) device: Opaque,
    _ops_before_poll: [usize; 11],
    pub(crate) poll_cq:
        Option<unsafe extern "C" fn(*mut CompletionQueue, c_int, *mut WorkCompletion) -> c_int>,
    pub(crate) req_notify_cq: Option<unsafe extern "C" fn(*mut CompletionQueue, c_int) -> c_int>,
    _ops_before_post: [usize; 12],
    pub(crate) post_send:
        Option<unsafe extern "C" fn(*mut QueuePair, *mut SendRequest, *mut *mut SendRequest) -> c_int>,
    pub(crate) post_recv:
        Option<unsafe extern "C" fn(*mut QueuePair, *mut ReceiveRequest, *mut *mut ReceiveRequest) -> c_int>,
    _ops_after: [usize; 5],
    // More follows.
}

/// A connection's pair of queues; its first field is what is used.
#[repr(C)]
pub(crate) struct QueuePair {
    pub(crate) context: *mut Context,
    // More follows.
}

#[repr(C)]
pub(crate) struct CompletionQueue {
    pub(crate) context: *mut Context,
    _channel: Opaque,
    _cq_context: Opaque,
    _handle: u32,
    pub(crate) entries: c_int,
    // More follows.
}

#[repr(C)]
pub(crate) struct CompletionChannel {
    _context: *mut Context,
    pub(crate) fd: c_int,
    _references: c_int,
}

#[repr(C)]
pub(crate) struct MemoryRegion {
    _context: *mut Context,
    _domain: Opaque,
    _address: Opaque,
    _length: usize,
    _handle: u32,
    pub(crate) local_key: u32,
    _remote_key: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct WorkCompletion {
    pub(crate) id: u64,
    pub(crate) status: c_uint,
    pub(crate) opcode: c_uint,
    _vendor_error: u32,
    pub(crate) bytes: u32,
    /// In network order.
    pub(crate) immediate: u32,
    _queue_pair: u32,
    _source: u32,
    pub(crate) flags: c_uint,
    _rest: [u8; 8],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) key: u32,
}

#[repr(C)]
pub(crate) struct SendRequest {
    pub(crate) id: u64,
    pub(crate) next: *mut SendRequest,
    pub(crate) pieces: *mut Piece,
    pub(crate) piece_count: c_int,
    pub(crate) opcode: c_uint,
    pub(crate) flags: c_uint,
    /// In network order.
    pub(crate) immediate: u32,
    pub(crate) _rest: [u64; 11],
}

#[repr(C)]
pub(crate) struct ReceiveRequest {
    pub(crate) id: u64,
    pub(crate) next: *mut ReceiveRequest,
    pub(crate) pieces: *mut Piece,
    pub(crate) piece_count: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Capacities {
    pub(crate) sends: u32,
    pub(crate) receives: u32,
    pub(crate) send_pieces: u32,
    pub(crate) receive_pieces: u32,
    pub(crate) inline_bytes: u32,
}

#[repr(C)]
pub(crate) struct QueuePairAttributes {
    pub(crate) context: Opaque,
    pub(crate) send_queue: *mut CompletionQueue,
    pub(crate) receive_queue: *mut CompletionQueue,
    pub(crate) shared_receives: Opaque,
    pub(crate) capacities: Capacities,
    pub(crate) kind: c_uint,
    pub(crate) signal_all: c_int,
}

#[repr(C)]
pub(crate) struct EventChannel {
    pub(crate) fd: c_int,
}

/// The connection manager's name for a connection or a listener.
#[repr(C)]
pub(crate) struct CmId {
    pub(crate) verbs: *mut Context,
    _channel: *mut EventChannel,
    pub(crate) context: Opaque,
    pub(crate) queue_pair: *mut QueuePair,
    pub(crate) source: libc::sockaddr_storage,
    pub(crate) destination: libc::sockaddr_storage,
    // More follows.
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ConnectionParameters {
    pub(crate) private_data: *const c_void,
    pub(crate) private_data_bytes: u8,
    pub(crate) responder_resources: u8,
    pub(crate) initiator_depth: u8,
    pub(crate) flow_control: u8,
    pub(crate) retry_count: u8,
    pub(crate) not_ready_retry_count: u8,
    pub(crate) shared_receives: u8,
    pub(crate) queue_pair: u32,
}

#[repr(C)]
pub(crate) struct CmEvent {
    pub(crate) id: *mut CmId,
    pub(crate) listener: *mut CmId,
    pub(crate) kind: c_uint,
    pub(crate) status: c_int,
    pub(crate) parameters: ConnectionParameters,
    // More follows.
}

const _: () = {
    assert!(offset_of!(Context, poll_cq) == 96 && offset_of!(Context, req_notify_cq) == 104);
    assert!(offset_of!(Context, post_send) == 208 && offset_of!(Context, post_recv) == 216);
    assert!(offset_of!(CompletionQueue, entries) == 28 && offset_of!(CompletionChannel, fd) == 8);
    assert!(offset_of!(MemoryRegion, local_key) == 36 && size_of::<MemoryRegion>() == 48);
    assert!(offset_of!(WorkCompletion, bytes) == 20 && offset_of!(WorkCompletion, immediate) == 24);
    assert!(offset_of!(WorkCompletion, flags) == 36 && size_of::<WorkCompletion>() == 48);
    assert!(size_of::<Piece>() == 16 && size_of::<SendRequest>() == 128 && size_of::<ReceiveRequest>() == 32);
    assert!(offset_of!(SendRequest, flags) == 32 && offset_of!(SendRequest, immediate) == 36);
    assert!(size_of::<QueuePairAttributes>() == 64 && offset_of!(QueuePairAttributes, capacities) == 32);
    assert!(offset_of!(QueuePairAttributes, kind) == 52 && offset_of!(QueuePairAttributes, signal_all) == 56);
    assert!(offset_of!(CmId, queue_pair) == 24 && offset_of!(CmId, source) == 32);
    assert!(offset_of!(CmId, destination) == 160);
    assert!(offset_of!(ConnectionParameters, queue_pair) == 16 && size_of::<ConnectionParameters>() == 24);
    assert!(offset_of!(CmEvent, kind) == 16 && offset_of!(CmEvent, parameters) == 24);
};

/// Why RDMA cannot be used here: what is missing, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub(crate) String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

macro_rules! library {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The libraries' functions, by their own names.
        pub(crate) struct Library {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            fn find(handle: Opaque) -> Result<Self, Unavailable> {
                Ok(Library {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_ptr().cast();
                        // SAFETY: a live handle and a C string.
                        let address = unsafe { libc::dlsym(handle, name) };
                        if address.is_null() {
                            let name = stringify!($name);
                            return Err(Unavailable(format!("librdmacm.so.1 is too old: it has no {name}")));
                        }
                        // SAFETY: the function of this name has this type in the libraries' ABI.
                        unsafe { std::mem::transmute::<Opaque, unsafe extern "C" fn($($argument),*) $(-> $result)?>(address) }
                    },)*
                })
            }
        }
    };
}

library! {
    ibv_get_device_list: fn(*mut c_int) -> *mut Opaque;
    ibv_free_device_list: fn(*mut Opaque);
    ibv_alloc_pd: fn(*mut Context) -> Opaque;
    ibv_dealloc_pd: fn(Opaque) -> c_int;
    ibv_reg_mr: fn(Opaque, Opaque, usize, c_int) -> *mut MemoryRegion;
    ibv_dereg_mr: fn(*mut MemoryRegion) -> c_int;
    ibv_create_comp_channel: fn(*mut Context) -> *mut CompletionChannel;
    ibv_destroy_comp_channel: fn(*mut CompletionChannel) -> c_int;
    ibv_create_cq: fn(*mut Context, c_int, Opaque, *mut CompletionChannel, c_int) -> *mut CompletionQueue;
    ibv_resize_cq: fn(*mut CompletionQueue, c_int) -> c_int;
    ibv_destroy_cq: fn(*mut CompletionQueue) -> c_int;
    ibv_get_cq_event: fn(*mut CompletionChannel, *mut *mut CompletionQueue, *mut Opaque) -> c_int;
    ibv_ack_cq_events: fn(*mut CompletionQueue, c_uint);
    rdma_create_event_channel: fn() -> *mut EventChannel;
    rdma_destroy_event_channel: fn(*mut EventChannel);
    rdma_create_id: fn(*mut EventChannel, *mut *mut CmId, Opaque, c_int) -> c_int;
    rdma_destroy_id: fn(*mut CmId) -> c_int;
    rdma_migrate_id: fn(*mut CmId, *mut EventChannel) -> c_int;
    rdma_bind_addr: fn(*mut CmId, *mut libc::sockaddr) -> c_int;
    rdma_listen: fn(*mut CmId, c_int) -> c_int;
    rdma_resolve_addr: fn(*mut CmId, *mut libc::sockaddr, *mut libc::sockaddr, c_int) -> c_int;
    rdma_resolve_route: fn(*mut CmId, c_int) -> c_int;
    rdma_create_qp: fn(*mut CmId, Opaque, *mut QueuePairAttributes) -> c_int;
    rdma_destroy_qp: fn(*mut CmId);
    rdma_connect: fn(*mut CmId, *mut ConnectionParameters) -> c_int;
    rdma_accept: fn(*mut CmId, *mut ConnectionParameters) -> c_int;
    rdma_reject: fn(*mut CmId, *const c_void, u8) -> c_int;
    rdma_disconnect: fn(*mut CmId) -> c_int;
    rdma_get_cm_event: fn(*mut EventChannel, *mut *mut CmEvent) -> c_int;
    rdma_ack_cm_event: fn(*mut CmEvent) -> c_int;
}

impl Library {
    /// The libraries, loaded when they are first asked for and kept until the process ends.
    pub(crate) fn load() -> Result<&'static Library, Unavailable> {
        static LIBRARY: OnceLock<Result<Library, Unavailable>> = OnceLock::new();
        LIBRARY.get_or_init(Library::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Library, Unavailable> {
        // librdmacm brings libibverbs along: its functions are found by the same handle.
        const NAME: &CStr = c"librdmacm.so.1";
        // SAFETY: a C string; loading runs the library's constructors, which only set up its own tables.
        let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: the text of the failure just met, or null; copied before anything else can fail.
            let text = unsafe { error_text(libc::dlerror()) };
            return Err(Unavailable(format!(
                "librdmacm.so.1 cannot be loaded ({text}); it comes with rdma-core"
            )));
        }
        Library::find(handle)
    }
}

/// # Safety
/// Null or a C string.
unsafe fn error_text(text: *const c_char) -> String {
    if text.is_null() {
        return "no reason given".to_string();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
