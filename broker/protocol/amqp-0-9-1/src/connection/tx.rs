//! Transactions of one channel: publishes and settlements wait for the commit.

use fulmar_core::request::ExchangeOptions;
use fulmar_core::shard::{Published, Settlement};
use fulmar_core::{MessageId, Name, Request, Shard};

use super::Env;
use super::channel::{Channel, Flow, Mode, Step};
use super::errors::{Exception, Subject};
use super::unacked::{Entry, Unacked};
use crate::codec::Method;

/// What the open transaction holds.
#[derive(Debug, Default)]
pub(super) struct Tx {
    /// Messages, and whether each is mandatory.
    publishes: Vec<(MessageId, bool)>,
    settlements: Vec<(Entry, Settlement)>,
    /// The exchange that was last found to exist.
    exchange: Option<Name>,
    /// Numbers given to publishes so far, over all commits.
    sequence: u64,
    /// Publishes of the commit under way that queues have not answered.
    outstanding: usize,
    /// The commit's barrier is passed.
    passed: bool,
    /// A queue refused a publish of the commit.
    rejected: bool,
}

impl Tx {
    /// Keeps a settlement.
    pub fn settle(&mut self, entry: Entry, settlement: Settlement) {
        self.settlements.push((entry, settlement));
    }

    /// Forgets publishes; settled messages are unsettled again.
    pub fn rollback(&mut self, shard: &mut Shard, unacked: &mut Unacked) {
        for (message, _) in self.publishes.drain(..) {
            shard.release(message);
        }
        if !self.settlements.is_empty() {
            unacked.restore(self.settlements.drain(..).map(|(entry, _)| entry));
        }
    }
}

impl Channel {
    /// `tx.*`.
    pub fn tx_method(&mut self, env: &mut Env<'_>, method: Method<'_>) -> Result<Flow, Exception> {
        match (method, &mut self.mode) {
            (Method::TxSelect, Mode::Confirm(_)) => {
                Err(Exception::precondition("cannot switch from confirm to tx mode"))
            }
            (Method::TxSelect, mode) => {
                if let Mode::Plain = mode {
                    *mode = Mode::Tx(Box::default());
                }
                self.reply(env, Method::TxSelectOk)
            }
            (Method::TxRollback, Mode::Tx(tx)) => {
                tx.rollback(env.shard, &mut self.unacked);
                self.reply(env, Method::TxRollbackOk)
            }
            (_, Mode::Tx(_)) => self.commit(env),
            _ => Err(Exception::precondition("channel is not transactional")),
        }
    }

    /// A message published in a transaction. Whether its exchange exists is told at once, not at the commit.
    pub fn publish_in_tx(
        &mut self,
        env: &mut Env<'_>,
        message: MessageId,
        mandatory: bool,
    ) -> Result<Flow, Exception> {
        let exchange = self.incoming.exchange();
        let known = match &self.mode {
            Mode::Tx(tx) => tx.exchange.as_ref().is_some_and(|known| known.as_bytes() == exchange),
            _ => true,
        };
        if exchange.is_empty() || known {
            self.buffer_publish(message, mandatory);
            return Ok(Flow::Done);
        }
        let name = Name::from(exchange);
        let subject = Subject::exchange(&name);
        let options = ExchangeOptions::default();
        let request = Request::DeclareExchange { vhost: env.link.vhost, name, passive: true, options };
        self.request(env, request, Some(subject), Step::ExchangeChecked { message, mandatory })
    }

    /// Keeps a publish whose exchange exists.
    pub fn buffer_publish(&mut self, message: MessageId, mandatory: bool) {
        let exchange = self.incoming.exchange();
        if let Mode::Tx(tx) = &mut self.mode {
            if tx.exchange.as_ref().is_none_or(|known| known.as_bytes() != exchange) {
                tx.exchange = Some(Name::from(exchange));
            }
            tx.publishes.push((message, mandatory));
        }
    }

    /// `tx.commit`: carries out what was kept, and waits until every shard has done its part.
    fn commit(&mut self, env: &mut Env<'_>) -> Result<Flow, Exception> {
        let Mode::Tx(tx) = &mut self.mode else { return Ok(Flow::Done) };
        tx.outstanding = 0;
        tx.passed = false;
        tx.rejected = false;
        // The existence of an exchange is not relied on beyond the transaction.
        tx.exchange = None;
        let publishes = std::mem::take(&mut tx.publishes);
        let settlements = std::mem::take(&mut tx.settlements);
        let mut sequence = tx.sequence;
        let mut outstanding = 0;
        let mut rejected = false;
        let mut refused = None;
        for (message, mandatory) in publishes {
            let vhost = env.link.vhost;
            sequence += 1;
            match env.shard.publish(self.session, vhost, message, mandatory, Some(sequence)) {
                Ok(Published::Confirmed) => {}
                Ok(Published::Rejected) => rejected = true,
                Ok(Published::Pending) => outstanding += 1,
                Ok(Published::Unroutable(message)) => self.return_message(env, message),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        for (entry, settlement) in settlements {
            env.shard.settle(self.session, entry.queue, entry.tag, settlement);
        }
        if let Some(refusal) = refused {
            return Err(Exception::refused(&refusal, &env.link.vhost_name, None));
        }
        if let Mode::Tx(tx) = &mut self.mode {
            tx.sequence = sequence;
            tx.outstanding = outstanding;
            tx.rejected = rejected;
        }
        self.request(env, Request::Barrier, None, Step::Committed)
    }

    /// Everything of the commit is carried out.
    pub fn barrier_passed(&mut self, env: &mut Env<'_>) -> Result<Flow, Exception> {
        if let Mode::Tx(tx) = &mut self.mode {
            tx.passed = true;
        }
        self.end_commit(env)
    }

    /// A queue of another shard has answered a publish of the commit.
    pub fn commit_confirmed(&mut self, env: &mut Env<'_>, accepted: bool) -> Result<Flow, Exception> {
        if let Mode::Tx(tx) = &mut self.mode {
            tx.outstanding = tx.outstanding.saturating_sub(1);
            tx.rejected |= !accepted;
        }
        self.end_commit(env)
    }

    /// Answers the commit once nothing of it is outstanding.
    fn end_commit(&mut self, env: &mut Env<'_>) -> Result<Flow, Exception> {
        match &mut self.mode {
            Mode::Tx(tx) if tx.passed && tx.outstanding == 0 => {
                tx.passed = false;
                if tx.rejected {
                    return Err(Exception::precondition("partial tx completion"));
                }
                self.reply(env, Method::TxCommitOk)
            }
            _ => Ok(Flow::Parked),
        }
    }
}
