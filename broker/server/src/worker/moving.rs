//! Connections that go on on another shard: from here, and to here.
//!
//! 1. Nothing is read, sent or lost on the way: what was not sent and what was not taken go along, in order.
//! 2. A connection is open on one shard or on its way, and is counted once. Who arrives is treated as who is accepted:
//!    there may be no room, or the broker may be stopping.

use std::fmt;
use std::mem;
use std::net::SocketAddr;

use fulmar_core::ShardId;
use fulmar_policy::PeerIdentity;
use fulmar_policy::census::Place;
use fulmar_protocol::{Context, Traveller};
use fulmar_transport::{Close, ConnId, Detached, Transport};

use super::layer::Layered;
use super::secure::Secure;
use super::slot::{Slot, State};
use super::{Note, Worker};
use crate::login::Mailbox;

/// A connection on its way from one worker to another.
pub struct Newcomer {
    traveller: Box<dyn Traveller>,
    detached: Detached,
    peer: SocketAddr,
    local: SocketAddr,
    identity: PeerIdentity,
    place: Option<Place>,
    needs_tls: bool,
    secure: Option<Box<Secure>>,
    layer: Option<Box<Layered>>,
    /// Came before what the socket has, and was not taken.
    input: Vec<u8>,
}

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newcomer").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<T: Transport> Worker<T> {
    /// Tells where the other workers are, by their shards' numbers: connections may go there.
    pub fn set_neighbours(&mut self, neighbours: Vec<Mailbox>) {
        self.neighbours = neighbours;
    }

    /// A connection wants to go to another shard.
    pub(super) fn set_out(&mut self, index: usize, shard: ShardId) {
        let slot = &mut self.slots[index];
        let State::Speaking(connection) = mem::replace(&mut slot.state, State::Closing) else { return };
        self.counters.add_connection(connection.counters());
        match connection.leave(&mut self.shard) {
            Some(traveller) if self.stop.is_none() => slot.state = State::Leaving { shard, traveller },
            _ => return self.end(index, Close::Abort),
        }
        let conn = slot.conn;
        if slot.secure.is_some() {
            self.seal(index);
        } else {
            self.wrap(index);
        }
        self.transport.detach(conn);
    }

    /// The socket has left the transport.
    pub(super) fn detached(&mut self, conn: ConnId, detached: Detached) {
        let index = conn.index as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.conn == conn) else { return };
        let input = slot.carry.as_slice().to_vec();
        slot.carry.clear(&mut self.pool);
        let Slot { state, peer, local, identity, place, needs_tls, secure, layer, .. } =
            mem::replace(slot, Slot::free());
        self.open -= 1;
        self.counters.open.set(self.open);
        let State::Leaving { shard, traveller } = state else { return };
        let newcomer =
            Newcomer { traveller, detached, peer, local, identity, place, needs_tls, secure, layer, input };
        let neighbour = self.neighbours.get(usize::from(shard.0));
        let told = neighbour.filter(|neighbour| neighbour.notes.send(Note::Arrived(newcomer.into())).is_ok());
        match told {
            Some(neighbour) => {
                log::debug!("{peer}: goes on on shard {}", shard.0);
                neighbour.waker.wake();
            }
            // It is gone, and its clients with it.
            None => self.counters.closed.add(1),
        }
    }

    /// A connection has come from another shard.
    pub(super) fn arrived(&mut self, newcomer: Newcomer) {
        let Newcomer {
            traveller,
            mut detached,
            peer,
            local,
            identity,
            place,
            needs_tls,
            secure,
            layer,
            input,
        } = newcomer;
        let received = mem::take(&mut detached.received);
        let conn = match self.transport.adopt(detached) {
            Ok(conn) => conn,
            Err(error) => {
                self.counters.closed.add(1);
                return self.faults.warn(self.now_ns, format_args!("{peer}: lost between shards: {error}"));
            }
        };
        let slot = Slot { identity, place, secure, layer, ..Slot::accepted(conn, peer, local, needs_tls) };
        self.counters.moved.add(1);
        let Some(index) = self.take_in(slot) else { return };
        let mut cx = Context { shard: &mut self.shard, out: &mut self.scratch, now_ns: self.now_ns };
        self.slots[index].state = State::Speaking(traveller.arrive(&mut cx, conn.index));
        self.send_scratch(conn);
        self.feed_bytes(index, &input);
        match &self.slots[index] {
            Slot { secure: Some(_), .. } => self.received_on_the_way(index, &received),
            Slot { layer: Some(_), .. } => self.layered_on_the_way(index, &received),
            _ => self.feed_bytes(index, &received),
        }
    }
}
