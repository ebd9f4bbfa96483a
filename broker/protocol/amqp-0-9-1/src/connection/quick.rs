//! The short way of what runs per message: an acknowledgement, or a publish whose frames are all there with the body in
//! one. Whatever is not quite so, errors included, goes the general way and is told there.

use fulmar_core::message::MessageHeader;
use fulmar_core::shard::Settlement;
use fulmar_protocol::Context;

use super::channel::{Flow, Mode};
use super::consume::REPLY_QUEUE;
use super::last::{LastPublish, MOST_BYTES};
use super::publish::check_properties;
use super::{Connection, Env};
use crate::codec::FrameKind;
use crate::codec::frame::{END, HEAD_BYTES, OVERHEAD_BYTES};
use crate::codec::properties::{EMPTY, ENCODING, scan};

const METHOD: u8 = FrameKind::Method as u8;
const HEADER: u8 = FrameKind::Header as u8;
const BODY: u8 = FrameKind::Body as u8;
/// Class and methods, as their last octets.
const BASIC: u8 = 60;
const PUBLISH: u8 = 40;
const ACK: u8 = 80;
/// A frame's head, class and method.
const METHOD_BYTES: usize = HEAD_BYTES + 4;

impl Connection {
    /// Takes one message or acknowledgement from `input`, and returns how many bytes it took. `None`: nothing was
    /// taken, the general way has to look at it.
    #[inline]
    pub(super) fn receive_quickly(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Option<usize> {
        if let Some(bytes) = self.publish_again(cx, input) {
            return Some(bytes);
        }
        let &[METHOD, c1, c0, 0, 0, s1, s0, 0, BASIC, 0, method] = input.first_chunk()? else { return None };
        let number = [c1, c0];
        let end = HEAD_BYTES + usize::from(u16::from_be_bytes([s1, s0]));
        let arguments = input.get(METHOD_BYTES..end)?;
        if input.get(end) != Some(&END) {
            return None;
        }
        match method {
            PUBLISH => self.publish_quickly(cx, number, arguments, input),
            ACK => {
                self.acknowledge_quickly(cx, number, arguments)?;
                Some(end + 1)
            }
            _ => None,
        }
    }

    #[inline]
    fn acknowledge_quickly(&mut self, cx: &mut Context<'_>, number: [u8; 2], arguments: &[u8]) -> Option<()> {
        let (&tag, &[bits]) = arguments.split_first_chunk()? else { return None };
        let number = u16::from_be_bytes(number);
        let channel = self.channels.get_mut(usize::from(number))?.as_deref_mut()?;
        if !channel.expects_method() {
            return None;
        }
        channel.current = (BASIC.into(), ACK.into());
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let result = channel.settle(&mut env, u64::from_be_bytes(tag), bits & 1 != 0, Settlement::Accept);
        if !matches!(result, Ok(Flow::Done)) {
            self.finish(cx, number, result);
        }
        Some(())
    }

    /// Messages like the one remembered, but for their bodies.
    #[inline]
    fn publish_again(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Option<usize> {
        let last = self.last_publish.as_deref()?;
        let messages = last.others_in(input);
        let number = last.channel;
        let channel = self.channels.get_mut(usize::from(number))?.as_deref_mut()?;
        if messages == 0 || !channel.expects_method() || matches!(channel.mode, Mode::Tx(_)) {
            return None;
        }
        channel.current = (BASIC.into(), PUBLISH.into());
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let input = &input[..messages * last.message_bytes()];
        if channel.publish_alike(&mut env, last, input) {
            return Some(input.len());
        }
        let body = last.bodies(input).next()?;
        let message = env.shard.whole_message(&last.head, body);
        let bytes = last.message_bytes();
        let result = channel.publish(&mut env, message, last.mandatory);
        if !matches!(result, Ok(Flow::Done)) {
            self.finish(cx, number, result);
        }
        Some(bytes)
    }

    fn publish_quickly(
        &mut self,
        cx: &mut Context<'_>,
        number: [u8; 2],
        arguments: &[u8],
        input: &[u8],
    ) -> Option<usize> {
        let content = &input[METHOD_BYTES + arguments.len() + 1..];
        let (exchange, routing_key, mandatory) = publish_arguments(arguments)?;
        let (body_bytes, properties, after) = header(number, content)?;
        let (body, rest) = match body_bytes {
            0 => (&[][..], after),
            body_bytes => body(number, body_bytes, after)?,
        };
        let number = u16::from_be_bytes(number);
        let channel = self.channels.get_mut(usize::from(number))?.as_deref_mut()?;
        if !channel.expects_method() || matches!(channel.mode, Mode::Tx(_)) {
            return None;
        }
        let link = &mut self.link;
        let largest = (arguments.len() + 4).max(properties.len() + 12).max(body.len()) + OVERHEAD_BYTES;
        let fits = link.frame_max == 0 || largest <= link.frame_max as usize;
        if !fits || body_bytes > link.config.max_message_bytes {
            return None;
        }
        let facts = if properties == EMPTY { Facts::default() } else { facts(properties, &link.user)? };
        let header = MessageHeader {
            encoding: &ENCODING,
            exchange,
            routing_key,
            properties,
            body_bytes,
            priority: facts.priority,
            ttl_ms: facts.ttl_ms,
            persistent: facts.persistent,
            has_headers: facts.has_headers,
        };
        let bytes = input.len() - rest.len();
        let frames = &input[..bytes - body.len() - 1];
        if !body.is_empty() && frames.len() <= MOST_BYTES {
            match &mut self.last_publish {
                Some(last) => last.note(frames, number, mandatory, &header),
                None => {
                    let last = LastPublish::new(frames, number, mandatory, &header);
                    self.last_publish = Some(Box::new(last));
                }
            }
        }
        let message = cx.shard.begin_message_with(&header, body);
        channel.current = (BASIC.into(), PUBLISH.into());
        let result = channel.publish(&mut Env { shard: cx.shard, out: cx.out, link }, message, mandatory);
        if !matches!(result, Ok(Flow::Done)) {
            self.finish(cx, number, result);
        }
        Some(bytes)
    }
}

/// What a message's properties say to the broker.
#[derive(Clone, Copy, Default)]
struct Facts {
    priority: u8,
    ttl_ms: Option<u64>,
    persistent: bool,
    has_headers: bool,
}

/// Reads properties; not those that are refused or have to be changed.
fn facts(properties: &[u8], user: &str) -> Option<Facts> {
    let scan = scan(properties).ok().filter(|scan| scan.reply_to != Some(REPLY_QUEUE))?;
    Some(Facts {
        priority: scan.priority.unwrap_or_default(),
        ttl_ms: check_properties(&scan, properties, user).ok()?,
        persistent: scan.is_persistent(),
        has_headers: scan.has_headers,
    })
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
