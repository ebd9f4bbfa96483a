//! Settling: accept, reject, release, acquire.

use fulmar_core::shard::Settlement;
use fulmar_core::{QueueId, Reply, Request};

use super::Env;
use super::command::Step;
use super::errors::Fault;
use super::ranges::Ranges;
use super::session::{Flow, Session};
use super::tx::Mode;
use super::unsettled::Record;
use crate::codec::table::Acquired;
use crate::codec::{SequenceNo, SequenceSet, Struct};

/// A `message.acquire` under way: one request for each queue.
#[derive(Debug, Default)]
pub(super) struct Acquiring {
    /// What is still to be asked for: commands and tags, by queue.
    left: Vec<(QueueId, Vec<(u64, u64)>)>,
    /// The commands of the request that is outstanding.
    asked: Vec<u64>,
    /// What the session has got.
    acquired: Ranges,
}

impl Session {
    /// `message.accept`
    pub fn accept(&mut self, env: &mut Env<'_>, transfers: SequenceSet<'_>) -> Result<Flow, Fault> {
        self.settle(env, transfers, Settlement::Accept)
    }

    /// `message.reject`
    pub fn reject(&mut self, env: &mut Env<'_>, transfers: SequenceSet<'_>) -> Result<Flow, Fault> {
        self.settle_now(env, transfers, Settlement::Reject);
        Ok(Flow::Done)
    }

    /// Settles now, or with the transaction.
    fn settle(
        &mut self,
        env: &mut Env<'_>,
        transfers: SequenceSet<'_>,
        settlement: Settlement,
    ) -> Result<Flow, Fault> {
        if self.mode.is_immediate() {
            self.settle_now(env, transfers, settlement);
            return Ok(Flow::Done);
        }
        for (first, last) in transfers.iter() {
            let Some((first, last)) = self.outgoing.numbers(first, last) else { continue };
            let (session, mode) = (self.session, &mut self.mode);
            self.unsettled.change(first, last, |record| {
                if record.settled || record.waits_for_commit {
                    return;
                }
                if record.acquired {
                    env.shard.settle_in_transaction(session, record.queue, record.tag, settlement);
                }
                match mode {
                    Mode::Tx(tx) => {
                        record.waits_for_commit = true;
                        tx.note_accepted(record.number);
                    }
                    // The branch has it now.
                    _ => record.settled = true,
                }
            });
        }
        Ok(Flow::Done)
    }

    fn settle_now(&mut self, env: &mut Env<'_>, transfers: SequenceSet<'_>, settlement: Settlement) {
        for (first, last) in transfers.iter() {
            let Some((first, last)) = self.outgoing.numbers(first, last) else { continue };
            let session = self.session;
            self.unsettled.change(first, last, |record| {
                if record.settled || record.waits_for_commit {
                    return;
                }
                if record.acquired {
                    env.shard.settle(session, record.queue, record.tag, settlement);
                }
                record.settled = true;
            });
        }
    }

    /// `message.release`: the newest first, so that each goes to the head of its queue.
    pub fn release_transfers(
        &mut self,
        env: &mut Env<'_>,
        transfers: SequenceSet<'_>,
        set_redelivered: bool,
    ) -> Result<Flow, Fault> {
        let settlement = if set_redelivered { Settlement::Requeue } else { Settlement::Release };
        let ranges: Vec<_> = transfers.iter().collect();
        for &(first, last) in ranges.iter().rev() {
            let Some((first, last)) = self.outgoing.numbers(first, last) else { continue };
            let session = self.session;
            self.unsettled.change_back(first, last, |record| {
                if record.settled {
                    return;
                }
                // Clients release what they have accepted before they roll back.
                if std::mem::take(&mut record.waits_for_commit) && record.acquired {
                    env.shard.unsettle_in_transaction(session, record.queue, record.tag);
                }
                if record.acquired {
                    env.shard.settle(session, record.queue, record.tag, settlement);
                }
                record.settled = true;
            });
        }
        Ok(Flow::Done)
    }

    /// `message.acquire`
    pub fn acquire(&mut self, env: &mut Env<'_>, transfers: SequenceSet<'_>) -> Result<Flow, Fault> {
        let mut acquiring = Box::<Acquiring>::default();
        for (first, last) in transfers.iter() {
            let Some((first, last)) = self.outgoing.numbers(first, last) else { continue };
            self.unsettled.change(first, last, |record| {
                if !record.acquired {
                    acquiring.add(record);
                }
            });
        }
        self.acquire_next(env, acquiring)
    }

    fn acquire_next(&mut self, env: &mut Env<'_>, mut acquiring: Box<Acquiring>) -> Result<Flow, Fault> {
        let Some((queue, messages)) = acquiring.left.pop() else {
            let mut buffer = Vec::new();
            acquiring.acquired.encoded(&mut buffer, |transfers| {
                self.result(env, &Struct::Acquired(Acquired { transfers: Some(transfers) }));
            });
            return Ok(Flow::Done);
        };
        acquiring.asked = messages.iter().map(|&(number, _)| number).collect();
        let tags = messages.into_iter().map(|(_, tag)| tag).collect();
        self.request(env, Request::Acquire { queue, tags }, Step::Acquired(acquiring))
    }

    /// A queue has given what it still has.
    pub fn acquired(
        &mut self,
        env: &mut Env<'_>,
        mut acquiring: Box<Acquiring>,
        reply: Reply,
    ) -> Result<Flow, Fault> {
        if let Reply::Acquired { tags, .. } = reply {
            for (&number, tag) in acquiring.asked.iter().zip(tags) {
                let Some(tag) = tag else { continue };
                acquiring.acquired.add_range(SequenceNo(number as u32), SequenceNo(number as u32));
                let session = self.session;
                self.unsettled.change(number, number, |record| {
                    (record.acquired, record.tag) = (true, tag);
                    if !record.accept_expected {
                        env.shard.settle(session, record.queue, tag, Settlement::Accept);
                    }
                });
            }
        }
        self.acquire_next(env, acquiring)
    }
}

impl Acquiring {
    fn add(&mut self, record: &Record) {
        let message = (record.number, record.tag);
        match self.left.iter_mut().find(|(queue, _)| *queue == record.queue) {
            Some((_, messages)) => messages.push(message),
            None => self.left.push((record.queue, vec![message])),
        }
    }
}
