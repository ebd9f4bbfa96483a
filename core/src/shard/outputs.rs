//! What waits to be told to connections.

use super::{Delivery, Output, Shard};
use crate::mesh::Lane;
use crate::{ConnectionId, MessageId, QueueId, Refusal, Reply, SessionId};

use super::envelope::Letter;

/// A delivery at its session's shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handed {
    pub(super) session: SessionId,
    pub(super) connection: ConnectionId,
    pub(super) consumer: u32,
    pub(super) queue: QueueId,
    pub(super) tag: u64,
    /// One reference is the delivery's.
    pub(super) message: MessageId,
    pub(super) redelivered: bool,
    pub(super) no_ack: bool,
}

/// An output, before it is known whether its session is still there when its turn comes.
#[derive(Debug)]
pub(super) enum Pending {
    Delivery(Handed),
    Reply(SessionId, Box<Result<Reply, Refusal>>),
    Confirmed { session: SessionId, sequence: u64, accepted: bool },
    ConsumerCancelled { session: SessionId, consumer: u32 },
}

impl Shard {
    /// The next thing to tell a connection.
    pub fn next_output(&mut self) -> Option<Output> {
        loop {
            let pending = self.outputs.pop_front()?;
            let output = match pending {
                Pending::Delivery(handed) => self.delivery(handed).map(Output::Delivery),
                Pending::Reply(session, result) => self.reply_output(session, result),
                Pending::Confirmed { session, sequence, accepted } => self
                    .address(session)
                    .map(|(owner, channel)| Output::Confirmed { owner, channel, sequence, accepted }),
                Pending::ConsumerCancelled { session, consumer } => self
                    .address(session)
                    .map(|(owner, channel)| Output::ConsumerCancelled { owner, channel, consumer }),
            };
            if output.is_some() {
                return output;
            }
        }
    }

    /// Gives connections' credit back to the homes of what they have taken, here and elsewhere.
    pub(super) fn give_credit(&mut self) {
        let mut creditors = std::mem::take(&mut self.creditors);
        for id in creditors.drain(..) {
            let Some(connection) = self.connections.get_mut(id.index, id.generation) else { continue };
            connection.owes_credit = false;
            if !connection.writable {
                continue;
            }
            for index in 0..connection.taken_bytes.len() {
                let Some(connection) = self.connections.get_mut(id.index, id.generation) else { break };
                let bytes = std::mem::take(&mut connection.taken_bytes[index]);
                if bytes == 0 {
                    continue;
                }
                let home = crate::ShardId(index as u8);
                if home == self.config.id {
                    self.credit_account(id, bytes);
                } else {
                    self.send(home, Lane::Reply, Letter::Credit { connection: id, bytes });
                }
            }
        }
        self.creditors = creditors;
    }

    /// Takes deliveries out of the line and returns them to their queues.
    pub(super) fn give_back_outputs(&mut self, which: impl Fn(&Handed) -> bool) {
        let chosen = |pending: &Pending| matches!(pending, Pending::Delivery(handed) if which(handed));
        if !self.outputs.iter().any(chosen) {
            return;
        }
        for pending in std::mem::take(&mut self.outputs) {
            match pending {
                Pending::Delivery(handed) if which(&handed) => self.give_back(handed),
                other => self.outputs.push_back(other),
            }
        }
    }

    fn delivery(&mut self, handed: Handed) -> Option<Delivery> {
        let Some(session) = self.sessions.get(handed.session.index, handed.session.generation) else {
            self.give_back(handed);
            return None;
        };
        let (owner, channel) = (session.owner, session.channel);
        let bytes = self.store.get(handed.message).total_bytes();
        self.note_taken(handed.connection, handed.queue.home, bytes);
        self.stats.delivered += 1;
        Some(Delivery {
            owner,
            channel,
            redelivered: handed.redelivered,
            consumer: handed.consumer,
            queue: handed.queue,
            tag: handed.tag,
            message: handed.message,
        })
    }

    fn reply_output(&mut self, id: SessionId, result: Box<Result<Reply, Refusal>>) -> Option<Output> {
        match self.address(id) {
            Some((owner, channel)) => Some(Output::Reply { owner, channel, result }),
            None => {
                self.give_back_reply(*result);
                None
            }
        }
    }

    fn address(&self, id: SessionId) -> Option<(u32, u16)> {
        let session = self.sessions.get(id.index, id.generation)?;
        Some((session.owner, session.channel))
    }
}
