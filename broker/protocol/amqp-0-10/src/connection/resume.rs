//! Sessions that outlive their connection: kept for a client that comes back, and gone on with.

use std::any::Any;

use fulmar_core::shard::Resumable;
use fulmar_core::{Name, Refusal, Reply, Shard};

use super::errors::Fault;
use super::incoming::CommandId;
use super::replay::Replay;
use super::session::Session;
use super::{Env, Link};
use crate::codec::table::{ErrorCode, SessionCommandPoint, SessionFlush};
use crate::codec::{SequenceNo, SequenceSet};

/// Longest time for which a session is kept, in seconds.
const MOST_S: u32 = 3600;

/// What a session is known by on its shard: names are of one user in one virtual host.
pub(super) fn key(link: &Link, name: &[u8]) -> Name {
    let parts = [link.vhost_name.as_bytes(), link.user.as_bytes(), name];
    Name::from(&parts.join(&0)[..])
}

impl Session {
    /// `session.request-timeout`: how long the session stays when it is detached. Returns what it gets: nothing where one
    /// of its name stays on another shard, or where too many of its user stay.
    pub fn set_timeout(&mut self, env: &Env<'_>, timeout_s: u32) -> u32 {
        if timeout_s == 0 {
            self.entry = None;
        } else if self.entry.is_none() {
            self.entry = env.link.config.whereabouts.enter(&env.link.user, &self.key, env.shard.id());
        }
        self.timeout_s = if self.entry.is_some() { timeout_s.min(MOST_S) } else { 0 };
        match self.timeout_s {
            0 => self.replay = None,
            _ => {
                let next = self.outgoing.next_number();
                self.replay.get_or_insert_with(|| Box::new(Replay::new(next)));
            }
        }
        self.timeout_s
    }

    /// Keeps what was written from `start` on, in case that it has to be sent again.
    #[cold]
    pub fn record(&mut self, env: &mut Env<'_>, start: usize) {
        let Some(replay) = &mut self.replay else { return };
        let ask = replay.record(&env.out[start..]);
        if replay.is_full() {
            // The peer reads without ever telling what it has read.
            (self.replay, self.timeout_s, self.entry) = (None, 0, None);
        } else if ask {
            env.control(self.number, SessionFlush { expected: false, confirmed: true, completed: true });
        }
    }

    /// The peer has received commands for good.
    pub fn peer_received(&mut self, commands: SequenceSet<'_>) {
        let Some(replay) = &mut self.replay else { return };
        for (first, last) in commands.iter() {
            if let Some((first, last)) = self.outgoing.numbers(first, last) {
                replay.confirm(first, last);
            }
        }
    }

    /// The peer has gone: the session is kept if it asked for that, and given back otherwise.
    pub fn let_go(mut self: Box<Self>, shard: &mut Shard) {
        if self.timeout_s == 0 || self.failed {
            return self.release(shard);
        }
        let for_ms = u64::from(self.timeout_s) * 1000;
        self.keep_for(shard, for_ms);
    }

    /// Keeps the session, whether it asked for that or not.
    pub fn keep_for(mut self: Box<Self>, shard: &mut Shard, for_ms: u64) {
        if self.failed {
            return self.release(shard);
        }
        // What has come of a transfer has to come again.
        if let Some(command) = self.arriving.abandon(shard) {
            self.incoming.abort(command);
        }
        shard.give_up_name(&self.key, self.claim);
        (self.has_point, self.send_ready, self.is_resumed) = (false, false, true);
        // The command that is being carried out is told of in the end.
        self.current.sync &= self.is_waiting();
        let (session, key) = (self.session, self.key.clone());
        shard.keep_session(session, key, for_ms, self);
    }

    /// The session that is kept under a name, if there is one.
    pub fn resume(env: &mut Env<'_>, number: u16, key: &Name, claim: u64) -> Option<Box<Self>> {
        let kept: Box<dyn Any> = env.shard.take_kept(key, env.link.owner, number)?;
        let mut session = kept.downcast::<Session>().ok()?;
        (session.number, session.claim) = (number, claim);
        session.subscriptions.iter_mut().for_each(|(_, subscription)| subscription.set_channel(number));
        session.set_writable(env.shard, env.link.writable);
        env.shard.share_permission(env.link.id, session.connection);
        Some(session)
    }

    /// The peer of a resumed session expects this command next: it and those after it are sent again, and deliveries go
    /// on.
    pub fn send_again(&mut self, env: &mut Env<'_>, expected: Option<SequenceNo>) -> Result<(), Fault> {
        let Some(id) = expected else {
            return Err(Fault::illegal_state("the session has state, and the peer attaches a new one"));
        };
        let next = self.outgoing.next_number();
        let number = next.checked_sub(u64::from((next as u32).wrapping_sub(id.0)));
        let out_of_range =
            || Fault::new(ErrorCode::InvalidArgument, format!("expected command {id} is out of range"));
        let number = number.ok_or_else(out_of_range)?;
        let nothing = number == next;
        let frames = match &mut self.replay {
            Some(replay) => replay.from(number, next, self.number),
            None if nothing => Some(&b""[..]),
            None => None,
        };
        let frames = frames.ok_or_else(out_of_range)?;
        let point = SessionCommandPoint { command_id: Some(id), command_offset: Some(0) };
        env.control(self.number, point);
        env.out.extend_from_slice(frames);
        self.send_ready = true;
        if std::mem::take(&mut self.refused) {
            return Err(super::transfer::over_limit());
        }
        env.shard.set_session_flow(self.session, true);
        Ok(())
    }
}

impl Resumable for Session {
    fn confirmed(&mut self, sequence: u64, accepted: bool) {
        self.refused |= !accepted;
        let command = CommandId { number: sequence };
        if let Ok(at) = self.unaccepted.binary_search(&sequence) {
            self.unaccepted.remove(at);
            self.accepts.add_range(command.id(), command.id());
        }
        self.incoming.complete(command);
    }

    fn consumer_cancelled(&mut self, consumer: u32) {
        self.forget(consumer);
    }

    fn replied(&mut self, result: Result<Reply, Refusal>) {
        self.late = Some(Box::new(result));
    }

    fn expire(mut self: Box<Self>, shard: &mut Shard) {
        self.release(shard);
    }
}
