//! The short way of what runs per message: an acknowledgement, or a publish whose frames are all there with the body in
//! one. Whatever is not quite so, errors included, goes the general way and is told there.

use fulmar_core::message::MessageHeader;
use fulmar_core::shard::Settlement;

use super::channel::{Flow, Mode};
use super::consume::REPLY_QUEUE;
use super::errors::Exception;
use super::publish::check_properties;
use super::{Connection, Context, Env};
use crate::codec::FrameKind;
use crate::codec::frame::{END, HEAD_BYTES, OVERHEAD_BYTES};
use crate::codec::properties::{ENCODING, scan};

const METHOD: u8 = FrameKind::Method as u8;
const HEADER: u8 = FrameKind::Header as u8;
const BODY: u8 = FrameKind::Body as u8;
/// Class and methods, as their last octets.
const BASIC: u8 = 60;
const PUBLISH: u8 = 40;
const ACK: u8 = 80;

impl Connection {
    /// Takes one message or acknowledgement from `input`, and returns how many bytes it took. `None`: nothing was
    /// taken, the general way has to look at it.
    #[inline]
    pub(super) fn receive_quickly(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Option<usize> {
        let &[METHOD, c1, c0, 0, 0, s1, s0, 0, BASIC, 0, method] = input.first_chunk()? else { return None };
        let number = [c1, c0];
        let end = HEAD_BYTES + usize::from(u16::from_be_bytes([s1, s0]));
        let arguments = input.get(11..end)?;
        if input.get(end) != Some(&END) {
            return None;
        }
        let (bytes, result) = match method {
            PUBLISH => {
                let (content, result) = self.publish_quickly(cx, number, arguments, &input[end + 1..])?;
                (end + 1 + content, result)
            }
            ACK => (end + 1, self.acknowledge_quickly(cx, number, arguments)?),
            _ => return None,
        };
        if !matches!(result, Ok(Flow::Done)) {
            self.finish(cx, u16::from_be_bytes(number), result);
        }
        Some(bytes)
    }

    fn acknowledge_quickly(
        &mut self,
        cx: &mut Context<'_>,
        number: [u8; 2],
        arguments: &[u8],
    ) -> Option<Result<Flow, Exception>> {
        let (&tag, &[bits]) = arguments.split_first_chunk()? else { return None };
        let channel = self.channels.get_mut(usize::from(u16::from_be_bytes(number)))?.as_deref_mut()?;
        if !channel.expects_method() {
            return None;
        }
        channel.current = (BASIC.into(), ACK.into());
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        Some(channel.settle(&mut env, u64::from_be_bytes(tag), bits & 1 != 0, Settlement::Accept))
    }

    /// `content` is what follows the method's frame. Returns how much of it was taken.
    #[inline]
    fn publish_quickly(
        &mut self,
        cx: &mut Context<'_>,
        number: [u8; 2],
        arguments: &[u8],
        content: &[u8],
    ) -> Option<(usize, Result<Flow, Exception>)> {
        let (exchange, routing_key, mandatory) = publish_arguments(arguments)?;
        let (body_bytes, properties, after) = header(number, content)?;
        let (body, rest) = match body_bytes {
            0 => (&[][..], after),
            body_bytes => body(number, body_bytes, after)?,
        };
        let channel = self.channels.get_mut(usize::from(u16::from_be_bytes(number)))?.as_deref_mut()?;
        if !channel.expects_method() || matches!(channel.mode, Mode::Tx(_)) {
            return None;
        }
        let link = &mut self.link;
        let largest = (arguments.len() + 4).max(properties.len() + 12).max(body.len()) + OVERHEAD_BYTES;
        let fits = link.frame_max == 0 || largest <= link.frame_max as usize;
        if !fits || body_bytes > link.config.max_message_bytes {
            return None;
        }
        let scan = scan(properties).ok()?;
        if scan.reply_to == Some(REPLY_QUEUE) {
            return None;
        }
        let ttl_ms = check_properties(&scan, properties, &link.user).ok()?;
        let message = cx.shard.begin_message(&MessageHeader {
            encoding: &ENCODING,
            exchange,
            routing_key,
            properties,
            body_bytes,
            priority: scan.priority.unwrap_or_default(),
            ttl_ms,
            persistent: scan.is_persistent(),
            has_headers: scan.has_headers,
        });
        if !body.is_empty() {
            cx.shard.append_body(message, body);
        }
        channel.current = (BASIC.into(), PUBLISH.into());
        let mut env = Env { shard: cx.shard, out: cx.out, link };
        let result = channel.publish(&mut env, message, mandatory);
        Some((content.len() - rest.len(), result))
    }
}

/// Exchange, routing key and whether mandatory; not if immediate.
#[inline(always)]
fn publish_arguments(arguments: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let [_, _, exchange_bytes, rest @ ..] = arguments else { return None };
    let (exchange, rest) = rest.split_at_checked(usize::from(*exchange_bytes))?;
    let (&routing_key_bytes, rest) = rest.split_first()?;
    match rest.split_at_checked(usize::from(routing_key_bytes))? {
        (routing_key, &[bits]) if bits & 2 == 0 => Some((exchange, routing_key, bits & 1 != 0)),
        _ => None,
    }
}

/// Length of the body, properties, and what follows the header's frame.
#[inline(always)]
fn header(number: [u8; 2], input: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (head, rest) = input.split_first_chunk::<19>()?;
    let &[HEADER, c1, c0, 0, 0, s1, s0, 0, BASIC, _, _, b7, b6, b5, b4, b3, b2, b1, b0] = head else {
        return None;
    };
    let properties_bytes = usize::from(u16::from_be_bytes([s1, s0])).checked_sub(12)?;
    match rest.split_at_checked(properties_bytes)? {
        (properties, [END, rest @ ..]) if [c1, c0] == number => {
            Some((u64::from_be_bytes([b7, b6, b5, b4, b3, b2, b1, b0]), properties, rest))
        }
        _ => None,
    }
}

/// The body, if one frame holds all of it, and what follows that frame.
#[inline(always)]
fn body(number: [u8; 2], body_bytes: u64, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[BODY, c1, c0, s3, s2, s1, s0], rest) = input.split_first_chunk()? else { return None };
    let bytes = u32::from_be_bytes([s3, s2, s1, s0]);
    if u64::from(bytes) != body_bytes || [c1, c0] != number {
        return None;
    }
    match rest.split_at_checked(bytes as usize)? {
        (body, [END, rest @ ..]) => Some((body, rest)),
        _ => None,
    }
}
