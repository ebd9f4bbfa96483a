//! AMQP 0-9-1, over TCP or TLS.
//!
//! [`session`] opens connections and declares things, one request at a time. [`links`] and [`responder`] run per message,
//! with [`batch`] for writing, [`wire`] for reading and [`socket`] beneath both.

pub mod batch;
mod links;
mod responder;
pub mod session;
pub(super) mod socket;
pub mod wire;

use super::stream::Stream;
use super::{Bare, Driver};
use crate::BenchError;
use crate::plan::Plan;
use crate::url::Url;
use crate::workload::{Ack, ExchangeKind};

use batch::{Contents, header_table};
pub(super) use links::flush;
pub use links::{Consumer, Publisher};
pub use responder::Responder;
pub use session::{DriverError, Session};

/// The channel that everything runs on.
pub const CHANNEL: u16 = 1;

/// Largest frame that this program agrees to, in bytes.
pub const FRAME_MAX_BYTES: u32 = 128 * 1024;

/// A broker that speaks AMQP 0-9-1.
#[derive(Debug)]
pub struct Amqp {
    url: Url,
    control: Option<Session>,
    exchange: Option<String>,
    queues: Vec<String>,
    idle: Vec<Session>,
}

impl Amqp {
    /// At a URL.
    pub fn new(url: Url) -> Self {
        Amqp { url, control: None, exchange: None, queues: Vec::new(), idle: Vec::new() }
    }

    fn control(&mut self) -> Result<&mut Session, DriverError> {
        if self.control.is_none() {
            self.control = Some(Session::open(&self.url)?);
        }
        Ok(self.control.as_mut().expect("it was opened just now"))
    }
}

impl Driver for Amqp {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type Responder = Responder;

    fn declare(&mut self, plan: &Plan) -> Result<(), BenchError> {
        let exchange = &plan.routes.exchange;
        if plan.routes.own {
            self.control()?.declare_exchange(exchange, kind_name(plan.workload.exchange.kind))?;
            self.exchange = Some(exchange.clone());
        }
        for queue in plan.queues.iter().chain(&plan.reply_queues) {
            self.control()?.declare_queue(queue, plan.workload.persistent)?;
            self.queues.push(queue.clone());
        }
        let by_header = plan.workload.exchange.kind == ExchangeKind::Headers;
        for (queue, bindings) in plan.queues.iter().zip(&plan.routes.bindings) {
            for binding in bindings {
                let arguments = if by_header { header_table(binding) } else { Vec::new() };
                self.control()?.bind_queue(queue, exchange, binding, &arguments)?;
            }
        }
        for _ in 0..plan.workload.idle_connections {
            self.idle.push(Session::open(&self.url)?);
        }
        Ok(())
    }

    fn consumers(&mut self, plan: &Plan) -> Result<Vec<Consumer>, BenchError> {
        let no_ack = plan.workload.ack == Ack::Auto;
        let open = |n| {
            let mut session = Session::open(&self.url)?;
            let queue = &plan.measured_queues()[plan.queue_of_consumer(n)];
            session.consume(queue, no_ack, plan.workload.prefetch)?;
            let (stream, received) = session.into_stream()?;
            Ok(Consumer::new(stream, &received, !plan.reply_queues.is_empty()))
        };
        (0..plan.consumers()).map(open).collect()
    }

    fn responders(&mut self, plan: &Plan) -> Result<Vec<Responder>, BenchError> {
        let count = if plan.reply_queues.is_empty() { 0 } else { plan.workload.consumers as usize };
        let open = |n: usize| {
            let mut session = Session::open(&self.url)?;
            session.consume(
                &plan.queues[n % plan.queues.len()],
                plan.workload.ack == Ack::Auto,
                plan.workload.prefetch,
            )?;
            let frame_max = session.frame_max();
            let (stream, received) = session.into_stream()?;
            Ok(Responder::new(stream, &received, frame_max, plan.workload.ack.batch()))
        };
        (0..count).map(open).collect()
    }

    fn publishers(&mut self, plan: &Plan) -> Result<Vec<Publisher>, BenchError> {
        let open = |n| {
            let mut session = Session::open(&self.url)?;
            if plan.workload.confirm_window.is_some() {
                session.select_confirms()?;
            }
            let contents = Contents::of_plan(plan, n, session.frame_max());
            let (stream, received) = session.into_stream()?;
            Ok(Publisher::new(stream, &received, contents))
        };
        (0..plan.workload.publishers as usize).map(open).collect()
    }

    fn left(&mut self, plan: &Plan) -> Result<u64, BenchError> {
        let mut left = 0;
        for queue in plan.measured_queues() {
            left += self.control()?.message_count(queue)?;
        }
        Ok(left)
    }

    fn remove(&mut self) -> Result<(), BenchError> {
        self.idle.clear();
        let (queues, exchange) = (std::mem::take(&mut self.queues), self.exchange.take());
        for queue in queues {
            self.control()?.delete_queue(&queue)?;
        }
        if let Some(exchange) = exchange {
            self.control()?.delete_exchange(&exchange)?;
        }
        Ok(())
    }
}

impl Bare for Amqp {
    fn contents(plan: &Plan, publisher: usize) -> Contents {
        Contents::of_plan(plan, publisher, FRAME_MAX_BYTES)
    }

    fn deliveries(plan: &Plan, publisher: usize) -> Contents {
        Self::contents(plan, publisher).as_deliveries()
    }

    fn publisher(stream: Stream, contents: Contents) -> Publisher {
        Publisher::new(stream, &[], contents)
    }

    fn consumer(stream: Stream) -> Consumer {
        Consumer::new(stream, &[], false)
    }
}

fn kind_name(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Default => "",
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Topic => "topic",
        ExchangeKind::Headers => "headers",
    }
}
