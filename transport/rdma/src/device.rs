//! What a connection's logic needs of RDMA hardware: a small trait, with verbs behind it or a simulation.
//!
//! An *endpoint* is a connection as the device knows it, from the first attempt to [`Device::release`]. A *port* is an
//! opened piece of hardware: memory is registered with it, and an endpoint belongs to one. Nothing here blocks.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

/// The most bytes that either side sends along when a connection is made.
pub const PRIVATE_BYTES: usize = 196;

/// What a connecting or accepting peer sent along. The wire pads it with zeros and keeps no length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Private {
    bytes: [u8; PRIVATE_BYTES],
    len: u8,
}

impl Private {
    /// Of these bytes, as many as there is room for.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(PRIVATE_BYTES);
        let mut private = Private { bytes: [0; PRIVATE_BYTES], len: len as u8 };
        private.bytes[..len].copy_from_slice(&bytes[..len]);
        private
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Memory that the device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Names it in [`Device::deregister`].
    pub id: u32,
    /// Goes with each address inside it.
    pub key: u32,
}

/// Some bytes of registered memory.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// The first.
    pub address: *mut u8,
    /// How many.
    pub bytes: u32,
    /// Of the registration that they lie in; not looked at for an inline send.
    pub key: u32,
}

// SAFETY: an address, which only unsafe calls look behind.
unsafe impl Send for Piece {}

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub struct SendRequest {
    /// Comes back with the completion.
    pub token: u64,
    /// What it is made of, in order.
    pub pieces: [Piece; 2],
    /// How many of those there are.
    pub piece_count: u8,
    /// A number that goes beside the message.
    pub immediate: Option<u32>,
    /// Whether its end is told. Sends complete in order, so one tells of all before it.
    pub signaled: bool,
    /// Whether the device takes the bytes while it is posted.
    pub inline: bool,
}

/// Room for one message.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveRequest {
    /// Comes back with the completion.
    pub token: u64,
    /// Where the message goes.
    pub piece: Piece,
}

/// What an endpoint has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Sends that have not ended.
    pub sends: u32,
    /// Receives that have not ended.
    pub receives: u32,
}

/// The end of a send or a receive. One that failed says so and nothing else but its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Given when it was posted.
    pub token: u64,
    /// `Err` with the number of the verbs' status.
    pub result: Result<Completed, u32>,
}

/// What ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// This send, and all before it on its endpoint.
    Sent,
    /// A message came.
    Received {
        /// Its length.
        bytes: u32,
        /// What came beside it.
        immediate: Option<u32>,
    },
}

/// The status of requests that were under way when their endpoint failed or was disconnected.
pub const FLUSHED: u32 = 5;

/// What the connection manager tells.
#[derive(Clone, Debug)]
pub enum DeviceEvent {
    /// Somebody wants to connect. Answered with [`Device::accept`] or [`Device::reject`].
    Request {
        /// Of this listener.
        listener: u32,
        /// By this endpoint.
        endpoint: u32,
        /// Of this port.
        port: u8,
        /// From there.
        peer: SocketAddr,
        /// To here.
        local: SocketAddr,
        /// With this.
        private: Private,
    },
    /// The way to the peer is known; [`Device::connect`] may follow.
    Resolved {
        /// Whose.
        endpoint: u32,
        /// The port that it goes by.
        port: u8,
    },
    /// The connection stands. To whoever connected, with what the other side sent along.
    Established {
        /// Which.
        endpoint: u32,
        /// What the acceptor sent.
        private: Private,
    },
    /// The other side does not want the connection.
    Rejected {
        /// Which.
        endpoint: u32,
        /// What it sent along.
        private: Private,
    },
    /// The connection cannot be made.
    Failed {
        /// Which.
        endpoint: u32,
        /// Why; an error's number.
        error: i32,
    },
    /// The other side has disconnected.
    Disconnected {
        /// Which.
        endpoint: u32,
    },
    /// The device was removed beneath a connection, or has another address now.
    Lost {
        /// Which.
        endpoint: u32,
        /// Which of the two; an error's number.
        error: i32,
    },
    /// The device was removed beneath a listener, which is gone.
    ListenerLost {
        /// Which.
        listener: u32,
    },
}

/// RDMA hardware, or what passes for it. Used by one thread.
pub trait Device {
    /// Somebody who wants to connect and was not answered yet, on the way from one device to another, which may be another
    /// thread's. Refused when it is dropped.
    type Parcel;

    /// Takes connections at an address; port 0 picks one.
    ///
    /// # Errors
    /// No device has this address, or somebody listens there already.
    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(u32, SocketAddr)>;

    /// Takes no more.
    fn unlisten(&mut self, listener: u32);

    /// Looks for the way to an address; [`DeviceEvent::Resolved`] or [`DeviceEvent::Failed`] follows.
    ///
    /// # Errors
    /// No device leads there.
    fn resolve(&mut self, addr: SocketAddr) -> io::Result<u32>;

    /// Makes the queues of an endpoint; before receives are posted. Gives the bytes that may be sent inline.
    ///
    /// # Errors
    /// The device has no room for it.
    fn open(&mut self, endpoint: u32, depth: Depth) -> io::Result<u32>;

    /// Asks the other side to connect.
    ///
    /// # Errors
    /// The device's.
    fn connect(&mut self, endpoint: u32, private: &[u8]) -> io::Result<()>;

    /// Agrees to a request.
    ///
    /// # Errors
    /// The other side has gone meanwhile.
    fn accept(&mut self, endpoint: u32, private: &[u8]) -> io::Result<()>;

    /// Refuses a request, and releases its endpoint.
    fn reject(&mut self, endpoint: u32, private: &[u8]);

    /// Gives a request away that was not answered; the number of its endpoint may be used again.
    fn hand_over(&mut self, endpoint: u32) -> Self::Parcel;

    /// Takes a request from another device of the same kind: its endpoint and its port here.
    ///
    /// # Errors
    /// The other side has gone meanwhile, or the device has no room.
    fn take_over(&mut self, parcel: Self::Parcel) -> io::Result<(u32, u8)>;

    /// Ends the connection: whatever is under way is flushed.
    fn disconnect(&mut self, endpoint: u32);

    /// Gives up the endpoint; its number may be used again.
    fn release(&mut self, endpoint: u32);

    /// Lets a port use memory.
    ///
    /// # Safety
    /// The memory stays where it is until it is deregistered.
    ///
    /// # Errors
    /// The device's; often the limit of locked memory.
    unsafe fn register(&mut self, port: u8, start: *mut u8, bytes: usize) -> io::Result<Registration>;

    /// The memory is no longer used.
    fn deregister(&mut self, port: u8, registration: Registration);

    /// Posts sends, in order, with one ring of the doorbell.
    ///
    /// # Safety
    /// Pieces that are not inline lie in memory registered with the endpoint's port, which nobody changes until the sends
    /// have ended; inline pieces can be read now.
    ///
    /// # Errors
    /// The endpoint's queue is full or broken; some may have been posted.
    unsafe fn post_sends(&mut self, endpoint: u32, sends: &[SendRequest]) -> io::Result<()>;

    /// Posts room for messages, all at once.
    ///
    /// # Safety
    /// As for sends, and nobody looks at the memory either.
    ///
    /// # Errors
    /// The endpoint's queue is full or broken.
    unsafe fn post_receives(&mut self, endpoint: u32, receives: &[ReceiveRequest]) -> io::Result<()>;

    /// Appends what has ended, a bounded number a call. Gives a port that has failed, once: its completion queue tells
    /// nothing any more, and new connections are of another port.
    fn poll(&mut self, completions: &mut Vec<Completion>) -> Option<u8>;

    /// Has the next completion make [`Device::descriptor`] readable. What ended before may not: poll once more.
    fn arm(&mut self);

    /// Appends what the connection manager has to tell.
    fn events(&mut self, events: &mut Vec<DeviceEvent>);

    /// Becomes readable with each event, and with a completion after [`Device::arm`].
    fn descriptor(&self) -> Option<RawFd>;
}
