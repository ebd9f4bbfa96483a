//! AMQP 0-10, over TCP or TLS: the same load as with AMQP 0-9-1, in this protocol's words.
//!
//! 1. A publisher's messages are transfers without acceptance; where confirms are wanted, each write ends with a sync, and
//!    completions are the confirms.
//! 2. A consumer has credit without end, or a window of its prefetch. It accepts and completes ranges; what needs no
//!    acceptance it completes in large ones.
//! 3. [`session`] declares things, one command at a time; [`links`] and [`responder`] run per message, with [`contents`]
//!    for writing and [`wire`] for reading.

mod completions;
mod contents;
mod links;
mod responder;
pub mod session;
pub mod wire;

use super::amqp::DriverError;
use super::amqp::batch::Contents;
use super::stream::Stream;
use super::{Bare, Driver};
use crate::BenchError;
use crate::plan::Plan;
use crate::url::Url;
use crate::workload::{Ack, ExchangeKind};

pub use links::{Consumer, Publisher};
pub use responder::Responder;
pub use session::{Session, Traffic};

/// The channel that everything runs on.
pub const CHANNEL: u16 = 1;

/// The subscription of a consumer.
pub const DESTINATION: &[u8] = b"c";

/// A broker that speaks AMQP 0-10.
#[derive(Debug)]
pub struct Amqp010 {
    url: Url,
    control: Option<Session>,
    exchange: Option<String>,
    queues: Vec<String>,
    idle: Vec<Session>,
}

impl Amqp010 {
    /// At a URL.
    pub fn new(url: Url) -> Self {
        Amqp010 { url, control: None, exchange: None, queues: Vec::new(), idle: Vec::new() }
    }

    fn control(&mut self) -> Result<&mut Session, DriverError> {
        if self.control.is_none() {
            self.control = Some(Session::open(&self.url)?);
        }
        Ok(self.control.as_mut().expect("it was opened just now"))
    }
}

impl Driver for Amqp010 {
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
                self.control()?.bind_queue(queue, exchange, binding, by_header)?;
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
            session.subscribe(queue, no_ack, plan.workload.prefetch)?;
            Ok(Consumer::new(session.into_traffic()?, !plan.reply_queues.is_empty(), no_ack))
        };
        (0..plan.consumers()).map(open).collect()
    }

    fn responders(&mut self, plan: &Plan) -> Result<Vec<Responder>, BenchError> {
        let count = if plan.reply_queues.is_empty() { 0 } else { plan.workload.consumers as usize };
        let no_ack = plan.workload.ack == Ack::Auto;
        let open = |n: usize| {
            let mut session = Session::open(&self.url)?;
            session.subscribe(&plan.queues[n % plan.queues.len()], no_ack, plan.workload.prefetch)?;
            Ok(Responder::new(session.into_traffic()?, plan.workload.ack.batch()))
        };
        (0..count).map(open).collect()
    }

    fn publishers(&mut self, plan: &Plan) -> Result<Vec<Publisher>, BenchError> {
        let open = |n| {
            let session = Session::open(&self.url)?;
            let contents = contents::of_plan(plan, n, session.frame_max());
            Ok(Publisher::new(session.into_traffic()?, contents, plan.workload.confirm_window.is_some()))
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

impl Bare for Amqp010 {
    fn contents(plan: &Plan, publisher: usize) -> Contents {
        contents::of_plan(plan, publisher, u16::MAX)
    }

    /// Transfers are the same in both directions.
    fn deliveries(plan: &Plan, publisher: usize) -> Contents {
        Self::contents(plan, publisher)
    }

    fn publisher(stream: Stream, contents: Contents) -> Publisher {
        Publisher::new(Traffic::bare(stream), contents, false)
    }

    fn consumer(stream: Stream) -> Consumer {
        Consumer::new(Traffic::bare(stream), false, true)
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
