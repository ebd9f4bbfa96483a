//! From bytes to frames, and from frames to the channel they belong to.

use fulmar_protocol::{Connection as _, Context};

use super::channel::Channel;
use super::errors::Fault;
use super::{Connection, Env, Phase};
use crate::codec::frame::{self, FrameError};
use crate::codec::segment::{Assembler, Limits, Piece};
use crate::codec::table::{SegmentType, SessionAttach, Track};
use crate::codec::{Control, Frame};

/// Longest control, command or content header, in bytes.
const MAX_SEGMENT_BYTES: usize = 1 << 20;
/// The same of a peer that has not opened the connection: there is one at a time, on channel 0.
const MAX_HANDSHAKE_SEGMENT_BYTES: usize = 64 << 10;
/// Code of class `connection`.
const CONNECTION: u8 = 1;

impl Connection {
    /// Takes frames from `input`; returns how many bytes it took.
    pub(super) fn take(&mut self, cx: &mut Context<'_>, input: &[u8]) -> usize {
        let mut taken = 0;
        self.transfer_begins = None;
        if cx.shard.evictions() != self.evictions {
            self.drop_lost_sessions(cx);
        }
        while !self.is_parked() {
            if self.phase == Phase::Closed {
                return input.len();
            }
            let rest = &input[taken..];
            if let Some(bytes) = self.transfer_again(cx, rest) {
                taken += bytes;
                continue;
            }
            match frame::parse(rest, self.link.frame_max) {
                Ok(Some((frame, bytes))) => {
                    self.note_place(taken, frame);
                    taken += bytes;
                    self.frame(cx, frame);
                    if let Some(begin) = self.whole_transfer(frame) {
                        self.remember(frame.channel, &input[begin..taken], frame.payload.len());
                    }
                }
                Ok(None) => break,
                Err(error) => self.lost_sync(cx, error),
            }
        }
        taken
    }

    /// Detaches sessions that others have attached.
    #[cold]
    pub(super) fn drop_lost_sessions(&mut self, cx: &mut Context<'_>) {
        self.evictions = cx.shard.evictions();
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        self.channels.iter_mut().flatten().for_each(|channel| channel.drop_lost(&mut env));
    }

    /// Notes where a transfer begins whose frames may all be here, one for each segment.
    #[inline]
    fn note_place(&mut self, at: usize, frame: Frame<'_>) {
        let whole = frame.flags.first_frame && frame.flags.last_frame;
        self.transfer_begins = match (frame.kind, self.transfer_begins) {
            (SegmentType::Command, _) if whole => Some((at, frame.channel)),
            (SegmentType::Header | SegmentType::Body, Some((begin, channel)))
                if whole && channel == frame.channel =>
            {
                Some((begin, channel))
            }
            _ => None,
        };
    }

    /// Where the transfer begins that ends with this body.
    #[inline]
    fn whole_transfer(&mut self, frame: Frame<'_>) -> Option<usize> {
        match frame.kind {
            SegmentType::Body => self.transfer_begins.take().map(|(begin, _)| begin),
            _ => None,
        }
    }

    /// The input is no frame; where the next one begins is unknown, so the peer's answer cannot be waited for.
    fn lost_sync(&mut self, cx: &mut Context<'_>, error: FrameError) {
        let text = error.to_string();
        if let Fault::Connection(code, _) = Fault::from(error) {
            self.fail(cx, code, &text);
        }
        self.close(cx.shard, text, true);
    }

    fn frame(&mut self, cx: &mut Context<'_>, frame: Frame<'_>) {
        let number = frame.channel;
        let result = match frame.track {
            _ if number > self.channel_max => {
                Err(Fault::framing(format!("channel {number}, the maximum is {}", self.channel_max)))
            }
            Track::Control => self.control_frame(cx, frame),
            _ if self.phase == Phase::Closing => Ok(()),
            _ if self.phase != Phase::Open => Err(Fault::framing("a command before the connection is open")),
            _ => {
                self.command_frame(cx, frame);
                Ok(())
            }
        };
        if let Err(fault) = result {
            self.raise(cx, number, fault);
        }
    }

    pub(super) fn channel(&mut self, number: u16) -> &mut Channel {
        let index = usize::from(number);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        self.channels[index].get_or_insert_default()
    }

    fn control_frame(&mut self, cx: &mut Context<'_>, frame: Frame<'_>) -> Result<(), Fault> {
        let (number, was_open) = (frame.channel, self.phase == Phase::Open);
        // While a peer closes what it has, its channels are gone already.
        let mut assembler = match self.released {
            true => None,
            false => self.channel(number).controls.take(),
        }
        .unwrap_or_else(|| Box::new(Assembler::new(Track::Control, self.limits())));
        let result = match assembler.push(&frame) {
            Ok(Some(Piece::Segment { payload, .. })) => self.control(cx, number, payload),
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::framing(error.to_string())),
        };
        let has_opened = !was_open && self.phase == Phase::Open;
        if let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) {
            // The next one is made with other limits.
            channel.controls = Some(assembler).filter(|_| !has_opened);
        }
        result
    }

    fn control(&mut self, cx: &mut Context<'_>, number: u16, payload: &[u8]) -> Result<(), Fault> {
        let control = match Control::decode(payload) {
            Ok(control) => control,
            Err(_) if self.phase == Phase::Closing => return Ok(()),
            Err(error) => return Err(Fault::framing(error.to_string())),
        };
        if control.class_code() == CONNECTION {
            return self.connection_control(cx, control);
        }
        match self.phase {
            Phase::Open => {}
            Phase::Closing => return Ok(()),
            _ => return Err(Fault::framing(format!("{} before the connection is open", control.name()))),
        }
        if let Control::SessionAttach(attach) = control {
            return self.attach(cx, number, attach);
        }
        let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) else { return Ok(()) };
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        channel.control(&mut env, number, control)?;
        // One that has come back may wait for the shard still.
        if let Some(session) = channel.live_session()
            && session.is_waiting()
            && session.send_ready
        {
            self.parked = Some(number);
            if let Some(late) = session.late.take() {
                self.parked = None;
                let result = session.hear(&mut env, late);
                self.finish(cx, number, result);
            }
        }
        Ok(())
    }

    /// The peer attaches a session, which may be somewhere else.
    pub(super) fn attach(
        &mut self,
        cx: &mut Context<'_>,
        number: u16,
        attach: SessionAttach<'_>,
    ) -> Result<(), Fault> {
        if let Some(shard) = self.lives_elsewhere(cx.shard, number, &attach) {
            self.attach_elsewhere(cx, number, &attach, shard);
            return Ok(());
        }
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        if let SessionAttach { name: Some(name), force: true } = attach {
            let others =
                self.channels.iter_mut().enumerate().filter(|(other, _)| *other != usize::from(number));
            others
                .filter_map(|(_, channel)| channel.as_mut())
                .for_each(|channel| channel.move_out(&mut env, name));
        }
        let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) else { return Ok(()) };
        channel.control(&mut env, number, attach.into())
    }

    fn command_frame(&mut self, cx: &mut Context<'_>, frame: Frame<'_>) {
        let number = frame.channel;
        let limits = self.limits();
        let channel = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut);
        // Without a session there is nobody to whom it could be reported.
        let Some(channel) = channel.filter(|channel| channel.has_live_session()) else { return };
        let mut assembler =
            channel.commands.take().unwrap_or_else(|| Box::new(Assembler::new(Track::Command, limits)));
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let result = match (assembler.push(&frame), channel.live_session()) {
            (Ok(Some(piece)), Some(session)) => session.piece(&mut env, piece),
            (Err(error), _) => Err(error.into()),
            _ => Ok(super::session::Flow::Done),
        };
        channel.commands = Some(assembler);
        self.finish(cx, number, result);
    }

    fn limits(&self) -> Limits {
        let segment_bytes = match self.phase {
            Phase::Open | Phase::Closing | Phase::Closed => MAX_SEGMENT_BYTES,
            _ => MAX_HANDSHAKE_SEGMENT_BYTES,
        };
        Limits { segment_bytes, body_bytes: self.link.config.max_message_bytes }
    }
}
