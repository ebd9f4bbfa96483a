//! The floor: servers that move bytes and know nothing of messages.
//!
//! Each runs on a thread of its own, pinned like a shard, and ends when dropped. On the broker's reactor, with its buffers
//! and idle strategies, the difference to the broker is the broker's logic; on anything else, what the difference between
//! ways to move bytes is on this host.

mod blocking;
mod on_tokio;
mod raw_uring;
mod rdma;
mod reactor;
pub mod table;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use fulmar_transport::{IdleStrategy, IoChoice, Waker};

use crate::options::{FloorIo, FloorMode, FloorOptions};
use crate::poll::pin_to_last_processor;
use crate::target::{Server, Target};

/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 * 1024;

/// A running floor server.
pub struct Floor {
    options: FloorOptions,
    address: SocketAddr,
    io_name: &'static str,
    stop: Arc<AtomicBool>,
    waker: Option<Arc<dyn Waker>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What the server's thread tells when it is ready.
struct Ready {
    address: SocketAddr,
    io_name: &'static str,
    waker: Option<Arc<dyn Waker>>,
}

impl Floor {
    /// Starts a server for `pairs` publishers and as many consumers.
    ///
    /// # Errors
    /// The system refused the reactor or the socket.
    pub fn start(options: FloorOptions, pairs: usize) -> io::Result<Floor> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name("floor".into()).spawn(move || {
            pin_to_last_processor()?;
            match options.io {
                FloorIo::Uring => reactor::serve(IoChoice::Uring, options, &stopped, &tell),
                FloorIo::Epoll => reactor::serve(IoChoice::Epoll, options, &stopped, &tell),
                _ if options.rdma.is_some() => Err(io::Error::other("--rdma runs on uring and epoll")),
                _ if options.mode == FloorMode::Messages => {
                    Err(io::Error::other("--mode messages runs on uring and epoll"))
                }
                other => serve_lanes(other, options, pairs, &stopped, &tell),
            }
        })?;
        match told.recv() {
            Ok(Ready { address, io_name, waker }) => {
                Ok(Floor { options, address, io_name, stop, waker, thread: Some(thread) })
            }
            Err(_) => {
                Err(thread.join().expect("the floor's thread panicked").expect_err("it never was ready"))
            }
        }
    }

    /// Where to send the load.
    pub fn target(&self) -> Target {
        let server = Server { address: self.address, is_rdma: self.options.rdma.is_some() };
        match self.options.mode {
            FloorMode::Relay | FloorMode::Messages => Target::Relay(server),
            FloorMode::Echo => Target::Echo(server),
        }
    }

    /// What moves the bytes.
    pub fn io_name(&self) -> &'static str {
        self.io_name
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Pairs with the acquire in `accept`.
        self.stop.store(true, Ordering::Release);
        if let Some(waker) = &self.waker {
            waker.wake();
        } else {
            // Lanes end with their connections; those of a client that never came end here.
            drop(TcpStream::connect(self.address));
        }
        if let Some(Err(error)) = self.thread.take().map(|thread| thread.join().expect("the floor panicked"))
        {
            eprintln!("fulmar bench: the floor's server failed: {error}");
        }
    }
}

/// Bytes that come on one connection leave on another, or on the same one.
struct Lane {
    from: TcpStream,
    to: TcpStream,
}

fn serve_lanes(
    kind: FloorIo,
    options: FloorOptions,
    pairs: usize,
    stop: &AtomicBool,
    tell: &mpsc::Sender<Ready>,
) -> io::Result<()> {
    let io_name = match kind {
        FloorIo::RawUring => raw_uring::NAME,
        FloorIo::Tokio => on_tokio::NAME,
        _ => blocking::NAME,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // What the system refuses is told before any client comes.
    let ring = if kind == FloorIo::RawUring { Some(raw_uring::open()?) } else { None };
    let ready = Ready { address: listener.local_addr()?, io_name, waker: None };
    tell.send(ready).expect("the starting thread waits for this");
    let mut lanes = Vec::new();
    for _ in 0..pairs {
        // The consumer of a pair comes first.
        let Some(to) = accept(&listener, stop)? else { return Ok(()) };
        let from = match options.mode {
            FloorMode::Echo => to.try_clone()?,
            FloorMode::Relay | FloorMode::Messages => match accept(&listener, stop)? {
                Some(from) => from,
                None => return Ok(()),
            },
        };
        lanes.push(Lane { from, to });
    }
    match (kind, ring) {
        (_, Some(ring)) => raw_uring::serve(ring, lanes, options.idle == IdleStrategy::Spin),
        (FloorIo::Tokio, _) => on_tokio::serve(lanes),
        _ => blocking::serve(lanes),
    }
}

/// The next connection; none if the server is to stop.
fn accept(listener: &TcpListener, stop: &AtomicBool) -> io::Result<Option<TcpStream>> {
    let socket = listener.accept()?.0;
    socket.set_nodelay(true)?;
    // Pairs with the release where the server is dropped.
    Ok((!stop.load(Ordering::Acquire)).then_some(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::measure;
    use crate::options::tests::options;

    fn sound_in_each_mode(io: FloorIo, modes: &[FloorMode]) {
        for &mode in modes {
            for idle in [IdleStrategy::Adaptive, IdleStrategy::Block] {
                let load = options([
                    "--messages",
                    "60",
                    "--seconds",
                    "30",
                    "--warmup",
                    "0",
                    "--size",
                    "3000",
                    "--client",
                    "block",
                ]);
                for rate in [None, Some(1_000)] {
                    let floor = match Floor::start(FloorOptions { mode, io, idle, rdma: None }, 1) {
                        Ok(floor) => floor,
                        Err(refused) if matches!(io, FloorIo::Uring | FloorIo::RawUring) => {
                            return eprintln!("skipped: {refused}");
                        }
                        Err(error) => panic!("{error}"),
                    };
                    let run = measure(&floor.target(), &load.workload("test", rate).unwrap()).unwrap();
                    assert!(run.is_sound(), "{mode:?} {idle:?} {rate:?}: {:?}", run.outcome);
                    assert_eq!(run.outcome.published, 60, "{mode:?} {idle:?} {rate:?}");
                    assert_eq!(run.latencies().count > 50, rate.is_some());
                }
            }
        }
    }

    #[test]
    fn every_message_comes_through_io_uring() {
        sound_in_each_mode(FloorIo::Uring, &[FloorMode::Relay, FloorMode::Messages, FloorMode::Echo]);
    }

    #[test]
    fn every_message_comes_through_epoll() {
        sound_in_each_mode(FloorIo::Epoll, &[FloorMode::Relay, FloorMode::Messages, FloorMode::Echo]);
    }

    #[test]
    fn every_message_comes_through_blocking_reads() {
        sound_in_each_mode(FloorIo::Blocking, &[FloorMode::Relay, FloorMode::Echo]);
    }

    #[test]
    fn every_message_comes_through_a_raw_ring() {
        sound_in_each_mode(FloorIo::RawUring, &[FloorMode::Relay, FloorMode::Echo]);
    }

    #[test]
    fn every_message_comes_through_tokio() {
        sound_in_each_mode(FloorIo::Tokio, &[FloorMode::Relay, FloorMode::Echo]);
    }

    #[test]
    fn a_server_to_whom_nobody_comes_ends() {
        for io in [FloorIo::Blocking, FloorIo::Tokio] {
            for mode in [FloorMode::Relay, FloorMode::Echo] {
                let options = FloorOptions { mode, io, idle: IdleStrategy::Block, rdma: None };
                drop(Floor::start(options, 3).unwrap());
            }
        }
    }
}
