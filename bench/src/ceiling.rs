//! What the load generator itself can do with a workload: its limit, below which a figure is the broker's.
//!
//! Two servers stand in for the broker and cost as little as a server can. A sink takes publishes off the socket without
//! even copying them; a source writes deliveries that are encoded already, with stamps, as fast as the socket takes
//! them. Each half of the load generator runs against its server alone, with the workload's connections, keys, sizes and
//! threads; confirms and acknowledgements are left out. With publishers and consumers on threads of their own the
//! slower half is the limit, on one thread they share it.
//!
//! What a half can do is counted by the processor time that it took, the kernel's on its behalf included: its rate if it had
//! a core to itself and its server were never the slower one.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::driver::Bare;
use crate::driver::amqp::Amqp;
use crate::driver::amqp::batch::Batch;
use crate::driver::amqp_0_10::Amqp010;
use crate::driver::stream::Stream;
use crate::load::{self, ClientWait, Crew, Recorder, Shared, Window};
use crate::measure::{dress_consumers, dress_publishers};
use crate::overrides::Overrides;
use crate::plan::{Plan, unique_prefix};
use crate::report::Report;
use crate::stamp::Stamp;
use crate::tracker::Tracker;
use crate::url::Protocol;
use crate::workload::{Ack, Client, Pattern, Workload};
use crate::{BenchError, processes};

/// Options of `fulmar bench ceiling`.
#[derive(Clone, Debug, Args)]
pub struct CeilingArgs {
    /// A built-in workload, or a file with one.
    #[arg(default_value = "small-flood")]
    workload: String,
    /// Protocol that it speaks.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    #[command(flatten)]
    overrides: Overrides,
}

/// The load generator's own limit, in messages a second of a core's time for each thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Publishing, into the sink.
    pub publish_hz: f64,
    /// Consuming, from the source; copies.
    pub consume_hz: f64,
    /// Both at once, in published messages.
    pub both_hz: f64,
    /// What publishing reached beside what else ran on the machine.
    pub publish_reached_hz: f64,
    /// What consuming reached likewise.
    pub consume_reached_hz: f64,
}

/// Prints the ceiling of a workload.
///
/// # Errors
/// The system refused a socket.
pub fn run(args: &CeilingArgs, json: bool) -> Result<ExitCode, BenchError> {
    let workload = args.overrides.workload(&args.workload)?;
    let ceiling = of_processes(args.protocol, &workload, workload.seconds)?;
    if json {
        println!("{}", serde_json::to_string(&ceiling).expect("it has no keys but text"));
        return Ok(ExitCode::SUCCESS);
    }
    let title = format!("ceiling of the load generator, {}, {}", workload.name, workload.size);
    let mut report = Report::new(title);
    report.count("processes", u64::from(workload.client.processes));
    report.measure("publishing", ceiling.publish_hz, "msg/s");
    report.measure("consuming", ceiling.consume_hz, "msg/s");
    report.measure("both", ceiling.both_hz, "msg/s");
    report.measure("publishing reached now", ceiling.publish_reached_hz, "msg/s");
    report.measure("consuming reached now", ceiling.consume_reached_hz, "msg/s");
    report.print(false);
    Ok(ExitCode::SUCCESS)
}

/// The ceiling of a workload on all its processes, each half measured for so long.
///
/// # Errors
/// The system refused a socket or a process.
pub fn of_processes(protocol: Protocol, workload: &Workload, seconds: f64) -> Result<Ceiling, BenchError> {
    match workload.client.processes {
        1 => match protocol {
            Protocol::Amqp091 => of_workload::<Amqp>(workload, seconds),
            Protocol::Amqp010 => of_workload::<Amqp010>(workload, seconds),
        },
        _ => processes::ceiling(protocol, workload, seconds),
    }
}

fn of_workload<D: Bare>(workload: &Workload, seconds: f64) -> Result<Ceiling, BenchError> {
    // A flood of the same messages: what waits for a broker or a clock is left out.
    let plain = Workload {
        rate_hz: None,
        arrival: Default::default(),
        confirm_window: None,
        ack: Ack::Auto,
        prefetch: 0,
        slow: None,
        in_flight: None,
        messages: None,
        pattern: Pattern::Stream,
        // A thread that spins takes time without doing anything.
        client: Client { processes: 1, wait: Some(ClientWait::Block), ..workload.client },
        ..workload.clone()
    };
    let threads = workload.threads();
    let plan = Plan::new(plain, unique_prefix());
    let (publish_hz, publish_reached_hz) = publishing::<D>(&plan, threads, seconds)?;
    let (consume_hz, consume_reached_hz) = consuming::<D>(&plan, threads, seconds)?;
    let copies_hz = consume_hz / plan.routes.mean_copies().max(f64::MIN_POSITIVE);
    let both_hz = match threads {
        1 => 1.0 / (1.0 / publish_hz + 1.0 / copies_hz),
        _ => publish_hz.min(copies_hz),
    };
    Ok(Ceiling { publish_hz, consume_hz, both_hz, publish_reached_hz, consume_reached_hz })
}

/// Publishers into a sink; what they can do, and what they reached.
fn publishing<D: Bare>(plan: &Plan, threads: usize, seconds: f64) -> Result<(f64, f64), BenchError> {
    let server = Server::start(plan.workload.publishers as usize, |_, socket| swallow(&socket))?;
    let link = |n| {
        let stream = Stream::Tcp(connect(server.address)?);
        Ok(D::publisher(stream, D::contents(plan, n)))
    };
    let links: Vec<D::Publisher> =
        (0..plan.workload.publishers as usize).map(link).collect::<io::Result<_>>()?;
    let shared = shared(plan, links.len(), 0, seconds);
    // As many threads as publish beside consumers.
    let threads = threads.div_ceil(2);
    let recorder = |_| Recorder::new(shared.window, false, Vec::new(), None);
    let crews = Crew::<D>::deal(dress_publishers(plan, links), Vec::new(), Vec::new(), threads, recorder);
    let outcome = load::run(&shared, crews, |wait| while !wait(std::time::Duration::from_secs(1)) {})?;
    // More threads than connections would do nothing.
    let busy = threads.min(plan.workload.publishers as usize);
    Ok((by_processor_time(outcome.published, outcome.cpu_ns, busy), outcome.published_hz))
}

/// Consumers from a source; what they can do, and what they reached.
fn consuming<D: Bare>(plan: &Plan, threads: usize, seconds: f64) -> Result<(f64, f64), BenchError> {
    let source = plan.clone();
    let server = Server::start(plan.consumers(), move |n, socket| pour::<D>(&source, n, socket))?;
    let link = |_| Ok(D::consumer(Stream::Tcp(connect(server.address)?)));
    let links: Vec<D::Consumer> = (0..plan.consumers()).map(link).collect::<io::Result<_>>()?;
    let shared = shared(plan, 0, u64::MAX, seconds);
    let threads = if threads == 1 { 1 } else { threads - threads.div_ceil(2) };
    let recorder = |_| {
        let trackers = vec![Tracker::default(); plan.measured_queues().len()];
        Recorder::new(shared.window, false, trackers, None)
    };
    let crews = Crew::<D>::deal(Vec::new(), dress_consumers(plan, links), Vec::new(), threads, recorder);
    let outcome = load::run(&shared, crews, |wait| while !wait(std::time::Duration::from_secs(1)) {})?;
    let busy = threads.min(plan.consumers());
    Ok((by_processor_time(outcome.received, outcome.cpu_ns, busy), outcome.consumed_hz))
}

/// Messages a second of threads that have a core each, from what they took together.
fn by_processor_time(messages: u64, cpu_ns: u64, threads: usize) -> f64 {
    messages as f64 * 1e9 / cpu_ns.max(1) as f64 * threads as f64
}

/// A tenth of the time to warm up, then the time; ends without waiting for anything.
fn shared(plan: &Plan, publishers: usize, backlog: u64, seconds: f64) -> Shared {
    let from_ns = (seconds * 1e8) as u64;
    let window = Window { from_ns, to_ns: from_ns + (seconds * 1e9) as u64 };
    let mut shared =
        Shared::new(Clock::start(), window, plan.workload.wait(), publishers).with_backlog(backlog);
    shared.cut_off = true;
    shared
}

/// A server with a thread for each of its connections; they end with these.
struct Server {
    address: SocketAddr,
}

impl Server {
    fn start(
        connections: usize,
        serve: impl Fn(usize, TcpStream) -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        std::thread::Builder::new().name("ceiling".into()).spawn(move || {
            for n in 0..connections {
                let Ok((socket, _)) = listener.accept() else { return };
                let serve = serve.clone();
                // The end of a connection is an error to its thread, and no other.
                std::thread::spawn(move || drop(serve(n, socket)));
            }
        })?;
        Ok(Server { address })
    }
}

/// Takes everything off the socket without copying it.
fn swallow(socket: &TcpStream) -> io::Result<()> {
    let mut somewhere = [0u8; 16];
    loop {
        // SAFETY: with MSG_TRUNC the kernel drops the bytes of a stream instead of writing them; the pointer is that of a
        // local all the same, and a length beyond it is never written to.
        let taken = unsafe {
            libc::recv(socket.as_raw_fd(), somewhere.as_mut_ptr().cast(), 1 << 20, libc::MSG_TRUNC)
        };
        match taken {
            1.. => {}
            0 => return Ok(()),
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

/// Writes deliveries of the messages that the consumer would get.
fn pour<D: Bare>(plan: &Plan, consumer: usize, mut socket: TcpStream) -> io::Result<()> {
    let mut batch = Batch::new(D::deliveries(plan, plan.queue_of_consumer(consumer)));
    for sequence in 0.. {
        batch.put(Stamp { publisher: consumer as u16, sequence, due_ns: 0, sent_ns: 0 });
        if (sequence + 1) % batch.capacity() as u64 == 0 {
            socket.write_all(batch.bytes())?;
            batch.clear();
        }
    }
    Ok(())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_are_measured_and_the_slower_one_limits() {
        for (text, threads) in [
            ("", 2),
            ("[client]\nthreads = 1", 1),
            ("size = [{ size = 24, weight = 1 }, { size = 99, weight = 1 }]", 2),
        ] {
            let workload = Workload::from_toml(text).unwrap();
            // A busy machine may give it no time at all.
            for protocol in [Protocol::Amqp091, Protocol::Amqp010] {
                let mut tries = (0..20).map(|_| of_processes(protocol, &workload, 0.1).unwrap());
                let is_measured = |ceiling: &Ceiling| ceiling.publish_hz > 0.0 && ceiling.consume_hz > 0.0;
                let ceiling = tries.find(is_measured).unwrap();
                let slower_hz = ceiling.publish_hz.min(ceiling.consume_hz);
                match threads {
                    1 => assert!(ceiling.both_hz < slower_hz),
                    _ => assert_eq!(ceiling.both_hz, slower_hz),
                }
            }
        }
    }
}
