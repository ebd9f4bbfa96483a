//! What follows from a turn for the connections that it touched: answers, actions, deadlines, and who is read on.

use fulmar_policy::Peer;
use fulmar_protocol::{Action, Context};
use fulmar_transport::{Close, ConnId, Transport};

use super::Worker;
use super::slot::{NEVER, Slot, State};
use super::stop::Stop;

/// Input kept for a parked connection before its peer is no longer read.
const PARKED_INPUT_BYTES: usize = 64 * 1024;
/// Unsent output, in units of the high-water mark, at which a peer that writes but does not read is no longer read.
const UNREAD_OUTPUT_MARKS: usize = 16;

impl<T: Transport> Worker<T> {
    /// A connection that was full has room again.
    pub(super) fn drained(&mut self, conn: ConnId) {
        let index = conn.index as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.conn == conn) else { return };
        if let State::Speaking(connection) = &mut slot.state {
            if std::mem::take(&mut slot.unwritable) {
                connection.set_writable(&mut self.shard, true);
            }
            self.touch(index);
        }
    }

    /// Ticks whom it is time for.
    pub(super) fn tick_due(&mut self) {
        while let Some((deadline_ns, (index, generation))) = self.timers.pop_due(self.now_ns) {
            let index = index as usize;
            let slot = &mut self.slots[index];
            if slot.conn.generation != generation || slot.armed_ns != deadline_ns {
                continue;
            }
            slot.armed_ns = NEVER;
            match slot.state {
                State::Speaking(_) => self.tick(index),
                State::Detecting { .. } => {
                    self.counters.handshake_timeouts.add(1);
                    let peer = slot.peer;
                    let what = match &slot.secure {
                        Some(secure) if !secure.is_established() => {
                            "did not finish its TLS handshake in time"
                        }
                        _ => "sent no protocol header in time",
                    };
                    slot.state = State::Closing;
                    self.transport.close(slot.conn, Close::Abort);
                    self.faults.warn(self.now_ns, format_args!("{peer}: {what}"));
                }
                State::Free | State::Leaving { .. } | State::Closing => {}
            }
        }
    }

    /// Lets a connection see the time, and asks when to be called again.
    fn tick(&mut self, index: usize) {
        let next_ns = self.with_connection(index, |connection, cx| connection.tick(cx)).flatten();
        if let Some(next_ns) = next_ns {
            self.arm(index, next_ns);
        }
    }

    /// Sees to it that the connection is ticked at `deadline_ns` or before.
    pub(super) fn arm(&mut self, index: usize, deadline_ns: u64) {
        let slot = &mut self.slots[index];
        if deadline_ns < slot.armed_ns {
            slot.armed_ns = deadline_ns;
            self.timers.set(deadline_ns, (slot.conn.index, slot.conn.generation));
        }
    }

    /// Ends the turn for every connection that was called in it.
    pub(super) fn finish_dirty(&mut self) {
        let mut next = 0;
        // Finishing one connection may touch another, which is then finished in this turn as well.
        while let Some(&index) = self.dirty.get(next) {
            next += 1;
            self.finish(index as usize);
            self.slots[index as usize].dirty = false;
        }
        self.dirty.clear();
    }

    fn finish(&mut self, index: usize) {
        loop {
            self.feed_kept(index);
            self.with_connection(index, |connection, cx| connection.end_of_turn(cx));
            let State::Speaking(connection) = &mut self.slots[index].state else { return };
            let Some(action) = connection.next_action() else { break };
            self.act(index, action);
        }
        let slot = &mut self.slots[index];
        let State::Speaking(connection) = &slot.state else { return };
        let open = connection.is_open();
        if !open || !slot.was_open {
            // While it opens or closes, a connection's next deadline may come nearer with everything it receives.
            slot.was_open = open;
            self.tick(index);
        }
        self.regulate(index);
        if self.slots[index].secure.is_some() {
            self.seal(index);
        } else if self.slots[index].layer.is_some() {
            self.wrap(index);
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let Slot { conn, peer, .. } = self.slots[index];
        match action {
            Action::Authenticate(login) => {
                let mut peer = Peer::new(peer.ip(), self.slots[index].identity.clone());
                // What is wrapped is longer than what a transport of messages may take.
                peer.takes_layer = login.takes_layer && self.transport.largest_frame_bytes(conn).is_none();
                if let Some(answer) = self.authenticator.check(conn, &peer, login) {
                    self.logged_in(conn, answer);
                }
            }
            Action::Protect(layer) => self.protect(index, layer),
            Action::Close { reason, error } => {
                if error {
                    self.counters.faults.add(1);
                    self.faults.warn(self.now_ns, format_args!("{peer}: closed: {reason}"));
                } else {
                    log::debug!("{peer}: closed: {reason}");
                }
                self.end(index, Close::Flush);
            }
            Action::Move { shard } => self.set_out(index, shard),
        }
    }

    /// Gives back everything that a connection holds and closes its socket.
    pub(super) fn end(&mut self, index: usize, how: Close) {
        let slot = &mut self.slots[index];
        if let State::Speaking(mut connection) = std::mem::replace(&mut slot.state, State::Closing) {
            self.counters.add_connection(connection.counters());
            connection.closed(&mut self.shard);
        }
        slot.carry.clear(&mut self.pool);
        let conn = slot.conn;
        let is_secure = slot.secure.is_some();
        if is_secure && how == Close::Flush {
            self.seal_end(index);
        } else if how == Close::Flush {
            self.wrap(index);
        }
        self.transport.close(conn, how);
    }

    /// Decides whether the connection can take deliveries, and whether its peer is read.
    fn regulate(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let plain_bytes = slot.plain_bytes();
        let State::Speaking(connection) = &mut slot.state else { return };
        let pending_bytes = self.transport.pending_bytes(slot.conn) + plain_bytes;
        if pending_bytes > self.config.high_water_bytes && !slot.unwritable {
            slot.unwritable = true;
            connection.set_writable(&mut self.shard, false);
        }
        let held = self.congested && self.stop.is_none() && connection.is_publisher();
        if held && !slot.held {
            slot.held = true;
            self.held_publishers.push(index as u32);
            if self.shard.memory_bytes() > self.config.memory_bytes {
                slot.blocked = true;
                let out = &mut self.scratch;
                let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
                connection.set_blocked(&mut cx, Some("low on memory"));
            }
        }
        let paused = slot.held
            || (slot.waiting && slot.carry.len() > PARKED_INPUT_BYTES)
            || pending_bytes > UNREAD_OUTPUT_MARKS * self.config.high_water_bytes
            || matches!(self.stop, Some(Stop::Draining { .. }));
        if paused != slot.paused {
            slot.paused = paused;
            connection.set_reading(self.now_ns, !paused);
            if paused {
                self.transport.pause(slot.conn);
            } else {
                self.transport.resume(slot.conn);
            }
        }
        let (conn, refused) = (slot.conn, slot.refused);
        self.send_scratch(conn);
        if refused != self.store.as_ref().is_some_and(|store| store.refusal().is_some()) {
            self.tell_of_space(index);
        }
    }

    /// Stops publishers while the shard is congested. They are stopped one by one, as they are met; all go on when it
    /// is over.
    pub(super) fn watch_congestion(&mut self) {
        let congested =
            self.shard.is_congested() || self.store.as_ref().is_some_and(super::Store::is_congested);
        if congested == self.congested {
            return;
        }
        self.congested = congested;
        if congested {
            self.counters.congestions.add(1);
            return;
        }
        for index in std::mem::take(&mut self.held_publishers) {
            let slot = &mut self.slots[index as usize];
            slot.held = false;
            if std::mem::take(&mut slot.blocked) && !slot.refused {
                self.with_connection(index as usize, |connection, cx| connection.set_blocked(cx, None));
            }
            self.touch(index as usize);
        }
    }
}
