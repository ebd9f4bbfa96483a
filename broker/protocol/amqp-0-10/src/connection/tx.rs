//! Class `tx`: transfers and acceptances wait for the commit.

use fulmar_core::shard::{Published, Settlement};
use fulmar_core::{MessageId, Request, Shard};

use super::Env;
use super::command::Step;
use super::errors::Fault;
use super::incoming::CommandId;
use super::session::{Flow, Session};
use super::transfer::Manner;
use super::unsettled::Record;
use crate::codec::table::ErrorCode;

/// What transfers and acceptances of a session lead to.
#[derive(Debug, Default)]
pub(super) enum Mode {
    /// They are carried out.
    #[default]
    Plain,
    /// They wait for the commit.
    Tx(Box<Tx>),
}

/// What the open transaction holds.
#[derive(Debug, Default)]
pub(super) struct Tx {
    publishes: Vec<(MessageId, Manner)>,
    accepted: Vec<Record>,
}

impl Mode {
    /// Messages that wait go back.
    pub fn release(&mut self, shard: &mut Shard) {
        if let Mode::Tx(tx) = self {
            tx.forget(shard);
        }
    }
}

impl Tx {
    /// Keeps an acceptance. The record stays as it is until the commit.
    pub fn accept(&mut self, record: &Record) {
        if !record.settled {
            self.accepted.push(*record);
        }
    }

    fn forget(&mut self, shard: &mut Shard) {
        for (message, _) in self.publishes.drain(..) {
            shard.release(message);
        }
        self.accepted.clear();
    }
}

impl Session {
    /// `tx.select`
    pub fn select_tx(&mut self) -> Result<Flow, Fault> {
        if let Mode::Plain = self.mode {
            self.mode = Mode::Tx(Box::default());
        }
        Ok(Flow::Done)
    }

    /// A message published in a transaction.
    pub fn publish_in_tx(
        &mut self,
        env: &mut Env<'_>,
        command: CommandId,
        manner: Manner,
        message: MessageId,
    ) -> Result<Flow, Fault> {
        if let Mode::Tx(tx) = &mut self.mode {
            tx.publishes.push((message, manner));
        }
        if manner.sync {
            self.incoming.await_completion(command);
        }
        self.transferred(env, command, manner.explicit);
        Ok(Flow::Done)
    }

    /// `tx.commit`: carries out what was kept, and waits until every shard has done its part.
    pub fn commit(&mut self, env: &mut Env<'_>) -> Result<Flow, Fault> {
        let Mode::Tx(tx) = &mut self.mode else { return Err(not_selected()) };
        let publishes = std::mem::take(&mut tx.publishes);
        let accepted = std::mem::take(&mut tx.accepted);
        for (message, _) in publishes {
            let vhost = env.link.vhost;
            if let Published::Unroutable(message) =
                env.shard.publish(self.session, vhost, message, false, None)?
            {
                env.shard.release(message);
            }
        }
        let session = self.session;
        for record in accepted {
            self.unsettled.change(record.number, record.number, |record| {
                if record.acquired && !record.settled {
                    env.shard.settle(session, record.queue, record.tag, Settlement::Accept);
                }
                record.settled = true;
            });
        }
        self.request(env, Request::Barrier, Step::Committed)
    }

    /// Everything of the commit is carried out.
    pub fn committed(&mut self, env: &mut Env<'_>) -> Result<Flow, Fault> {
        self.sync_point(env);
        Ok(Flow::Done)
    }

    /// `tx.rollback`
    pub fn rollback(&mut self, env: &mut Env<'_>) -> Result<Flow, Fault> {
        let Mode::Tx(tx) = &mut self.mode else { return Err(not_selected()) };
        tx.forget(env.shard);
        Ok(Flow::Done)
    }

    /// The peer hears of the current command at once, though it did not ask.
    fn sync_point(&mut self, _env: &mut Env<'_>) {
        self.current.sync = true;
    }
}

fn not_selected() -> Fault {
    Fault::new(ErrorCode::CommandInvalid, "the session was not selected for transactions")
}
