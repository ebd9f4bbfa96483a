//! Consumers, settling, prefetch, replies.

use fulmar_amqp_0_9_1::codec::{Method, Properties};
use fulmar_core::Value;
use fulmar_protocol::Connection as _;

use crate::bench::{Client, Flags, World, each, publication, text};

fn with_queue(world: &mut World) -> Client {
    let client = world.client();
    world.declare(client, 1, "q", &[]);
    client
}

fn qos(world: &mut World, client: Client, prefetch_count: u16, global: bool) {
    world.send(client, 1, Method::BasicQos { prefetch_size: 0, prefetch_count, global });
    world.expect(client, 1, Method::BasicQosOk);
}

#[test]
fn messages_are_delivered_in_order_and_settled() {
    each(|world| {
        let client = with_queue(world);
        let bytes: Vec<u8> = (0..20)
            .flat_map(|n: u32| {
                publication(1, "", "q", false, Properties::default(), n.to_string().as_bytes())
            })
            .collect();
        world.send_bytes(client, &bytes);
        world.consume(client, 1, "q", "c", false);
        for number in 0..20 {
            let received = world.receive(client);
            let expected = Method::BasicDeliver {
                consumer_tag: b"c",
                delivery_tag: number + 1,
                redelivered: false,
                exchange: b"",
                routing_key: b"q",
            };
            assert_eq!((received.method(), received.text()), (expected, number.to_string()));
        }
        world.ack(client, 1, 5, true);
        world.ack(client, 1, 7, false);
        world.send(client, 1, Method::BasicReject { delivery_tag: 8, requeue: false });
        world.send(client, 1, Method::BasicNack { delivery_tag: 20, multiple: true, requeue: true });
        // 6, 9 … 20 come again, in order.
        let again: Vec<String> = (0..13)
            .map(|_| world.delivery(client))
            .map(|(_, again, body)| {
                assert!(again);
                body
            })
            .collect();
        let expected: Vec<String> =
            [5].into_iter().chain(8..20).map(|number: u32| number.to_string()).collect();
        assert_eq!(again, expected);
        world.ack(client, 1, 0, true);
        world.expect_nothing(client);
        assert_eq!(world.counts(client, 1, "q"), (0, 1));
    });
}

#[test]
fn unknown_delivery_tags_end_the_channel() {
    each(|world| {
        let client = with_queue(world);
        world.ack(client, 1, 0, true);
        world.expect_nothing(client);
        let refusal = "PRECONDITION_FAILED - unknown delivery tag";
        world.ack(client, 1, 1, false);
        world.expect_refusal(client, 406, &format!("{refusal} 1"));
        world.ack(client, 1, 0, false);
        world.expect_refusal(client, 406, &format!("{refusal} 0"));
        world.publish(client, 1, "", "q", "m");
        world.get(client, 1, "q", false);
        world.ack(client, 1, 2, true);
        world.expect_refusal(client, 406, &format!("{refusal} 2"));
        // What the channel held is there again.
        let got = world.get(client, 1, "q", false);
        assert!(matches!(got.method(), Method::BasicGetOk { delivery_tag: 1, redelivered: true, .. }));
        world.ack(client, 1, 1, false);
        world.ack(client, 1, 1, false);
        world.expect_refusal(client, 406, &format!("{refusal} 1"));
    });
}

#[test]
fn get_counts_what_is_left() {
    each(|world| {
        let client = with_queue(world);
        world.publish(client, 1, "", "q", "a");
        world.publish(client, 1, "", "q", "b");
        let got = world.get(client, 1, "q", true);
        assert!(matches!(got.method(), Method::BasicGetOk { message_count: 1, .. }), "{got:?}");
        world.get(client, 1, "q", true);
        assert_eq!(world.get(client, 1, "q", true).method(), Method::BasicGetEmpty);
        world.send(client, 1, Method::BasicGet { queue: b"none", no_ack: true });
        world.expect_refusal(client, 404, "NOT_FOUND - no queue 'none' in vhost '/'");
    });
}

#[test]
fn what_a_lost_client_held_is_delivered_to_others() {
    each(|world| {
        let client = with_queue(world);
        (0..3).for_each(|number| world.publish(client, 1, "", "q", &number.to_string()));
        world.consume(client, 1, "q", "c", false);
        (0..3).for_each(|number| assert_eq!(world.delivery(client).2, number.to_string()));
        let other = world.client();
        world.consume(other, 1, "q", "c", false);
        world.expect_nothing(other);
        world.drop_client(client);
        for number in 0..3 {
            assert_eq!(world.delivery(other), (number + 1, true, number.to_string()));
        }
    });
}

#[test]
fn prefetch_of_a_consumer_holds_messages_back() {
    each(|world| {
        let client = with_queue(world);
        qos(world, client, 2, false);
        world.consume(client, 1, "q", "c", false);
        (0..4).for_each(|number| world.publish(client, 1, "", "q", &number.to_string()));
        assert_eq!(world.delivery(client).2, "0");
        assert_eq!(world.delivery(client).2, "1");
        world.expect_nothing(client);
        world.ack(client, 1, 1, false);
        assert_eq!(world.delivery(client).2, "2");
        world.expect_nothing(client);
    });
}

#[test]
fn prefetch_of_a_channel_holds_for_all_its_consumers() {
    each(|world| {
        let client = with_queue(world);
        world.declare(client, 1, "p", &[]);
        qos(world, client, 3, true);
        world.consume(client, 1, "q", "c", false);
        world.consume(client, 1, "p", "d", false);
        for _ in 0..3 {
            world.publish(client, 1, "", "q", "m");
            world.publish(client, 1, "", "p", "m");
        }
        (0..3).for_each(|_| drop(world.delivery(client)));
        world.expect_nothing(client);
        world.ack(client, 1, 0, true);
        (0..3).for_each(|_| drop(world.delivery(client)));
        world.expect_nothing(client);
    });
}

#[test]
fn prefetch_in_bytes_is_not_implemented() {
    each(|world| {
        let client = world.client();
        world.send(client, 1, Method::BasicQos { prefetch_size: 9, prefetch_count: 1, global: false });
        world.expect_connection_error(client, 540, "NOT_IMPLEMENTED - prefetch_size!=0 (9)");
    });
}

#[test]
fn consumer_tags_are_made_up_and_unique() {
    each(|world| {
        let client = with_queue(world);
        world.send_consume(client, 1, "q", "", true, false, &[]);
        let first = world.receive(client);
        let Method::BasicConsumeOk { consumer_tag } = first.method() else { panic!("{first:?}") };
        assert!(consumer_tag.starts_with(b"amq.ctag-"));
        world.send_consume(client, 1, "q", "", true, false, &[]);
        assert_ne!(world.receive(client), first);
        world.consume(client, 1, "q", "mine", true);
        world.send_consume(client, 1, "q", "mine", true, false, &[]);
        world.expect_connection_error(client, 530, "NOT_ALLOWED - attempt to reuse consumer tag 'mine'");
    });
}

#[test]
fn cancelling_ends_deliveries_and_keeps_what_was_delivered() {
    each(|world| {
        let client = with_queue(world);
        world.consume(client, 1, "q", "c", false);
        world.publish(client, 1, "", "q", "a");
        world.delivery(client);
        world.send(client, 1, Method::BasicCancel { consumer_tag: b"c", no_wait: false });
        world.expect(client, 1, Method::BasicCancelOk { consumer_tag: b"c" });
        world.publish(client, 1, "", "q", "b");
        world.expect_nothing(client);
        world.ack(client, 1, 1, false);
        world.expect_nothing(client);
        // One that is not there is cancelled all the same; the tag can be used again.
        world.send(client, 1, Method::BasicCancel { consumer_tag: b"c", no_wait: false });
        world.expect(client, 1, Method::BasicCancelOk { consumer_tag: b"c" });
        world.consume(client, 1, "q", "c", false);
        assert_eq!(world.delivery(client).2, "b");
    });
}

#[test]
fn exclusive_consumers_are_alone() {
    each(|world| {
        let client = with_queue(world);
        world.open(client, 2);
        world.consume(client, 2, "q", "c", true);
        let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
        world.send_consume(client, 1, "q", "e", true, true, &[]);
        world.expect_refusal(client, 403, text);
        world.send(client, 2, Method::BasicCancel { consumer_tag: b"c", no_wait: false });
        world.receive(client);
        world.send_consume(client, 2, "q", "e", true, true, &[]);
        world.expect(client, 2, Method::BasicConsumeOk { consumer_tag: b"e" });
        world.send_consume(client, 1, "q", "f", true, false, &[]);
        world.expect_refusal(client, 403, text);
    });
}

#[test]
fn consumer_arguments_are_checked() {
    each(|world| {
        let client = with_queue(world);
        let accepted = [("x-priority", Value::I32(10)), ("x-cancel-on-ha-failover", Value::Bool(true))];
        world.send_consume(client, 1, "q", "c", true, false, &accepted);
        world.expect(client, 1, Method::BasicConsumeOk { consumer_tag: b"c" });
        world.send_consume(client, 1, "q", "d", true, false, &[("x-priority", text("high"))]);
        let text = "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \
                    {unacceptable_type,longstr}";
        world.expect_refusal(client, 406, text);
        world.send_consume(client, 1, "none", "d", true, false, &[]);
        world.expect_refusal(client, 404, "NOT_FOUND - no queue 'none' in vhost '/'");
    });
}

#[test]
fn a_channel_has_only_so_many_consumers() {
    let mut world = World::new(crate::bench::Setup { shards: 1, here: 0, home: 0, shredded: false });
    world.config.max_consumers_per_channel = 2;
    let client = with_queue(&mut world);
    world.consume(client, 1, "q", "a", true);
    world.consume(client, 1, "q", "b", true);
    world.send_consume(client, 1, "q", "c", true, false, &[]);
    let text = "NOT_ALLOWED - reached maximum (2) of consumers per channel";
    world.expect_connection_error(client, 530, text);
}

#[test]
fn consumers_learn_that_their_queue_is_gone() {
    each(|world| {
        let client = with_queue(world);
        let deaf = world.connect_with(&[]);
        world.open(deaf, 1);
        world.consume(client, 1, "q", "c", true);
        world.consume(deaf, 1, "q", "c", true);
        let other = world.client();
        let delete = Method::QueueDelete { queue: b"q", if_unused: false, if_empty: false, no_wait: false };
        world.send(other, 1, delete);
        world.expect(other, 1, Method::QueueDeleteOk { message_count: 0 });
        world.expect(client, 1, Method::BasicCancel { consumer_tag: b"c", no_wait: true });
        world.expect_nothing(deaf);
        // The tag is free.
        world.declare(client, 1, "q", &[]);
        world.consume(client, 1, "q", "c", true);
    });
}

#[test]
fn recover_gives_everything_back() {
    each(|world| {
        let client = with_queue(world);
        (0..3).for_each(|number| world.publish(client, 1, "", "q", &number.to_string()));
        world.consume(client, 1, "q", "c", false);
        (0..3).for_each(|_| drop(world.delivery(client)));
        world.ack(client, 1, 2, false);
        world.send(client, 1, Method::BasicRecover { requeue: true });
        world.expect(client, 1, Method::BasicRecoverOk);
        assert_eq!(world.delivery(client), (4, true, "0".to_owned()));
        assert_eq!(world.delivery(client), (5, true, "2".to_owned()));
        world.send(client, 1, Method::BasicRecoverAsync { requeue: true });
        assert_eq!(world.delivery(client), (6, true, "0".to_owned()));
        world.delivery(client);
        world.send(client, 1, Method::BasicRecover { requeue: false });
        world.expect_connection_error(client, 540, "NOT_IMPLEMENTED - requeue=false");
    });
}

#[test]
fn auto_delete_queues_go_with_their_last_consumer() {
    each(|world| {
        let client = world.client();
        world.send_declare(client, 1, "q", Flags { auto_delete: true, ..Flags::default() }, &[]);
        world.receive(client);
        world.consume(client, 1, "q", "c", true);
        world.send(client, 1, Method::BasicCancel { consumer_tag: b"c", no_wait: false });
        world.expect(client, 1, Method::BasicCancelOk { consumer_tag: b"c" });
        world.send_declare(client, 1, "q", Flags { passive: true, ..Flags::default() }, &[]);
        world.expect_refusal(client, 404, "NOT_FOUND - no queue 'q' in vhost '/'");
    });
}

const REPLY_QUEUE: &str = "amq.rabbitmq.reply-to";

#[test]
fn replies_come_back_without_a_declared_queue() {
    each(|world| {
        let client = world.client();
        let server = with_queue(world);
        world.consume(server, 1, "q", "requests", true);
        world.consume(client, 1, REPLY_QUEUE, "replies", true);
        let properties = Properties { reply_to: Some(REPLY_QUEUE.as_bytes()), ..Properties::default() };
        let with_id = Properties { correlation_id: Some(b"42"), ..properties };
        world.publish_with(client, 1, "", "q", with_id, "question");
        let question = world.receive(server);
        assert_eq!(question.text(), "question");
        let reply_to = question.properties().reply_to.unwrap().to_vec();
        let reply_to = String::from_utf8(reply_to).unwrap();
        assert_ne!(reply_to, REPLY_QUEUE);
        assert!(reply_to.len() > 20, "{reply_to}");
        assert_eq!(question.properties().correlation_id, Some(&b"42"[..]));
        // Who serves can look whether the client is still there.
        assert_eq!(world.counts(server, 1, &reply_to), (0, 1));
        world.publish(server, 1, "", &reply_to, "answer");
        assert_eq!(world.delivery(client).2, "answer");
        // Nobody else consumes from it.
        world.send_consume(server, 1, &reply_to, "spy", true, false, &[]);
        assert!(matches!(world.receive(server).method(), Method::ChannelClose { reply_code: 403, .. }));
        world.send(server, 1, Method::ChannelCloseOk);
        world.open(server, 1);
        // It goes with its consumer.
        world.send(client, 1, Method::BasicCancel { consumer_tag: b"replies", no_wait: false });
        world.expect(client, 1, Method::BasicCancelOk { consumer_tag: b"replies" });
        world.publish_mandatory(server, 1, "", &reply_to, "late");
        assert!(matches!(world.receive(server).method(), Method::BasicReturn { .. }));
        world.publish_with(client, 1, "", "q", properties, "question");
        let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
        world.expect_refusal(client, 406, text);
    });
}

#[test]
fn the_reply_queue_has_its_rules() {
    each(|world| {
        let client = world.client();
        world.send_consume(client, 1, REPLY_QUEUE, "c", false, false, &[]);
        let text = "PRECONDITION_FAILED - reply consumer cannot acknowledge";
        world.expect_refusal(client, 406, text);
        world.consume(client, 1, REPLY_QUEUE, "c", true);
        world.send_declare(client, 1, REPLY_QUEUE, Flags { passive: true, ..Flags::default() }, &[]);
        let queue = REPLY_QUEUE.as_bytes();
        world.expect(client, 1, Method::QueueDeclareOk { queue, message_count: 0, consumer_count: 1 });
        world.send_consume(client, 1, REPLY_QUEUE, "d", true, false, &[]);
        world.expect_refusal(client, 406, "PRECONDITION_FAILED - reply consumer already set");
        // The channel's end freed it.
        world.consume(client, 1, REPLY_QUEUE, "c", true);
    });
}

#[test]
fn a_client_that_does_not_read_is_waited_for() {
    each(|world| {
        let client = with_queue(world);
        world.consume(client, 1, "q", "c", true);
        let id = world.connection(client).id();
        world.with(client, |_, cx| cx.shard.set_writable(id, false));
        let publisher = world.client();
        let one = publication(1, "", "q", false, Properties::default(), &[7; 10_000]);
        (0..100).for_each(|_| world.send_bytes(publisher, &one));
        let (ready, _) = world.counts(publisher, 1, "q");
        assert!(ready > 50, "{:?}: {ready} messages wait in the queue", world.setup);
        world.with(client, |_, cx| cx.shard.set_writable(id, true));
        (0..100).for_each(|_| drop(world.delivery(client)));
    });
}

#[test]
fn tags_are_found_whatever_came_between() {
    each(|world| {
        let client = with_queue(world);
        world.declare(client, 1, "p", &[]);
        world.consume(client, 1, "q", "acked", false);
        world.consume(client, 1, "p", "not", true);
        for _ in 0..10 {
            world.publish(client, 1, "", "q", "m");
            world.publish(client, 1, "", "p", "m");
        }
        let tags: Vec<u64> = (0..20)
            .filter_map(|_| {
                let received = world.receive(client);
                match received.method() {
                    Method::BasicDeliver { consumer_tag: b"acked", delivery_tag, .. } => Some(delivery_tag),
                    _ => None,
                }
            })
            .collect();
        assert_eq!(tags.len(), 10);
        tags.iter().rev().step_by(2).for_each(|&tag| world.ack(client, 1, tag, false));
        tags.iter().step_by(2).for_each(|&tag| world.ack(client, 1, tag, false));
        world.expect_nothing(client);
        assert_eq!(world.counts(client, 1, "q"), (0, 1));
    });
}
