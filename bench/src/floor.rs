//! The floor: servers that move bytes and know nothing of messages.
//!
//! Runs on a thread of its own, pinned like a shard, with the broker's reactor, buffers and idle strategies, so that
//! the difference to the broker is the broker's logic. Ends when dropped.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, fast, frame};
use fulmar_transport::{
    AnyTransport, Config, ConnId, Event, Idle, IoChoice, RecvBuf, Transport, Wait, Waker,
};

use crate::driver::amqp::FRAME_MAX_BYTES;
use crate::options::{FloorIo, FloorMode, FloorOptions};
use crate::poll::pin_to_last_processor;
use crate::target::Target;

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
                FloorIo::Uring => serve(IoChoice::Uring, options, &stopped, &tell),
                FloorIo::Epoll => serve(IoChoice::Epoll, options, &stopped, &tell),
                FloorIo::Blocking if options.mode == FloorMode::Messages => {
                    Err(io::Error::other("--mode messages runs on uring and epoll"))
                }
                FloorIo::Blocking => serve_blocking(options.mode, pairs, &tell),
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
        match self.options.mode {
            FloorMode::Relay | FloorMode::Messages => Target::Relay(self.address),
            FloorMode::Echo => Target::Echo(self.address),
        }
    }

    /// What moves the bytes.
    pub fn io_name(&self) -> &'static str {
        self.io_name
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(waker) = &self.waker {
            waker.wake();
        } else {
            // Blocking threads end with their connections; those of a client that never came end here.
            drop(TcpStream::connect(self.address));
        }
        if let Some(Err(error)) = self.thread.take().map(|thread| thread.join().expect("the floor panicked"))
        {
            eprintln!("fulmar bench: the floor's server failed: {error}");
        }
    }
}

fn serve(
    choice: IoChoice,
    options: FloorOptions,
    stop: &AtomicBool,
    tell: &mpsc::Sender<Ready>,
) -> io::Result<()> {
    match fulmar_transport::open(Config::default(), choice)? {
        AnyTransport::Uring(transport) => Relay::new(*transport, options).serve(stop, tell),
        AnyTransport::Epoll(transport) => Relay::new(*transport, options).serve(stop, tell),
    }
}

/// The server on a reactor.
struct Relay<T> {
    transport: T,
    idle: Idle,
    mode: FloorMode,
    high_water_bytes: usize,
    accepted: Vec<ConnId>,
    /// Stands in for an output that is taken out; has capacity, lest the transport fetch another buffer.
    spare: Vec<u8>,
    /// By the index of a connection: where its bytes go.
    routes: Vec<Option<Route>>,
    /// By the index of a publisher's connection.
    assemblers: Vec<Assembler>,
}

#[derive(Clone, Copy)]
struct Route {
    to: ConnId,
    /// Whose bytes go to `to`.
    from: ConnId,
}

impl<T: Transport> Relay<T> {
    fn new(transport: T, options: FloorOptions) -> Self {
        Relay {
            transport,
            idle: Idle::new(options.idle),
            mode: options.mode,
            high_water_bytes: Config::default().high_water_bytes,
            accepted: Vec::new(),
            spare: Vec::with_capacity(64),
            routes: Vec::new(),
            assemblers: Vec::new(),
        }
    }

    fn serve(&mut self, stop: &AtomicBool, tell: &mpsc::Sender<Ready>) -> io::Result<()> {
        let (_, address) = self.transport.listen((Ipv4Addr::LOCALHOST, 0).into(), 128)?;
        let ready = Ready { address, io_name: self.transport.name(), waker: Some(self.transport.waker()) };
        tell.send(ready).expect("the starting thread waits for this");
        let mut events = Vec::new();
        let mut wait = Wait::Poll;
        while !stop.load(Ordering::Relaxed) {
            self.transport.turn(wait, &mut events)?;
            let worked = !events.is_empty();
            for event in events.drain(..) {
                self.event(event);
            }
            self.transport.flush();
            let now_ns = self.transport.now_ns();
            if worked {
                self.idle.worked(now_ns);
            }
            wait = if self.idle.may_wait(now_ns) { Wait::Until(None) } else { Wait::Poll };
        }
        Ok(())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Received { conn, buf } => {
                if let Some(route) = self.routes.get(conn.index as usize).copied().flatten() {
                    self.forward(route, &buf);
                }
                self.transport.recycle(buf);
            }
            Event::Drained { conn } => {
                let fed_by =
                    self.routes.iter().flatten().find(|route| route.to == conn).map(|route| route.from);
                if let Some(from) = fed_by {
                    self.transport.resume(from);
                }
            }
            Event::Accepted { conn, .. } => self.accept(conn),
            Event::Closed { .. } | Event::Connected { .. } | Event::Woken => {}
        }
    }

    fn forward(&mut self, route: Route, buf: &RecvBuf) {
        // Taken out for a moment, since the received bytes lie in the transport too.
        let Some(place) = self.transport.output(route.to) else { return };
        std::mem::swap(place, &mut self.spare);
        let output = &mut self.spare;
        let bytes = self.transport.bytes(buf);
        match self.mode {
            FloorMode::Relay | FloorMode::Echo => output.extend_from_slice(bytes),
            FloorMode::Messages => self.assemblers[route.from.index as usize].deliver(bytes, output),
        }
        if let Some(place) = self.transport.output(route.to) {
            std::mem::swap(place, &mut self.spare);
        }
        if self.transport.pending_bytes(route.to) > self.high_water_bytes {
            self.transport.pause(route.from);
        }
    }

    fn accept(&mut self, conn: ConnId) {
        let from_to = match self.mode {
            FloorMode::Echo => Some((conn, conn)),
            // The consumer of a pair comes first.
            FloorMode::Relay | FloorMode::Messages => match self.accepted.pop() {
                Some(consumer) => Some((conn, consumer)),
                None => {
                    self.accepted.push(conn);
                    None
                }
            },
        };
        if let Some((from, to)) = from_to {
            let index = from.index as usize;
            self.routes.resize(self.routes.len().max(index + 1), None);
            self.routes[index] = Some(Route { to, from });
            self.assemblers.resize_with(self.routes.len(), Assembler::default);
        }
    }
}

/// Makes deliveries of a publisher's messages: the least that AMQP 0-9-1 asks of a broker.
#[derive(Default)]
struct Assembler {
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    delivery_tag: u64,
}

impl Assembler {
    fn deliver(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        if self.rest.is_empty() {
            let taken = self.take(bytes, output);
            self.rest.extend_from_slice(&bytes[taken..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(bytes);
            let taken = self.take(&rest, output);
            rest.drain(..taken);
            self.rest = rest;
        }
    }

    fn take(&mut self, input: &[u8], output: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some((frame, taken)) =
            frame::parse(&input[at..], FRAME_MAX_BYTES).expect("the load generator writes frames")
        {
            at += taken;
            if frame.kind == FrameKind::Method
                && let Ok(Method::BasicPublish { exchange, routing_key, .. }) = Method::decode(frame.payload)
            {
                self.delivery_tag += 1;
                fast::deliver(frame.channel, b"c", self.delivery_tag, false, exchange, routing_key, output);
            } else {
                frame.encode(output);
            }
        }
        at
    }
}

fn serve_blocking(mode: FloorMode, pairs: usize, tell: &mpsc::Sender<Ready>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ready = Ready { address: listener.local_addr()?, io_name: "blocking", waker: None };
    tell.send(ready).expect("the starting thread waits for this");
    std::thread::scope(|scope| {
        for _ in 0..pairs {
            let consumer = listener.accept()?.0;
            let publisher = match mode {
                FloorMode::Relay | FloorMode::Messages => listener.accept()?.0,
                FloorMode::Echo => consumer.try_clone()?,
            };
            scope.spawn(move || copy(publisher, consumer));
        }
        Ok(())
    })
}

/// Ends with either connection, which is how every load ends.
fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    to.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let received = from.read(&mut buffer)?;
        if received == 0 {
            return to.shutdown(Shutdown::Both);
        }
        to.write_all(&buffer[..received])?;
    }
}

#[cfg(test)]
mod tests {
    use fulmar_transport::IdleStrategy;

    use super::*;
    use crate::measure::measure;
    use crate::options::tests::options;

    fn sound_in_each_mode(io: FloorIo, modes: &[FloorMode]) {
        for &mode in modes {
            for idle in [IdleStrategy::Adaptive, IdleStrategy::Block] {
                let load =
                    options(["--seconds", "0.1", "--warmup", "0", "--size", "3000", "--client", "block"]);
                for rate in [None, Some(1_000)] {
                    let floor = match Floor::start(FloorOptions { mode, io, idle }, 1) {
                        Ok(floor) => floor,
                        Err(refused) if io == FloorIo::Uring => return eprintln!("skipped: {refused}"),
                        Err(error) => panic!("{error}"),
                    };
                    let run = measure(&floor.target(), &load.workload("test", rate).unwrap()).unwrap();
                    assert!(run.is_sound(), "{mode:?} {idle:?} {rate:?}: {:?}", run.outcome);
                    assert!(run.outcome.published > 50, "{mode:?} {idle:?} {rate:?}: {:?}", run.outcome);
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
}
