//! The floor on the broker's own reactor, with its buffers and idle strategies.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, fast, frame};
use fulmar_rdma::Joined;
use fulmar_transport::{AnyTransport, Config, ConnId, Event, Idle, IoChoice, RecvBuf, Transport, Wait};

use super::{Ready, rdma};
use crate::driver::amqp::FRAME_MAX_BYTES;
use crate::options::{FloorMode, FloorOptions};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// Serves until told to stop.
pub(super) fn serve(
    choice: IoChoice,
    options: FloorOptions,
    stop: &AtomicBool,
    tell: &mpsc::Sender<Ready>,
) -> io::Result<()> {
    match fulmar_transport::open(Config::default(), choice)? {
        AnyTransport::Uring(transport) => serve_on(*transport, options, stop, tell),
        AnyTransport::Epoll(transport) => serve_on(*transport, options, stop, tell),
    }
}

fn serve_on<T: Transport>(
    mut transport: T,
    options: FloorOptions,
    stop: &AtomicBool,
    tell: &mpsc::Sender<Ready>,
) -> io::Result<()> {
    if let Some(ip) = options.rdma {
        let (side, address) = rdma::listen(ip, BACKLOG)?;
        return Relay::new(Joined::new(transport, side)?, options).serve(address, stop, tell);
    }
    let (_, address) = transport.listen((Ipv4Addr::LOCALHOST, 0).into(), BACKLOG)?;
    Relay::new(transport, options).serve(address, stop, tell)
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

    fn serve(
        &mut self,
        address: SocketAddr,
        stop: &AtomicBool,
        tell: &mpsc::Sender<Ready>,
    ) -> io::Result<()> {
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
            Event::Closed { .. }
            | Event::Connected { .. }
            | Event::Detached { .. }
            | Event::File(_)
            | Event::Woken
            | Event::Ready => {}
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
