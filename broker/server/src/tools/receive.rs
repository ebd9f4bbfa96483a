//! `fulmar receive`: takes messages from a queue and prints them.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use fulmar_client::{
    Address, Channel, ConsumeOptions, Consumer, Delivery, QueueOptions, Receiver as AddressReceiver,
    Reliability, Table,
};
use tokio::time::Instant;

use super::{BrokerArgs, DeclareArgs, Failure, finish, parse_seconds, report, show};

/// How long the queue may be silent before it counts as drained, where nothing else is said.
const DRAINED_AFTER: Duration = Duration::from_secs(1);

/// Take messages from a queue, or from an exchange as they pass, and print them
///
/// Without --count and --forever it ends when nothing has come for --timeout seconds, or one second.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Args {
    /// Address to receive from, unless --queue or --exchange says where from
    ///
    /// An address is a queue or exchange as 'name/subject; {options}', the options as Apache Qpid's libraries have
    /// them: create, assert, delete, mode, node and link.
    #[arg(
        value_parser = parse_address,
        required_unless_present_any = ["queue", "exchange"],
        conflicts_with_all = ["queue", "exchange", "routing_key", "declare"]
    )]
    address: Option<Box<Address>>,

    #[command(flatten)]
    broker: BrokerArgs,

    /// Queue to take messages from
    #[arg(short, long, conflicts_with_all = ["exchange", "routing_key"])]
    queue: Option<String>,

    /// Exchange to listen to, through a queue of its own
    #[arg(short = 'x', long)]
    exchange: Option<String>,

    /// Binding key to listen with
    #[arg(short = 'k', long, default_value = "")]
    routing_key: String,

    #[command(flatten)]
    declare: DeclareArgs,

    /// End after this many messages
    #[arg(short, long, conflicts_with = "forever")]
    count: Option<u64>,

    /// Do not end
    #[arg(short, long)]
    forever: bool,

    /// Silence, in seconds, after which to end; with --count that is a failure
    #[arg(short, long, conflicts_with = "forever", value_parser = parse_seconds, value_name = "SECONDS")]
    timeout: Option<Duration>,

    /// What becomes of the messages
    #[arg(short, long, value_enum, default_value_t)]
    ack_mode: AckMode,

    /// Only look: the messages go back to the queue at the end. Short for --ack-mode browse
    #[arg(short, long, conflicts_with = "ack_mode")]
    browse: bool,

    /// Unsettled messages that the broker may send ahead; 0 for no bound
    #[arg(long, default_value_t = 100, value_name = "MESSAGES")]
    prefetch: u16,

    /// What to print of each message
    #[arg(short, long, value_enum, default_value_t)]
    print: Print,

    /// Print everything about each message. Short for --print all
    #[arg(long, conflicts_with = "print")]
    print_all: bool,

    /// Say at the end how many messages came how fast
    #[arg(long)]
    report: bool,
}

fn parse_address(text: &str) -> Result<Box<Address>, fulmar_client::Error> {
    text.parse().map(Box::new)
}

/// What becomes of received messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum AckMode {
    /// Acknowledge each when it is printed
    #[default]
    Ack,
    /// Let the broker forget each when it is sent
    None,
    /// Settle none; all go back to the queue at the end
    Browse,
    /// Refuse each: dead-lettered or dropped
    Reject,
}

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Print {
    /// The body and a line break
    #[default]
    Body,
    /// Properties, headers and the body
    All,
    /// The body as it is, nothing between messages
    Raw,
    /// Nothing
    None,
}

/// Runs the tool.
pub fn run(args: &Args) -> ExitCode {
    finish("receive", receive(args))
}

async fn receive(args: &Args) -> Result<(), Failure> {
    let connection = args.broker.open("receive").await?;
    let channel = connection.channel().await?;
    let mut source = consume(args, &channel).await?;
    let mut receiver = Receiver { args, out: BufWriter::new(io::stdout().lock()), received: 0 };
    let start = Instant::now();
    let result = receiver.run(source.consumer()).await;
    let took = start.elapsed() - if receiver.ended_by_silence() { args.silence() } else { Duration::ZERO };
    receiver.out.flush()?;
    if args.report {
        report("received", receiver.received, took);
    }
    result?;
    if let Source::Address(receiver) = source {
        receiver.close().await?;
    }
    connection.close().await?;
    Ok(())
}

/// Where messages come from.
enum Source {
    Consumer(Consumer),
    Address(Box<AddressReceiver>),
}

impl Source {
    fn consumer(&mut self) -> &mut Consumer {
        match self {
            Source::Consumer(consumer) => consumer,
            Source::Address(receiver) => receiver.consumer(),
        }
    }
}

async fn consume(args: &Args, channel: &Channel) -> Result<Source, Failure> {
    channel.set_prefetch(args.prefetch()).await?;
    if let Some(address) = &args.address {
        let mut address = Address::clone(address);
        if args.ack_mode() == AckMode::None {
            address.link.reliability.get_or_insert(Reliability::AtMostOnce);
        }
        return Ok(Source::Address(Box::new(channel.receiver(&address).await?)));
    }
    let queue = match (&args.queue, &args.exchange) {
        (Some(queue), _) => {
            args.declare.prepare(channel, queue).await?;
            queue.clone()
        }
        (None, exchange) => {
            let queue = channel.declare_queue("", QueueOptions::exclusive()).await?.name;
            let exchange = exchange.as_deref().unwrap_or_default();
            channel.bind_queue(&queue, exchange, &args.routing_key, Table::default()).await?;
            queue
        }
    };
    let options = ConsumeOptions { no_ack: args.ack_mode() == AckMode::None, ..Default::default() };
    Ok(Source::Consumer(channel.consume(&queue, options).await?))
}

impl Args {
    fn ack_mode(&self) -> AckMode {
        if self.browse { AckMode::Browse } else { self.ack_mode }
    }

    fn print(&self) -> Print {
        if self.print_all { Print::All } else { self.print }
    }

    /// Who settles nothing would see no more than the bound.
    fn prefetch(&self) -> u16 {
        if self.ack_mode() == AckMode::Browse { 0 } else { self.prefetch }
    }

    /// Silence that ends it.
    fn silence(&self) -> Duration {
        match (self.timeout, self.count) {
            (Some(timeout), _) => timeout,
            (None, None) if !self.forever => DRAINED_AFTER,
            _ => Duration::MAX,
        }
    }
}

struct Receiver<'a> {
    args: &'a Args,
    out: BufWriter<StdoutLock<'static>>,
    received: u64,
}

impl Receiver<'_> {
    async fn run(&mut self, consumer: &mut Consumer) -> Result<(), Failure> {
        while self.wanted() {
            let next = match consumer.try_next() {
                Some(next) => Some(next),
                None => {
                    // Nothing to do: the moment to show what there is.
                    self.out.flush()?;
                    match wait(self.args.silence(), consumer).await {
                        Some(next) => next,
                        None => return self.silent(),
                    }
                }
            };
            let Some(delivery) = next else { break };
            let delivery = delivery?;
            self.print(&delivery)?;
            match self.args.ack_mode() {
                AckMode::Ack => delivery.ack()?,
                AckMode::Reject => delivery.reject(false)?,
                AckMode::None | AckMode::Browse => {}
            }
            self.received += 1;
        }
        Ok(())
    }

    fn wanted(&self) -> bool {
        self.args.count.is_none_or(|count| self.received < count)
    }

    fn ended_by_silence(&self) -> bool {
        self.args.count.is_none() && !self.args.forever
    }

    fn silent(&self) -> Result<(), Failure> {
        match self.args.count {
            None => Ok(()),
            Some(count) => Err(Failure::TimedOut(format!(
                "{} of {count} messages came, then none for {:?}",
                self.received,
                self.args.silence()
            ))),
        }
    }

    fn print(&mut self, delivery: &Delivery) -> io::Result<()> {
        match self.args.print() {
            Print::None => Ok(()),
            Print::Raw => self.out.write_all(delivery.body()),
            Print::Body => {
                self.out.write_all(delivery.body())?;
                self.out.write_all(b"\n")
            }
            Print::All => print_all(&mut self.out, delivery),
        }
    }
}

/// The next message; `None` if there is none for so long.
async fn wait(
    silence: Duration,
    consumer: &mut Consumer,
) -> Option<Option<Result<Delivery, fulmar_client::Error>>> {
    if silence == Duration::MAX {
        return Some(consumer.next().await);
    }
    tokio::time::timeout(silence, consumer.next()).await.ok()
}

/// A line per property that is set, then the body.
fn print_all(out: &mut impl Write, delivery: &Delivery) -> io::Result<()> {
    writeln!(out, "exchange: {:?}", delivery.exchange())?;
    writeln!(out, "routing-key: {:?}", delivery.routing_key())?;
    writeln!(out, "redelivered: {}", delivery.redelivered())?;
    let properties = delivery.properties();
    if properties.persistent {
        writeln!(out, "persistent: true")?;
    }
    let texts = [
        ("content-type", &properties.content_type),
        ("content-encoding", &properties.content_encoding),
        ("correlation-id", &properties.correlation_id),
        ("reply-to", &properties.reply_to),
        ("message-id", &properties.message_id),
        ("type", &properties.message_type),
        ("user-id", &properties.user_id),
        ("app-id", &properties.app_id),
    ];
    for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        writeln!(out, "{name}: {text:?}")?;
    }
    let numbers = [
        ("priority", properties.priority.map(u64::from)),
        ("expiration", properties.expiration_ms),
        ("timestamp", properties.timestamp),
    ];
    for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
        writeln!(out, "{name}: {number}")?;
    }
    for (name, value) in &properties.headers.0 {
        writeln!(out, "header {name}: {}", show(value))?;
    }
    writeln!(out, "body: {} bytes", delivery.body().len())?;
    out.write_all(delivery.body())?;
    out.write_all(b"\n\n")
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
        Tool::try_parse_from(std::iter::once("receive").chain(line.split_whitespace())).map(|tool| tool.args)
    }

    #[test]
    fn what_ends_it() {
        let silence = |line| parse(line).unwrap().silence();
        assert_eq!(silence("-q q"), DRAINED_AFTER);
        assert_eq!(silence("-q q -t 3"), Duration::from_secs(3));
        assert_eq!(silence("-q q -c 3"), Duration::MAX);
        assert_eq!(silence("-q q -c 3 -t 2"), Duration::from_secs(2));
        assert_eq!(silence("-q q -f"), Duration::MAX);
    }

    #[test]
    fn browsing_sees_the_whole_queue() {
        let args = parse("-q q --browse --prefetch 5").unwrap();
        assert_eq!((args.ack_mode(), args.prefetch()), (AckMode::Browse, 0));
        assert_eq!(parse("-q q --prefetch 5").unwrap().prefetch(), 5);
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "",
            "-q q -x x",
            "a -q q",
            "a -x x",
            "a;{}x",
            "a --declare",
            "-q q -c 1 -f",
            "-q q -b -a none",
            "-q q -p raw --print-all",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("-x logs -k a.#").is_ok());
        assert_eq!(parse("logs/a.#").unwrap().address, Some(Box::new("logs/a.#".parse().unwrap())));
    }
}
