//! What clients that have gone may come back for: their sessions, with what the protocol knows of them, for a while.
//! And the names of sessions that are in use, of which there is one of each on a shard.
//!
//! A session that is kept gets no deliveries and goes on holding what it holds.

use std::any::Any;

use super::{Due, Output, Shard};
use crate::hash::Map;
use crate::{Name, Refusal, Reply, SessionId};

/// The owner of connections that nobody drives.
const NOBODY: u32 = u32::MAX;
const NS_PER_MS: u64 = 1_000_000;

/// What a protocol knows of a session that is kept.
pub trait Resumable: Any + Send {
    /// The end of a publish that was pending; see [`Output::Confirmed`].
    fn confirmed(&mut self, sequence: u64, accepted: bool);

    /// A consumer has ended; see [`Output::ConsumerCancelled`].
    fn consumer_cancelled(&mut self, consumer: u32);

    /// The answer to the request that was outstanding; see [`Output::Reply`]. Who does not want it in the end gives it back
    /// with [`Shard::give_back_reply`].
    fn replied(&mut self, result: Result<Reply, Refusal>);

    /// Nobody has come in time: gives everything back, session and connection included.
    fn expire(self: Box<Self>, shard: &mut Shard);
}

struct Keeping {
    session: SessionId,
    deadline_ns: u64,
    kept: Box<dyn Resumable>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Attic {
    kept: Map<Name, Keeping>,
    names: Map<SessionId, Name>,
    /// Names in use, and the number of who uses each.
    claims: Map<Name, u64>,
    next_claim: u64,
    evictions: u64,
}

impl Attic {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether a deadline is that of something kept.
    pub(super) fn awaits(&self, session: SessionId, deadline_ns: u64) -> bool {
        let keeping = self.names.get(&session).and_then(|name| self.kept.get(name));
        keeping.is_some_and(|keeping| keeping.deadline_ns == deadline_ns)
    }
}

impl Shard {
    /// Takes a name that no session here uses; with `force`, also one that is in use: whoever had it has lost it, as
    /// [`Shard::holds_name`] tells. `None`: it is in use. The number is to be shown with the name later.
    pub fn claim_name(&mut self, name: &Name, force: bool) -> Option<u64> {
        let attic = &mut self.attic;
        if attic.claims.contains_key(name) {
            if !force {
                return None;
            }
            attic.evictions += 1;
        }
        attic.next_claim += 1;
        attic.claims.insert(name.clone(), attic.next_claim);
        Some(attic.next_claim)
    }

    /// Whether the name is still used by whoever got this number with it.
    pub fn holds_name(&self, name: &Name, number: u64) -> bool {
        self.attic.claims.get(name) == Some(&number)
    }

    /// How often somebody has lost a name.
    #[inline]
    pub fn evictions(&self) -> u64 {
        self.attic.evictions
    }

    /// Gives a name back, if it is still held.
    pub fn give_up_name(&mut self, name: &Name, number: u64) {
        if self.holds_name(name, number) {
            self.attic.claims.remove(name);
        }
    }

    /// Keeps a session under a name for so long. Its connection goes on, driven by nobody, and may have no other session.
    pub fn keep_session(&mut self, id: SessionId, name: Name, for_ms: u64, mut kept: Box<dyn Resumable>) {
        self.set_session_flow(id, false);
        self.tell_kept(id, kept.as_mut());
        self.drive_session(id, NOBODY, 0);
        let deadline_ns = self.clock.monotonic_ns.saturating_add(for_ms.saturating_mul(NS_PER_MS));
        self.timers.set(deadline_ns, Due::Resumption(id));
        self.attic.names.insert(id, name.clone());
        let replaced = self.attic.kept.insert(name, Keeping { session: id, deadline_ns, kept });
        if let Some(Keeping { session, kept, .. }) = replaced {
            self.attic.names.remove(&session);
            kept.expire(self);
        }
    }

    /// What waits to be told a session is told what is kept of it.
    fn tell_kept(&mut self, id: SessionId, kept: &mut dyn Resumable) {
        for (session, output) in std::mem::take(&mut self.outputs) {
            match output {
                other if session != id => self.outputs.push_back((session, other)),
                Output::Delivery(delivery) => {
                    self.put_back(delivery.queue, delivery.tag, delivery.message, delivery.followers);
                }
                Output::Confirmed { sequence, accepted, .. } => kept.confirmed(sequence, accepted),
                Output::ConsumerCancelled { consumer, .. } => kept.consumer_cancelled(consumer),
                Output::Reply { result, .. } => kept.replied(*result),
            }
        }
        self.bury_dead();
    }

    /// Takes back what is kept under a name. The session is the caller's again, and stands still until
    /// [`Shard::set_session_flow`].
    pub fn take_kept(&mut self, name: &Name, owner: u32, channel: u16) -> Option<Box<dyn Resumable>> {
        let Keeping { session, mut kept, .. } = self.attic.kept.remove(name)?;
        self.attic.names.remove(&session);
        self.tell_kept(session, kept.as_mut());
        self.drive_session(session, owner, channel);
        Some(kept)
    }

    /// The next thing to tell somebody who is there.
    #[cold]
    pub(super) fn next_output_of_those_driven(&mut self) -> Option<Output> {
        while let Some((id, output)) = self.outputs.pop_front() {
            let Some(name) = self.attic.names.get(&id) else { return Some(output) };
            let Some(keeping) = self.attic.kept.get_mut(name) else { continue };
            match output {
                Output::Confirmed { sequence, accepted, .. } => keeping.kept.confirmed(sequence, accepted),
                Output::ConsumerCancelled { consumer, .. } => keeping.kept.consumer_cancelled(consumer),
                Output::Reply { result, .. } => keeping.kept.replied(*result),
                Output::Delivery(delivery) => {
                    self.put_back(delivery.queue, delivery.tag, delivery.message, delivery.followers);
                }
            }
        }
        None
    }

    /// The time of something kept is over.
    pub(super) fn expire_kept(&mut self, id: SessionId, deadline_ns: u64) {
        if !self.attic.awaits(id, deadline_ns) {
            return;
        }
        let Some(name) = self.attic.names.remove(&id) else { return };
        if let Some(Keeping { kept, .. }) = self.attic.kept.remove(&name) {
            kept.expire(self);
        }
    }

    /// Somebody else drives a session and its connection from now on.
    fn drive_session(&mut self, id: SessionId, owner: u32, channel: u16) {
        if self.session_mut(id).is_none() {
            return;
        }
        let client = self.clients.enter(owner, self.config.id);
        let Some(session) = self.session_mut(id) else { return };
        (session.owner, session.client, session.channel) = (owner, client, channel);
        let connection = session.connection;
        let Some(connection) = self.connections.get_mut(connection.index, connection.generation) else {
            return self.clients.leave(owner);
        };
        let before = std::mem::replace(&mut connection.owner, owner);
        connection.client = client;
        let queues = connection.exclusive.clone();
        self.clients.leave(before);
        for queue in queues {
            self.tell_owner(queue, client);
        }
    }
}
