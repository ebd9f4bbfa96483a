//! The topology of a run.

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_amqp_0_9_1::codec::table::{TableRef, encode_table};
use fulmar_core::{Name, Table, Value};

use crate::queues::{Argument, DEAD, QUEUES};
use crate::run::World;
use crate::talk::{Heard, Line, Talk as _};
use crate::wire::Wire;

impl World {
    /// Makes exchanges, queues and bindings, before anything goes wrong.
    pub fn declare(&mut self) {
        let mut wire = Wire::connect(&self.ways, self.broker.address, &mut self.random);
        let mut waiting = u32::MAX;
        while waiting > 0 {
            let mut heard = Vec::new();
            assert_eq!(wire.pump(usize::MAX >> 1, &mut heard), Line::Up);
            for heard in heard {
                match heard {
                    Heard::Ready => waiting = self.declarations(&mut wire),
                    Heard::Done => waiting -= 1,
                    heard => panic!("a declaration was answered by {heard:?}"),
                }
            }
            self.step();
        }
    }

    fn declarations(&mut self, wire: &mut Wire) -> u32 {
        let mut count = 0;
        let mut write = |method: &Method<'_>| {
            wire.write(method);
            count += 1;
        };
        for (exchange, kind) in [(&b"fan"[..], &b"fanout"[..]), (b"top", b"topic")] {
            write(&Method::ExchangeDeclare {
                exchange,
                type_: kind,
                passive: false,
                durable: self.store.is_some(),
                auto_delete: false,
                internal: false,
                no_wait: false,
                arguments: TableRef::EMPTY,
            });
        }
        for queue in &QUEUES {
            let mut arguments = Table::default();
            if self.random.chance(500_000) {
                let home = self.random.below(usize::from(self.shards)) as i32;
                arguments.set(b"x-fulmar-shard", Value::I32(home));
            }
            for (name, value) in queue.arguments {
                let value = match value {
                    Argument::Number(number) => Value::I32(*number),
                    Argument::Text(text) => Value::Text(Name::from(*text)),
                };
                arguments.set(name.as_bytes(), value);
            }
            if queue.dead_letters {
                arguments.set(b"x-dead-letter-exchange", Value::Text(Name::default()));
                arguments.set(b"x-dead-letter-routing-key", Value::Text(Name::from(QUEUES[DEAD].name)));
            }
            let mut encoded = Vec::new();
            encode_table(&arguments, &mut encoded);
            write(&Method::QueueDeclare {
                queue: queue.name.as_bytes(),
                passive: false,
                durable: self.store.is_some(),
                exclusive: false,
                auto_delete: false,
                no_wait: false,
                arguments: TableRef::new(&encoded),
            });
        }
        let no_wait = false;
        let arguments = TableRef::EMPTY;
        for queue in &QUEUES[..3] {
            let queue = queue.name.as_bytes();
            write(&Method::QueueBind { queue, exchange: b"fan", routing_key: b"", no_wait, arguments });
        }
        let (destination, source) = (b"fan", b"top");
        write(&Method::ExchangeBind { destination, source, routing_key: b"a.#", no_wait, arguments });
        write(&Method::QueueBind {
            queue: b"brief",
            exchange: b"top",
            routing_key: b"*.b.*",
            no_wait,
            arguments,
        });
        write(&Method::QueueBind {
            queue: b"plain",
            exchange: b"top",
            routing_key: b"#.c",
            no_wait,
            arguments,
        });
        count
    }
}
