//! The server side of a connection: from the protocol header to the close, sessions with their commands in both
//! directions, subscriptions, transactions. Turns bytes into calls on a [`Shard`] and its outputs into bytes.
//!
//! 1. One connection never blocks another: every call takes as much input as it is given and returns.
//! 2. While the answer to a request is outstanding the connection is *parked*: it takes no more input, so that order
//!    within a session holds with queues on any shard.
//! 3. A peer's fault ends the session or the connection with the specified code, never the process.
//! 4. What runs per message allocates nothing once buffers have grown to what the connection uses.

mod channel;
mod command;
mod delivery;
mod dtx;
mod errors;
mod exchange;
mod handshake;
mod incoming;
mod input;
mod moving;
mod outgoing;
mod queue;
mod quick;
mod ranges;
mod replay;
mod resume;
mod session;
mod settle;
mod subscription;
mod transfer;
mod tx;
mod unsettled;

use std::collections::VecDeque;
use std::sync::Arc;

use fulmar_core::shard::Delivery;
use fulmar_core::{ConnectionId, Output, Shard, VhostId};
use fulmar_protocol::{Action, Config, Context, Counters, Layer, LoginAnswer, Seat, Traveller};

use crate::codec::Control;
use crate::codec::frame::MAX_FRAME_BYTES;
use crate::codec::table::{CloseCode, ConnectionClose};
use channel::Channel;
use errors::{Fault, short};
use handshake::LoginState;
use moving::Errand;
use quick::LastTransfer;
use session::Flow;

/// How long a peer may take to answer `connection.close`.
const CLOSE_TIMEOUT_NS: u64 = 10_000_000_000;

/// Where the connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `connection.start` is sent.
    Starting,
    /// `connection.secure` is sent.
    Securing,
    /// The caller checks a login.
    Authenticating,
    /// The caller takes it to another shard.
    Moving,
    /// `connection.tune` is sent.
    Tuning,
    /// Waits for `connection.open`.
    Opening,
    /// Sessions can be attached.
    Open,
    /// `connection.close` is sent.
    Closing,
    /// [`Action::Close`] was given.
    Closed,
}

/// What sessions share of their connection.
struct Link {
    config: Arc<Config>,
    /// The caller's handle.
    owner: u32,
    id: ConnectionId,
    vhost: VhostId,
    vhost_name: String,
    user: String,
    /// Largest frame in bytes, as agreed.
    frame_max: u16,
    counters: Counters,
    /// For what is encoded on the way; kept for its memory.
    scratch: Vec<u8>,
    /// Deliveries can be taken.
    writable: bool,
}

/// What a session needs for one call.
struct Env<'a> {
    shard: &'a mut Shard,
    out: &'a mut Vec<u8>,
    link: &'a mut Link,
}

impl Env<'_> {
    /// What messages that come now say of when they came, in seconds since 1970.
    #[inline]
    fn timestamp_s(&self) -> Option<u64> {
        self.link.config.timestamps.is_on().then(|| self.shard.wall_s())
    }

    /// Writes a control.
    fn control<'c>(&mut self, channel: u16, control: impl Into<Control<'c>>) {
        control.into().encode_frames(channel, self.link.frame_max, self.out);
    }
}

/// One connection.
pub struct Connection {
    link: Link,
    phase: Phase,
    /// By number; grown to the highest one used.
    channels: Vec<Option<Box<Channel>>>,
    /// The channel whose request is outstanding.
    parked: Option<u16>,
    last_transfer: Option<Box<LastTransfer>>,
    /// Where in the input a transfer begins whose frames may all be there, and its channel.
    transfer_begins: Option<(usize, u16)>,
    login: Option<Box<LoginState>>,
    /// What is held for as long as the connection is there.
    seat: Option<Seat>,
    /// What is to lie between the connection and its socket once it is open.
    layer: Option<Layer>,
    /// The caller is to put it there before there is any more input.
    is_protecting: bool,
    actions: VecDeque<Action>,
    /// `peer -> local`.
    name: String,
    /// Why the connection is being closed.
    close_reason: Option<(String, bool)>,
    /// End of the handshake's or the close's time.
    deadline_ns: Option<u64>,
    /// Highest channel number, as agreed.
    channel_max: u16,
    /// Agreed heartbeat; 0 for none.
    heartbeat_ns: u64,
    next_heartbeat_ns: u64,
    last_heard_ns: u64,
    /// Whether the caller reads the peer.
    reading: bool,
    /// Whether the broker is short of something that this peer would use.
    blocked: bool,
    /// Whether sessions and connection were given back to the shard.
    released: bool,
    /// How often names of sessions had been lost on the shard when it was last looked at.
    evictions: u64,
    /// For what it goes to another shard.
    errand: Option<Box<Errand>>,
    /// How often it has gone to another shard.
    moves: u8,
}

impl Connection {
    /// After the protocol header `AMQP 1 1 0 10` has been received (it is not part of what
    /// [`receive`](fulmar_protocol::Connection::receive) gets). Writes the same header and `connection.start`. `owner`
    /// comes back in the shard's outputs; `name` is `peer -> local`, for listings and logs.
    pub fn new(config: Arc<Config>, cx: &mut Context<'_>, owner: u32, name: String) -> Self {
        handshake::start(&config, cx.out);
        let frame_max = u16::try_from(config.frame_max_bytes).unwrap_or(MAX_FRAME_BYTES);
        let timeout_ns = config.handshake_timeout_ms.saturating_mul(1_000_000);
        let link = Link {
            owner,
            id: cx.shard.open_connection(owner),
            vhost: VhostId::default(),
            vhost_name: String::new(),
            user: String::new(),
            frame_max: if frame_max == 0 { MAX_FRAME_BYTES } else { frame_max },
            counters: Counters::default(),
            scratch: Vec::new(),
            writable: true,
            config,
        };
        Connection {
            deadline_ns: Some(cx.now_ns.saturating_add(timeout_ns)),
            ..Connection::over(link, name, Phase::Starting, cx)
        }
    }

    /// One in this phase, without anything attached to it.
    fn over(link: Link, name: String, phase: Phase, cx: &Context<'_>) -> Self {
        Connection {
            phase,
            channels: Vec::new(),
            parked: None,
            last_transfer: None,
            transfer_begins: None,
            login: None,
            seat: None,
            layer: None,
            is_protecting: false,
            actions: VecDeque::new(),
            name,
            close_reason: None,
            deadline_ns: None,
            // Others come with tuning.
            channel_max: 0,
            heartbeat_ns: 0,
            next_heartbeat_ns: 0,
            last_heard_ns: cx.now_ns,
            reading: true,
            blocked: false,
            released: false,
            evictions: cx.shard.evictions(),
            errand: None,
            moves: 0,
            link,
        }
    }

    /// What follows from a session's step.
    fn finish(&mut self, cx: &mut Context<'_>, number: u16, result: Result<Flow, Fault>) {
        match result {
            Ok(Flow::Done) => {}
            Ok(Flow::Parked) => self.parked = Some(number),
            Err(fault) => self.raise(cx, number, fault),
        }
    }

    /// Ends the session or the connection.
    fn raise(&mut self, cx: &mut Context<'_>, number: u16, fault: Fault) {
        if let Fault::Connection(code, text) = &fault {
            return self.fail(cx, *code, text);
        }
        fault.count(&mut self.link.counters);
        if let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) {
            channel.fail(&mut Env { shard: cx.shard, out: cx.out, link: &mut self.link }, fault);
        }
    }

    /// Ends the connection because of a fault of the peer.
    fn fail(&mut self, cx: &mut Context<'_>, code: CloseCode, text: &str) {
        Fault::Connection(code, String::new()).count(&mut self.link.counters);
        let is_stranger = matches!(self.phase, Phase::Starting | Phase::Securing | Phase::Authenticating);
        self.send_close(cx, code, text, true);
        // The answer of a peer that has not logged in is not waited for.
        if is_stranger && let Some((reason, error)) = self.close_reason.take() {
            self.close(cx.shard, reason, error);
        }
    }

    /// Writes `connection.close`, and waits for the answer.
    fn send_close(&mut self, cx: &mut Context<'_>, code: CloseCode, text: &str, error: bool) {
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        let close = ConnectionClose { reply_code: Some(code), reply_text: Some(short(text)) };
        Control::from(close).encode_frames(0, self.link.frame_max, cx.out);
        self.phase = Phase::Closing;
        self.deadline_ns = Some(cx.now_ns.saturating_add(CLOSE_TIMEOUT_NS));
        self.close_reason = Some((format!("{}: {text}", code.name()), error));
        self.release(cx.shard);
    }

    /// Has the caller close the socket.
    fn close(&mut self, shard: &mut Shard, reason: String, error: bool) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.deadline_ns = None;
            self.actions.push_back(Action::Close { reason, error });
        }
        self.release(shard);
    }

    /// Gives everything back to the shard.
    fn release(&mut self, shard: &mut Shard) {
        self.parked = None;
        self.login = None;
        self.seat = None;
        self.layer = None;
        self.errand = None;
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        for mut channel in std::mem::take(&mut self.channels).into_iter().flatten() {
            channel.let_go(shard);
        }
        shard.close_connection(self.link.id);
    }

    /// Sends a heartbeat when it is time, and notices a silent peer.
    fn beat(&mut self, cx: &mut Context<'_>) {
        if !self.reading || self.blocked || fulmar_protocol::Connection::is_parked(self) {
            self.last_heard_ns = cx.now_ns;
        }
        if cx.now_ns.saturating_sub(self.last_heard_ns) >= 2 * self.heartbeat_ns {
            self.link.counters.faults.timeout += 1;
            let seconds = self.heartbeat_ns / 1_000_000_000;
            return self.close(cx.shard, format!("missed heartbeats from client, timeout: {seconds}s"), true);
        }
        if cx.now_ns >= self.next_heartbeat_ns {
            handshake::heartbeat(cx.out);
            self.next_heartbeat_ns = cx.now_ns + self.heartbeat_ns / 2;
        }
    }
}

impl fulmar_protocol::Connection for Connection {
    fn id(&self) -> ConnectionId {
        self.link.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn user(&self) -> &str {
        &self.link.user
    }

    fn vhost(&self) -> &str {
        &self.link.vhost_name
    }

    fn counters(&self) -> &Counters {
        &self.link.counters
    }

    fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    fn is_parked(&self) -> bool {
        self.parked.is_some()
            || matches!(self.phase, Phase::Authenticating | Phase::Moving)
            || self.is_protecting
    }

    fn set_writable(&mut self, shard: &mut Shard, writable: bool) {
        self.link.writable = writable;
        for session in self.channels.iter_mut().flatten().filter_map(|channel| channel.live_session()) {
            session.set_writable(shard, writable);
        }
    }

    fn set_reading(&mut self, now_ns: u64, reading: bool) {
        self.reading = reading;
        self.last_heard_ns = now_ns;
    }

    fn receive(&mut self, cx: &mut Context<'_>, input: &[u8]) -> usize {
        self.last_heard_ns = cx.now_ns;
        self.take(cx, input)
    }

    fn output(&mut self, cx: &mut Context<'_>, output: Output) {
        let number = match &output {
            Output::Delivery(delivery) => {
                self.deliver(cx, *delivery);
                return;
            }
            Output::Reply { channel, .. }
            | Output::Confirmed { channel, .. }
            | Output::ConsumerCancelled { channel, .. } => *channel,
        };
        let channel = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut);
        let Some(session) = channel.and_then(Channel::live_session) else { return };
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let result = match output {
            Output::Reply { result, .. } => {
                self.parked = None;
                session.hear(&mut env, result)
            }
            Output::Confirmed { sequence, accepted, .. } => {
                let result = session.confirmed(&mut env, sequence, accepted);
                if self.parked == Some(number) && !session.is_waiting() {
                    self.parked = None;
                }
                result
            }
            Output::ConsumerCancelled { consumer, waited, .. } => {
                session.consumer_cancelled(consumer, waited)
            }
            Output::Delivery(_) => return,
        };
        self.finish(cx, number, result);
    }

    fn deliver(&mut self, cx: &mut Context<'_>, first: Delivery) -> u64 {
        let channel = self.channels.get_mut(usize::from(first.channel)).and_then(Option::as_deref_mut);
        let Some(session) = channel.and_then(Channel::live_session) else {
            cx.shard.release_all(first.message, first.followers);
            return u64::from(first.followers) + 1;
        };
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let (owner, number) = (first.owner, first.channel);
        let mut next = Some(first);
        let mut count = 0;
        while let Some(delivery) = next {
            session.deliver(&mut env, &delivery);
            count += u64::from(delivery.followers) + 1;
            next = env.shard.next_delivery(owner, number);
        }
        count
    }

    fn authenticated(&mut self, cx: &mut Context<'_>, answer: LoginAnswer) {
        self.login_checked(cx, answer);
    }

    fn end_of_turn(&mut self, _cx: &mut Context<'_>) {}

    fn tick(&mut self, cx: &mut Context<'_>) -> Option<u64> {
        if self.deadline_ns.is_some_and(|deadline| cx.now_ns >= deadline) {
            self.deadline_ns = None;
            self.link.counters.faults.timeout += 1;
            if self.phase == Phase::Closing {
                let (reason, error) = self.close_reason.take().unwrap_or_default();
                self.close(cx.shard, format!("{reason}; the peer did not answer the close"), error);
            } else {
                self.close(cx.shard, format!("handshake timed out while {}", self.phase.name()), true);
            }
        }
        if cx.shard.evictions() != self.evictions {
            self.drop_lost_sessions(cx);
        }
        if self.heartbeat_ns > 0 && self.phase == Phase::Open {
            self.beat(cx);
        }
        match self.phase {
            Phase::Closed => None,
            Phase::Open if self.heartbeat_ns > 0 => Some(self.next_heartbeat_ns),
            _ => self.deadline_ns,
        }
    }

    /// There is no way to tell the peer.
    fn set_blocked(&mut self, cx: &mut Context<'_>, reason: Option<&str>) {
        self.blocked = reason.is_some();
        self.last_heard_ns = cx.now_ns;
    }

    fn shut_down(&mut self, cx: &mut Context<'_>, code: u16, text: &str) {
        match self.phase {
            Phase::Closing | Phase::Closed => {}
            Phase::Open | Phase::Opening => self.send_close(cx, CloseCode::from_code(code), text, false),
            _ => self.close(cx.shard, text.to_owned(), false),
        }
    }

    fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if let Some(Action::Protect(_)) = action {
            self.is_protecting = false;
        }
        action
    }

    fn leave(self: Box<Self>, shard: &mut Shard) -> Option<Box<dyn Traveller>> {
        self.set_out(shard)
    }

    fn closed(&mut self, shard: &mut Shard) -> Option<String> {
        self.phase = Phase::Closed;
        self.release(shard);
        self.close_reason.take().and_then(|(reason, error)| error.then_some(reason))
    }
}

impl Phase {
    /// For logs.
    fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Securing | Phase::Authenticating => "securing",
            Phase::Tuning => "tuning",
            Phase::Opening => "opening",
            Phase::Moving => "moving",
            Phase::Open => "open",
            Phase::Closing => "closing",
            Phase::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::session::Session;
    use super::*;

    #[test]
    fn idle_connections_are_small() {
        let bytes = size_of::<Connection>() + size_of::<Channel>() + size_of::<Session>();
        assert!(bytes <= 2048, "{bytes} bytes for a connection with a session");
    }
}
