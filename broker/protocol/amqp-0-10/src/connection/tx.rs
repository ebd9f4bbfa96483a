//! Class `tx`: transfers and acceptances wait for the commit.

use fulmar_core::{MessageId, Name, Refusal, Reply, Request, Shard};

use super::Env;
use super::command::Step;
use super::errors::Fault;
use super::incoming::CommandId;
use super::session::{Flow, Session};
use super::transfer::Manner;
use super::unsettled::Unsettled;
use crate::codec::table::ErrorCode;

/// What transfers and acceptances of a session lead to.
#[derive(Debug, Default)]
pub(super) enum Mode {
    /// They are carried out.
    #[default]
    Plain,
    /// They wait for the commit.
    Tx(Box<Tx>),
    /// They are carried out, except while the session works for a branch of a distributed transaction.
    Dtx {
        /// It does.
        working: bool,
    },
}

/// What is known here of the open transaction; the shard has the rest.
#[derive(Debug, Default)]
pub(super) struct Tx {
    /// The deliveries that are accepted with the commit.
    accepted: Vec<u64>,
}

impl Mode {
    /// Whether transfers are carried out at once.
    #[inline]
    pub fn is_immediate(&self) -> bool {
        matches!(self, Mode::Plain | Mode::Dtx { working: false })
    }
}

impl Tx {
    /// Notes a delivery whose acceptance waits for the commit.
    pub fn note_accepted(&mut self, number: u64) {
        self.accepted.push(number);
    }

    /// The commit was carried out, or everything is forgotten.
    fn end(&mut self, unsettled: &mut Unsettled, committed: bool) {
        for number in self.accepted.drain(..) {
            unsettled.change(number, number, |record| {
                record.waits_for_commit = false;
                record.settled |= committed;
            });
        }
    }
}

impl Session {
    /// `tx.select`
    pub fn select_tx(&mut self) -> Result<Flow, Fault> {
        match self.mode {
            Mode::Plain => self.mode = Mode::Tx(Box::default()),
            Mode::Tx(_) => {}
            Mode::Dtx { .. } => {
                let text = "the session was selected for distributed transactions";
                return Err(Fault::illegal_state(text));
            }
        }
        Ok(Flow::Done)
    }

    /// A message published in a transaction. Whether its exchange is there is told at once.
    pub fn publish_in_tx(
        &mut self,
        env: &mut Env<'_>,
        command: CommandId,
        manner: Manner,
        message: MessageId,
    ) -> Result<Flow, Fault> {
        let vhost = env.link.vhost;
        let name = Name::from(env.shard.message(message).exchange);
        let found =
            env.shard.request_unasked(self.session, Request::QueryExchange { vhost, name: name.clone() });
        if let Some(Ok(Reply::Exchange(None))) = found {
            env.shard.release(message);
            return Err(Refusal::NoExchange(name).into());
        }
        env.shard.publish_in_transaction(self.session, vhost, message, false)?;
        if manner.sync {
            self.incoming.await_completion(command);
        }
        self.transferred(env, command, manner.explicit);
        Ok(Flow::Done)
    }

    /// `tx.commit`
    pub fn commit(&mut self, env: &mut Env<'_>) -> Result<Flow, Fault> {
        let Mode::Tx(_) = &self.mode else { return Err(not_selected()) };
        self.request(env, Request::Commit, Step::Committed)
    }

    /// Every shard has done its part of the commit. The peer hears of it at once, asked or not.
    pub fn committed(&mut self, shard: &mut Shard, reply: Reply) -> Result<Flow, Fault> {
        if let Reply::Committed { unroutable } = reply {
            unroutable.into_iter().for_each(|message| shard.release(message));
        }
        if let Mode::Tx(tx) = &mut self.mode {
            tx.end(&mut self.unsettled, true);
        }
        self.current.sync = true;
        Ok(Flow::Done)
    }

    /// `tx.rollback`
    pub fn rollback(&mut self, env: &mut Env<'_>) -> Result<Flow, Fault> {
        let Mode::Tx(tx) = &mut self.mode else { return Err(not_selected()) };
        tx.end(&mut self.unsettled, false);
        env.shard.rollback(self.session);
        Ok(Flow::Done)
    }
}

fn not_selected() -> Fault {
    Fault::new(ErrorCode::CommandInvalid, "the session was not selected for transactions")
}
