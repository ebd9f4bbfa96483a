//! Cutting output into messages and posting them.

use fulmar_transport::CloseReason;

use crate::conn::{Held, State};
use crate::device::{Device, Piece, ReceiveRequest, SendRequest};
use crate::side::{DIRECT_BYTES, SEND_DEPTH, SIGNAL_EVERY, Side};
use crate::token::{self, Kind};
use crate::wire::{self, TRAILER_BYTES};

/// How the bytes of a message get to the device.
enum Way {
    Inline,
    Chunk(u32),
    Large(u32),
    Direct(u32),
}

impl<D: Device> Side<D> {
    /// Posts what a connection has to send, and room for more if that is to be told.
    pub(crate) fn pump(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        if !matches!(conn.state, State::Open | State::Closing) {
            return;
        }
        let fresh = conn.fresh.len() as u32;
        let goes_along = conn.outbox.pending() > 0 && conn.credit.is_worth_telling(fresh);
        if fresh > 0 && (goes_along || conn.credit.should_tell(fresh)) {
            self.post_fresh(index);
        }
        if let Err(error) = self.gather(index) {
            self.give_spent();
            return self.fail(index, error);
        }
        self.grant(index);
        if !self.sends.is_empty() {
            self.post_gathered(index);
        }
        self.give_spent();
        self.note_drained(index);
        self.progress_close(index);
    }

    /// What was written has drained, perhaps; told in the next turn.
    fn note_drained(&mut self, index: u32) {
        let (id, low_water) = (self.conns.id_at(index), self.config.low_water_bytes);
        if let Some(conn) = self.conns.at(index)
            && conn.state == State::Open
            && conn.outbox.drained(low_water)
        {
            self.drained.push(id);
        }
    }

    fn give_spent(&mut self) {
        for (port, block) in self.spent.drain(..) {
            self.memory[usize::from(port)].blocks.put(block, &mut self.device, port);
        }
    }

    /// Makes messages out of the output, as many as may go.
    fn gather(&mut self, index: u32) -> Result<(), i32> {
        loop {
            let Some(conn) = self.conns.at(index) else { return Ok(()) };
            if !matches!(conn.state, State::Open | State::Closing) {
                return Ok(());
            }
            let room =
                conn.sends.posted - conn.sends.ended + (self.sends.len() as u64) < u64::from(SEND_DEPTH);
            if !room {
                return Ok(());
            }
            if !conn.credit.may_send() {
                let begins = conn.outbox.pending() > 0 && !std::mem::replace(&mut conn.is_stalled, true);
                self.counts.credit_stalls += u64::from(begins);
                return Ok(());
            }
            let bytes = conn.outbox.next();
            if bytes.is_empty() {
                return Ok(());
            }
            match conn.cutter.cut(bytes, conn.message_bytes as usize) {
                Ok(0) if conn.outbox.join() => self.retire_block(index, 0),
                Ok(0) => return Ok(()),
                Ok(len) => self.add_message(index, len)?,
                Err(len) => {
                    let (peer, most) = (conn.peer, conn.message_bytes);
                    log::warn!("{peer}: a frame of {len} bytes does not fit into its messages of {most}");
                    return Err(libc::EMSGSIZE);
                }
            }
        }
    }

    /// Adds a message with the next `len` bytes of output.
    fn add_message(&mut self, index: u32, len: usize) -> Result<(), i32> {
        let way = self.way(index, len)?;
        let at = self.sends.len();
        let conn = self.conns.at(index).expect("it has output");
        let memory = &mut self.memory[usize::from(conn.port)];
        let credit = conn.credit.send();
        conn.is_stalled &= len == 0;
        self.counts.sent_bytes += len as u64;
        let trailer = wire::trailer(credit);
        let trailer_bytes = if conn.version == 0 { 0 } else { TRAILER_BYTES };
        self.trailers[at] = trailer;
        let sequence = conn.sends.posted + at as u64;
        let data = if len == 0 { [].as_ptr() } else { conn.outbox.next().as_ptr() };
        let plain = |address: *const u8, bytes: usize, key| Piece {
            address: address.cast_mut(),
            bytes: bytes as u32,
            key,
        };
        let beside = plain(self.trailers[at].as_ptr(), trailer_bytes, 0);
        let (pieces, held) = match way {
            Way::Inline => ([plain(data, len, 0), beside], None),
            Way::Chunk(unit) | Way::Large(unit) => {
                let is_chunk = matches!(way, Way::Chunk(_));
                let pool = if is_chunk { &memory.chunks } else { &memory.receives };
                let piece = pool.piece(unit, 0, len + trailer_bytes);
                // SAFETY: the unit was just taken, so nobody else uses it, and it has room for so much.
                unsafe {
                    std::ptr::copy_nonoverlapping(data, piece.address, len);
                    std::ptr::copy_nonoverlapping(trailer.as_ptr(), piece.address.add(len), trailer_bytes);
                }
                self.counts.copied_bytes += len as u64;
                let held = if is_chunk { Held::Chunk(unit) } else { Held::Large(unit) };
                ([piece, plain(data, 0, 0)], Some(held))
            }
            Way::Direct(key) => {
                let unit = conn.trailers.expect("taken with the way");
                let offset = (sequence % u64::from(SEND_DEPTH)) as usize * TRAILER_BYTES;
                let piece = memory.trailers.piece(unit, offset, trailer_bytes);
                // SAFETY: the place of this send among those that have not ended, of which there are no more.
                unsafe { std::ptr::copy_nonoverlapping(trailer.as_ptr(), piece.address, trailer_bytes) };
                self.counts.direct_bytes += len as u64;
                conn.outbox.goes_directly();
                ([plain(data, len, key), piece], None)
            }
        };
        self.counts.inline += u64::from(matches!(way, Way::Inline));
        let first_is_empty = pieces[0].bytes == 0;
        let pieces = if first_is_empty { [pieces[1], pieces[0]] } else { pieces };
        self.sends.push(SendRequest {
            token: token::make(self.conns.id_at(index), Kind::Send, sequence as u32),
            pieces,
            piece_count: pieces.iter().filter(|piece| piece.bytes > 0).count() as u8,
            immediate: if self.conns.at(index).is_some_and(|conn| conn.version == 0) {
                wire::immediate(credit, len > 0)
            } else {
                None
            },
            signaled: false,
            inline: matches!(way, Way::Inline),
        });
        let conn = self.conns.at(index).expect("it has output");
        if let Some(held) = held {
            conn.sends.held.push_back((sequence + 1, held));
        }
        if len > 0 {
            self.retire_block(index, len);
        }
        Ok(())
    }

    /// `len` more bytes of output are in messages; keeps their block until those have ended.
    fn retire_block(&mut self, index: u32, len: usize) {
        let Some(conn) = self.conns.at(index) else { return };
        match conn.outbox.posted(len) {
            Some((block, true)) => {
                let until = conn.sends.posted + self.sends.len() as u64;
                conn.sends.held.push_back((until, Held::Block(block)));
            }
            // Inline bytes are read while they are posted, and copied ones were.
            Some((block, false)) => self.spent.push((conn.port, block)),
            None => {}
        }
    }

    /// How a message of this length goes.
    fn way(&mut self, index: u32, len: usize) -> Result<Way, i32> {
        let Side { device, memory, conns, .. } = self;
        let conn = conns.at(index).expect("it has output");
        let memory = &mut memory[usize::from(conn.port)];
        if len + TRAILER_BYTES <= conn.inline_bytes as usize {
            return Ok(Way::Inline);
        }
        let failed = |error: std::io::Error| {
            log::warn!("no more memory can be locked for RDMA: {error}; raise `ulimit -l`");
            error.raw_os_error().unwrap_or(libc::ENOMEM)
        };
        // The rest of what goes from where it lies does so, too: its block is kept anyway.
        if len < DIRECT_BYTES && !conn.outbox.is_direct() {
            return memory.chunks.take(device, conn.port).map(Way::Chunk).map_err(failed);
        }
        if let Some(key) = memory.blocks.key(conn.outbox.block(), device, conn.port) {
            if conn.trailers.is_none() {
                conn.trailers = Some(memory.trailers.take(device, conn.port).map_err(failed)?);
            }
            return Ok(Way::Direct(key));
        }
        memory.receives.take(device, conn.port).map(Way::Large).map_err(failed)
    }

    /// Adds a message that only grants credit, where no other has gone and it is time; and one that tells the end of all
    /// before it, where that is waited for.
    fn grant(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        if !matches!(conn.state, State::Open | State::Closing) {
            return;
        }
        let closes = conn.state == State::Closing && conn.outbox.pending() == 0;
        let untold = conn.sends.untold > 0 && self.sends.is_empty();
        let due = (closes && untold) || conn.credit.should_tell(0);
        let under_way = conn.sends.posted - conn.sends.ended + self.sends.len() as u64;
        if due && conn.credit.may_tell() && under_way < u64::from(SEND_DEPTH) {
            self.counts.grants += 1;
            // Version 0 has nothing behind a message, and no device likes one of no bytes.
            if let Err(error) = self.add_grant(index) {
                self.fail(index, error);
            }
        }
    }

    fn add_grant(&mut self, index: u32) -> Result<(), i32> {
        let conn = self.conns.at(index).expect("it grants");
        if conn.version != 0 {
            return self.add_message(index, 0);
        }
        let port = conn.port;
        let memory = &mut self.memory[usize::from(port)];
        let unit = memory.chunks.take(&mut self.device, port).map_err(|_| libc::ENOMEM)?;
        let piece = memory.chunks.piece(unit, 0, TRAILER_BYTES);
        let conn = self.conns.at(index).expect("it grants");
        let credit = conn.credit.send();
        // SAFETY: the unit was just taken, and has room for so much.
        unsafe { std::ptr::copy_nonoverlapping(credit.to_be_bytes().as_ptr(), piece.address, TRAILER_BYTES) };
        let sequence = conn.sends.posted + self.sends.len() as u64;
        conn.sends.held.push_back((sequence + 1, Held::Chunk(unit)));
        self.sends.push(SendRequest {
            token: token::make(self.conns.id_at(index), Kind::Send, sequence as u32),
            pieces: [piece, piece],
            piece_count: 1,
            immediate: wire::immediate(credit, false),
            signaled: false,
            inline: false,
        });
        Ok(())
    }

    /// Posts what was gathered, with one ring of the doorbell.
    fn post_gathered(&mut self, index: u32) {
        let mut sends = std::mem::take(&mut self.sends);
        let Some(conn) = self.conns.at(index) else { return };
        let closes = conn.state == State::Closing && conn.outbox.pending() == 0;
        let last = sends.len() - 1;
        for (at, send) in sends.iter_mut().enumerate() {
            conn.sends.untold += 1;
            send.signaled = conn.sends.untold >= SIGNAL_EVERY || (closes && at == last);
            if send.signaled {
                conn.sends.untold = 0;
                self.counts.signaled += 1;
            }
        }
        conn.sends.posted += sends.len() as u64;
        let endpoint = conn.endpoint;
        self.counts.sends += sends.len() as u64;
        self.counts.send_posts += 1;
        // SAFETY: units and blocks are held until the sends have ended, inline pieces lie in output or in `trailers`.
        let posted = unsafe { self.device.post_sends(endpoint, &sends) };
        sends.clear();
        self.sends = sends;
        if let Err(error) = posted {
            self.fail(index, error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    /// Posts the receive buffers that came back.
    pub(crate) fn post_fresh(&mut self, index: u32) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        let memory = &self.memory[usize::from(conn.port)];
        let count = conn.fresh.len() as u32;
        let mut receives = std::mem::take(&mut self.receives);
        receives.extend(conn.fresh.drain(..).map(|unit| ReceiveRequest {
            token: token::make(id, Kind::Receive, unit),
            piece: memory.receives.piece(unit, 0, crate::side::MESSAGE_BYTES as usize + TRAILER_BYTES),
        }));
        // SAFETY: nobody looks at these units until they come back with a completion.
        let posted = unsafe { self.device.post_receives(conn.endpoint, &receives) };
        receives.clear();
        self.receives = receives;
        self.counts.receive_posts += 1;
        match posted {
            Ok(()) => {
                conn.receives_posted += count;
                conn.credit.posted(count);
            }
            Err(error) => self.fail(index, error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// The connection cannot go on.
    pub(crate) fn fail(&mut self, index: u32, error: i32) {
        self.sends.clear();
        let Some(conn) = self.conns.at(index) else { return };
        if conn.reason.is_none() {
            conn.reason = Some(CloseReason::Error(error));
        }
        let hands_out = conn.is_known && conn.hands_out();
        self.disconnect(index, hands_out);
    }
}
