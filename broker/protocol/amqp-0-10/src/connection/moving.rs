//! Connections that go to the shard of the session that they attach.
//!
//! 1. A connection moves when it attaches its only session, and that lives on another shard. It reads nothing more until
//!    it has arrived, where the attach is carried out as if it had come there.
//! 2. Which cannot move is told that the session is busy, and nothing is lost.

use fulmar_core::permission::Permission;
use fulmar_core::{Name, Shard, ShardId};
use fulmar_protocol::{Action, Context, Counters, Seat, Traveller};

use super::channel::Channel;
use super::errors::Fault;
use super::resume;
use super::{Connection, Env, Link, Phase};
use crate::codec::table::{DetachCode, SessionAttach, SessionDetached};

/// How often a connection goes on when the session is somewhere else again.
const MOST_MOVES: u8 = 4;

/// The attach for which a connection moves.
pub(super) struct Errand {
    channel: u16,
    name: Name,
    force: bool,
}

/// A connection that is on no shard.
struct Journey {
    link: Link,
    name: String,
    channel_max: u16,
    heartbeat_ns: u64,
    moves: u8,
    errand: Box<Errand>,
    seat: Option<Seat>,
    permission: Option<Box<dyn Permission>>,
}

impl Connection {
    /// Where the session lives that is attached to an empty channel, if that is another shard.
    pub(super) fn lives_elsewhere(
        &self,
        shard: &Shard,
        number: u16,
        attach: &SessionAttach<'_>,
    ) -> Option<ShardId> {
        if self.channels.get(usize::from(number))?.as_ref().is_some_and(|channel| !channel.is_empty()) {
            return None;
        }
        let key = resume::key(&self.link, attach.name.unwrap_or_default());
        self.link.config.whereabouts.shard_of(&key).filter(|&there| there != shard.id())
    }

    /// Goes where the session is, or says that it cannot be had.
    pub(super) fn attach_elsewhere(
        &mut self,
        cx: &mut Context<'_>,
        number: u16,
        attach: &SessionAttach<'_>,
        shard: ShardId,
    ) {
        let name = attach.name.unwrap_or_default();
        let is_alone = self.channels.iter().flatten().all(|channel| channel.is_empty());
        if is_alone && self.link.config.can_move && self.moves < MOST_MOVES {
            self.errand =
                Some(Box::new(Errand { channel: number, name: Name::from(name), force: attach.force }));
            self.phase = Phase::Moving;
            return self.actions.push_back(Action::Move { shard });
        }
        let code = DetachCode::SessionBusy;
        Fault::Detach(code).count(&mut self.link.counters);
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        env.control(number, SessionDetached { name: Some(name), code: Some(code) });
    }

    /// Gives everything back here and sets out.
    pub(super) fn set_out(mut self: Box<Self>, shard: &mut Shard) -> Option<Box<dyn Traveller>> {
        let (errand, seat) = (self.errand.take(), self.seat.take());
        let permission = shard.take_permission(self.link.id);
        self.release(shard);
        let Connection { link, name, channel_max, heartbeat_ns, moves, .. } = *self;
        let errand = errand?;
        Some(Box::new(Journey { link, name, channel_max, heartbeat_ns, moves, errand, seat, permission }))
    }
}

impl Traveller for Journey {
    fn arrive(self: Box<Self>, cx: &mut Context<'_>, owner: u32) -> Box<dyn fulmar_protocol::Connection> {
        let Journey { link, name, channel_max, heartbeat_ns, moves, errand, seat, permission } = *self;
        let id = cx.shard.open_connection(owner);
        if let Some(permission) = permission {
            cx.shard.set_permission(id, permission);
        }
        // What was counted before was counted there.
        let link = Link { owner, id, counters: Counters::default(), writable: true, ..link };
        let mut connection = Connection {
            channel_max,
            heartbeat_ns,
            next_heartbeat_ns: cx.now_ns + heartbeat_ns / 2,
            moves: moves + 1,
            seat,
            ..Connection::over(link, name, Phase::Open, cx)
        };
        connection.carry_out(cx, &errand);
        Box::new(connection)
    }
}

impl Connection {
    fn carry_out(&mut self, cx: &mut Context<'_>, errand: &Errand) {
        let Errand { channel, name, force } = errand;
        self.channel(*channel);
        let attach = SessionAttach { name: Some(name.as_bytes()), force: *force };
        if let Err(fault) = self.attach(cx, *channel, attach) {
            self.raise(cx, *channel, fault);
        }
        if self.phase != Phase::Moving {
            self.moves = 0;
        }
    }
}

impl Channel {
    /// Whether nothing is attached to it, and nothing has come in part.
    fn is_empty(&self) -> bool {
        !self.has_session() && self.controls.as_ref().is_none_or(|controls| controls.is_idle())
    }
}
