//! `fulmar send` and `fulmar receive`, on the client library: small, but enough to try a broker, to fill and to drain
//! queues, and to use AMQP from scripts. `fulmar store`, on the journals' files.

pub mod receive;
pub mod send;
pub mod store;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use fulmar_client::{Channel, Connection, Error, Options, QueueOptions, Reconnect, TlsOptions, Trust, Value};

/// What `--help` says of the exit codes.
const EXIT_CODES: &str = "Exit codes: 0 done; 1 something else failed; 2 wrong usage; 3 no connection to the broker; \
    4 the login was refused; 5 the broker refused what was asked (no such queue, say); 6 timed out before all was done";

/// How to reach the broker; the same for both tools.
#[derive(Clone, Debug, clap::Args)]
struct BrokerArgs {
    /// Broker, as amqp://user:password@host:port/virtual-host; amqp0-10:// for AMQP 0-10, amqps:// and amqps0-10:// for
    /// the same over TLS, rdma:// and rdma0-10:// over RDMA
    #[arg(
        short,
        long,
        env = "FULMAR_URL",
        default_value = "amqp://guest:guest@localhost:5672/",
        hide_env_values = true
    )]
    url: String,

    /// What carries the connection, tried in this order: rdma, tcp [default: what the URL says]
    #[arg(long, value_name = "NAMES")]
    transport: Option<String>,

    /// Keep connecting again when the connection breaks
    #[arg(long)]
    reconnect: bool,

    #[command(flatten)]
    tls: TlsArgs,
}

/// What to secure a connection with.
#[derive(Clone, Debug, clap::Args)]
struct TlsArgs {
    /// With TLS, believe the certificates of this file (PEM) instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// With TLS, show this certificate (PEM); ?mechanism=EXTERNAL in the URL logs in by it
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Its key [default: in the file of the certificate]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// File whose first line decrypts the key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key_password_file: Option<PathBuf>,

    /// With TLS, believe any broker: no protection against one in between
    #[arg(long, conflicts_with = "ca_file")]
    insecure: bool,
}

impl TlsArgs {
    /// Adds what was given to what the URL says.
    fn apply(&self, tls: Option<&mut TlsOptions>) -> Result<(), Error> {
        let is_given = self.insecure || self.ca_file.is_some() || self.cert.is_some();
        let Some(tls) = tls else {
            let wrong = "--ca-file, --cert and --insecure are for URLs with TLS: amqps://, amqps0-10://";
            return if is_given { Err(Error::Argument(wrong.into())) } else { Ok(()) };
        };
        if self.insecure {
            tls.trust = Trust::Anybody;
        } else if let Some(path) = &self.ca_file {
            tls.trust = Trust::File(path.clone());
        }
        if let Some(certificate) = &self.cert {
            tls.certificate = Some(certificate.clone());
            tls.key = self.key.clone();
            tls.key_password_file = self.key_password_file.clone();
        }
        Ok(())
    }
}

/// A queue to make first, if it is not there.
#[derive(Clone, Debug, clap::Args)]
struct DeclareArgs {
    /// Declare the queue first
    #[arg(long, conflicts_with = "exchange")]
    declare: bool,

    /// Declare it durable
    #[arg(long, requires = "declare")]
    durable: bool,
}

impl BrokerArgs {
    async fn open(&self, name: &str) -> Result<Connection, Failure> {
        let mut options = Options::from_url(&self.url)?;
        if let Some(transport) = &self.transport {
            options.set_transports(transport).map_err(Error::Argument)?;
        }
        self.tls.apply(options.tls.as_mut())?;
        options.reconnect = self.reconnect.then(Reconnect::default);
        options.connection_name.get_or_insert_with(|| format!("fulmar {name}"));
        Ok(Connection::open(options).await?)
    }
}

impl DeclareArgs {
    /// Declares the queue, or makes sure that it is there: the default exchange would drop messages silently.
    async fn prepare(&self, channel: &Channel, queue: &str) -> Result<(), Failure> {
        if self.declare {
            let options = QueueOptions { durable: self.durable, ..Default::default() };
            channel.declare_queue(queue, options).await?;
        } else {
            channel.check_queue(queue).await?;
        }
        Ok(())
    }
}

/// Why a tool stops before it is done.
#[derive(Debug)]
enum Failure {
    Client(Error),
    Io(io::Error),
    TimedOut(String),
    Refused(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Client(error) => {
                write!(f, "{error}")?;
                match error {
                    Error::Connect { .. } => {
                        write!(f, "\nIs a broker running there? `fulmar serve` starts one.")
                    }
                    Error::Tls { failure, .. } if failure.is_about_trust() => write!(
                        f,
                        "\n--ca-file names the certificate of whoever issued the broker's, or that one itself."
                    ),
                    Error::Login { .. } => write!(
                        f,
                        "\nThe URL holds user and password; `fulmar user` manages them; guest may log in on the \
                         broker's own host alone."
                    ),
                    Error::ChannelClosed { code: 404, text } if text.contains("queue") => {
                        write!(f, "\nWith --declare a queue is made if it is not there.")
                    }
                    Error::Unresolved { reason, .. } if reason.contains("no such") => {
                        write!(f, "\nWith {{create: always}} in the address it is made if it is not there.")
                    }
                    _ => Ok(()),
                }
            }
            Failure::Io(error) => write!(f, "{error}"),
            Failure::TimedOut(text) | Failure::Refused(text) => f.write_str(text),
        }
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Client(
                Error::Url { .. } | Error::Argument(_) | Error::Address { .. } | Error::Unsupported(_),
            ) => 2,
            Failure::Client(
                Error::Connect { .. } | Error::Tls { .. } | Error::Timeout(..) | Error::ConnectionLost(_),
            ) => 3,
            Failure::Client(Error::Login { .. }) => 4,
            Failure::Client(
                Error::ChannelClosed { .. }
                | Error::ConnectionClosed { .. }
                | Error::Unresolved { .. }
                | Error::Nacked
                | Error::Cancelled,
            )
            | Failure::Refused(_) => 5,
            Failure::TimedOut(_) => 6,
            Failure::Client(_) | Failure::Io(_) => 1,
        }
    }
}

/// Runs a tool to its end and says why it failed.
fn finish(tool: &str, work: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    // What the library has to say: which carrier it could not use, and why.
    crate::logging::start(log::LevelFilter::Warn);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fulmar {tool}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has enough of it.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("fulmar {tool}: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// `work`, but not longer than `limit`.
async fn within<T>(
    limit: Option<Duration>,
    what: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(Failure::TimedOut(format!("{what} took longer than {limit:?}")))),
    }
}

/// Says on standard error how many messages there were, and how fast.
fn report(verb: &str, count: u64, took: Duration) {
    let rate = count as f64 / took.as_secs_f64().max(1e-9);
    // Nobody may look at it.
    let _ = writeln!(io::stderr(), "{verb} {count} messages in {:.3} s, {rate:.0}/s", took.as_secs_f64());
}

/// `name=value`; what stands after a colon is a type, as in `name:text=1`. Without one a number is a number, `true` and
/// `false` are booleans, and all else is text.
fn parse_header(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("a header is given as name=value")?;
    let (name, kind) = name.split_once(':').map_or((name, None), |(name, kind)| (name, Some(kind)));
    let wrong = |kind: &str| format!("{value:?} is not a value of type {kind}");
    let value = match kind {
        None => guess(value),
        Some("text") => Value::Text(value.into()),
        Some(kind @ "int") => Value::I64(value.parse().map_err(|_| wrong(kind))?),
        Some(kind @ "float") => Value::F64(value.parse().map_err(|_| wrong(kind))?),
        Some(kind @ "bool") => Value::Bool(value.parse().map_err(|_| wrong(kind))?),
        Some(other) => return Err(format!("the type {other:?} is not known; text, int, float and bool are")),
    };
    Ok((name.to_owned(), value))
}

fn guess(value: &str) -> Value {
    if let Ok(value) = value.parse() {
        Value::I64(value)
    } else if let Ok(value) = value.parse() {
        Value::Bool(value)
    } else if let Some(value) = value.parse().ok().filter(|value: &f64| value.is_finite()) {
        Value::F64(value)
    } else {
        Value::Text(value.into())
    }
}

/// A header as a person reads it.
fn show(value: &Value) -> String {
    match value {
        Value::Void => "void".into(),
        Value::Bool(value) => value.to_string(),
        Value::I8(value) => value.to_string(),
        Value::U8(value) => value.to_string(),
        Value::I16(value) => value.to_string(),
        Value::U16(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::Decimal(scale, value) => format!("{value}e-{scale}"),
        Value::Text(text) => format!("{text:?}"),
        Value::Bytes(bytes) => format!("{} bytes", bytes.as_bytes().len()),
        Value::Timestamp(seconds) => format!("{seconds} s since 1970"),
        Value::Array(values) => format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let entries = table.0.iter().map(|(name, value)| format!("{name}: {}", show(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// `1.5` seconds.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is not a length of time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_types_are_guessed_or_given() {
        let value = parse_header;
        assert_eq!(value("a=1"), Ok(("a".into(), Value::I64(1))));
        assert_eq!(value("a=1.5"), Ok(("a".into(), Value::F64(1.5))));
        assert_eq!(value("a=true"), Ok(("a".into(), Value::Bool(true))));
        assert_eq!(value("a=b=c"), Ok(("a".into(), Value::Text("b=c".into()))));
        assert_eq!(value("a=nan"), Ok(("a".into(), Value::Text("nan".into()))));
        assert_eq!(value("a:text=1"), Ok(("a".into(), Value::Text("1".into()))));
        assert_eq!(value("a:float=1"), Ok(("a".into(), Value::F64(1.0))));
        assert!(value("a:int=x").is_err() && value("a:what=x").is_err() && value("a").is_err());
    }

    #[test]
    fn headers_are_shown_without_their_types() {
        let inner = Value::Table(fulmar_client::Table(vec![("k".into(), Value::I64(1))]));
        let value = Value::Array(vec![Value::Text("a".into()), Value::Bool(true), inner]);
        assert_eq!(show(&value), r#"["a", true, {k: 1}]"#);
    }

    /// Splits a line as a shell would, as far as the book goes: single quotes, and what is redirected left out.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" < ").next().unwrap_or(line);
        let quoted = |(index, part): (usize, &str)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        };
        line.split('\'').enumerate().flat_map(quoted).collect()
    }

    #[test]
    fn the_books_examples_are_valid() {
        #[derive(clap::Parser)]
        enum Tool {
            Send(send::Args),
            Receive(receive::Args),
        }
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/");
        let mut examples = 0;
        for page in ["quick-start.md", "reference/commands.md"] {
            let text = std::fs::read_to_string(format!("{docs}{page}")).unwrap();
            let is_ours =
                |line: &&str| line.starts_with("$ fulmar send") || line.starts_with("$ fulmar receive");
            for line in text.lines().filter(is_ours) {
                let parsed = <Tool as clap::Parser>::try_parse_from(&words(line)[1..]);
                assert!(parsed.is_ok(), "{page}: {line}: {}", parsed.err().unwrap());
                examples += 1;
            }
        }
        assert!(examples > 2, "the examples have gone elsewhere");
    }

    #[test]
    fn failures_have_their_exit_codes() {
        let code = |error: Error| Failure::from(error).exit_code();
        let closed = |code| Error::ChannelClosed { code, text: "no queue 'q'".into() };
        assert_eq!(code(closed(404)), 5);
        assert_eq!(code(Error::ConnectionLost(String::new())), 3);
        assert_eq!(code(Options::from_url("x").unwrap_err()), 2);
        assert_eq!(code("q; {".parse::<fulmar_client::Address>().unwrap_err()), 2);
        assert_eq!(code(Error::Unresolved { name: "q".into(), reason: String::new() }), 5);
        assert_eq!(Failure::TimedOut(String::new()).exit_code(), 6);
        assert!(Failure::from(closed(404)).to_string().contains("--declare"));
    }

    #[test]
    fn seconds_may_have_a_fraction_but_no_sign() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(parse_seconds("-1").is_err() && parse_seconds("soon").is_err());
    }
}
