//! The client with a real broker in this process, over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use fulmar_client::{
    Channel, Connection, ConnectionEvent, ConsumeOptions, Consumer, Error, ExchangeOptions,
    MessageProperties, Options, Publish, QueueOptions, Reconnect, Secret, Table, Unconfirmed, Value,
};
use fulmar_server::broker::{Broker, Running};
use fulmar_server::settings::Settings;
use tokio::time::timeout;

/// Longest time that any single thing may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn start() -> Running {
    Broker::start(&Settings { shards: 2, ..Settings::in_process() }).expect("the broker starts")
}

/// Another broker where one has just been.
fn restart(addr: SocketAddr) -> Running {
    let settings = Settings { shards: 2, listen: vec![addr], port: None, ..Settings::in_process() };
    for _ in 0..100 {
        if let Ok(broker) = Broker::start(&settings) {
            return broker;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{addr} does not become free");
}

fn options(broker: &Running) -> Options {
    let addr = broker.addr();
    Options { host: addr.ip().to_string(), port: addr.port(), ..Options::default() }
}

async fn open(broker: &Running) -> (Connection, Channel) {
    let connection =
        Connection::open(options(broker).without_reconnect()).await.expect("the broker lets us in");
    let channel = connection.channel().await.expect("a channel opens");
    (connection, channel)
}

/// The body of the next delivery, which is acknowledged.
async fn next(consumer: &mut Consumer) -> Vec<u8> {
    let delivery = timeout(PATIENCE, consumer.next()).await.expect("something comes").unwrap().unwrap();
    delivery.ack().unwrap();
    delivery.into_message().into_body()
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

#[tokio::test]
async fn messages_arrive_with_everything_they_carry() {
    let broker = start();
    let (connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::durable()).await.unwrap();
    let properties = MessageProperties {
        content_type: Some("text/plain".into()),
        persistent: true,
        priority: Some(1),
        correlation_id: Some("c".into()),
        reply_to: Some("r".into()),
        message_id: Some("m".into()),
        timestamp: Some(1_700_000_000),
        message_type: Some("t".into()),
        user_id: Some("guest".into()),
        app_id: Some("a".into()),
        ..Default::default()
    }
    .header("text", text("é"))
    .header("list", Value::Array(vec![Value::I32(-1), Value::Bool(true), Value::Void]))
    .header("nested", Value::Table(Table(vec![("f".into(), Value::F64(0.5))])));
    for body in [vec![], b"small".to_vec(), vec![3; 1_000_000]] {
        channel.publish(&Publish::to_queue("q", &body).properties(&properties)).await.unwrap();
        let mut consumer = channel.consume("q", ConsumeOptions::default()).await.unwrap();
        let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.body(), body);
        assert_eq!((&*delivery.exchange(), &*delivery.routing_key()), ("", "q"));
        assert_eq!(delivery.properties(), properties);
        assert_eq!(delivery.header("text"), Some(text("é")));
        assert!(!delivery.redelivered());
        delivery.ack().unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn exchanges_route_as_they_should() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    channel.declare_exchange("logs", ExchangeOptions::new("topic")).await.unwrap();
    channel.declare_exchange("all", ExchangeOptions::new("fanout")).await.unwrap();
    channel.bind_exchange("all", "logs", "#", Table::default()).await.unwrap();
    let errors = channel.declare_queue("", QueueOptions::exclusive()).await.unwrap().name;
    let everything = channel.declare_queue("", QueueOptions::exclusive()).await.unwrap().name;
    assert_ne!(errors, everything);
    channel.bind_queue(&errors, "logs", "*.error", Table::default()).await.unwrap();
    channel.bind_queue(&everything, "all", "", Table::default()).await.unwrap();
    let mut errors = channel.consume(&errors, ConsumeOptions::default()).await.unwrap();
    let mut everything = channel.consume(&everything, ConsumeOptions::default()).await.unwrap();
    for key in ["disk.info", "disk.error"] {
        channel.publish(&Publish::new("logs", key, key.as_bytes())).await.unwrap();
    }
    assert_eq!(next(&mut errors).await, b"disk.error");
    assert_eq!(next(&mut everything).await, b"disk.info");
    assert_eq!(next(&mut everything).await, b"disk.error");

    channel.unbind_exchange("all", "logs", "#", Table::default()).await.unwrap();
    channel.enable_confirms().await.unwrap();
    let mut returns = channel.returns().unwrap();
    channel.publish(&Publish::new("logs", "disk.info", b"lost").mandatory()).await.unwrap();
    channel.wait_for_confirms().await.unwrap();
    let returned = returns.try_next().expect("a message is returned before it is confirmed");
    assert_eq!((returned.code, returned.message.body()), (312, &b"lost"[..]));
    channel.delete_exchange("logs", false).await.unwrap();
    assert_eq!(channel.check_exchange("logs").await.unwrap_err().reply_code(), Some(404));
}

#[tokio::test]
async fn a_call_and_its_reply() {
    let broker = start();
    let (server_connection, server) = open(&broker).await;
    server.declare_queue("calls", QueueOptions::default()).await.unwrap();
    let mut calls = server.consume("calls", ConsumeOptions::default()).await.unwrap();
    let serve = async move {
        let call = calls.next().await.unwrap().unwrap();
        let properties = call.properties();
        let reply = MessageProperties { correlation_id: properties.correlation_id, ..Default::default() };
        let to = properties.reply_to.unwrap();
        server.publish(&Publish::to_queue(&to, b"pong").properties(&reply)).await.unwrap();
        call.ack().unwrap();
        server_connection.close().await.unwrap();
    };
    let (_connection, channel) = open(&broker).await;
    let call = async {
        let queue = channel.declare_queue("", QueueOptions::exclusive()).await.unwrap().name;
        let mut replies = channel.consume(&queue, ConsumeOptions::no_ack()).await.unwrap();
        let properties = MessageProperties {
            reply_to: Some(queue),
            correlation_id: Some("7".into()),
            ..Default::default()
        };
        channel.publish(&Publish::to_queue("calls", b"ping").properties(&properties)).await.unwrap();
        let reply = replies.next().await.unwrap().unwrap();
        assert_eq!((reply.body(), reply.properties().correlation_id.as_deref()), (&b"pong"[..], Some("7")));
    };
    timeout(PATIENCE, async { tokio::join!(serve, call) }).await.unwrap();
}

#[tokio::test]
async fn many_publishes_are_confirmed_and_keep_their_order() {
    const COUNT: u32 = 20_000;
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    let (_other, consuming) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    channel.enable_confirms().await.unwrap();
    consuming.set_prefetch(500).await.unwrap();
    let mut consumer = consuming.consume("q", ConsumeOptions::default()).await.unwrap();
    let publish = async {
        for number in 0..COUNT {
            channel.publish_to_queue("q", &number.to_be_bytes()).await.unwrap();
        }
        channel.wait_for_confirms().await.unwrap();
    };
    let consume = async {
        for number in 0..COUNT {
            assert_eq!(next(&mut consumer).await, number.to_be_bytes());
        }
    };
    timeout(PATIENCE * 3, async { tokio::join!(publish, consume) }).await.unwrap();
    let info = consuming.check_queue("q").await.unwrap();
    assert_eq!((info.message_count, info.consumer_count), (0, 1));
}

#[tokio::test]
async fn unsettled_messages_go_back() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    for body in [b"1", b"2", b"3"] {
        channel.publish_to_queue("q", body).await.unwrap();
    }
    let got = channel.get("q", false).await.unwrap().unwrap();
    assert_eq!((got.delivery.body(), got.remaining), (&b"1"[..], 2));
    got.delivery.nack(true).unwrap();
    let (_other, consuming) = open(&broker).await;
    let mut consumer = consuming.consume("q", ConsumeOptions::default()).await.unwrap();
    let first = consumer.next().await.unwrap().unwrap();
    assert!(first.redelivered());
    first.reject(false).unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().body(), b"2");
    assert_eq!(consumer.next().await.unwrap().unwrap().body(), b"3");
    drop(first);
    drop(consumer);
    drop(consuming);
    let mut consumer = channel.consume("q", ConsumeOptions::default()).await.unwrap();
    let mut back = [next(&mut consumer).await, next(&mut consumer).await];
    back.sort();
    assert_eq!(back, [b"2", b"3"]);
    assert_eq!(channel.purge_queue("q").await.unwrap(), 0);
    assert_eq!(channel.delete_queue("q", false, false).await.unwrap(), 0);
    let end = timeout(PATIENCE, consumer.next()).await.unwrap();
    assert!(matches!(end, Some(Err(Error::Cancelled))), "{end:?}");
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    channel.begin_transactions().await.unwrap();
    channel.publish_to_queue("q", b"no").await.unwrap();
    channel.rollback().await.unwrap();
    channel.publish_to_queue("q", b"yes").await.unwrap();
    assert_eq!(channel.check_queue("q").await.unwrap().message_count, 0);
    channel.commit().await.unwrap();
    assert_eq!(channel.get("q", true).await.unwrap().unwrap().delivery.body(), b"yes");
    assert!(channel.get("q", true).await.unwrap().is_none());
    let error = channel.enable_confirms().await.unwrap_err();
    assert_eq!(error.reply_code(), Some(406), "{error}");
}

#[tokio::test]
async fn refusals_are_told_with_code_and_text() {
    let broker = start();
    let (connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::exclusive()).await.unwrap();
    channel.declare_queue("transient", QueueOptions::default()).await.unwrap();
    let error = channel.declare_queue("transient", QueueOptions::durable()).await.unwrap_err();
    assert_eq!(error.reply_code(), Some(406), "{error}");
    assert!(error.to_string().contains("PRECONDITION_FAILED"), "{error}");
    let (_other, foreign) = open(&broker).await;
    assert_eq!(foreign.check_queue("q").await.unwrap_err().reply_code(), Some(405));
    let channel = connection.channel().await.unwrap();
    assert_eq!(channel.check_queue("q").await.unwrap().name, "q", "the connection lives on");

    let wrong = Options { password: Secret("wrong".into()), ..options(&broker) };
    let error = Connection::open(wrong).await.unwrap_err();
    assert!(matches!(error, Error::Login { .. }), "{error}");
    let nowhere = Options { virtual_host: "nowhere".into(), ..options(&broker) };
    let error = Connection::open(nowhere).await.unwrap_err();
    assert_eq!(error.reply_code(), Some(530), "{error}");
}

#[tokio::test]
async fn an_application_that_takes_nothing_loses_nothing() {
    const COUNT: u32 = 5_000;
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    let options = Options { receive_buffer_bytes: 50_000, ..options(&broker).without_reconnect() };
    let slow = Connection::open(options).await.unwrap();
    let consuming = slow.channel().await.unwrap();
    let mut consumer = consuming.consume("q", ConsumeOptions::no_ack()).await.unwrap();
    for number in 0..COUNT {
        let mut body = [0; 1000];
        body[..4].copy_from_slice(&number.to_be_bytes());
        channel.publish_to_queue("q", &body).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for number in 0..COUNT {
        let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.body()[..4], number.to_be_bytes());
    }
}

#[tokio::test]
async fn everything_comes_back_after_the_broker_has_died() {
    let broker = start();
    let addr = broker.addr();
    let reconnect = Reconnect { first_delay: Duration::from_millis(20), ..Default::default() };
    let connection =
        Connection::open(Options { reconnect: Some(reconnect), ..options(&broker) }).await.unwrap();
    let channel = connection.channel().await.unwrap();
    channel.set_prefetch(10).await.unwrap();
    channel.declare_exchange("x", ExchangeOptions::new("direct")).await.unwrap();
    let queue = channel.declare_queue("", QueueOptions::exclusive()).await.unwrap().name;
    channel.bind_queue(&queue, "x", "k", Table::default()).await.unwrap();
    let mut consumer = channel.consume(&queue, ConsumeOptions::default()).await.unwrap();
    channel.publish(&Publish::new("x", "k", b"before")).await.unwrap();
    let before = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(before.body(), b"before");

    let mut events = connection.events();
    drop(broker);
    let broker = restart(addr);
    loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
            ConnectionEvent::Reconnected => break,
            ConnectionEvent::RecoveryFailed { what, error } => panic!("{what}: {error}"),
            _ => {}
        }
    }
    assert!(matches!(before.ack(), Err(Error::StaleDelivery)));
    channel.publish(&Publish::new("x", "k", b"after")).await.unwrap();
    assert_eq!(next(&mut consumer).await, b"after");
    connection.close().await.unwrap();
    broker.stop(PATIENCE).unwrap();
}

#[tokio::test]
async fn a_publisher_outlives_its_brokers() {
    const COUNT: u32 = 3_000;
    let mut broker = start();
    let addr = broker.addr();
    let reconnect = Reconnect {
        first_delay: Duration::from_millis(10),
        unconfirmed: Unconfirmed::Resend,
        ..Default::default()
    };
    let connection =
        Connection::open(Options { reconnect: Some(reconnect), ..options(&broker) }).await.unwrap();
    let channel = connection.channel().await.unwrap();
    channel.declare_queue("q", QueueOptions::durable()).await.unwrap();
    channel.enable_confirms().await.unwrap();
    let publish = async {
        for number in 0..COUNT {
            let confirmation =
                channel.publish_confirmed(&Publish::to_queue("q", &number.to_be_bytes())).await.unwrap();
            drop(confirmation);
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        channel.wait_for_confirms().await.unwrap();
    };
    let kill = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            broker = tokio::task::spawn_blocking(move || {
                drop(broker);
                restart(addr)
            })
            .await
            .unwrap();
        }
        broker
    };
    let ((), _broker) = timeout(PATIENCE * 3, async { tokio::join!(publish, kill) }).await.unwrap();
    // What the last broker has begins with the first message that no earlier one had confirmed, and has no gap.
    let mut expected = None;
    let mut count = 0;
    while let Some(got) = channel.get("q", true).await.unwrap() {
        let number = u32::from_be_bytes(got.delivery.body().try_into().unwrap());
        assert_eq!(number, *expected.get_or_insert(number));
        expected = Some(number + 1);
        count += 1;
    }
    assert_eq!(expected, Some(COUNT));
    assert!(count < COUNT, "the first broker has kept some");
}

#[tokio::test]
async fn distributed_transactions_are_another_protocols() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    assert!(matches!(channel.enable_branches().await, Err(Error::Unsupported(_))));
    // Nothing was written, and the channel goes on.
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
}
