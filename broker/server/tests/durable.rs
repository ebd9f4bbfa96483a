//! What outlives the program, and what it does when it cannot write.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{PATIENCE, Program};
use fulmar_client::{
    Channel, Connection, ConnectionEvent, ConnectionEvents, ConsumeOptions, Error, ExchangeOptions,
    MessageProperties, Options, Protocol, Publish, QueueOptions, Table,
};
use tokio::time::timeout;

/// The program with a data directory.
fn serve(data: &tempfile::TempDir, options: &[&str]) -> Program {
    let data = data.path().join("data");
    let fixed = ["--no-data-dir=false", "--data-dir", data.to_str().unwrap(), "--idle", "block"];
    Program::serve(&[&fixed, options].concat())
}

/// Stops it in order, while clients go on that may have to answer.
async fn stop(mut program: Program) {
    program.signal(libc::SIGTERM);
    let ended = tokio::task::spawn_blocking(move || program.wait());
    assert_eq!(ended.await.unwrap(), Some(0));
}

fn kill(mut program: Program) {
    program.signal(libc::SIGKILL);
    program.wait();
}

/// The reactors and numbers of shards.
const KINDS: [&[&str]; 4] = [
    &["--io", "auto", "--shards", "1"],
    &["--io", "auto", "--shards", "2"],
    &["--io", "epoll", "--shards", "1"],
    &["--io", "epoll", "--shards", "2"],
];

async fn open(addr: SocketAddr, protocol: Protocol) -> (Connection, Channel) {
    let (host, port) = (addr.ip().to_string(), addr.port());
    let options = Options { protocol, host, port, ..Options::default() }.without_reconnect();
    let connection = Connection::open(options).await.expect("the broker lets us in");
    let channel = connection.channel().await.expect("a channel opens");
    (connection, channel)
}

/// Publishes numbers from the first to before the last, persistent and confirmed.
async fn publish(channel: &Channel, exchange: &str, key: &str, numbers: std::ops::Range<u32>) {
    let properties = MessageProperties::persistent();
    channel.enable_confirms().await.unwrap();
    for number in numbers {
        let body = number.to_be_bytes();
        let publish = Publish::new(exchange, key, &body).properties(&properties);
        drop(channel.publish_confirmed(&publish).await.unwrap());
    }
    channel.wait_for_confirms().await.unwrap();
}

/// Everything that stands in a queue: the numbers, and whether they were delivered before. Nothing is settled.
async fn contents(addr: SocketAddr, queue: &str) -> Vec<(u32, bool)> {
    let (connection, channel) = open(addr, Protocol::Amqp091).await;
    let mut found = Vec::new();
    while let Some(got) = channel.get(queue, false).await.unwrap() {
        let body = got.delivery.body().try_into().unwrap();
        found.push((u32::from_be_bytes(body), got.delivery.redelivered()));
    }
    connection.close().await.unwrap();
    found
}

fn fresh(numbers: std::ops::Range<u32>) -> Vec<(u32, bool)> {
    numbers.map(|number| (number, false)).collect()
}

#[tokio::test]
async fn a_stop_in_order_keeps_everything_and_marks_nothing_that_nobody_had() {
    for options in KINDS {
        for protocol in [Protocol::Amqp091, Protocol::Amqp010] {
            let data = tempfile::tempdir().unwrap();
            let program = serve(&data, options);
            let (connection, channel) = open(program.addr, protocol).await;
            channel.declare_exchange("x", ExchangeOptions::new("direct").durable()).await.unwrap();
            channel.declare_queue("kept", QueueOptions::durable()).await.unwrap();
            channel.declare_queue("lost", QueueOptions::default()).await.unwrap();
            channel.bind_queue("kept", "x", "k", Table::default()).await.unwrap();
            publish(&channel, "", "kept", 0..50).await;
            publish(&channel, "x", "k", 50..100).await;
            // Transient ones end with the broker.
            channel.publish(&Publish::to_queue("kept", &7_u32.to_be_bytes())).await.unwrap();
            // Ten are in a client's hands, which settles the first five.
            channel.set_prefetch(10).await.unwrap();
            let mut consumer = channel.consume("kept", ConsumeOptions::default()).await.unwrap();
            let mut held = Vec::new();
            for _ in 0..10 {
                held.push(timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap());
            }
            consumer.cancel().await.unwrap();
            held.drain(..5).for_each(|delivery| delivery.ack().unwrap());
            connection.close().await.unwrap();
            stop(program).await;

            let program = serve(&data, options);
            let (connection, channel) = open(program.addr, protocol).await;
            channel.check_exchange("x").await.unwrap();
            publish(&channel, "x", "k", 100..101).await;
            connection.close().await.unwrap();
            let found = contents(program.addr, "kept").await;
            let expected: Vec<_> = (5..101).map(|number| (number, number < 10)).collect();
            assert_eq!(found, expected, "{options:?}, {protocol:?}");
            let (_connection, channel) = open(program.addr, Protocol::Amqp091).await;
            let error = channel.check_queue("lost").await.unwrap_err();
            assert_eq!(error.reply_code(), Some(404));
            stop(program).await;
        }
    }
}

#[tokio::test]
async fn what_is_fetched_one_by_one_leaves_the_others_unmarked() {
    let data = tempfile::tempdir().unwrap();
    let program = serve(&data, &[]);
    let (connection, channel) = open(program.addr, Protocol::Amqp091).await;
    channel.declare_queue("q", QueueOptions::durable()).await.unwrap();
    publish(&channel, "", "q", 0..2_000).await;
    for _ in 0..3 {
        channel.get("q", false).await.unwrap().unwrap().delivery.ack().unwrap();
    }
    connection.close().await.unwrap();
    stop(program).await;
    let program = serve(&data, &[]);
    assert_eq!(contents(program.addr, "q").await, fresh(3..2_000));
}

#[tokio::test]
async fn what_was_confirmed_outlives_a_kill_whatever_confirms_wait_for() {
    for durability in ["flush", "os"] {
        let data = tempfile::tempdir().unwrap();
        let options = ["--durability", durability];
        let program = serve(&data, &options);
        let (_connection, channel) = open(program.addr, Protocol::Amqp010).await;
        channel.declare_queue("q", QueueOptions::durable()).await.unwrap();
        publish(&channel, "", "q", 0..500).await;
        kill(program);
        let program = serve(&data, &options);
        assert_eq!(contents(program.addr, "q").await, fresh(0..500), "{durability}");
    }
}

#[tokio::test]
async fn another_number_of_shards_finds_everything() {
    let data = tempfile::tempdir().unwrap();
    let queues: Vec<String> = (0..8).map(|number| format!("q{number}")).collect();
    let program = serve(&data, &["--shards", "3"]);
    let (_connection, channel) = open(program.addr, Protocol::Amqp091).await;
    for queue in &queues {
        channel.declare_queue(queue, QueueOptions::durable()).await.unwrap();
        publish(&channel, "", queue, 0..20).await;
    }
    kill(program);
    for shards in ["1", "4", "2"] {
        let program = serve(&data, &["--shards", shards]);
        let (connection, channel) = open(program.addr, Protocol::Amqp091).await;
        for queue in &queues {
            let info = channel.check_queue(queue).await.unwrap();
            assert_eq!(info.message_count, 20, "{queue} with {shards} shards");
        }
        connection.close().await.unwrap();
        stop(program).await;
    }
    let program = serve(&data, &["--shards", "2"]);
    for queue in &queues {
        assert_eq!(contents(program.addr, queue).await, fresh(0..20), "{queue}");
    }
}

#[tokio::test]
async fn without_a_data_directory_a_restart_begins_anew() {
    let program = Program::serve(&[]);
    let (_connection, channel) = open(program.addr, Protocol::Amqp091).await;
    channel.declare_queue("q", QueueOptions::durable()).await.unwrap();
    publish(&channel, "", "q", 0..10).await;
    stop(program).await;
    let program = Program::serve(&[]);
    let (_connection, channel) = open(program.addr, Protocol::Amqp091).await;
    assert_eq!(channel.check_queue("q").await.unwrap_err().reply_code(), Some(404));
}

/// A journal that is full soon.
const SMALL: [&str; 6] = ["--shards", "1", "--journal-max-bytes", "8M", "--journal-segment-bytes", "1M"];
const BODY: [u8; 10_000] = [7; 10_000];

/// Waits for an event of a connection.
async fn event(events: &mut ConnectionEvents, wanted: impl Fn(&ConnectionEvent) -> bool) {
    let found = async { while events.next().await.is_some_and(|event| !wanted(&event)) {} };
    timeout(PATIENCE, found).await.expect("the broker tells");
}

/// Publishes until the journal is full; how many were confirmed.
async fn fill(channel: &Channel) -> u32 {
    let properties = MessageProperties::persistent();
    channel.enable_confirms().await.unwrap();
    let mut confirmed = 0;
    loop {
        let publish = Publish::to_queue("full", &BODY).properties(&properties);
        // Whoever has been told that the journal is full waits here.
        let Ok(sent) = timeout(Duration::from_secs(2), channel.publish_confirmed(&publish)).await else {
            return confirmed;
        };
        match sent.unwrap().await {
            Ok(()) => confirmed += 1,
            Err(Error::Nacked) => return confirmed,
            Err(error) => panic!("{error}"),
        }
        assert!(confirmed < 2_000, "{confirmed} messages in a journal of 8 MiB");
    }
}

#[tokio::test]
async fn a_full_journal_refuses_and_takes_more_when_it_has_been_drained() {
    let data = tempfile::tempdir().unwrap();
    let program = serve(&data, &SMALL);
    let (publishing, channel) = open(program.addr, Protocol::Amqp091).await;
    let mut events = publishing.events();
    channel.declare_queue("full", QueueOptions::durable()).await.unwrap();
    channel.declare_queue("transient", QueueOptions::default()).await.unwrap();
    let confirmed = fill(&channel).await;
    assert!(confirmed > 100, "{confirmed}");
    event(&mut events, |event| matches!(event, ConnectionEvent::Blocked { .. })).await;

    // Others are refused with the reason, or served where nothing has to be stored.
    let (_other, old) = open(program.addr, Protocol::Amqp010).await;
    old.publish(&Publish::to_queue("transient", b"t")).await.unwrap();
    let properties = MessageProperties::persistent();
    // Some may fit in yet: what is no longer needed is cleaned up meanwhile.
    let mut refused = String::new();
    for _ in 0..2_000 {
        old.publish(&Publish::to_queue("full", &BODY).properties(&properties)).await.unwrap();
        if let Err(error) = old.check_queue("transient").await {
            refused = error.to_string();
            break;
        }
    }
    assert!(refused.contains("--journal-max-bytes"), "{refused}");

    let (_consuming, channel) = open(program.addr, Protocol::Amqp091).await;
    let mut consumer = channel.consume("full", ConsumeOptions::default()).await.unwrap();
    for _ in 0..confirmed {
        timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap().ack().unwrap();
    }
    event(&mut events, |event| matches!(event, ConnectionEvent::Unblocked)).await;
    drop((publishing, consumer));

    // Many times what the journal holds passes through it.
    let (_publishing, channel) = open(program.addr, Protocol::Amqp091).await;
    channel.enable_confirms().await.unwrap();
    let mut consumer = channel.consume("full", ConsumeOptions::default()).await.unwrap();
    for number in 0..3_000 {
        let publish = Publish::to_queue("full", &BODY).properties(&properties);
        let sent = timeout(PATIENCE, channel.publish_confirmed(&publish)).await;
        let stored = sent.expect("it is taken").unwrap().await;
        assert!(stored.is_ok(), "message {number}: {stored:?}");
        timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap().ack().unwrap();
    }
    stop(program).await;
}
