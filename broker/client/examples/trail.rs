//! Leaves a trail of what a broker has promised: `trail load RUN` publishes numbers and prints which were confirmed, settles
//! some that it receives and prints which. `trail drain` receives and settles all that is there, and prints it.
//!
//! For tests that end the broker, or its whole machine, at some moment and look afterwards.

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use fulmar_client::{
    Channel, Connection, ConsumeOptions, Delivery, Error, MessageProperties, Options, Publish, QueueOptions,
};

const QUEUE: &str = "trail";
/// How long a queue has to be silent to be empty.
const SILENCE: Duration = Duration::from_secs(2);
/// Messages on their way to being confirmed.
const WINDOW: usize = 100;
/// One of so many messages stays unsettled.
const LEFT: u64 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let options = Options::from_url("amqp://guest:guest@127.0.0.1/")?.without_reconnect();
    let connection = open(&options, Duration::from_secs(60)).await?;
    let channel = connection.channel().await?;
    channel.declare_queue(QUEUE, QueueOptions::durable()).await?;
    match words[..] {
        ["drain"] => drain(&channel).await?,
        ["load", run] => load(&connection, &channel, run).await?,
        _ => {
            eprintln!("usage: trail drain | load RUN");
            std::process::exit(2);
        }
    }
    connection.close().await
}

async fn open(options: &Options, patience: Duration) -> Result<Connection, Error> {
    let deadline = Instant::now() + patience;
    loop {
        match Connection::open(options.clone()).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
            result => return result,
        }
    }
}

async fn drain(channel: &Channel) -> Result<(), Error> {
    let mut consumer = channel.consume(QUEUE, ConsumeOptions::default()).await?;
    while let Ok(Some(delivery)) = tokio::time::timeout(SILENCE, consumer.next()).await {
        let delivery = delivery?;
        let again = if delivery.redelivered() { "again" } else { "first" };
        say(&format!("GOT {} {again}", text(&delivery)));
        delivery.ack()?;
    }
    Ok(())
}

/// Publishes for ever, in order, and settles two of three that come.
async fn load(connection: &Connection, channel: &Channel, run: &str) -> Result<(), Error> {
    let publisher = connection.channel().await?;
    publisher.enable_confirms().await?;
    let mut consumer = channel.consume(QUEUE, ConsumeOptions::default()).await?;
    let properties = MessageProperties::persistent();
    let mut waiting = VecDeque::new();
    let mut received = 0_u64;
    for number in 1_u64.. {
        let body = format!("{run} {number}");
        let publish = Publish::to_queue(QUEUE, body.as_bytes()).properties(&properties);
        waiting.push_back(publisher.publish_confirmed(&publish).await?);
        if waiting.len() >= WINDOW {
            while let Some(confirmation) = waiting.pop_front() {
                confirmation.await?;
            }
            say(&format!("CONFIRMED {run} {number}"));
        }
        while let Some(delivery) = consumer.try_next() {
            let delivery = delivery?;
            received += 1;
            if !received.is_multiple_of(LEFT) {
                // Said before it is done: the power may go in between.
                say(&format!("SETTLING {}", text(&delivery)));
                delivery.ack()?;
            }
        }
    }
    Ok(())
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.body()).into_owned()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody listens");
}
