//! TLS handshakes in an open loop: one begins when it is due, whether or not those before it are over.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::PROTOCOL_HEADER;
use fulmar_tls::client_config;
use fulmar_tls::rustls::ClientConfig;
use fulmar_tls::rustls::client::Resumption;

use super::{DisturbArgs, Tally};
use crate::BenchError;
use crate::driver::tls::connect_with;
use crate::histogram::Latencies;
use crate::recipe::Running;

/// Handshakes under way at a time, at most.
const MOST: u32 = 64;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the threads share.
struct Course<'a> {
    args: &'a DisturbArgs,
    port: u16,
    config: Arc<ClientConfig>,
    begun: Instant,
    /// The next one's number.
    next: AtomicU64,
    under_way: AtomicU64,
    stop: &'a AtomicBool,
}

/// Makes the nuisance until told to stop.
///
/// # Errors
/// The broker's certificate cannot be read.
pub(super) fn run(args: &DisturbArgs, broker: &Running, stop: &AtomicBool) -> Result<Tally, BenchError> {
    let options = broker.url.tls.as_deref().cloned().unwrap_or_default();
    let config = client_config(&options).map_err(|error| BenchError::Options(error.to_string()))?;
    // All of them in full.
    let mut config = ClientConfig::clone(&config);
    config.resumption = Resumption::disabled();
    let course = Course {
        args,
        port: broker.url.port,
        config: Arc::new(config),
        begun: Instant::now(),
        next: AtomicU64::new(0),
        under_way: AtomicU64::new(0),
        stop,
    };
    let threads = args.nuisance_connections.min(MOST);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| course.take_turns())).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread panicked")).collect()
    });
    let mut sum = Tally { seconds: course.begun.elapsed().as_secs_f64(), ..Tally::default() };
    for tally in tallies {
        sum.opened += tally.opened;
        sum.refused += tally.refused;
        sum.ended += tally.ended;
        sum.most = sum.most.max(tally.most);
        sum.took.merge(&tally.took);
    }
    Ok(sum)
}

impl Course<'_> {
    fn take_turns(&self) -> Tally {
        let mut tally = Tally { took: Latencies::touched(), ..Tally::default() };
        while !self.stop.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.begun + Duration::from_secs_f64(n as f64 / f64::from(self.args.nuisance_rate));
            if !self.wait_until(due) {
                break;
            }
            tally.most = tally.most.max(1 + self.under_way.fetch_add(1, Ordering::Relaxed));
            tally.opened += 1;
            match self.shake_hands(n) {
                Some(()) => {
                    tally.ended += 1;
                    tally.took.record(due.elapsed().as_nanos() as u64);
                }
                None => tally.refused += 1,
            }
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
        tally
    }

    /// Whether it is time; not if it is over before.
    fn wait_until(&self, due: Instant) -> bool {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.load(Ordering::Relaxed) {
                return left.is_zero();
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Over when the broker has greeted within TLS: the handshake is over on both sides then.
    fn shake_hands(&self, n: u64) -> Option<()> {
        let socket = self.args.connect(n, self.port, false).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.set_write_timeout(Some(PATIENCE)).ok()?;
        let mut stream = connect_with(socket, "localhost", self.config.clone()).ok()?;
        stream.write_all(&PROTOCOL_HEADER).ok()?;
        stream.flush().ok()?;
        stream.read_exact(&mut [0; 7]).ok()
    }
}
