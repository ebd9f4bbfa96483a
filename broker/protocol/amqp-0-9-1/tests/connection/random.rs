//! Whatever clients do, in whatever order and on whatever shards: nothing panics, and in the end nothing is left.

use fulmar_amqp_0_9_1::codec::{Method, Properties};
use proptest::prelude::*;

use crate::bench::{Client, Flags, Setup, World, publication};

const QUEUES: [&str; 3] = ["a", "b", "c"];
const TAGS: [&[u8]; 3] = [b"x", b"y", b"z"];

/// What to do, three choices for it, and whether.
type Op = (u8, u8, u8, bool);

fn act(world: &mut World, client: Client, (what, which, number, whether): Op) {
    let channel = 1 + u16::from(which & 1);
    let queue = QUEUES[usize::from(which / 2) % QUEUES.len()];
    let consumer_tag = TAGS[usize::from(number) % TAGS.len()];
    let delivery_tag = u64::from(number);
    let method = match what {
        0..=5 => {
            let exchange = if number % 16 == 15 { "nowhere" } else { "" };
            let key = if number % 16 == 14 { "nowhere" } else { queue };
            let properties = Properties { priority: Some(number), ..Properties::default() };
            // Some come in numbers, and alike but for their bodies.
            let copies = if number % 4 == 0 { 1 + number } else { 1 };
            let bytes: Vec<u8> = (0..copies)
                .flat_map(|n| {
                    let body = vec![n; usize::from(number) * 50];
                    publication(channel, exchange, key, whether, properties, &body)
                })
                .collect();
            return world.send_bytes(client, &bytes);
        }
        6 | 7 => {
            return world.send_consume(
                client,
                channel,
                queue,
                std::str::from_utf8(consumer_tag).unwrap(),
                whether,
                number == 0,
                &[],
            );
        }
        8 => Method::BasicCancel { consumer_tag, no_wait: whether },
        9 | 10 => Method::BasicAck { delivery_tag, multiple: whether },
        11 => Method::BasicNack { delivery_tag, multiple: whether, requeue: which & 2 != 0 },
        12 => Method::BasicReject { delivery_tag, requeue: whether },
        13 | 14 => Method::BasicGet { queue: queue.as_bytes(), no_ack: whether },
        15 => Method::BasicRecover { requeue: true },
        16 => Method::TxSelect,
        17 => Method::TxCommit,
        18 => Method::TxRollback,
        19 => Method::ConfirmSelect { no_wait: whether },
        20 => Method::QueuePurge { queue: queue.as_bytes(), no_wait: whether },
        21 => Method::QueueDelete {
            queue: queue.as_bytes(),
            if_unused: whether,
            if_empty: which & 1 != 0,
            no_wait: number & 1 != 0,
        },
        22 | 23 => {
            let flags = Flags { exclusive: number == 0, auto_delete: number == 1, ..Flags::default() };
            return world.send_declare(client, channel, queue, flags, &[]);
        }
        24 => Method::BasicQos { prefetch_size: 0, prefetch_count: number.into(), global: whether },
        25 => Method::ChannelFlow { active: whether },
        26 => Method::ChannelClose { reply_code: 200, reply_text: b"", class_id: 0, method_id: 0 },
        _ => return world.drop_client(client),
    };
    world.send(client, channel, method);
}

/// Answers closes and opens what is closed; a fresh client if this one is gone.
fn revive(world: &mut World, client: Client) -> Client {
    let mut open = [true; 3];
    while let Some(received) = world.next(client) {
        match received.method() {
            Method::ChannelClose { .. } => {
                world.send(client, received.channel, Method::ChannelCloseOk);
                open[usize::from(received.channel)] = false;
            }
            Method::ChannelCloseOk => open[usize::from(received.channel)] = false,
            Method::ConnectionClose { .. } => {
                world.send(client, 0, Method::ConnectionCloseOk);
                world.drop_client(client);
            }
            _ => {}
        }
    }
    if !world.is_there(client) {
        return fresh(world);
    }
    for channel in [1, 2] {
        if !open[usize::from(channel)] {
            world.send(client, channel, Method::ChannelOpen);
        }
    }
    client
}

fn fresh(world: &mut World) -> Client {
    let client = world.client();
    world.open(client, 2);
    client
}

fn setups() -> impl Strategy<Value = Setup> {
    prop_oneof![
        Just(Setup { shards: 1, here: 0, home: 0, shredded: false }),
        Just(Setup { shards: 2, here: 0, home: 1, shredded: false }),
        Just(Setup { shards: 2, here: 1, home: 0, shredded: false }),
        Just(Setup { shards: 3, here: 1, home: 2, shredded: false }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 5000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_nothing_is_left(
        setup in setups(),
        ops in prop::collection::vec((0usize..2, (0u8..28, 0u8..6, 0u8..20, any::<bool>())), 1..150),
    ) {
        let mut world = World::new(setup);
        let mut clients = [fresh(&mut world), fresh(&mut world)];
        for (who, op) in ops {
            act(&mut world, clients[who], op);
            for client in &mut clients {
                *client = revive(&mut world, *client);
            }
        }
        clients.into_iter().for_each(|client| world.drop_client(client));
        let cleaner = fresh(&mut world);
        for queue in QUEUES {
            let delete = Method::QueueDelete {
                queue: queue.as_bytes(),
                if_unused: false,
                if_empty: false,
                no_wait: false,
            };
            world.send(cleaner, 1, delete);
            let answer = world.receive(cleaner);
            prop_assert!(matches!(answer.method(), Method::QueueDeleteOk { .. }), "{answer:?}");
        }
        world.drop_client(cleaner);
        for shard in &world.shards {
            prop_assert_eq!(shard.memory_bytes(), 0);
        }
    }
}
