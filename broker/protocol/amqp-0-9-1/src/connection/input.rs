//! From bytes to frames: whole ones, and body frames that are taken in as they arrive.

use fulmar_protocol::{Connection as _, Context};

use super::errors::Exception;
use super::{Connection, Env, Phase};
use crate::codec::{Frame, FrameError, FrameKind, frame, reply_code as code};

/// A body frame that is taken in as it arrives, so that a large one need not be kept until it is whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartialBody {
    channel: u16,
    /// Bytes of payload still to come; the end octet follows.
    left: usize,
}

impl Connection {
    /// Takes frames, or parts of body frames, from `input`; returns how many bytes it took.
    pub(super) fn take(&mut self, cx: &mut Context<'_>, input: &[u8]) -> usize {
        let mut taken = 0;
        while !self.is_parked() {
            if self.phase == Phase::Closed {
                return input.len();
            }
            let rest = &input[taken..];
            if let Some(partial) = self.partial {
                match self.continue_body(cx, partial, rest) {
                    0 => break,
                    bytes => taken += bytes,
                }
                continue;
            }
            if let Some(bytes) = self.receive_quickly(cx, rest) {
                taken += bytes;
                continue;
            }
            match frame::parse(rest, self.link.frame_max) {
                Ok(Some((frame, bytes))) => {
                    taken += bytes;
                    self.frame(cx, frame);
                }
                Ok(None) => match self.begin_body(rest) {
                    0 => break,
                    bytes => taken += bytes,
                },
                Err(error) => self.lost_sync(cx, error, rest),
            }
        }
        taken
    }

    fn frame(&mut self, cx: &mut Context<'_>, frame: Frame<'_>) {
        if frame.channel == 0 || self.phase != Phase::Open {
            return self.connection_frame(cx, frame);
        }
        let number = frame.channel;
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut) else {
            return self.frame_on_closed_channel(cx, frame);
        };
        if channel.closing {
            return self.frame_on_closing_channel(cx, frame);
        }
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let result = channel.frame(&mut env, frame);
        self.finish(cx, number, result);
    }

    /// The input is no frame; where the next one begins is unknown, so the peer's answer cannot be waited for.
    fn lost_sync(&mut self, cx: &mut Context<'_>, error: FrameError, input: &[u8]) {
        let kind = input.first().copied().unwrap_or_default();
        let detail = match error {
            FrameError::UnknownType(_) => "unknown_frame".to_owned(),
            FrameError::TooLarge { size, frame_max } => {
                let overhead = frame::OVERHEAD_BYTES as u64;
                let (size, limit) = (size - overhead, u64::from(frame_max).saturating_sub(overhead));
                format!("{{frame_too_large,{size},{limit}}}")
            }
            FrameError::BadEnd(octet) => format!("{{invalid_frame_end_marker,{octet}}}"),
        };
        let exception = Exception::new(code::FRAME_ERROR, format!("type {kind}: {detail}"));
        self.fail(cx, &exception, (0, 0));
        self.close(cx.shard, exception.reply_text(), true);
    }

    /// Begins to take in a body frame of which only a part is there. Returns how many bytes it took.
    fn begin_body(&mut self, input: &[u8]) -> usize {
        let Some(&[kind, c1, c0, s3, s2, s1, s0]) = input.first_chunk::<{ frame::HEAD_BYTES }>() else {
            return 0;
        };
        let channel = u16::from_be_bytes([c1, c0]);
        let left = u32::from_be_bytes([s3, s2, s1, s0]) as usize;
        let fits = || {
            let channel = self.channels.get(usize::from(channel))?.as_ref()?;
            Some(!channel.closing && channel.takes_body(left))
        };
        if kind != FrameKind::Body as u8 || self.phase != Phase::Open || fits() != Some(true) {
            return 0;
        }
        self.partial = Some(PartialBody { channel, left });
        frame::HEAD_BYTES
    }

    /// Takes in more of a body frame. Returns how many bytes it took.
    fn continue_body(&mut self, cx: &mut Context<'_>, partial: PartialBody, input: &[u8]) -> usize {
        let number = partial.channel;
        let part = &input[..input.len().min(partial.left)];
        let left = partial.left - part.len();
        let channel = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut);
        let mut channel = channel.filter(|channel| !channel.closing);
        if let Some(channel) = channel.as_deref_mut() {
            channel.append_body(cx.shard, part);
        }
        match input.get(part.len()) {
            Some(&frame::END) if left == 0 => {
                self.partial = None;
                if let Some(channel) = channel {
                    let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
                    let result = channel.body_ended(&mut env);
                    self.finish(cx, number, result);
                }
                part.len() + 1
            }
            Some(&octet) => {
                self.lost_sync(cx, FrameError::BadEnd(octet), &[FrameKind::Body as u8]);
                part.len()
            }
            None => {
                self.partial = Some(PartialBody { channel: number, left });
                part.len()
            }
        }
    }
}
