//! The client over AMQP 0-10 with a real broker in this process.

use std::time::Duration;

use fulmar_client::{
    Address, BranchEnd, BranchStart, BranchStatus, Channel, Connection, ConnectionEvent, ConsumeOptions,
    Consumer, Delivery, Error, ExchangeOptions, Mechanism, MessageProperties, Options, Phases, Prepared,
    Protocol, Publish, QueueOptions, Reconnect, Table, Unconfirmed, Value, Xid,
};
use fulmar_server::broker::{Broker, Running};
use fulmar_server::settings::Settings;
use tokio::time::timeout;

/// Longest time that any single thing may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn start() -> Running {
    Broker::start(&Settings { shards: 2, ..Settings::in_process() }).expect("the broker starts")
}

fn options(broker: &Running) -> Options {
    let addr = broker.addr();
    let (host, port) = (addr.ip().to_string(), addr.port());
    Options { protocol: Protocol::Amqp010, host, port, ..Options::default() }
}

async fn open(broker: &Running) -> (Connection, Channel) {
    let options = options(broker).without_reconnect();
    let connection = Connection::open(options).await.expect("the broker lets us in");
    let channel = connection.channel().await.expect("a channel opens");
    (connection, channel)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(PATIENCE, consumer.next()).await.expect("something comes").unwrap().unwrap()
}

async fn next_body(consumer: &mut Consumer) -> Vec<u8> {
    let delivery = next(consumer).await;
    delivery.ack().unwrap();
    delivery.into_message().into_body()
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

#[tokio::test]
async fn a_password_is_proven_where_it_would_not_be_shown() {
    let offered = vec!["SCRAM-SHA-256".parse().unwrap()];
    let settings = Settings { sasl_mechanisms: offered, ..Settings::in_process() };
    let broker = Broker::start(&settings).expect("the broker starts");
    for protocol in [Protocol::Amqp010, Protocol::Amqp091] {
        let options = Options { protocol, ..options(&broker) }.without_reconnect();
        let connection = Connection::open(options.clone()).await.expect("the broker lets us in");
        connection.close().await.unwrap();
        let wrong = Options { password: fulmar_client::Secret("wrong".into()), ..options };
        let error = Connection::open(wrong).await.unwrap_err();
        assert!(matches!(error, Error::Login { .. }), "{error}");
    }
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
        reply_to: Some("/exchanges/x/k".into()),
        message_id: Some("no uuid".into()),
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
        let delivery = next(&mut consumer).await;
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
async fn a_message_crosses_from_one_protocol_to_the_other() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    let old = Options { protocol: Protocol::Amqp091, ..options(&broker) }.without_reconnect();
    let old = Connection::open(old).await.unwrap();
    let other = old.channel().await.unwrap();
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    let properties = MessageProperties {
        message_id: Some("no uuid".into()),
        message_type: Some("t".into()),
        reply_to: Some("r".into()),
        ..Default::default()
    }
    .header("n", Value::I64(1));
    for (from, to) in [(&channel, &other), (&other, &channel)] {
        from.publish(&Publish::to_queue("q", b"m").properties(&properties)).await.unwrap();
        let mut consumer = to.consume("q", ConsumeOptions::default()).await.unwrap();
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.body(), delivery.properties()), (&b"m"[..], properties.clone()));
        delivery.ack().unwrap();
        consumer.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_prefetch_bounds_what_is_unsettled_and_settling_moves_it_on() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    channel.enable_confirms().await.unwrap();
    for n in 0..6u8 {
        channel.publish_to_queue("q", &[n]).await.unwrap();
    }
    channel.wait_for_confirms().await.unwrap();
    channel.set_prefetch(2).await.unwrap();
    let mut consumer = channel.consume("q", ConsumeOptions::default()).await.unwrap();
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    assert_eq!(channel.query_queue("q").await.unwrap().unwrap().message_count, 4);
    assert!(consumer.try_next().is_none());
    second.ack().unwrap();
    assert_eq!(next(&mut consumer).await.body(), [2]);
    // Back, and it comes again.
    first.release().unwrap();
    let again = next(&mut consumer).await;
    assert_eq!((again.body(), again.redelivered()), (&[0][..], false));
    again.nack(true).unwrap();
    let again = next(&mut consumer).await;
    assert_eq!((again.body(), again.redelivered()), (&[0][..], true));
    again.reject(false).unwrap();
    assert_eq!(next(&mut consumer).await.body(), [3]);
    channel.recover().await.unwrap();
    let bodies = [next(&mut consumer).await.body().to_vec(), next(&mut consumer).await.body().to_vec()];
    assert_eq!(bodies, [[2], [3]]);
}

#[tokio::test]
async fn messages_are_fetched_one_by_one() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    assert!(channel.get("q", false).await.unwrap().is_none());
    for n in 0..3u8 {
        channel.publish_to_queue("q", &[n]).await.unwrap();
    }
    for n in 0..3u8 {
        let got = channel.get("q", n == 1).await.unwrap().unwrap();
        assert_eq!((got.delivery.body(), got.remaining), (&[n][..], 2 - u32::from(n)));
        got.delivery.ack().unwrap();
    }
    assert!(channel.get("q", false).await.unwrap().is_none());
    assert_eq!(channel.purge_queue("q").await.unwrap(), 0);
    assert_eq!(channel.delete_queue("q", false, false).await.unwrap(), 0);
}

#[tokio::test]
async fn what_reaches_no_queue_comes_back() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    channel.enable_confirms().await.unwrap();
    let mut returns = channel.returns().unwrap();
    for (key, body) in [("q", b"found"), ("nowhere", b"lost?"), ("q", b"found")] {
        channel.publish(&Publish::to_queue(key, body).mandatory()).await.unwrap();
    }
    timeout(PATIENCE, channel.wait_for_confirms()).await.unwrap().unwrap();
    let returned = returns.try_next().unwrap();
    assert_eq!((returned.code, returned.message.body()), (312, &b"lost?"[..]));
    assert!(returns.try_next().is_none());
}

#[tokio::test]
async fn a_transaction_takes_effect_when_it_is_committed() {
    let broker = start();
    let (connection, channel) = open(&broker).await;
    let other = connection.channel().await.unwrap();
    other.declare_queue("q", QueueOptions::default()).await.unwrap();
    let count = async || other.query_queue("q").await.unwrap().unwrap().message_count;
    channel.begin_transactions().await.unwrap();
    channel.publish_to_queue("q", b"no").await.unwrap();
    channel.rollback().await.unwrap();
    channel.publish_to_queue("q", b"yes").await.unwrap();
    channel.check_queue("q").await.unwrap();
    assert_eq!(count().await, 0);
    channel.commit().await.unwrap();
    assert_eq!(count().await, 1);
    let mut consumer = channel.consume("q", ConsumeOptions::default()).await.unwrap();
    assert_eq!(next_body(&mut consumer).await, b"yes");
    channel.commit().await.unwrap();
    channel.close().await.unwrap();
    assert_eq!(count().await, 0);
}

#[tokio::test]
async fn refusals_have_the_brokers_code_and_cost_the_channel_alone() {
    let broker = start();
    let (connection, channel) = open(&broker).await;
    let error = channel.check_queue("nowhere").await.unwrap_err();
    assert_eq!(error.reply_code(), Some(404), "{error}");
    drop(channel);
    for _ in 0..3 {
        let channel = connection.channel().await.unwrap();
        let error = channel.bind_queue("nowhere", "amq.topic", "k", Table::default()).await.unwrap_err();
        assert_eq!(error.reply_code(), Some(404), "{error}");
    }
    let channel = connection.channel().await.unwrap();
    let exchange = channel.query_exchange("amq.topic").await.unwrap().unwrap();
    assert_eq!((exchange.kind.as_str(), channel.query_exchange("nowhere").await.unwrap()), ("topic", None));
    assert_eq!(channel.query_queue("nowhere").await.unwrap(), None);
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let broker = start();
    let options = Options { user: "nobody".into(), ..options(&broker) }.without_reconnect();
    let error = Connection::open(options.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Login { .. }), "{error}");
    let options = Options { mechanism: Some(Mechanism::External), ..options };
    let error = Connection::open(options).await.unwrap_err();
    assert!(matches!(&error, Error::Login { text, .. } if text.contains("EXTERNAL")), "{error}");
}

#[tokio::test]
async fn addresses_are_resolved() {
    let broker = start();
    let (_connection, channel) = open(&broker).await;
    let address = |text: &str| text.parse::<Address>().unwrap();
    let sender = channel.sender(&address("amq.topic/news.today")).await.unwrap();
    let mut wanted =
        channel.receiver(&address("amq.topic/news.#; {link: {reliability: at-least-once}}")).await.unwrap();
    let mut other = channel.receiver(&address("amq.topic/sport")).await.unwrap();
    let mut kept = channel
        .receiver(&address(
            "kept; {create: always, delete: always, node: {x-declare: {arguments: {'qpid.max_count': 9}}, \
             x-bindings: [{exchange: amq.topic, key: '*.today'}]}}",
        ))
        .await
        .unwrap();
    let properties = sender.properties(MessageProperties::default());
    channel.publish(&sender.publish(b"m").properties(&properties)).await.unwrap();
    let delivery = next(wanted.consumer()).await;
    assert_eq!(delivery.header("qpid.subject"), Some(text("news.today")));
    delivery.ack().unwrap();
    assert_eq!(next_body(kept.consumer()).await, b"m");
    assert!(other.consumer().try_next().is_none());

    let kept_again = address("kept; {assert: always, node: {x-declare: {arguments: {'qpid.max_count': 9}}}}");
    channel.receiver(&kept_again).await.unwrap().close().await.unwrap();
    let different = address("kept; {assert: always, node: {x-declare: {arguments: {'qpid.max_count': 8}}}}");
    let error = channel.receiver(&different).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unresolved { reason, .. } if reason.contains("qpid.max_count")),
        "{error}"
    );

    let own_queue = wanted.queue().to_owned();
    assert!(channel.query_queue(&own_queue).await.unwrap().is_some());
    wanted.close().await.unwrap();
    kept.close().await.unwrap();
    assert_eq!(channel.query_queue(&own_queue).await.unwrap(), None);
    assert_eq!(channel.query_queue("kept").await.unwrap(), None);
    let error = channel.sender(&address("kept")).await.unwrap_err();
    assert!(matches!(error, Error::Unresolved { .. }), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_comes_back_with_queues_bindings_and_consumers() {
    let broker = start();
    let reconnect = Reconnect { unconfirmed: Unconfirmed::Resend, ..Reconnect::default() };
    let connection =
        Connection::open(Options { reconnect: Some(reconnect), ..options(&broker) }).await.unwrap();
    let channel = connection.channel().await.unwrap();
    channel.enable_confirms().await.unwrap();
    channel.declare_exchange("x", ExchangeOptions::new("topic")).await.unwrap();
    let queue = channel.declare_queue("", QueueOptions::exclusive()).await.unwrap().name;
    channel.bind_queue(&queue, "x", "k", Table::default()).await.unwrap();
    let mut consumer = channel.consume(&queue, ConsumeOptions::default()).await.unwrap();
    let mut events = connection.events();

    let addr = broker.addr();
    drop(broker);
    assert!(matches!(timeout(PATIENCE, events.next()).await, Ok(Some(ConnectionEvent::Disconnected(_)))));
    let settings = Settings { shards: 2, listen: vec![addr], port: None, ..Settings::in_process() };
    let again = (0..100).find_map(|_| {
        let started = Broker::start(&settings).ok();
        if started.is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        started
    });
    let _again = again.expect("the port becomes free");
    let confirmation = channel.publish_confirmed(&Publish::new("x", "k", b"after")).await.unwrap();
    assert_eq!(next_body(&mut consumer).await, b"after");
    timeout(PATIENCE, confirmation).await.unwrap().unwrap();
}

/// Messages that are ready in a queue.
async fn ready(channel: &Channel, queue: &str) -> u32 {
    channel.query_queue(queue).await.unwrap().unwrap().message_count
}

#[tokio::test]
async fn branches_are_carried_out_whole_or_not_at_all() {
    let broker = start();
    let (connection, channel) = open(&broker).await;
    let watch = connection.channel().await.unwrap();
    channel.declare_queue("in", QueueOptions::default()).await.unwrap();
    channel.declare_queue("out", QueueOptions::default()).await.unwrap();
    channel.enable_branches().await.unwrap();
    for (number, commits) in [(0, true), (1, false)] {
        watch.publish_to_queue("in", b"work").await.unwrap();
        let xid = Xid::new(1, format!("t{number}"), "b").unwrap();
        let got = channel.get("in", false).await.unwrap().expect("there is work");
        channel.start_branch(&xid, BranchStart::New).await.unwrap();
        channel.publish_to_queue("out", b"done").await.unwrap();
        got.delivery.ack().unwrap();
        channel.end_branch(&xid, BranchEnd::Suspend).await.unwrap();
        channel.start_branch(&xid, BranchStart::Resume).await.unwrap();
        channel.set_branch_timeout_s(&xid, 30).await.unwrap();
        assert_eq!(channel.branch_timeout_s(&xid).await.unwrap(), 30);
        channel.end_branch(&xid, BranchEnd::Success).await.unwrap();
        assert_eq!(ready(&watch, "out").await, number);
        assert_eq!(channel.prepare_branch(&xid).await.unwrap(), Prepared::Ready);
        // Whoever finds it may decide.
        watch_decides(&broker, &xid, commits).await;
        assert_eq!((ready(&watch, "in").await, ready(&watch, "out").await), (u32::from(!commits), 1));
    }
}

async fn watch_decides(broker: &Running, xid: &Xid, commits: bool) {
    let (connection, channel) = open(broker).await;
    channel.enable_branches().await.unwrap();
    assert_eq!(channel.recover_branches().await.unwrap(), std::slice::from_ref(xid));
    match commits {
        true => channel.commit_branch(xid, Phases::Two).await.unwrap(),
        false => channel.rollback_branch(xid).await.unwrap(),
    }
    assert!(channel.recover_branches().await.unwrap().is_empty());
    connection.close().await.unwrap();
}

#[tokio::test]
async fn branches_that_cannot_be_done_say_so() {
    let broker = start();
    let (connection, channel) = open(&broker).await;
    let full =
        Table(vec![("qpid.max_count".into(), Value::I32(1)), ("qpid.policy_type".into(), text("reject"))]);
    channel.declare_queue("full", QueueOptions { arguments: full, ..Default::default() }).await.unwrap();
    channel.publish_to_queue("full", b"x").await.unwrap();
    channel.enable_branches().await.unwrap();
    let xid = Xid::new(1, "t", "b").unwrap();
    channel.start_branch(&xid, BranchStart::New).await.unwrap();
    channel.publish_to_queue("full", b"y").await.unwrap();
    channel.end_branch(&xid, BranchEnd::Success).await.unwrap();
    let error = channel.commit_branch(&xid, Phases::One).await.unwrap_err();
    assert!(matches!(error, Error::Branch { status: BranchStatus::RollbackOnly, .. }), "{error}");
    // Which has undone it, too.
    assert_eq!(ready(&channel, "full").await, 1);

    channel.start_branch(&xid, BranchStart::New).await.unwrap();
    channel.end_branch(&xid, BranchEnd::Fail).await.unwrap();
    let error = channel.prepare_branch(&xid).await.unwrap_err();
    assert!(matches!(error, Error::Branch { status: BranchStatus::RollbackOnly, .. }), "{error}");
    channel.rollback_branch(&xid).await.unwrap();
    // What is against the rules ends the channel, with the broker's code.
    let error = channel.commit_branch(&xid, Phases::Two).await.unwrap_err();
    assert!(matches!(error, Error::ChannelClosed { code: 404, .. }), "{error}");
    let other = connection.channel().await.unwrap();
    other.begin_transactions().await.unwrap();
    other.enable_branches().await.expect_err("it is transactional");
}

#[tokio::test]
async fn a_branch_does_not_go_on_over_another_connection() {
    let broker = start();
    let reconnecting = Connection::open(options(&broker)).await.unwrap();
    let channel = reconnecting.channel().await.unwrap();
    channel.declare_queue("q", QueueOptions::default()).await.unwrap();
    channel.enable_branches().await.unwrap();
    let xid = Xid::new(1, "t", "b").unwrap();
    channel.start_branch(&xid, BranchStart::New).await.unwrap();
    channel.publish_to_queue("q", b"x").await.unwrap();
    let port = broker.addr().port();
    broker.stop(Duration::ZERO).unwrap();
    let settings = Settings { shards: 2, port: Some(port), ..Settings::in_process() };
    let again = timeout(PATIENCE, async {
        loop {
            match Broker::start(&settings) {
                Ok(broker) => break broker,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let _broker = again.await.expect("the port is free again");
    // The channel is over; the connection is there, and has others.
    let until_refused = timeout(PATIENCE, async {
        // What is published before the loss is noticed goes nowhere.
        while channel.publish_to_queue("q", b"y").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    until_refused.await.expect("the branch is gone, and so is its channel");
    let other = timeout(PATIENCE, reconnecting.channel()).await.unwrap().unwrap();
    other.declare_queue("q", QueueOptions::default()).await.unwrap();
    assert_eq!(ready(&other, "q").await, 0);
}
