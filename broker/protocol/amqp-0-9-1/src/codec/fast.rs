//! The methods that run per message, written straight into the output.

use super::frame::{END, FrameKind, OVERHEAD_BYTES, head};
use super::method::class;
use super::wire::cut;

/// Head of a method frame, class and method.
#[inline(always)]
fn method_head(channel: u16, method: u16, arguments_bytes: usize) -> [u8; 11] {
    let mut bytes = [0; 11];
    bytes[..7].copy_from_slice(&head(FrameKind::Method, channel, 4 + arguments_bytes));
    bytes[7..9].copy_from_slice(&class::BASIC.to_be_bytes());
    bytes[9..].copy_from_slice(&method.to_be_bytes());
    bytes
}

#[inline(always)]
fn begin(out: &mut Vec<u8>, channel: u16, method: u16, arguments_bytes: usize) {
    out.reserve(4 + arguments_bytes + OVERHEAD_BYTES);
    out.extend_from_slice(&method_head(channel, method, arguments_bytes));
}

#[inline(always)]
fn put_shortstr(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// `basic.publish`.
#[inline]
pub fn publish(
    channel: u16,
    exchange: &[u8],
    routing_key: &[u8],
    mandatory: bool,
    immediate: bool,
    out: &mut Vec<u8>,
) {
    let (exchange, routing_key) = (cut(exchange), cut(routing_key));
    begin(out, channel, 40, 2 + 1 + exchange.len() + 1 + routing_key.len() + 1);
    out.extend_from_slice(&[0, 0]);
    put_shortstr(out, exchange);
    put_shortstr(out, routing_key);
    out.extend_from_slice(&[u8::from(mandatory) | u8::from(immediate) << 1, END]);
}

/// `basic.deliver`.
#[inline]
pub fn deliver(
    channel: u16,
    consumer_tag: &[u8],
    delivery_tag: u64,
    redelivered: bool,
    exchange: &[u8],
    routing_key: &[u8],
    out: &mut Vec<u8>,
) {
    let (consumer_tag, exchange, routing_key) = (cut(consumer_tag), cut(exchange), cut(routing_key));
    let arguments_bytes = 1 + consumer_tag.len() + 8 + 1 + 1 + exchange.len() + 1 + routing_key.len();
    begin(out, channel, 60, arguments_bytes);
    put_shortstr(out, consumer_tag);
    out.extend_from_slice(&delivery_tag.to_be_bytes());
    out.push(redelivered.into());
    put_shortstr(out, exchange);
    put_shortstr(out, routing_key);
    out.push(END);
}

/// `basic.get-ok`.
#[inline]
pub fn get_ok(
    channel: u16,
    delivery_tag: u64,
    redelivered: bool,
    exchange: &[u8],
    routing_key: &[u8],
    message_count: u32,
    out: &mut Vec<u8>,
) {
    let (exchange, routing_key) = (cut(exchange), cut(routing_key));
    begin(out, channel, 71, 8 + 1 + 1 + exchange.len() + 1 + routing_key.len() + 4);
    out.extend_from_slice(&delivery_tag.to_be_bytes());
    out.push(redelivered.into());
    put_shortstr(out, exchange);
    put_shortstr(out, routing_key);
    out.extend_from_slice(&message_count.to_be_bytes());
    out.push(END);
}

/// `basic.return`.
#[inline]
pub fn return_(
    channel: u16,
    reply_code: u16,
    reply_text: &[u8],
    exchange: &[u8],
    routing_key: &[u8],
    out: &mut Vec<u8>,
) {
    let (reply_text, exchange, routing_key) = (cut(reply_text), cut(exchange), cut(routing_key));
    begin(out, channel, 50, 2 + 1 + reply_text.len() + 1 + exchange.len() + 1 + routing_key.len());
    out.extend_from_slice(&reply_code.to_be_bytes());
    put_shortstr(out, reply_text);
    put_shortstr(out, exchange);
    put_shortstr(out, routing_key);
    out.push(END);
}

/// `basic.ack`.
#[inline]
pub fn ack(channel: u16, delivery_tag: u64, multiple: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&settle(channel, 80, delivery_tag, multiple.into()));
}

/// `basic.nack`.
#[inline]
pub fn nack(channel: u16, delivery_tag: u64, multiple: bool, requeue: bool, out: &mut Vec<u8>) {
    let bits = u8::from(multiple) | u8::from(requeue) << 1;
    out.extend_from_slice(&settle(channel, 120, delivery_tag, bits));
}

#[inline(always)]
fn settle(channel: u16, method: u16, delivery_tag: u64, bits: u8) -> [u8; 21] {
    let mut bytes = [0; 21];
    bytes[..11].copy_from_slice(&method_head(channel, method, 9));
    bytes[11..19].copy_from_slice(&delivery_tag.to_be_bytes());
    bytes[19] = bits;
    bytes[20] = END;
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;
    use proptest::prelude::*;

    fn short() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..300)
    }

    fn encoded(channel: u16, method: Method<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        method.encode(channel, &mut out);
        out
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    proptest! {
        #[test]
        fn the_short_ways_write_what_the_long_one_does(
            a in short(), b in short(), c in short(),
            channel in any::<u16>(), tag in any::<u64>(), count in any::<u32>(), code in any::<u16>(),
            x in any::<bool>(), y in any::<bool>(),
        ) {
            prop_assert_eq!(
                written(|out| publish(channel, &a, &b, x, y, out)),
                encoded(channel, Method::BasicPublish { exchange: &a, routing_key: &b, mandatory: x, immediate: y })
            );
            prop_assert_eq!(
                written(|out| deliver(channel, &a, tag, x, &b, &c, out)),
                encoded(channel, Method::BasicDeliver {
                    consumer_tag: &a, delivery_tag: tag, redelivered: x, exchange: &b, routing_key: &c,
                })
            );
            prop_assert_eq!(
                written(|out| get_ok(channel, tag, x, &a, &b, count, out)),
                encoded(channel, Method::BasicGetOk {
                    delivery_tag: tag, redelivered: x, exchange: &a, routing_key: &b, message_count: count,
                })
            );
            prop_assert_eq!(
                written(|out| return_(channel, code, &a, &b, &c, out)),
                encoded(channel, Method::BasicReturn {
                    reply_code: code, reply_text: &a, exchange: &b, routing_key: &c,
                })
            );
            prop_assert_eq!(
                written(|out| ack(channel, tag, x, out)),
                encoded(channel, Method::BasicAck { delivery_tag: tag, multiple: x })
            );
            prop_assert_eq!(
                written(|out| nack(channel, tag, x, y, out)),
                encoded(channel, Method::BasicNack { delivery_tag: tag, multiple: x, requeue: y })
            );
        }
    }
}
