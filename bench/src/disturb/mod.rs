//! `fulmar bench disturb`: what a nuisance costs those who are served.
//!
//! 1. Messages at a constant rate, and a login every now and then, are measured undisturbed and disturbed in turns,
//!    so that whatever else the machine does meets both alike.
//! 2. On a machine where everything shares the cores, who makes a nuisance takes time too. So there is a third turn, in
//!    which the nuisance goes to another broker of the same kind: the ratio to that is what the measured broker adds.
//! 3. Who makes a nuisance has addresses of its own on loopback; the measured load and the logins have another.

mod crowd;
mod handshakes;
mod leg;
mod tell;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use socket2::{Domain, Protocol, Socket, Type};

use crate::BenchError;
use crate::machine::raise_descriptor_limit_for;
use crate::overrides::Overrides;
use crate::recipe::{self, Recipe, Running};
use crate::workload::Workload;

use leg::Leg;

/// What somebody does who means no good, or has a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Nuisance {
    /// Connects by TLS in full, and leaves once the broker has greeted.
    Handshakes,
    /// Begins a handshake of TLS, every second one in the middle of its first record, and says no more.
    HalfOpen,
    /// Sends a byte of its login a second.
    SlowLoris,
    /// Logs in with a wrong password, and leaves when that was refused.
    WrongPasswords,
    /// Announces a frame of 2 GiB before the login, and sends as much of it as is taken.
    GiantFrames,
}

/// Options of `fulmar bench disturb`.
#[derive(Clone, Debug, Args)]
pub struct DisturbArgs {
    /// The nuisance.
    nuisance: Nuisance,
    /// The broker to start, one that speaks TLS: fulmar-tls, rabbitmq-tls.
    #[arg(long, value_name = "BROKER", default_value = "fulmar-tls", value_parser = recipe_named)]
    with: &'static Recipe,
    /// What is served meanwhile.
    #[arg(long, default_value = "latency-10k")]
    workload: String,
    /// Connections a second, at most.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nuisance_rate: u32,
    /// Connections at a time, at most; for handshakes those under way.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    nuisance_connections: u32,
    /// Addresses that they come from.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    addresses: u32,
    /// Rounds of every turn.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Leave the turn out in which another broker is disturbed.
    #[arg(long)]
    no_control: bool,
    /// Exit with 1 if p99 is more than so many times what it is when another broker is disturbed, or when none is.
    #[arg(long, value_name = "FACTOR")]
    limit: Option<f64>,
    #[command(flatten)]
    overrides: Overrides,
}

fn recipe_named(name: &str) -> Result<&'static Recipe, String> {
    let known = recipe::RECIPES.iter().filter(|recipe| recipe.tls);
    match recipe::find(name).filter(|recipe| recipe.tls) {
        Some(recipe) => Ok(recipe),
        None => Err(format!("not one of {}", known.map(|recipe| recipe.name).collect::<Vec<_>>().join(", "))),
    }
}

/// Runs the command.
///
/// # Errors
/// A broker cannot be started, or the measured load failed.
pub fn run(args: &DisturbArgs, json: bool) -> Result<ExitCode, BenchError> {
    let workload = args.overrides.workload(&args.workload)?;
    if workload.rate_hz.is_none() {
        return Err(BenchError::Options(format!("{} has no rate, and so no latency", workload.name)));
    }
    raise_descriptor_limit_for(u64::from(args.nuisance_connections) + 500)?;
    let broker = Running::start(args.with)?;
    let other = if args.no_control { None } else { Some(Running::start(args.with)?) };
    let mut turns = vec![Turn::new("undisturbed", None)];
    turns.extend(other.as_ref().map(|other| Turn::new("another broker is", Some(other))));
    turns.push(Turn::new("disturbed", Some(&broker)));
    for _ in 0..args.rounds {
        for turn in &mut turns {
            turn.legs.push(leg::take(&broker, turn.disturbed, args, &workload)?);
        }
    }
    let by = args.told(&workload);
    tell::print(&by, &turns, json);
    let faults: u64 = turns.iter().flat_map(|turn| &turn.legs).map(|leg| leg.faults).sum();
    if faults > 0 {
        eprintln!("fulmar bench: messages were lost, duplicated, reordered or refused");
        return Ok(ExitCode::FAILURE);
    }
    Ok(args.verdict(&turns))
}

/// One of the things that are measured in turns.
struct Turn<'a> {
    name: &'static str,
    disturbed: Option<&'a Running>,
    legs: Vec<Leg>,
}

impl<'a> Turn<'a> {
    fn new(name: &'static str, disturbed: Option<&'a Running>) -> Self {
        Turn { name, disturbed, legs: Vec::new() }
    }

    /// The median of a figure over the rounds.
    fn median(&self, figure: impl Fn(&Leg) -> Option<f64>) -> Option<f64> {
        crate::statistics::Summary::of(self.legs.iter().filter_map(figure)).map(|found| found.median)
    }
}

impl DisturbArgs {
    fn told(&self, workload: &Workload) -> String {
        let nuisance = self.nuisance.to_possible_value().expect("no value is hidden");
        format!(
            "{}, {} beside {}: {}/s, at most {} at a time, from {} address(es)",
            self.with.name,
            workload.name,
            nuisance.get_name(),
            self.nuisance_rate,
            self.nuisance_connections,
            self.addresses,
        )
    }

    fn verdict(&self, turns: &[Turn<'_>]) -> ExitCode {
        let Some(limit) = self.limit else { return ExitCode::SUCCESS };
        let (last, before) = turns.split_last().expect("there are turns");
        let p99 = |turn: &Turn<'_>| turn.median(|leg| Some(leg.p99_us)).unwrap_or(0.0);
        let base = before.iter().map(p99).fold(0.0, f64::max);
        if p99(last) <= limit * base {
            return ExitCode::SUCCESS;
        }
        eprintln!(
            "fulmar bench: p99 is {:.2} times what it should be at most {limit} times",
            p99(last) / base
        );
        ExitCode::FAILURE
    }

    /// The address that the `n`th connection comes from, where the broker is on loopback too.
    fn source(&self, n: u64) -> IpAddr {
        let [high, low] = ((n % u64::from(self.addresses)) as u16 + 1).to_be_bytes();
        Ipv4Addr::new(127, 1, high, low).into()
    }

    /// A new connection, non-blocking or not.
    fn connect(&self, n: u64, port: u16, nonblocking: bool) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(self.source(n), 0).into())?;
        // On loopback this is done at once, or refused.
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        socket.set_nonblocking(nonblocking)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }
}

/// What became of a nuisance.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Connections made.
    opened: u64,
    /// Those that were not taken.
    refused: u64,
    /// Those that the broker ended, or that came to what they were for.
    ended: u64,
    /// Most at a time.
    most: u64,
    /// How long it went on, in seconds.
    seconds: f64,
    /// How long those took that ended, from when they were due.
    took: crate::histogram::Latencies,
}
