//! `fulmar send`: publishes messages.

use std::io::BufRead;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgGroup;
use fulmar_client::{Address, Channel, MessageProperties, Publish, Sender as AddressSender, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{BrokerArgs, DeclareArgs, Failure, finish, parse_header, parse_seconds, report, within};

/// Lines read ahead from standard input.
const LINES_AHEAD: usize = 64;

/// Publish messages: one from the command line, many of a size, or the lines of standard input
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
#[command(group = ArgGroup::new("destination").args(["queue", "exchange", "words"]).required(true).multiple(true))]
pub struct Args {
    /// Address to send to, unless --queue or --exchange says where, and the message; without that, and without --size,
    /// each line of standard input is one
    ///
    /// An address is a queue or exchange as 'name/subject; {options}', the options as Apache Qpid's libraries have
    /// them: create, assert, delete, node and link.
    #[arg(value_names = ["ADDRESS", "BODY"], num_args = 0..=2)]
    words: Vec<String>,

    #[command(flatten)]
    broker: BrokerArgs,

    /// Queue to send to, through the default exchange
    #[arg(short, long, conflicts_with_all = ["exchange", "routing_key"])]
    queue: Option<String>,

    /// Exchange to publish to
    #[arg(short = 'x', long)]
    exchange: Option<String>,

    /// Routing key to publish with
    #[arg(short = 'k', long, default_value = "")]
    routing_key: String,

    #[command(flatten)]
    declare: DeclareArgs,

    /// How many messages to send; of standard input, at most
    #[arg(short, long)]
    count: Option<u64>,

    /// Send bodies of this many bytes
    #[arg(short, long, value_name = "BYTES")]
    size: Option<usize>,

    /// Messages per second; as fast as possible without it
    #[arg(short, long, value_parser = parse_rate, value_name = "PER_SECOND")]
    rate: Option<f64>,

    /// A property: content-type, content-encoding, priority, correlation-id, reply-to, expiration (ms), message-id,
    /// timestamp (s), type, user-id, app-id
    #[arg(short, long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,

    /// An application header; NAME:TYPE=VALUE for a type (text, int, float, bool) other than the obvious one
    #[arg(short = 'H', long = "header", value_parser = parse_header, value_name = "NAME=VALUE")]
    headers: Vec<(String, Value)>,

    /// Ask for the messages to survive a restart of the broker
    #[arg(long)]
    persistent: bool,

    /// Fail if a message reaches no queue; implies --confirm
    #[arg(long)]
    mandatory: bool,

    /// Wait until the broker has confirmed every message
    #[arg(long)]
    confirm: bool,

    /// Give up after this many seconds
    #[arg(short, long, value_parser = parse_seconds, value_name = "SECONDS")]
    timeout: Option<Duration>,

    /// Say at the end how many messages went how fast
    #[arg(long)]
    report: bool,
}

/// Where messages go, and what the command line says that they are.
#[derive(Debug, PartialEq)]
enum Destination {
    Queue(String),
    Exchange(String),
    Address(Box<Address>),
}

/// Runs the tool.
pub fn run(args: &Args) -> ExitCode {
    let usage = |text: String| {
        eprintln!("fulmar send: {text}");
        ExitCode::from(2)
    };
    let properties = match properties(args) {
        Ok(properties) => properties,
        Err(text) => return usage(text),
    };
    let (destination, body) = match args.destination() {
        Ok(parts) => parts,
        Err(text) => return usage(text),
    };
    finish("send", within(args.timeout, "sending", send(args, &destination, body, properties)))
}

impl Args {
    /// Where to, and the body if the command line has one.
    fn destination(&self) -> Result<(Destination, Option<&str>), String> {
        let mut words = self.words.iter();
        let destination = match (&self.queue, &self.exchange) {
            (Some(queue), _) => Destination::Queue(queue.clone()),
            (None, Some(exchange)) => Destination::Exchange(exchange.clone()),
            (None, None) => {
                let address = words.next().ok_or("an address, --queue or --exchange says where to")?;
                if self.declare.declare {
                    return Err(
                        "--declare goes with --queue; {create: always} in the address does the same".into()
                    );
                }
                Destination::Address(Box::new(address.parse().map_err(|error| format!("{error}"))?))
            }
        };
        let body = words.next().map(String::as_str);
        if words.next().is_some() {
            return Err("the message is one argument; quotes hold it together".into());
        }
        if body.is_some() && self.size.is_some() {
            return Err("a message, or --size, not both".into());
        }
        Ok((destination, body))
    }
}

async fn send(
    args: &Args,
    destination: &Destination,
    body: Option<&str>,
    properties: MessageProperties,
) -> Result<(), Failure> {
    let connection = args.broker.open("send").await?;
    let channel = connection.channel().await?;
    let mut address = None;
    match destination {
        Destination::Queue(queue) => args.declare.prepare(&channel, queue).await?,
        Destination::Exchange(exchange) if !exchange.is_empty() => channel.check_exchange(exchange).await?,
        Destination::Exchange(_) => {}
        Destination::Address(of) => address = Some(channel.sender(of).await?),
    }
    let properties = match &address {
        Some(address) => address.properties(properties),
        None => properties,
    };
    if args.confirm || args.mandatory {
        channel.enable_confirms().await?;
    }
    let mut returns = channel.returns()?;

    let mut sender = Sender {
        args,
        destination,
        address: address.as_ref(),
        properties: &properties,
        channel: &channel,
        start: Instant::now(),
        sent: 0,
    };
    match (body, args.size) {
        (Some(body), _) => sender.repeat(body.as_bytes()).await?,
        (None, Some(size)) => sender.repeat(&vec![b'x'; size]).await?,
        (None, None) => sender.lines().await?,
    }
    let (sent, start) = (sender.sent, sender.start);
    if args.confirm || args.mandatory {
        channel.wait_for_confirms().await?;
    }
    // A mandatory message comes back before its confirm, so by now all are there.
    let mut returned = 0;
    let mut reason = String::new();
    while let Some(message) = returns.try_next() {
        returned += 1;
        reason = message.text;
    }
    if let Some(address) = address {
        address.close().await?;
    }
    connection.close().await?;
    if args.report {
        report("sent", sent, start.elapsed());
    }
    match returned {
        0 => Ok(()),
        _ => Err(Failure::Refused(format!("{returned} of {sent} messages came back: {reason}"))),
    }
}

struct Sender<'a> {
    args: &'a Args,
    destination: &'a Destination,
    address: Option<&'a AddressSender>,
    properties: &'a MessageProperties,
    channel: &'a Channel,
    start: Instant,
    sent: u64,
}

impl Sender<'_> {
    /// The same body, as often as was asked for.
    async fn repeat(&mut self, body: &[u8]) -> Result<(), Failure> {
        for _ in 0..self.args.count.unwrap_or(1) {
            self.one(body).await?;
        }
        Ok(())
    }

    /// The lines of standard input, each sent when it has come.
    async fn lines(&mut self) -> Result<(), Failure> {
        let (sender, mut lines) = mpsc::channel(LINES_AHEAD);
        // A thread of its own, since standard input cannot be waited for in any other way that works for all that it
        // may be. It is not joined: it may wait for a line that never comes.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().split(b'\n') {
                let end = line.is_err();
                if sender.blocking_send(line).is_err() || end {
                    return;
                }
            }
        });
        while self.sent < self.args.count.unwrap_or(u64::MAX) {
            let Some(line) = lines.recv().await else { break };
            let mut line = line?;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            self.one(&line).await?;
        }
        Ok(())
    }

    async fn one(&mut self, body: &[u8]) -> Result<(), Failure> {
        if let Some(rate) = self.args.rate {
            sleep_until(self.start + Duration::from_secs_f64(self.sent as f64 / rate)).await;
        }
        let mut publish = match (self.address, self.destination) {
            (Some(address), _) => address.publish(body),
            (None, Destination::Queue(queue)) => Publish::to_queue(queue, body),
            (None, Destination::Exchange(exchange)) => Publish::new(exchange, &self.args.routing_key, body),
            (None, Destination::Address(address)) => Publish::to_queue(&address.name, body),
        };
        publish = publish.properties(self.properties);
        if self.args.mandatory {
            publish = publish.mandatory();
        }
        self.channel.publish(&publish).await?;
        self.sent += 1;
        Ok(())
    }
}

fn properties(args: &Args) -> Result<MessageProperties, String> {
    let mut properties = MessageProperties { persistent: args.persistent, ..Default::default() };
    for (name, value) in &args.headers {
        properties.headers.set(name.as_bytes(), value.clone());
    }
    for property in &args.properties {
        let (name, value) = property
            .split_once('=')
            .ok_or_else(|| format!("{property:?}: a property is given as name=value"))?;
        let text = || Some(value.to_owned());
        let wrong = || format!("{value:?} is not a value for the property {name}");
        match name {
            "content-type" => properties.content_type = text(),
            "content-encoding" => properties.content_encoding = text(),
            "priority" => properties.priority = Some(value.parse().map_err(|_| wrong())?),
            "correlation-id" => properties.correlation_id = text(),
            "reply-to" => properties.reply_to = text(),
            "expiration" => properties.expiration_ms = Some(value.parse().map_err(|_| wrong())?),
            "message-id" => properties.message_id = text(),
            "timestamp" => properties.timestamp = Some(value.parse().map_err(|_| wrong())?),
            "type" => properties.message_type = text(),
            "user-id" => properties.user_id = text(),
            "app-id" => properties.app_id = text(),
            other => {
                return Err(format!("the property {other:?} is not known; see --help for those that are"));
            }
        }
    }
    Ok(properties)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or("a rate is a number above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Tool {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Tool::try_parse_from(std::iter::once("send").chain(line.split_whitespace())).map(|tool| tool.args)
    }

    #[test]
    fn properties_and_headers_reach_the_message() {
        let args = parse("-q q -p priority=3 -p type=t -p expiration=10 -H n=1 --persistent body").unwrap();
        let properties = properties(&args).unwrap();
        let expected = MessageProperties {
            persistent: true,
            priority: Some(3),
            message_type: Some("t".into()),
            expiration_ms: Some(10),
            ..Default::default()
        };
        assert_eq!(properties, expected.header("n", Value::I64(1)));
    }

    #[test]
    fn wrong_properties_are_named() {
        let text = |line| properties(&parse(line).unwrap()).unwrap_err();
        assert!(text("-q q -p priority=high").contains("priority"));
        assert!(text("-q q -p colour=red").contains("colour"));
    }

    #[test]
    fn the_first_word_is_an_address_unless_an_option_says_where_to() {
        let args = parse("q/s body").unwrap();
        let address = Destination::Address(Box::new("q/s".parse().unwrap()));
        assert_eq!(args.destination(), Ok((address, Some("body"))));
        assert_eq!(parse("q").unwrap().destination().unwrap().1, None);
        let args = parse("-q q body").unwrap();
        assert_eq!(args.destination(), Ok((Destination::Queue("q".into()), Some("body"))));
    }

    #[test]
    fn a_destination_is_needed_and_only_one() {
        let refused = |line| parse(line).unwrap().destination().unwrap_err();
        assert!(parse("").is_err());
        assert!(parse("-q q -x x").is_err());
        assert!(parse("-x x -k k body").is_ok());
        assert!(refused("-q q body --size 3").contains("--size"));
        assert!(refused("-q q two words").contains("quotes"));
        assert!(refused("address --declare").contains("create: always"));
        assert!(refused("q;{ body").contains("character"));
        assert!(parse("-q q --rate 0").is_err());
        assert!(parse("-x x --declare").is_err());
    }
}
