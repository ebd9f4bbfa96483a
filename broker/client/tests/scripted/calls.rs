//! Requests and their replies; channels and their ends.

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_client::{Error, ExchangeOptions, Options, QueueOptions, Table};

use crate::both;
use crate::peer::connected;

fn options() -> Options {
    Options::default().without_reconnect()
}

fn declared(queue: &str) -> Method<'_> {
    Method::QueueDeclareOk { queue: queue.as_bytes(), message_count: 3, consumer_count: 1 }
}

fn not_found() -> Method<'static> {
    Method::ChannelClose { reply_code: 404, reply_text: b"NOT_FOUND", class_id: 50, method_id: 10 }
}

#[tokio::test(start_paused = true)]
async fn calls_overlap_and_are_answered_in_order() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let (a, b, c) = tokio::join!(
            channel.declare_queue("a", QueueOptions::default()),
            channel.bind_queue("a", "x", "k", Table::default()),
            channel.purge_queue("a"),
        );
        let info = a.unwrap();
        assert_eq!((info.name.as_str(), info.message_count, info.consumer_count), ("a", 3, 1));
        b.unwrap();
        assert_eq!(c.unwrap(), 3);
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.expect("queue.declare").await;
        peer.expect("queue.bind").await;
        peer.expect("queue.purge").await;
        peer.send(id, declared("a")).await;
        peer.send(id, Method::QueueBindOk).await;
        peer.send(id, Method::QueuePurgeOk { message_count: 3 }).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_costs_the_channel_and_no_other() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let other = connection.channel().await.unwrap();
        assert_eq!((channel.id(), other.id()), (1, 2));
        let (first, second) = tokio::join!(channel.check_queue("gone"), channel.purge_queue("a"));
        assert_eq!(first.unwrap_err().reply_code(), Some(404));
        assert_eq!(second.unwrap_err().reply_code(), Some(404), "the open request ends with its channel");
        assert_eq!(channel.publish_to_queue("q", b"").await.unwrap_err().reply_code(), Some(404));
        assert_eq!(other.check_queue("there").await.unwrap().name, "there");
        drop(channel);
        assert_eq!(connection.channel().await.unwrap().id(), 1, "the number is free again");
    };
    let script = async {
        let id = peer.open_channel().await;
        peer.open_channel().await;
        peer.expect("queue.declare").await;
        peer.expect("queue.purge").await;
        peer.send(id, not_found()).await;
        peer.expect("channel.close-ok").await;
        peer.answer("queue.declare", declared("there")).await;
        peer.open_channel().await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_a_dropped_channel_waits_for_the_brokers_answer() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        drop(connection.channel().await.unwrap());
        let second = connection.channel().await.unwrap();
        assert_eq!(second.id(), 2);
        second.check_exchange("x").await.unwrap();
        assert_eq!(connection.channel().await.unwrap().id(), 1);
    };
    let script = async {
        peer.open_channel().await;
        peer.expect("channel.close").await;
        peer.open_channel().await;
        peer.send(1, Method::ChannelCloseOk).await;
        peer.answer("exchange.declare", Method::ExchangeDeclareOk).await;
        peer.open_channel().await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_channel_stays_closed() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let mut consumer = channel.consume("q", Default::default()).await.unwrap();
        channel.close().await.unwrap();
        assert!(matches!(channel.check_queue("q").await, Err(Error::Closed)));
        assert!(consumer.next().await.is_none(), "an orderly end is no error");
    };
    let script = async {
        peer.open_channel().await;
        peer.answer("basic.consume", Method::BasicConsumeOk { consumer_tag: b"ctag1.1" }).await;
        peer.answer("channel.close", Method::ChannelCloseOk).await;
    };
    both(client, script).await;
}

#[tokio::test(start_paused = true)]
async fn arguments_that_do_not_fit_are_refused_here() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        let long = "x".repeat(256);
        let refused = [
            channel.declare_queue(&long, QueueOptions::default()).await.map(drop),
            channel.declare_exchange(&long, ExchangeOptions::new("direct")).await,
            channel.publish_to_queue(&long, b"").await,
            channel.bind_queue("q", "x", &long, Table::default()).await,
        ];
        assert!(refused.iter().all(|result| matches!(result, Err(Error::Argument(_)))), "{refused:?}");
    };
    both(client, peer.open_channel()).await;
}

#[tokio::test(start_paused = true)]
async fn channels_run_out_with_an_error() {
    let network = crate::peer::Network::default();
    let mut peer = network.peer();
    let tune = Method::ConnectionTune { channel_max: 1, frame_max: 8192, heartbeat: 0 };
    let (connection, ()) = both(network.open(options()), peer.greet_with(tune)).await;
    let connection = connection.unwrap();
    let (channel, _) = both(connection.channel(), peer.open_channel()).await;
    assert!(matches!(connection.channel().await, Err(Error::NoChannelLeft(1))));
    drop(channel);
}

#[tokio::test(start_paused = true)]
async fn transactions_and_exchange_bindings() {
    let (_network, connection, mut peer) = connected(options()).await;
    let client = async {
        let channel = connection.channel().await.unwrap();
        channel.begin_transactions().await.unwrap();
        channel.commit().await.unwrap();
        channel.rollback().await.unwrap();
        channel.bind_exchange("to", "from", "k", Table::default()).await.unwrap();
        channel.unbind_exchange("to", "from", "k", Table::default()).await.unwrap();
        channel.delete_exchange("to", true).await.unwrap();
        assert_eq!(channel.delete_queue("q", true, false).await.unwrap(), 7);
        channel.recover().await.unwrap();
    };
    let script = async {
        peer.open_channel().await;
        peer.answer("tx.select", Method::TxSelectOk).await;
        peer.answer("tx.commit", Method::TxCommitOk).await;
        peer.answer("tx.rollback", Method::TxRollbackOk).await;
        let frame = peer.answer("exchange.bind", Method::ExchangeBindOk).await;
        let Method::ExchangeBind { destination, source, .. } = frame.method() else { unreachable!() };
        assert_eq!((destination, source), (&b"to"[..], &b"from"[..]));
        peer.answer("exchange.unbind", Method::ExchangeUnbindOk).await;
        peer.answer("exchange.delete", Method::ExchangeDeleteOk).await;
        let frame = peer.answer("queue.delete", Method::QueueDeleteOk { message_count: 7 }).await;
        let expected = Method::QueueDelete { queue: b"q", if_unused: true, if_empty: false, no_wait: false };
        assert_eq!(frame.method(), expected);
        peer.answer("basic.recover", Method::BasicRecoverOk).await;
    };
    both(client, script).await;
}
