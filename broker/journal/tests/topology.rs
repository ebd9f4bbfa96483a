//! Whatever is declared comes back as it was: through the encoding, through a restart, and through another one.

use std::sync::Arc;

use fulmar_core::journal::StoreKey;
use fulmar_core::mesh::Wake;
use fulmar_core::request::{
    AlertThresholds, DestinationKind, ExchangeOptions, FlowThresholds, Lifetime, Overflow, QueueEvents,
    QueueOptions, Rules,
};
use fulmar_core::topology::{StoredBinding, StoredChange};
use fulmar_core::{Limits, Name, Shard, ShardConfig, ShardId, Table, Value, mesh_for};
use fulmar_journal::topology::{decode, encode};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

const CASES: u32 = if cfg!(miri) { 4 } else { 256 };

struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

fn shard() -> Shard {
    let limits = Limits::default();
    let end = mesh_for(vec![Arc::new(NoWaker)], &limits).remove(0);
    let vhosts = vec![Name::from("/"), Name::from("other")];
    Shard::new(ShardConfig { id: ShardId(0), shards: 1, limits, vhosts, seed: 1 }, end)
}

fn name() -> impl Strategy<Value = Name> {
    // Names need not be UTF-8.
    vec(any::<u8>(), 0..12).prop_map(|bytes| Name::from(&bytes[..]))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Void),
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::U64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        (any::<u8>(), any::<i32>()).prop_map(|(scale, digits)| Value::Decimal(scale, digits)),
        name().prop_map(Value::Text),
        name().prop_map(Value::Bytes),
        any::<u64>().prop_map(Value::Timestamp),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((name(), inner), 0..4).prop_map(|fields| Value::Table(Table(fields))),
        ]
    })
}

fn table() -> impl Strategy<Value = Table> {
    // Names may come twice.
    vec((prop_oneof![Just(Name::from("x-a")), name()], value()), 0..4).prop_map(Table)
}

fn flags() -> impl Strategy<Value = QueueOptions> {
    let (lifetime, overflow, events) = (
        prop::sample::select(vec![Lifetime::Unused, Lifetime::UnusedAndEmpty, Lifetime::Creator]),
        prop::sample::select(vec![
            Overflow::DropHead,
            Overflow::RejectPublish,
            Overflow::RejectPublishDeadLetter,
            Overflow::Reject,
            Overflow::Ring,
            Overflow::RingStrict,
            Overflow::SelfDestruct,
            Overflow::FlowToDisk,
        ]),
        prop::sample::select(vec![QueueEvents::None, QueueEvents::Enqueue, QueueEvents::EnqueueAndDequeue]),
    );
    (vec(any::<bool>(), 10), lifetime, overflow, events).prop_map(|(flags, lifetime, overflow, events)| {
        QueueOptions {
            durable: flags[0],
            exclusive: flags[1],
            outlives_owner: flags[2],
            auto_delete: flags[3],
            shared_groups: flags[4],
            single_active_consumer: flags[5],
            browse_only: flags[6],
            no_local: flags[7],
            paging: flags[8],
            persist_last_node: flags[9],
            lifetime,
            overflow,
            events,
            ..QueueOptions::default()
        }
    })
}

fn queue_options() -> impl Strategy<Value = QueueOptions> {
    let numbers = (any::<u64>(), vec(of(any::<u64>()), 13), of(any::<u8>()), any::<u8>(), of(any::<u8>()));
    let names = vec(of(name()), 7);
    let shares = of(vec(any::<u32>(), 1..5));
    (flags(), numbers, names, shares, table()).prop_map(|(flags, numbers, names, shares, arguments)| {
        let (auto_delete_delay_ms, counts, max_priority, lowest_priority, home) = numbers;
        let mut names = names.into_iter();
        let mut next = || names.next().expect("there are as many");
        QueueOptions {
            auto_delete_delay_ms,
            message_ttl_ms: counts[0],
            expires_ms: counts[1],
            max_length: counts[2],
            max_length_bytes: counts[3],
            flow: FlowThresholds {
                stop_messages: counts[4],
                resume_messages: counts[5],
                stop_bytes: counts[6],
                resume_bytes: counts[7],
            },
            alerts: AlertThresholds {
                messages_up: counts[8],
                messages_down: counts[9],
                bytes_up: counts[10],
                bytes_down: counts[11],
                repeat_gap_s: counts[12],
            },
            max_priority,
            lowest_priority,
            home,
            dead_letter_exchange: next(),
            dead_letter_routing_key: next(),
            alternate: next(),
            last_value_key: next(),
            group_key: next(),
            sequence_header: next(),
            filter: next(),
            fairshare: shares.map(Arc::from),
            arguments,
            ..flags
        }
    })
}

fn exchange_options() -> impl Strategy<Value = ExchangeOptions> {
    let kind = prop::sample::select(vec!["direct", "fanout", "topic"]);
    (kind, vec(any::<bool>(), 3), of(name()), table()).prop_map(|(kind, flags, alternate, arguments)| {
        ExchangeOptions {
            kind: kind.into(),
            durable: flags[0],
            auto_delete: flags[1],
            internal: flags[2],
            alternate,
            arguments,
        }
    })
}

/// Names come with a number, so that no two are the same.
fn numbered(name: &Name, number: usize) -> Name {
    Name::from(&[name.as_bytes(), number.to_string().as_bytes()].concat()[..])
}

/// Where an exchange holds messages back.
fn hold(key: StoreKey, vhost: &Name, exchange: &Name) -> StoredChange {
    let (vhost, name) = (vhost.clone(), exchange.clone());
    let options = Box::new(QueueOptions { durable: true, holds_back: true, ..QueueOptions::default() });
    StoredChange::QueueDeclared { key, vhost, name, home: 0, options }
}

/// Changes that make something from nothing.
fn made() -> impl Strategy<Value = Vec<StoredChange>> {
    let exchanges = vec((name(), exchange_options(), any::<bool>()), 1..4);
    let queues = vec((name(), queue_options()), 1..4);
    let bindings = vec((any::<usize>(), any::<bool>(), any::<usize>(), name(), table(), any::<bool>()), 0..6);
    (exchanges, queues, bindings, any::<bool>()).prop_map(|(exchanges, queues, bindings, is_other)| {
        let vhost = Name::from(if is_other { "other" } else { "/" });
        let (mut changes, mut holds) = (Vec::new(), Vec::new());
        for (n, (name, options, is_delaying)) in exchanges.iter().enumerate() {
            let (vhost, name) = (vhost.clone(), numbered(name, n));
            let mut options = ExchangeOptions { durable: true, ..options.clone() };
            if *is_delaying {
                let kind = std::mem::replace(&mut options.kind, "x-delayed-message".into());
                options.arguments.0.insert(0, ("x-delayed-type".into(), Value::Text(kind)));
                holds.push(hold(StoreKey((queues.len() + n) as u64 + 1), &vhost, &name));
            }
            changes.push(StoredChange::ExchangeDeclared { vhost, name, options });
        }
        for (n, (name, options)) in queues.iter().enumerate() {
            let (vhost, name, key) = (vhost.clone(), numbered(name, n), StoreKey(n as u64 + 1));
            let options = Box::new(options.clone());
            changes.push(StoredChange::QueueDeclared { key, vhost, name, home: 0, options });
        }
        changes.append(&mut holds);
        for (n, (source, is_queue, destination, key, arguments, is_0_10)) in bindings.iter().enumerate() {
            let source = source % exchanges.len();
            let (kind, destination) = match is_queue {
                true => {
                    let at = destination % queues.len();
                    (DestinationKind::Queue, numbered(&queues[at].0, at))
                }
                false => {
                    let at = destination % exchanges.len();
                    (DestinationKind::Exchange, numbered(&exchanges[at].0, at))
                }
            };
            changes.push(StoredChange::Bound(StoredBinding {
                vhost: vhost.clone(),
                source: numbered(&exchanges[source].0, source),
                destination,
                kind,
                key: numbered(key, n),
                arguments: arguments.clone(),
                rules: if *is_0_10 { Rules::Amqp010 } else { Rules::Amqp091 },
            }));
        }
        changes
    })
}

/// The same, to be compared: in another order than the one in which they can be made.
fn sorted(changes: &[StoredChange]) -> Vec<String> {
    let is_thing = |change: &&StoredChange| !matches!(change, StoredChange::KeysGiven { .. });
    let mut texts: Vec<String> =
        changes.iter().filter(is_thing).map(|change| format!("{change:?}")).collect();
    texts.sort();
    texts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_declared_is_there_after_restarts(changes in made()) {
        let read = decode(&encode(&changes)).unwrap();
        prop_assert_eq!(&read, &changes);
        let mut first = shard();
        first.restore_topology(&read).unwrap();
        let whole = first.topology_changes();
        prop_assert_eq!(sorted(&whole), sorted(&changes));
        let mut second = shard();
        second.restore_topology(&decode(&encode(&whole)).unwrap()).unwrap();
        prop_assert_eq!(second.topology_changes(), whole);
    }

    #[test]
    fn what_is_damaged_is_refused_or_read_and_nothing_worse(changes in made(), at in any::<usize>(), byte: u8) {
        let mut payload = encode(&changes);
        let at = at % payload.len();
        payload[at] = byte;
        let _ = decode(&payload);
        let _ = decode(&payload[..at]);
    }
}

#[test]
fn numbers_that_are_none_stay_what_they_are() {
    let bits = 0x7ff8_0000_dead_beef;
    let arguments = Table(vec![("n".into(), Value::F64(f64::from_bits(bits)))]);
    let options = ExchangeOptions { arguments, ..ExchangeOptions::default() };
    let change = StoredChange::ExchangeDeclared { vhost: "/".into(), name: "e".into(), options };
    let read = decode(&encode(&[change])).unwrap();
    let [StoredChange::ExchangeDeclared { options, .. }] = &read[..] else { panic!("{read:?}") };
    assert!(matches!(options.arguments.get(b"n"), Some(Value::F64(number)) if number.to_bits() == bits));
}

/// A restart has to find what brokers before wrote: this is what they write.
#[test]
fn the_encoding_stays_as_it_is() {
    let options = ExchangeOptions {
        kind: "topic".into(),
        durable: true,
        arguments: Table(vec![("x".into(), Value::I8(-1))]),
        ..ExchangeOptions::default()
    };
    let changes = [
        StoredChange::KeysGiven { below: StoreKey(3) },
        StoredChange::ExchangeDeclared { vhost: "/".into(), name: "e".into(), options },
        StoredChange::QueueDeleted { key: StoreKey(2) },
        StoredChange::QueueLeft { key: StoreKey(2) },
    ];
    let text: String = encode(&changes).iter().flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
    assert_eq!(
        text,
        concat!(
            r"\x94\x81\xaakeys-given\x81\xa5below\x03",
            r"\x81\xb1exchange-declared\x83\xa5vhost\xc4\x01/\xa4name\xc4\x01e\xa7options\x86\xa4kind\xc4\x05topic",
            r"\xa7durable\xc3\xabauto_delete\xc2\xa8internal\xc2\xa9alternate\xc0",
            r"\xa9arguments\x91\x92\xc4\x01x\x81\xa2i8\xff",
            r"\x81\xadqueue-deleted\x81\xa3key\x02",
            r"\x81\xaaqueue-left\x81\xa3key\x02",
        )
    );
}
