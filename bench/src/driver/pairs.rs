//! The load generator against servers without a protocol: what a publisher writes, the consumer of its pair receives.

use super::Driver;
use super::amqp::batch::Contents;
use super::amqp::{Consumer, FRAME_MAX_BYTES, Publisher, Responder};
use super::stream::{Stream, connect};
use crate::BenchError;
use crate::plan::Plan;
use crate::target::Server;
use crate::workload::{Ack, ExchangeKind, Pattern, Workload};

/// How the two connections of a pair come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// The first connection is the consumer's, the second the publisher's.
    Relay,
    /// One connection is both.
    Echo,
}

/// A relay or an echo server.
#[derive(Debug)]
pub struct Pairs {
    server: Server,
    pairing: Pairing,
    consumers: Vec<Stream>,
    publishers: Vec<Stream>,
}

impl Pairs {
    /// Of a server.
    pub fn new(server: Server, pairing: Pairing) -> Self {
        Pairs { server, pairing, consumers: Vec::new(), publishers: Vec::new() }
    }
}

/// Refuses what needs a broker.
///
/// # Errors
/// Which part of the workload does.
pub fn check(workload: &Workload) -> Result<(), BenchError> {
    let plain = workload.confirm_window.is_none()
        && workload.ack == Ack::Auto
        && workload.pattern == Pattern::Stream
        && workload.exchange.kind == ExchangeKind::Default
        && workload.idle_connections == 0;
    if plain && workload.publishers == workload.consumers && workload.publishers == workload.queues {
        return Ok(());
    }
    let text = "the floor knows a plain stream only, without confirms and acknowledgements, from as many publishers as \
                consumers and queues";
    Err(BenchError::Options(text.into()))
}

impl Driver for Pairs {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type Responder = Responder;

    fn declare(&mut self, plan: &Plan) -> Result<(), BenchError> {
        check(&plan.workload)?;
        let Server { address, is_rdma } = self.server;
        for _ in 0..plan.workload.publishers {
            let consumer = connect(address, is_rdma)?;
            self.publishers.push(match self.pairing {
                Pairing::Relay => connect(address, is_rdma)?,
                Pairing::Echo => consumer.twin()?,
            });
            self.consumers.push(consumer);
        }
        Ok(())
    }

    fn consumers(&mut self, _: &Plan) -> Result<Vec<Consumer>, BenchError> {
        let link = |stream| Consumer::new(stream, &[], false);
        Ok(self.consumers.drain(..).map(link).collect())
    }

    fn responders(&mut self, _: &Plan) -> Result<Vec<Responder>, BenchError> {
        Ok(Vec::new())
    }

    fn publishers(&mut self, plan: &Plan) -> Result<Vec<Publisher>, BenchError> {
        // The names are as long as in a broker's run, so that the bytes are as many.
        let contents = |n| Contents::of_plan(plan, n, FRAME_MAX_BYTES);
        let link = |(n, stream)| Publisher::new(stream, &[], contents(n));
        Ok(self.publishers.drain(..).enumerate().map(link).collect())
    }

    fn left(&mut self, _: &Plan) -> Result<u64, BenchError> {
        Ok(0)
    }

    fn remove(&mut self) -> Result<(), BenchError> {
        Ok(())
    }
}
