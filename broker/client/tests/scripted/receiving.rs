//! Consumers, deliveries, settling, fetching.

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_client::{ConsumeOptions, Error, Options};

use crate::both;
use crate::peer::connected;

fn options() -> Options {
    Options::default().without_reconnect()
}

fn consume(tag: &str) -> ConsumeOptions {
    ConsumeOptions { consumer_tag: tag.into(), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn deliveries_come_whole_and_are_settled() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        channel.set_prefetch(10).await.unwrap();
        let mut consumer = channel.consume("q", consume("c")).await.unwrap();
        for (tag, body) in [(1, &b"in three frames"[..]), (2, b""), (3, b"x"), (4, b"x"), (5, b"x")] {
            let delivery = consumer.next().await.unwrap().unwrap();
            assert_eq!((delivery.delivery_tag(), delivery.body()), (tag, body));
            assert_eq!((&*delivery.exchange(), &*delivery.routing_key()), ("x", "k"));
            match tag {
                1 => delivery.ack(),
                2 => delivery.ack_multiple(),
                3 => delivery.nack(true),
                4 => delivery.nack_multiple(false),
                _ => delivery.reject(true),
            }
            .unwrap();
        }
        consumer.cancel().await.unwrap();
        assert!(consumer.next().await.is_none());
    };
    let script = async {
        let id = peer.open_channel().await;
        let frame = peer.answer("basic.qos", Method::BasicQosOk).await;
        let expected = Method::BasicQos { prefetch_size: 0, prefetch_count: 10, global: false };
        assert_eq!(frame.method(), expected);
        peer.answer("basic.consume", Method::BasicConsumeOk { consumer_tag: b"c" }).await;
        let method = Method::BasicDeliver {
            consumer_tag: b"c",
            delivery_tag: 1,
            redelivered: true,
            exchange: b"x",
            routing_key: b"k",
        };
        peer.send_content(id, method, b"in three frames", 14).await;
        for tag in 2..=5 {
            peer.deliver(id, "c", tag, if tag == 2 { b"" } else { b"x" }).await;
        }
        let settled = [
            Method::BasicAck { delivery_tag: 1, multiple: false },
            Method::BasicAck { delivery_tag: 2, multiple: true },
            Method::BasicNack { delivery_tag: 3, multiple: false, requeue: true },
            Method::BasicNack { delivery_tag: 4, multiple: true, requeue: false },
            Method::BasicReject { delivery_tag: 5, requeue: true },
        ];
        for expected in settled {
            assert_eq!(peer.frame().await.unwrap().method(), expected);
        }
        peer.answer("basic.cancel", Method::BasicCancelOk { consumer_tag: b"c" }).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn deliveries_go_to_their_own_consumer_and_none_is_too_early() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let (a, b) = tokio::join!(channel.consume("q", consume("a")), channel.consume("r", consume("b")));
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        assert_eq!(b.next().await.unwrap().unwrap().body(), b"for b");
        assert_eq!(a.next().await.unwrap().unwrap().body(), b"for a");
        assert!(matches!(channel.consume("q", consume("a")).await, Err(Error::Argument(_))));
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.expect("basic.consume").await;
        peer.expect("basic.consume").await;
        peer.send(id, Method::BasicConsumeOk { consumer_tag: b"a" }).await;
        peer.deliver(id, "a", 1, b"for a").await;
        peer.deliver(id, "b", 2, b"for b").await;
        peer.send(id, Method::BasicConsumeOk { consumer_tag: b"b" }).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_learns_why_it_ended() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let mut cancelled = channel.consume("q", consume("a")).await.unwrap();
        let mut closed = channel.consume("q", consume("b")).await.unwrap();
        assert!(matches!(cancelled.next().await, Some(Err(Error::Cancelled))));
        assert!(cancelled.next().await.is_none());
        assert!(matches!(closed.next().await, Some(Err(Error::ChannelClosed { code: 406, .. }))));
        assert!(closed.next().await.is_none());
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.answer("basic.consume", Method::BasicConsumeOk { consumer_tag: b"a" }).await;
        peer.answer("basic.consume", Method::BasicConsumeOk { consumer_tag: b"b" }).await;
        peer.send(id, Method::BasicCancel { consumer_tag: b"a", no_wait: true }).await;
        let close = Method::ChannelClose { reply_code: 406, reply_text: b"", class_id: 0, method_id: 0 };
        peer.send(id, close).await;
        peer.expect("channel.close-ok").await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_is_cancelled_and_its_channel_lives() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        drop(channel.consume("q", ConsumeOptions::no_ack()).await.unwrap());
        channel.check_exchange("x").await.unwrap();
    };
    let script = async {
        let id = peer.open_channel().await;
        let frame = peer.expect("basic.consume").await;
        let Method::BasicConsume { consumer_tag, no_ack: true, .. } = frame.method() else {
            panic!("{:?}", frame.method())
        };
        peer.send(id, Method::BasicConsumeOk { consumer_tag }).await;
        peer.deliver(id, "ctag1.1", 1, b"for nobody").await;
        peer.answer("basic.cancel", Method::BasicCancelOk { consumer_tag }).await;
        peer.answer("exchange.declare", Method::ExchangeDeclareOk).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn messages_are_fetched_one_by_one() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let got = channel.get("q", false).await.unwrap().unwrap();
        assert_eq!((got.remaining, got.delivery.body()), (4, &b"body"[..]));
        assert!(got.delivery.redelivered());
        got.delivery.ack().unwrap();
        assert!(channel.get("q", true).await.unwrap().is_none());
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.expect("basic.get").await;
        let got = Method::BasicGetOk {
            delivery_tag: 9,
            redelivered: true,
            exchange: b"",
            routing_key: b"q",
            message_count: 4,
        };
        peer.send_content(id, got, b"body", 0).await;
        let ack = peer.expect("basic.ack").await;
        assert_eq!(ack.method(), Method::BasicAck { delivery_tag: 9, multiple: false });
        peer.answer("basic.get", Method::BasicGetEmpty).await;
    };
    both(client, script).await;
}
