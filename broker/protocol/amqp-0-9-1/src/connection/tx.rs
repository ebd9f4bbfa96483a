//! Transactions of one channel: publishes and settlements wait in the core for the commit, which does all or nothing.

use fulmar_core::shard::Settlement;
use fulmar_core::{MessageId, Name, Refusal, Reply, Request, SessionId, Shard};

use super::Env;
use super::channel::{Channel, Flow, Mode, Step};
use super::errors::Exception;
use super::unacked::{Entry, Unacked};
use crate::codec::Method;

/// What the channel knows of the open transaction.
#[derive(Debug, Default)]
pub(super) struct Tx {
    /// Settled in it; the channel's until the commit is answered.
    settled: Vec<Entry>,
    /// The exchange that was last found to exist.
    exchange: Option<Name>,
}

impl Tx {
    /// Keeps a settlement.
    pub fn settle(&mut self, shard: &mut Shard, session: SessionId, entry: Entry, settlement: Settlement) {
        shard.settle_in_transaction(session, entry.queue, entry.tag, settlement);
        self.settled.push(entry);
    }

    /// Forgets publishes; settled messages are unsettled again.
    pub fn rollback(&mut self, shard: &mut Shard, session: SessionId, unacked: &mut Unacked) {
        shard.rollback(session);
        if !self.settled.is_empty() {
            unacked.restore(self.settled.drain(..));
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
                tx.rollback(env.shard, self.session, &mut self.unacked);
                self.reply(env, Method::TxRollbackOk)
            }
            (_, Mode::Tx(tx)) => {
                // The existence of an exchange is not relied on beyond the transaction.
                tx.exchange = None;
                self.request(env, Request::Commit, None, Step::Committed)
            }
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
        let vhost = env.link.vhost;
        let refused = match self.check_exchange(env) {
            Ok(()) => env.shard.publish_in_transaction(self.session, vhost, message, mandatory).err(),
            Err(refusal) => {
                env.shard.release(message);
                Some(refusal)
            }
        };
        match refused {
            None => Ok(Flow::Done),
            Some(refusal) => Err(Exception::refused(&refusal, &env.link.vhost_name, None)),
        }
    }

    /// Whether the exchange that a message is for exists. Asked once for messages that go to the same one.
    fn check_exchange(&mut self, env: &mut Env<'_>) -> Result<(), Refusal> {
        let exchange = self.incoming.exchange();
        let Mode::Tx(tx) = &mut self.mode else { return Ok(()) };
        if exchange.is_empty() || tx.exchange.as_ref().is_some_and(|known| known.as_bytes() == exchange) {
            return Ok(());
        }
        let name = Name::from(exchange);
        let request = Request::QueryExchange { vhost: env.link.vhost, name: name.clone() };
        // Answered at once.
        if let Some(Ok(Reply::Exchange(None))) = env.shard.request_unasked(self.session, request) {
            return Err(Refusal::NoExchange(name));
        }
        tx.exchange = Some(name);
        Ok(())
    }

    /// Everything of the commit is done, on every shard.
    pub fn committed(&mut self, env: &mut Env<'_>, unroutable: Vec<MessageId>) -> Result<Flow, Exception> {
        if let Mode::Tx(tx) = &mut self.mode {
            tx.settled.clear();
        }
        for message in unroutable {
            self.return_message(env, message);
        }
        self.reply(env, Method::TxCommitOk)
    }
}
