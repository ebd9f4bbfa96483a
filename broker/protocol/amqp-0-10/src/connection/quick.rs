//! What a connection remembers of a transfer, for others like it. Most publishers repeat themselves: session, address,
//! header and length are the same again, and only the body differs. Such a transfer costs one comparison of bytes instead
//! of being read, and those that come together become a batch.

use fulmar_core::message::{MessageHead, batch_limit};
use fulmar_core::shard::Published;
use fulmar_protocol::Context;

use super::channel::Channel;
use super::session::{Flow, Session};
use super::transfer::Manner;
use super::{Connection, Env};
use crate::codec::frame::HEAD_BYTES;

/// How many transfers unlike the one remembered are read before another is remembered.
const PATIENCE: u8 = 8;
/// Frames that are longer are not worth remembering.
const MOST_BYTES: usize = 1024;
/// Octets of class, command and the flag of a transfer that asks for its completion.
const SYNC: [u8; 4] = [4, 1, 1, 1];

/// A transfer that came in one piece. It was found in order, so one with the same frames is.
pub(super) struct LastTransfer {
    /// From the command's frame to the head of the body's.
    frames: Vec<u8>,
    body_bytes: usize,
    channel: u16,
    manner: Manner,
    head: MessageHead,
    /// The time that its head bears.
    timestamp_s: Option<u64>,
    patience: u8,
}

impl LastTransfer {
    /// How many transfers like this one `input` begins with, as far as one batch goes.
    #[inline]
    fn others_in(&self, input: &[u8]) -> usize {
        let transfers = input.chunks_exact(self.bytes()).take(batch_limit(self.body_bytes));
        transfers.take_while(|transfer| transfer.starts_with(&self.frames)).count()
    }

    /// The bodies of the transfers like this one that `input` consists of.
    #[inline]
    fn bodies<'a>(&self, input: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let body_at = self.frames.len();
        input.chunks_exact(self.bytes()).map(move |transfer| &transfer[body_at..])
    }

    /// Length of the frames of a transfer like this one.
    #[inline]
    fn bytes(&self) -> usize {
        self.frames.len() + self.body_bytes
    }
}

impl Connection {
    /// Takes transfers like the one remembered, but for their bodies. Returns how many bytes it took; `None`: nothing was
    /// taken, the general way has to look at it.
    #[inline]
    pub(super) fn transfer_again(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Option<usize> {
        let last = self.last_transfer.as_deref()?;
        let transfers = last.others_in(input);
        if transfers == 0 {
            return None;
        }
        let number = last.channel;
        let channel = self.channels.get_mut(usize::from(number))?.as_deref_mut()?;
        if !channel.expects_command() {
            return None;
        }
        let session = channel.live_session()?;
        if !session.takes_quickly() {
            return None;
        }
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        if last.timestamp_s != env.timestamp_s() {
            // Read, so that what is remembered bears the time that it is now.
            self.last_transfer.as_deref_mut()?.patience = 0;
            return None;
        }
        let input = &input[..transfers * last.bytes()];
        if transfers > 1 && session.publish_alike(&mut env, last, input, transfers as u64) {
            return Some(input.len());
        }
        let body = last.bodies(input).next()?;
        let command = session.begin_quickly()?;
        let message = env.shard.whole_message(&last.head, body);
        let (bytes, manner) = (last.bytes(), last.manner);
        let result = session.publish(&mut env, command, manner, message);
        if !matches!(result, Ok(Flow::Done)) {
            self.finish(cx, number, result);
        }
        Some(bytes)
    }

    /// A transfer came whole in `frames`, of which the last `body_bytes` are its body, and was in order.
    pub(super) fn remember(&mut self, number: u16, frames: &[u8], body_bytes: usize) {
        let head_bytes = frames.len() - body_bytes;
        if body_bytes == 0 || head_bytes > MOST_BYTES || frames[HEAD_BYTES..].starts_with(&SYNC) {
            return;
        }
        let patient = self.last_transfer.as_deref_mut().is_some_and(|last| {
            let patient = last.patience > 0;
            last.patience = last.patience.saturating_sub(1);
            patient
        });
        if patient {
            return;
        }
        let channel = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut);
        let Some(session) = channel.and_then(Channel::live_session) else { return };
        let (manner, header, timestamp_s) = session.last_arrived(body_bytes as u64);
        match self.last_transfer.as_deref_mut() {
            Some(last) => {
                last.frames.clear();
                last.frames.extend_from_slice(&frames[..head_bytes]);
                (last.body_bytes, last.channel, last.manner) = (body_bytes, number, manner);
                last.head.set(&header);
                last.timestamp_s = timestamp_s;
                last.patience = PATIENCE;
            }
            None => {
                self.last_transfer = Some(Box::new(LastTransfer {
                    frames: frames[..head_bytes].to_vec(),
                    body_bytes,
                    channel: number,
                    manner,
                    head: MessageHead::new(&header),
                    timestamp_s,
                    patience: PATIENCE,
                }));
            }
        }
    }
}

impl Session {
    /// Whether a transfer can come next, and is new.
    #[inline]
    fn takes_quickly(&self) -> bool {
        self.has_point && self.incoming.is_new() && self.mode.is_immediate()
    }

    /// Publishes the transfers like `last` that `input` consists of, if the shard takes them together. `false`: nothing
    /// was done.
    #[inline]
    fn publish_alike(
        &mut self,
        env: &mut Env<'_>,
        last: &LastTransfer,
        input: &[u8],
        transfers: u64,
    ) -> bool {
        let (vhost, bodies) = (env.link.vhost, last.bodies(input));
        let first = Some(self.incoming.next_number());
        let published =
            env.shard.publish_alike(self.session, vhost, &last.head, last.body_bytes, bodies, first);
        let Some(published) = published else { return false };
        env.link.counters.published += transfers;
        let Some(first) = self.incoming.begin_many(transfers) else { return true };
        self.note_command(first);
        if published == Published::Confirmed {
            if last.manner.explicit {
                self.accepts.add_range(first.id(), first.id().plus(transfers as u32 - 1));
            }
            self.incoming.complete_many(first, transfers);
            self.after_completion(env);
        } else if last.manner.explicit {
            self.unaccepted.extend(first.number..first.number + transfers);
        }
        true
    }
}
