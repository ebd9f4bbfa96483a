//! Connections that break and come back.

use std::time::Duration;

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_client::{
    Connection, ConnectionEvent, ConnectionEvents, ConsumeOptions, Error, ExchangeOptions, Options, Publish,
    QueueOptions, Reconnect, Table, Unconfirmed,
};
use tokio::time::Instant;

use crate::both;
use crate::peer::{Network, Peer, connected};

fn options(unconfirmed: Unconfirmed) -> Options {
    Options { reconnect: Some(Reconnect { unconfirmed, ..Default::default() }), ..Options::default() }
}

async fn confirming(unconfirmed: Unconfirmed) -> (Network, Connection, Peer, fulmar_client::Channel) {
    let (network, connection, mut peer) = connected(options(unconfirmed)).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        channel.enable_confirms().await.unwrap();
        channel
    };
    let script = async {
        peer.open_channel().await;
        peer.answer("confirm.select", Method::ConfirmSelectOk).await;
    };
    let (channel, ()) = both(client, script).await;
    (network, connection, peer, channel)
}

/// The second connection of [`confirming`], as far as it goes without publishes.
async fn greet_again(peer: &mut Peer) {
    peer.greet().await;
    // The one for the topology, though there is none.
    peer.answer("channel.open", Method::ChannelOpenOk).await;
    peer.answer("channel.close", Method::ChannelCloseOk).await;
    peer.open_channel().await;
    peer.answer("confirm.select", Method::ConfirmSelectOk).await;
}

async fn until_reconnected(events: &mut ConnectionEvents) {
    assert!(matches!(events.next().await, Some(ConnectionEvent::Disconnected(_))));
    assert!(matches!(events.next().await, Some(ConnectionEvent::Reconnected)));
}

#[tokio::test(start_paused = true)]
async fn channels_topology_and_consumers_come_back() {
    let (network, connection, mut peer) = connected(options(Unconfirmed::Report)).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        channel.set_prefetch(5).await.unwrap();
        channel.declare_exchange("x", ExchangeOptions::new("fanout").durable()).await.unwrap();
        let queue = channel.declare_queue("", QueueOptions::exclusive()).await.unwrap().name;
        channel.bind_queue(&queue, "x", "k", Table::default()).await.unwrap();
        let consumer = channel.consume(&queue, ConsumeOptions::default()).await.unwrap();
        (channel, consumer)
    };
    let script = async {
        peer.open_channel().await;
        peer.answer("basic.qos", Method::BasicQosOk).await;
        peer.answer("exchange.declare", Method::ExchangeDeclareOk).await;
        let declared = Method::QueueDeclareOk { queue: b"gen-1", message_count: 0, consumer_count: 0 };
        peer.answer("queue.declare", declared).await;
        peer.answer("queue.bind", Method::QueueBindOk).await;
        peer.answer("basic.consume", Method::BasicConsumeOk { consumer_tag: b"ctag1.1" }).await;
        peer.deliver(1, "ctag1.1", 1, b"before").await;
    };
    let ((channel, mut consumer), ()) = both(client, script).await;
    let stale = consumer.next().await.unwrap().unwrap();
    let mut events = connection.events();

    let mut second = network.peer();
    drop(peer);
    let client = async {
        assert!(matches!(events.next().await, Some(ConnectionEvent::Disconnected(_))));
        let event = events.next().await;
        assert!(
            matches!(&event, Some(ConnectionEvent::QueueRenamed { old, new }) if old == "gen-1" && new == "gen-2"),
            "{event:?}"
        );
        assert!(matches!(events.next().await, Some(ConnectionEvent::Reconnected)));
        assert!(matches!(stale.ack(), Err(Error::StaleDelivery)));
        let delivery = consumer.next().await.unwrap().unwrap();
        assert_eq!(delivery.body(), b"after");
        delivery.ack().unwrap();
        channel.publish_to_queue("q", b"goes on").await.unwrap();
    };
    let script = async {
        second.greet().await;
        let topology = second.open_channel().await;
        assert_ne!(topology, 1, "a refusal must not cost the application's channel");
        second.answer("exchange.declare", Method::ExchangeDeclareOk).await;
        let declared = Method::QueueDeclareOk { queue: b"gen-2", message_count: 0, consumer_count: 0 };
        let frame = second.answer("queue.declare", declared).await;
        assert!(matches!(frame.method(), Method::QueueDeclare { queue: b"", exclusive: true, .. }));
        let frame = second.answer("queue.bind", Method::QueueBindOk).await;
        assert!(matches!(frame.method(), Method::QueueBind { queue: b"gen-2", exchange: b"x", .. }));
        second.answer("channel.close", Method::ChannelCloseOk).await;
        assert_eq!(second.open_channel().await, 1);
        second.answer("basic.qos", Method::BasicQosOk).await;
        let consume_ok = Method::BasicConsumeOk { consumer_tag: b"ctag1.1" };
        let frame = second.answer("basic.consume", consume_ok).await;
        assert!(matches!(
            frame.method(),
            Method::BasicConsume { queue: b"gen-2", consumer_tag: b"ctag1.1", .. }
        ));
        second.deliver(1, "ctag1.1", 1, b"after").await;
        second.expect("basic.ack").await;
        assert_eq!(second.expect_publish().await.body, b"goes on");
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn unconfirmed_publishes_are_reported() {
    let (network, connection, mut peer, channel) = confirming(Unconfirmed::Report).await;
    let mut events = connection.events();
    let first = channel.publish_confirmed(&Publish::to_queue("q", b"1")).await.unwrap();
    let second = channel.publish_confirmed(&Publish::to_queue("q", b"2")).await.unwrap();
    peer.expect_publish().await;
    peer.expect_publish().await;
    peer.send(1, Method::BasicAck { delivery_tag: 1, multiple: false }).await;
    first.await.unwrap();
    let mut again = network.peer();
    drop(peer);
    assert!(matches!(second.await, Err(Error::ConnectionLost(_))));
    both(until_reconnected(&mut events), greet_again(&mut again)).await;

    let third = channel.publish_confirmed(&Publish::to_queue("q", b"3")).await.unwrap();
    assert_eq!(again.expect_publish().await.body, b"3");
    again.send(1, Method::BasicAck { delivery_tag: 1, multiple: false }).await;
    third.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn unconfirmed_publishes_are_sent_again_before_new_ones() {
    let (network, connection, mut peer, channel) = confirming(Unconfirmed::Resend).await;
    let mut events = connection.events();
    let mut confirmations = Vec::new();
    for body in [b"1", b"2", b"3"] {
        confirmations.push(channel.publish_confirmed(&Publish::to_queue("q", body)).await.unwrap());
        peer.expect_publish().await;
    }
    peer.send(1, Method::BasicAck { delivery_tag: 2, multiple: false }).await;
    confirmations.remove(1).await.unwrap();
    let mut again = network.peer();
    drop(peer);
    let waiting = async {
        until_reconnected(&mut events).await;
        confirmations.push(channel.publish_confirmed(&Publish::to_queue("q", b"4")).await.unwrap());
        for confirmation in confirmations {
            confirmation.await.unwrap();
        }
        channel.wait_for_confirms().await.unwrap();
    };
    let script = async {
        greet_again(&mut again).await;
        for body in [b"1", b"3", b"4"] {
            assert_eq!(again.expect_publish().await.body, body);
        }
        again.send(1, Method::BasicAck { delivery_tag: 3, multiple: true }).await;
    };
    both(waiting, script).await;
}

#[tokio::test(start_paused = true)]
async fn an_open_call_fails_and_the_next_one_waits() {
    let (network, connection, mut peer) = connected(options(Unconfirmed::Report)).await;
    let (channel, _) = both(connection.channel(), peer.open_channel()).await;
    let channel = channel.unwrap();
    let mut again = network.peer();
    let client = async {
        let error = channel.check_queue("q").await.unwrap_err();
        assert!(matches!(error, Error::ConnectionLost(_)) && error.is_transient(), "{error}");
        channel.check_exchange("x").await.unwrap();
    };
    let script = async {
        peer.expect("queue.declare").await;
        drop(peer);
        again.greet().await;
        again.open_channel().await;
        again.answer("channel.close", Method::ChannelCloseOk).await;
        again.open_channel().await;
        again.answer("exchange.declare", Method::ExchangeDeclareOk).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_restored_is_told_and_costs_nothing_else() {
    let (network, connection, mut peer) = connected(options(Unconfirmed::Report)).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        for queue in ["a", "b"] {
            channel.declare_queue(queue, QueueOptions::durable()).await.unwrap();
        }
        channel
    };
    let script = async {
        peer.open_channel().await;
        for queue in [b"a", b"b"] {
            let declared = Method::QueueDeclareOk { queue, message_count: 0, consumer_count: 0 };
            peer.answer("queue.declare", declared).await;
        }
    };
    let (channel, ()) = both(client, script).await;
    let mut events = connection.events();
    let mut again = network.peer();
    drop(peer);
    let client = async {
        assert!(matches!(events.next().await, Some(ConnectionEvent::Disconnected(_))));
        let event = events.next().await;
        assert!(
            matches!(&event, Some(ConnectionEvent::RecoveryFailed { what, error })
                if what.contains("\"a\"") && error.reply_code() == Some(406)),
            "{event:?}"
        );
        assert!(matches!(events.next().await, Some(ConnectionEvent::Reconnected)));
        channel.check_exchange("x").await.unwrap();
    };
    let script = async {
        again.greet().await;
        again.open_channel().await;
        let close = Method::ChannelClose { reply_code: 406, reply_text: b"", class_id: 0, method_id: 0 };
        again.answer("queue.declare", close).await;
        again.expect("channel.close-ok").await;
        again.open_channel().await;
        let declared = Method::QueueDeclareOk { queue: b"b", message_count: 0, consumer_count: 0 };
        again.answer("queue.declare", declared).await;
        again.answer("channel.close", Method::ChannelCloseOk).await;
        again.open_channel().await;
        again.answer("exchange.declare", Method::ExchangeDeclareOk).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_end_where_the_options_say() {
    let reconnect = Reconnect { max_attempts: Some(4), ..Default::default() };
    let options = Options { reconnect: Some(reconnect), ..Options::default() };
    let (_network, connection, peer) = connected(options).await;
    let mut events = connection.events();
    let start = Instant::now();
    drop(peer);
    assert!(matches!(events.next().await, Some(ConnectionEvent::Disconnected(_))));
    let event = events.next().await;
    assert!(matches!(event, Some(ConnectionEvent::Closed(Error::Connect { .. }))), "{event:?}");
    // 100, 200, 400 and 800 ms, each up to a quarter less.
    let took = start.elapsed();
    assert!((Duration::from_millis(1124)..=Duration::from_millis(1510)).contains(&took), "{took:?}");
    assert!(matches!(connection.channel().await, Err(Error::Connect { .. })));
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_attempts() {
    let (_network, connection, peer) = connected(options(Unconfirmed::Report)).await;
    let mut events = connection.events();
    drop(peer);
    assert!(matches!(events.next().await, Some(ConnectionEvent::Disconnected(_))));
    tokio::time::timeout(Duration::from_secs(1), connection.close()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_this_side_is_not_tried_again() {
    let (network, connection, mut peer) = connected(options(Unconfirmed::Report)).await;
    let mut events = connection.events();
    let _untouched = network.peer();
    let close = Method::ConnectionClose { reply_code: 503, reply_text: b"", class_id: 0, method_id: 0 };
    peer.send(0, close).await;
    let event = events.next().await;
    assert!(matches!(event, Some(ConnectionEvent::Closed(Error::ConnectionClosed { code: 503, .. }))));
}
