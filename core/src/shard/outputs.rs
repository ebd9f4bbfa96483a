//! What waits to be told to connections.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use super::envelope::Letter;
use super::{Delivery, Output, Shard};
use crate::mesh::Lane;
use crate::{ConnectionId, MessageId, QueueId, Refusal, Reply, SessionId};

/// A delivery at its session's shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handed {
    pub(super) session: SessionId,
    pub(super) connection: ConnectionId,
    pub(super) consumer: u32,
    pub(super) queue: QueueId,
    /// 0 if it needs no settlement.
    pub(super) tag: u64,
    /// One reference is the delivery's, and one for each follower.
    pub(super) message: MessageId,
    /// How many of its batch follow it, none of which needs settlement.
    pub(super) followers: u16,
    pub(super) redelivered: bool,
    pub(super) ttl_left_ms: Option<NonZeroU32>,
}

/// What waits to be told, and the session that it is for. A session that closes takes its outputs out, so that none
/// is stale.
pub(super) type Outputs = VecDeque<(SessionId, Output)>;

impl Shard {
    /// The next thing to tell a connection.
    #[inline]
    pub fn next_output(&mut self) -> Option<Output> {
        if !self.attic.is_empty() {
            return self.next_output_of_those_driven();
        }
        self.outputs.pop_front().map(|(_, output)| output)
    }

    /// The next thing to tell, if it is a delivery to that channel: deliveries mostly come in runs, and whoever takes
    /// the first of one has looked up the rest.
    #[inline]
    pub fn next_delivery(&mut self, owner: u32, channel: u16) -> Option<Delivery> {
        match self.outputs.front() {
            Some((_, Output::Delivery(next))) if next.owner == owner && next.channel == channel => {}
            _ => return None,
        }
        match self.outputs.pop_front() {
            Some((_, Output::Delivery(delivery))) => Some(delivery),
            _ => None,
        }
    }

    /// Has the answer to a session's request told.
    pub(super) fn tell_reply(&mut self, id: SessionId, result: Result<Reply, Refusal>) {
        match self.sessions.get(id.index, id.generation) {
            Some(session) => {
                let (owner, channel) = (session.owner, session.channel);
                let result = Box::new(result);
                self.outputs.push_back((id, Output::Reply { owner, channel, result }));
            }
            None => self.give_back_reply(result),
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

    /// Takes a session's outputs out of the line; what they carry goes back.
    pub(super) fn drop_outputs(&mut self, id: SessionId) {
        if !self.outputs.iter().any(|(session, _)| *session == id) {
            return;
        }
        for (session, output) in std::mem::take(&mut self.outputs) {
            match output {
                other if session != id => self.outputs.push_back((session, other)),
                Output::Delivery(delivery) => {
                    self.stats.delivered -= u64::from(delivery.followers) + 1;
                    self.put_back(delivery.queue, delivery.tag, delivery.message, delivery.followers);
                }
                Output::Reply { result, .. } => self.give_back_reply(*result),
                Output::Confirmed { .. } | Output::ConsumerCancelled { .. } => {}
            }
        }
    }

    /// Whether deliveries of a consumer wait to be taken.
    pub(super) fn has_deliveries(&self, id: SessionId, consumer: u32) -> bool {
        self.outputs.iter().any(|(session, output)| {
            *session == id && matches!(output, Output::Delivery(delivery) if delivery.consumer == consumer)
        })
    }
}
