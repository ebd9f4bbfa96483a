//! TLS between a socket and its connection.
//!
//! 1. What a connection writes is collected in plain and encrypted at the end of the turn, in as few records as it fits
//!    in; it never reaches the transport otherwise.
//! 2. While a handshake is being computed elsewhere its peer is not read.
//! 3. Nothing is sent in plain but what TLS itself sends so: whatever fails ends the connection.

use fulmar_policy::PeerIdentity;
use fulmar_tls::{Failure, Received, Session};
use fulmar_transport::{Close, ConnId, RecvBuf, Transport};

use super::Worker;
use super::arrival::{Head, Recognised};
use super::slot::State;

/// Buffers of plain text larger than this are not kept from turn to turn.
const KEEP_PLAIN_BYTES: usize = 64 * 1024;

/// TLS of one socket.
#[derive(Default)]
pub struct Secure {
    /// `None` while it is away for its handshake, or being used.
    session: Option<Box<Session>>,
    /// What arrived while it was away.
    arrived: Vec<u8>,
    /// What is to be encrypted at the end of the turn.
    plain: Vec<u8>,
    is_established: bool,
    /// It ends once the session is back.
    has_ended: bool,
}

impl Secure {
    /// Where to write what is to be encrypted.
    #[inline]
    pub(super) fn plain(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }

    /// Bytes written and not encrypted yet.
    pub(super) fn unsealed_bytes(&self) -> usize {
        self.plain.len()
    }

    /// Whether the handshake is over.
    pub(super) fn is_established(&self) -> bool {
        self.is_established
    }
}

/// A handshake on its way to whoever computes it, or back.
pub struct Handshake {
    conn: ConnId,
    session: Box<Session>,
    out: Vec<u8>,
    received: Received,
}

impl Handshake {
    /// Takes it as far as it goes: up to milliseconds of computing.
    pub fn advance(&mut self) {
        self.received = self.session.shake_hands(&mut self.out);
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake").field("conn", &self.conn).finish_non_exhaustive()
    }
}

impl<T: Transport> Worker<T> {
    /// A handshake begins: with `before`, which was seen earlier, and a received buffer.
    pub(super) fn start_secure(&mut self, index: usize, before: Head, buf: &RecvBuf) {
        let Some(acceptor) = &self.config.tls else { return };
        let session = match acceptor.session() {
            Ok(session) => session,
            Err(failure) => return self.secure_failed(index, &failure),
        };
        let slot = &mut self.slots[index];
        slot.state = State::Detecting { seen: Default::default(), len: 0 };
        slot.secure = Some(Box::new(Secure { session: Some(Box::new(session)), ..Secure::default() }));
        if let Some(secure) = &mut slot.secure {
            secure.arrived.extend_from_slice(before.as_slice());
        }
        self.received_secure(index, buf);
    }

    /// Encrypted bytes arrived.
    pub(super) fn received_secure(&mut self, index: usize, buf: &RecvBuf) {
        let slot = &mut self.slots[index];
        let Some(secure) = &mut slot.secure else { return };
        let bytes = self.transport.bytes(buf);
        let Some(session) = &mut secure.session else {
            // The transport had handed these out before it was told to pause.
            return secure.arrived.extend_from_slice(bytes);
        };
        if !session.is_handshaking() {
            return self.decrypt(index, Some(buf));
        }
        let arrived = std::mem::take(&mut secure.arrived);
        let can_go_on = session.push(&arrived).and_then(|may| session.push(bytes).map(|can| may || can));
        self.continue_handshake(index, can_go_on);
    }

    /// Encrypted bytes that arrived while their connection was between shards.
    pub(super) fn received_on_the_way(&mut self, index: usize, bytes: &[u8]) {
        if let Some(secure) = &mut self.slots[index].secure {
            secure.arrived.extend_from_slice(bytes);
        }
        self.decrypt(index, None);
    }

    fn continue_handshake(&mut self, index: usize, can_go_on: Result<bool, Failure>) {
        let slot = &mut self.slots[index];
        match can_go_on {
            Ok(false) => {}
            Ok(true) => {
                let Some(session) = slot.secure.as_mut().and_then(|secure| secure.session.take()) else {
                    return;
                };
                let conn = slot.conn;
                self.transport.pause(conn);
                let handshake = Handshake { conn, session, out: Vec::new(), received: Received::More };
                if let Some(handshake) = self.handshaker.advance(handshake) {
                    self.shook_hands(handshake);
                }
            }
            Err(failure) => self.secure_failed(index, &failure),
        }
    }

    /// A handshake went as far as it could.
    pub(super) fn shook_hands(&mut self, handshake: Handshake) {
        let Handshake { conn, session, out, received } = handshake;
        let index = conn.index as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.conn == conn) else { return };
        let (State::Detecting { .. }, Some(secure)) = (&slot.state, &mut slot.secure) else { return };
        self.transport.resume(conn);
        if let Some(output) = self.transport.output(conn) {
            output.extend_from_slice(&out);
        }
        match received {
            Received::More => {}
            Received::End => return self.end(index, Close::Flush),
            Received::Failed(failure) => return self.secure_failed(index, &failure),
        }
        let is_handshaking = session.is_handshaking();
        let session = secure.session.insert(session);
        if is_handshaking {
            let arrived = std::mem::take(&mut secure.arrived);
            let can_go_on = session.push(&arrived);
            return self.continue_handshake(index, can_go_on);
        }
        let agreed = session.agreed();
        secure.is_established = true;
        self.counters.tls_handshakes.add(1);
        self.counters.tls_resumptions.add(u64::from(agreed.is_resumed));
        log::debug!("{}: {agreed}", slot.peer);
        slot.identity =
            PeerIdentity { encrypted: true, certificate: agreed.identity, strength: agreed.strength_bits };
        self.decrypt(index, None);
    }

    /// Decrypts what arrived and hands it on.
    fn decrypt(&mut self, index: usize, buf: Option<&RecvBuf>) {
        let slot = &mut self.slots[index];
        let conn = slot.conn;
        let Some(secure) = &mut slot.secure else { return };
        let Some(mut session) = secure.session.take() else { return };
        if !secure.arrived.is_empty() {
            session.take(&std::mem::take(&mut secure.arrived), &mut self.spare);
        }
        if let Some(buf) = buf {
            session.take(self.transport.bytes(buf), &mut self.spare);
        }
        let mut spare = std::mem::take(&mut self.spare);
        let mut out = Vec::new();
        let received = session.receive(&mut spare, &mut out, |input| self.take_decrypted(index, input));
        self.spare = spare;
        let Some(secure) = &mut self.slots[index].secure else { return };
        secure.session = Some(session);
        let has_ended = secure.has_ended;
        if !out.is_empty()
            && let Some(output) = self.transport.output(conn)
        {
            output.extend_from_slice(&out);
        }
        match received {
            Received::More if !has_ended => {}
            Received::More | Received::End => self.end(index, Close::Flush),
            Received::Failed(failure) => self.secure_failed(index, &failure),
        }
    }

    /// Ends a connection in order, when what has arrived on it has been looked at.
    pub(super) fn end_secure(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        match slot.secure.as_deref_mut() {
            Some(secure) if secure.session.is_none() => {
                secure.has_ended = true;
                slot.state = State::Closing;
            }
            _ => self.end(index, Close::Flush),
        }
    }

    fn take_decrypted(&mut self, index: usize, input: &[u8]) {
        if !matches!(self.slots[index].state, State::Detecting { .. }) {
            return self.feed_bytes(index, input);
        }
        if let Recognised::Speaks { skip } = self.recognise(index, Head::of(input)) {
            self.feed_bytes(index, &input[skip..]);
        }
    }

    /// Encrypts what was written in this turn.
    pub(super) fn seal(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(secure) = &mut slot.secure else { return };
        if secure.plain.is_empty() {
            return;
        }
        let sealed = match (&mut secure.session, self.transport.output(slot.conn)) {
            (Some(session), Some(out)) => session.send(&secure.plain, out),
            // What is written for a socket that is about to go is lost.
            _ => Ok(()),
        };
        secure.plain.clear();
        secure.plain.shrink_to(KEEP_PLAIN_BYTES);
        if let Err(failure) = sealed
            && !matches!(slot.state, State::Closing)
        {
            self.secure_failed(index, &failure);
        }
    }

    /// Encrypts what was written and says that nothing follows.
    pub(super) fn seal_end(&mut self, index: usize) {
        self.seal(index);
        let slot = &mut self.slots[index];
        let Some(Secure { session: Some(session), .. }) = slot.secure.as_deref_mut() else { return };
        if let Some(out) = self.transport.output(slot.conn) {
            session.close(out);
        }
    }

    fn secure_failed(&mut self, index: usize, failure: &Failure) {
        self.counters.tls_failures.add(1);
        let slot = &mut self.slots[index];
        let peer = slot.peer;
        if let Some(secure) = &mut slot.secure {
            secure.plain.clear();
        }
        self.faults.warn(self.now_ns, format_args!("{peer}: TLS failed: {failure}"));
        self.end(index, Close::Flush);
    }
}

#[cfg(test)]
mod tests;
