//! A client that makes and unmakes: queues, exchanges, bindings, consumers, under names that all gardeners share, so that
//! they get into each other's way on whatever shards. What it must never have to do is wait: each request is answered
//! or refused.

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_amqp_0_9_1::codec::table::{TableRef, encode_table};
use fulmar_core::{Table, Value};
use fulmar_transport::sim::Random;

use crate::run::Env;
use crate::talk::{Heard, Line, Marks, Talk as _};
use crate::wire::Wire;

const QUEUES: [&[u8]; 5] = [b"g0", b"g1", b"g2", b"g3", b"g4"];
const EXCHANGES: [&[u8]; 2] = [b"ge0", b"ge1"];
const TAGS: [&[u8]; 3] = [b"t0", b"t1", b"t2"];
/// Requests that wait for an answer at most.
const PIPELINE: u32 = 4;

pub struct Gardener {
    shards: usize,
    wire: Option<Wire>,
    ready: bool,
    /// Has asked for the end of the channel.
    closing: bool,
    /// The broker has ended the connection.
    expelled: bool,
    /// Requests that have not been answered.
    waiting: u32,
    /// Requests to make.
    left: u32,
    /// Queues and exchanges deleted at the end.
    cleared: usize,
    rest_steps: u32,
}

impl Gardener {
    pub fn new(shards: u8, requests: u32) -> Self {
        Gardener {
            shards: shards.into(),
            wire: None,
            ready: false,
            closing: false,
            expelled: false,
            waiting: 0,
            left: requests,
            cleared: 0,
            rest_steps: 0,
        }
    }

    /// Has made all its requests, and left nothing behind.
    pub fn is_done(&self) -> bool {
        self.cleared == QUEUES.len() + EXCHANGES.len() && self.wire.is_none()
    }

    /// Looks once more for what may be left.
    pub fn clear_again(&mut self) {
        self.cleared = 0;
    }

    pub fn step(&mut self, env: &mut Env<'_>) {
        if self.is_done() {
            return;
        }
        if self.rest_steps > 0 {
            self.rest_steps -= 1;
            return;
        }
        let Some(wire) = &mut self.wire else {
            self.wire = Some(Wire::connect(env.ways, env.address, env.random));
            return;
        };
        let mut heard = Vec::new();
        let line = wire.pump(1 << 16, &mut heard);
        for heard in heard {
            self.hear(heard, env);
        }
        if line == Line::Down || self.expelled || (env.chaos && env.random.chance(5_000)) {
            return self.lose(env.random);
        }
        while self.ready && self.waiting < PIPELINE && self.left > 0 && env.chaos {
            self.left -= 1;
            self.work(env.durable, env.random);
            if env.random.chance(500_000) {
                break;
            }
        }
        if self.ready && self.waiting == 0 && !env.chaos {
            self.clear();
        }
        if let Some(wire) = &mut self.wire {
            wire.send();
        }
        if env.random.chance(20_000) {
            self.rest_steps = env.random.below(50) as u32;
        }
    }

    fn hear(&mut self, heard: Heard, env: &mut Env<'_>) {
        let wire = self.wire.as_mut().expect("somebody was heard");
        match heard {
            Heard::Ready => self.ready = true,
            Heard::Message { fetched: false, .. } => {}
            Heard::Done | Heard::Cancelled | Heard::GetEmpty | Heard::Message { .. } => {
                self.waiting = self.waiting.checked_sub(1).expect("an answer that nobody asked for");
                env.ledger.report.tended += 1;
            }
            Heard::Closed => {
                assert!(std::mem::take(&mut self.closing), "the channel was not to be closed");
                wire.write(&Method::ChannelOpen);
            }
            // What else was under way goes unanswered with its channel.
            Heard::Refused { code, text } => {
                env.ledger.report.tended += 1;
                assert!([403, 404, 405, 406].contains(&code), "{code} {text}");
                (self.ready, self.waiting) = (false, 0);
                wire.write(&Method::ChannelCloseOk);
                // If both sides close, the broker's answer comes as well.
                if !self.closing {
                    wire.write(&Method::ChannelOpen);
                }
            }
            Heard::Expelled { code, text } => {
                assert_eq!((code, text.contains("consumer tag")), (530, true), "{text}");
                self.expelled = true;
            }
            heard => panic!("a gardener heard {heard:?}"),
        }
    }

    fn work(&mut self, durable: bool, random: &mut Random) {
        let wire = self.wire.as_mut().expect("it is ready");
        let queue = QUEUES[random.below(QUEUES.len())];
        let exchange = EXCHANGES[random.below(EXCHANGES.len())];
        let consumer_tag = TAGS[random.below(TAGS.len())];
        let (one, other) = (random.chance(300_000), random.chance(300_000));
        let durable = durable && random.chance(500_000);
        let (no_wait, arguments) = (false, TableRef::EMPTY);
        self.waiting += 1;
        match random.below(16) {
            0..4 => {
                let mut arguments = Table::default();
                if random.chance(700_000) {
                    arguments.set(b"x-fulmar-shard", Value::I32(random.below(self.shards) as i32));
                }
                let mut encoded = Vec::new();
                encode_table(&arguments, &mut encoded);
                wire.write(&Method::QueueDeclare {
                    queue,
                    passive: false,
                    durable,
                    exclusive: one,
                    auto_delete: other,
                    no_wait,
                    arguments: TableRef::new(&encoded),
                });
            }
            4 => wire.write(&Method::QueueDelete { queue, if_unused: one, if_empty: other, no_wait }),
            5 => wire.write(&Method::ExchangeDeclare {
                exchange,
                type_: b"direct",
                passive: false,
                durable,
                auto_delete: true,
                internal: false,
                no_wait,
                arguments,
            }),
            6 => wire.write(&Method::ExchangeDelete { exchange, if_unused: one, no_wait }),
            7 if one => wire.write(&Method::ExchangeBind {
                destination: EXCHANGES[random.below(EXCHANGES.len())],
                source: exchange,
                routing_key: b"k",
                no_wait,
                arguments,
            }),
            7 => wire.write(&Method::QueueBind { queue, exchange, routing_key: b"k", no_wait, arguments }),
            8 => wire.write(&Method::QueueUnbind { queue, exchange, routing_key: b"k", arguments }),
            9..11 => wire.write(&Method::BasicConsume {
                queue,
                consumer_tag,
                no_local: false,
                no_ack: one,
                exclusive: other,
                no_wait,
                arguments,
            }),
            11 => wire.write(&Method::BasicCancel { consumer_tag, no_wait }),
            12 => wire.write(&Method::BasicGet { queue, no_ack: one }),
            13 => wire.write(&Method::QueuePurge { queue, no_wait }),
            14 => {
                (self.ready, self.closing) = (false, true);
                self.waiting -= 1;
                wire.write(&Method::ChannelClose {
                    reply_code: 200,
                    reply_text: b"",
                    class_id: 0,
                    method_id: 0,
                });
            }
            _ => {
                self.waiting -= 1;
                let (exchange, key) = if one { ("ge0", "k") } else { ("", str::from_utf8(queue).unwrap()) };
                // An exchange that is not there ends the channel, unasked.
                (0..random.below(20)).for_each(|_| wire.publish(exchange, key, &Marks::default(), b"seed"));
                wire.write(&Method::BasicAck { delivery_tag: 0, multiple: true });
            }
        }
    }

    /// Deletes the next of what there may be; leaves after the last.
    fn clear(&mut self) {
        let wire = self.wire.as_mut().expect("it is ready");
        let (if_unused, no_wait) = (false, false);
        if let Some(&queue) = QUEUES.get(self.cleared) {
            wire.write(&Method::QueueDelete { queue, if_unused, if_empty: false, no_wait });
        } else if let Some(&exchange) = EXCHANGES.get(self.cleared - QUEUES.len()) {
            wire.write(&Method::ExchangeDelete { exchange, if_unused, no_wait });
        } else {
            (self.wire, self.ready) = (None, false);
            return;
        }
        self.cleared += 1;
        self.waiting = 1;
    }

    fn lose(&mut self, random: &mut Random) {
        if let Some(wire) = self.wire.take() {
            Box::new(wire).reset();
        }
        (self.ready, self.closing, self.expelled, self.waiting) = (false, false, false, 0);
        self.rest_steps = random.below(20) as u32;
    }
}
