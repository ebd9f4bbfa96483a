//! One session: its state, how commands become complete, and how it ends.

use std::collections::HashMap;

use fulmar_core::request::Rules;
use fulmar_core::shard::Settlement;
use fulmar_core::{ConnectionId, Name, Refusal, Reply, SessionId, Shard, VhostId};
use fulmar_protocol::Entry;
use slab::Slab;

use super::Env;
use super::command::{Current, Step};
use super::errors::Fault;
use super::exchange::Binding;
use super::incoming::{CommandId, Incoming};
use super::outgoing::Outgoing;
use super::ranges::Ranges;
use super::replay::Replay;
use super::subscription::Subscription;
use super::transfer::Arriving;
use super::tx::Mode;
use super::unsettled::Unsettled;
use crate::codec::segment::Piece;
use crate::codec::table::{
    ErrorCode, ExecutionException, ExecutionResult, MessageAccept, SegmentType, SessionCompleted,
    SessionDetach, SessionHeader,
};
use crate::codec::{Command, MapRef, SequenceNo, SequenceSet, Struct, StructRef};

/// How a step of a session ended, if it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Nothing more to do.
    Done,
    /// The session waits for the shard.
    Parked,
}

/// A session that is attached to a channel.
pub(super) struct Session {
    /// Its channel.
    pub number: u16,
    pub name: Name,
    /// The session's own in the core: exclusive queues belong to a session, not to its connection.
    pub connection: ConnectionId,
    pub session: SessionId,
    /// An exception was sent, and all but the answer is ignored.
    pub failed: bool,
    /// The peer has said where its commands begin.
    pub has_point: bool,
    /// It was attached before.
    pub is_resumed: bool,
    /// Where the broker's commands go on is clear.
    pub send_ready: bool,
    /// A queue has refused a message while nobody was there to be told.
    pub refused: bool,
    /// By what the shard knows the session's name, and that it is this one's.
    pub key: Name,
    pub claim: u64,
    /// What has to be sent again if the session is resumed; only if it may be.
    pub replay: Option<Box<Replay>>,
    /// How long it stays when it is detached without a word, in seconds.
    pub timeout_s: u32,
    /// Tells other shards that it is here; only if it stays.
    pub entry: Option<Entry>,
    pub incoming: Incoming,
    pub outgoing: Outgoing,
    /// The command that came last.
    pub current: Current,
    /// What it waits for.
    pub pending: Option<Step>,
    /// The answer to that, which came while the peer was away.
    pub late: Option<Box<Result<Reply, Refusal>>>,
    pub arriving: Arriving,
    /// Transfers that are complete and that the peer wants accepted.
    pub accepts: Ranges,
    /// Such transfers that queues have not answered, in order.
    pub unaccepted: std::collections::VecDeque<u64>,
    pub subscriptions: Slab<Subscription>,
    pub by_destination: HashMap<Name, u32>,
    pub unsettled: Unsettled,
    pub mode: Mode,
    /// Those that go with the session.
    pub bindings: Vec<Binding>,
    vhost: VhostId,
}

impl Session {
    pub fn new(env: &mut Env<'_>, number: u16, name: Name, key: Name, claim: u64) -> Self {
        let connection = env.shard.open_connection(env.link.owner);
        env.shard.share_permission(env.link.id, connection);
        if !env.link.writable {
            env.shard.set_writable(connection, false);
        }
        let session = env.shard.open_session(connection, number);
        env.shard.set_rules(session, Rules::Amqp010);
        Session {
            number,
            name,
            connection,
            session,
            failed: false,
            has_point: false,
            is_resumed: false,
            send_ready: true,
            refused: false,
            key,
            claim,
            replay: None,
            timeout_s: 0,
            entry: None,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            current: Current::default(),
            pending: None,
            late: None,
            arriving: Arriving::default(),
            accepts: Ranges::default(),
            unaccepted: Default::default(),
            subscriptions: Slab::new(),
            by_destination: HashMap::new(),
            unsettled: Unsettled::default(),
            mode: Mode::default(),
            bindings: Vec::new(),
            vhost: env.link.vhost,
        }
    }

    /// Whether a reply of the shard is outstanding.
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// The connection's output can take more, or cannot.
    pub fn set_writable(&self, shard: &mut Shard, writable: bool) {
        shard.set_writable(self.connection, writable);
    }

    /// Gives everything back to the shard.
    pub fn release(&mut self, shard: &mut Shard) {
        self.pending = None;
        if let Some(late) = self.late.take() {
            shard.give_back_reply(*late);
        }
        self.entry = None;
        shard.give_up_name(&self.key, self.claim);
        self.arriving.release(shard);
        // Newest first: each goes back to its place at the head of its queue without a search.
        for record in self.unsettled.take_all() {
            if record.acquired && !record.settled {
                shard.settle(self.session, record.queue, record.tag, Settlement::Requeue);
            }
        }
        for binding in self.bindings.drain(..) {
            // Nobody waits for the answer.
            let _ = shard.request_unasked(self.session, binding.removal(self.vhost));
        }
        shard.close_session(self.session);
        shard.close_connection(self.connection);
        self.subscriptions.clear();
        self.by_destination.clear();
    }

    /// A part of a command.
    #[inline]
    pub fn piece(&mut self, env: &mut Env<'_>, piece: Piece<'_>) -> Result<Flow, Fault> {
        match piece {
            Piece::Segment { kind: SegmentType::Command, payload, is_last } => {
                if !(self.has_point && self.send_ready) {
                    return Err(Fault::illegal_state(format!(
                        "session '{}' is not ready to receive commands",
                        self.name
                    )));
                }
                self.command(env, payload, is_last)
            }
            Piece::Segment { payload, is_last, .. } => self.content_header(env, payload, is_last),
            Piece::Body { payload, is_last } => self.content_body(env, payload, is_last),
        }
    }

    /// The current command is complete.
    pub fn complete_current(&mut self, env: &mut Env<'_>) {
        let Some(command) = self.current.command else { return };
        if self.current.sync {
            self.incoming.await_completion(command);
        }
        self.incoming.complete(command);
        self.after_completion(env);
    }

    /// Tells the peer what it waits for.
    pub fn after_completion(&mut self, env: &mut Env<'_>) {
        if self.incoming.reached_sync_point() {
            self.tell_accepts(env);
            self.tell_completion(env);
        } else if self.incoming.is_due() {
            self.tell_completion(env);
        }
    }

    /// `session.completed`.
    pub fn tell_completion(&mut self, env: &mut Env<'_>) {
        let mut buffer = std::mem::take(&mut env.link.scratch);
        let number = self.number;
        let (unknown, timely_reply) = self.incoming.tell(false);
        unknown.encoded(&mut buffer, |commands| {
            env.control(number, SessionCompleted { commands: Some(commands), timely_reply });
        });
        env.link.scratch = buffer;
    }

    /// `message.accept` for transfers that are complete.
    pub fn tell_accepts(&mut self, env: &mut Env<'_>) {
        if self.accepts.is_empty() || !self.send_ready {
            return;
        }
        let mut accepts = std::mem::take(&mut self.accepts);
        let mut buffer = std::mem::take(&mut env.link.scratch);
        while !accepts.is_empty() {
            accepts.encoded(&mut buffer, |transfers| {
                self.send(env, MessageAccept { transfers: Some(transfers) }, false);
            });
            accepts.drop_encoded();
        }
        env.link.scratch = buffer;
        // Its memory is kept.
        self.accepts = accepts;
    }

    /// Sends a command.
    pub fn send<'c>(&mut self, env: &mut Env<'_>, command: impl Into<Command<'c>>, sync: bool) {
        self.outgoing.begin();
        let start = env.out.len();
        command.into().encode_frames(SessionHeader { sync }, self.number, env.link.frame_max, env.out);
        if self.replay.is_some() {
            self.record(env, start);
        }
    }

    /// `execution.result` of the current command.
    pub fn result(&mut self, env: &mut Env<'_>, value: &Struct<'_>) {
        let mut buffer = std::mem::take(&mut env.link.scratch);
        buffer.clear();
        value.encode(&mut buffer);
        let command_id = self.current.command.map(CommandId::id);
        // Without the size, which the field has itself.
        let value = Some(StructRef::new(&buffer[4..]));
        self.send(env, ExecutionResult { command_id, value }, false);
        env.link.scratch = buffer;
    }

    /// Ends the session with an exception; the channel waits for the peer's `session.detached`.
    pub fn fail(&mut self, env: &mut Env<'_>, code: ErrorCode, text: &str) {
        let (class_code, command_code) = self.current.codes;
        let exception = ExecutionException {
            error_code: Some(code),
            command_id: Some(self.current.command.map_or(SequenceNo(0), CommandId::id)),
            class_code: Some(class_code),
            command_code: Some(command_code),
            field_index: Some(0),
            description: Some(text.as_bytes()),
            error_info: Some(MapRef::EMPTY),
        };
        self.send(env, exception, false);
        env.control(self.number, SessionDetach { name: Some(self.name.as_bytes()) });
        self.failed = true;
        self.release(env.shard);
    }

    /// The name in a control is the session's.
    pub fn check_name(&self, name: Option<&[u8]>) -> Result<(), Fault> {
        let name = name.unwrap_or_default();
        if name == self.name.as_bytes() {
            return Ok(());
        }
        let text = format!("session '{}' instead of '{}'", String::from_utf8_lossy(name), self.name);
        Err(Fault::new(ErrorCode::InvalidArgument, text))
    }

    /// The peer leaves commands out.
    pub fn gap(&mut self, env: &mut Env<'_>, commands: SequenceSet<'_>) -> Result<(), Fault> {
        for (first, last) in commands.iter() {
            if first != self.incoming.expected() {
                return Err(Fault::new(ErrorCode::InvalidArgument, format!("a gap from {first} to {last}")));
            }
            let count = u64::from(last.0.wrapping_sub(first.0)) + 1;
            if let Some(command) = self.incoming.begin_many(count) {
                self.incoming.complete_many(command, count);
            }
        }
        self.after_completion(env);
        Ok(())
    }
}
