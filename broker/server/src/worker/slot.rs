//! What a shard knows of one socket.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use fulmar_core::ShardId;
use fulmar_policy::PeerIdentity;
use fulmar_policy::census::Place;
use fulmar_protocol::{Connection, Traveller};
use fulmar_transport::ConnId;

use super::carry::Carry;
use super::layer::Layered;
use super::secure::Secure;
use crate::detect::MAX_HEADER_BYTES;

/// No deadline.
pub const NEVER: u64 = u64::MAX;

/// One socket, or a place for one.
pub struct Slot {
    /// The socket that this is about; stale events carry another generation.
    pub conn: ConnId,
    /// The other end.
    pub peer: SocketAddr,
    /// This end.
    pub local: SocketAddr,
    /// What is known of who the other end is.
    pub identity: PeerIdentity,
    /// Its place among the connections from its address, where those are counted.
    pub place: Option<Place>,
    /// What it is doing.
    pub state: State,
    /// TLS between the socket and the rest, from the first byte of its handshake on.
    pub secure: Option<Box<Secure>>,
    /// A security layer of SASL in its place, from when the connection is open.
    pub layer: Option<Box<Layered>>,
    /// It may not go on without TLS.
    pub needs_tls: bool,
    /// Input not taken yet.
    pub carry: Carry,
    /// When it will be ticked at the latest.
    pub armed_ns: u64,
    /// Called in this turn.
    pub dirty: bool,
    /// The peer is not read.
    pub paused: bool,
    /// Its carry holds whole frames, which wait for it to be parked no longer.
    pub waiting: bool,
    /// It has been seen open.
    pub was_open: bool,
    /// The shard has been told that it can take no deliveries.
    pub unwritable: bool,
    /// A publisher that is not read because the shard is congested.
    pub held: bool,
    /// The peer has been told so.
    pub blocked: bool,
    /// A publisher that has been told that the journal has no space.
    pub refused: bool,
}

/// What a socket is doing.
pub enum State {
    /// There is none.
    Free,
    /// Its protocol is not known yet.
    Detecting {
        /// Its first bytes.
        seen: [u8; MAX_HEADER_BYTES],
        /// How many.
        len: u8,
    },
    /// It speaks a protocol.
    Speaking(Box<dyn Connection>),
    /// It goes on on another shard, once its socket has left.
    Leaving {
        /// Where to.
        shard: ShardId,
        /// What spoke here.
        traveller: Box<dyn Traveller>,
    },
    /// It is being closed from this side; nothing is left but the socket.
    Closing,
}

impl Slot {
    /// A place without a socket.
    pub fn free() -> Self {
        let nobody = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let conn = ConnId { index: u32::MAX, generation: 0 };
        Slot { state: State::Free, ..Slot::accepted(conn, nobody, nobody, false) }
    }

    /// A new socket.
    pub fn accepted(conn: ConnId, peer: SocketAddr, local: SocketAddr, needs_tls: bool) -> Self {
        Slot {
            conn,
            peer,
            local,
            identity: PeerIdentity::default(),
            place: None,
            state: State::Detecting { seen: [0; MAX_HEADER_BYTES], len: 0 },
            secure: None,
            layer: None,
            needs_tls,
            carry: Carry::default(),
            armed_ns: NEVER,
            dirty: false,
            paused: false,
            waiting: false,
            was_open: false,
            unwritable: false,
            held: false,
            blocked: false,
            refused: false,
        }
    }
    /// Where to write what is not sent as it is.
    #[inline]
    pub fn plain(&mut self) -> Option<&mut Vec<u8>> {
        match (&mut self.secure, &mut self.layer) {
            (None, None) => None,
            (Some(secure), _) => Some(secure.plain()),
            (None, Some(layered)) => Some(layered.plain()),
        }
    }

    /// Bytes written there since the turn began.
    pub fn plain_bytes(&self) -> usize {
        let secure = self.secure.as_ref().map_or(0, |secure| secure.unsealed_bytes());
        secure + self.layer.as_ref().map_or(0, |layered| layered.unwrapped_bytes())
    }

    /// Whether it speaks, and has published.
    pub fn is_publisher(&self) -> bool {
        matches!(&self.state, State::Speaking(connection) if connection.is_publisher())
    }
}
