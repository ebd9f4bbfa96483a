//! The server side of a connection: from the protocol header to the close, channels and their consumers, confirms
//! and transactions. Turns bytes into calls on a [`Shard`] and its outputs into bytes.
//!
//! 1. One connection never blocks another: every call takes as much input as it is given and returns.
//! 2. While the answer to a request is outstanding the connection is *parked*: it takes no more input, so that order
//!    within a channel holds with queues on any shard.
//! 3. A peer's fault ends the channel or the connection with the specified reply code, never the process.
//! 4. What runs per message allocates nothing once buffers have grown to what the connection uses.

mod arguments;
mod channel;
mod confirm;
mod consume;
mod delivery;
mod errors;
mod handshake;
mod input;
mod last;
mod publish;
mod quick;
mod settle;
mod topology;
mod tx;
mod unacked;

use std::collections::VecDeque;
use std::sync::Arc;

use fulmar_core::shard::Delivery;
use fulmar_core::{ConnectionId, Output, Shard, VhostId};
use fulmar_protocol::{Action, Config, Connection as _, Context, Counters, LoginAnswer, Seat};

use crate::codec::{Method, frame, reply_code as code};
use channel::{Channel, Flow};
use errors::Exception;
use handshake::LoginState;
use input::PartialBody;
use last::LastPublish;

/// Largest frame of a peer that has not logged in.
const MAX_LOGIN_FRAME_BYTES: u32 = 16 << 10;
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
    /// `connection.tune` is sent.
    Tuning,
    /// Waits for `connection.open`.
    Opening,
    /// Channels can be used.
    Open,
    /// `connection.close` is sent.
    Closing,
    /// [`Action::Close`] was given.
    Closed,
}

/// What channels share of their connection.
struct Link {
    config: Arc<Config>,
    id: ConnectionId,
    vhost: VhostId,
    vhost_name: String,
    user: String,
    /// Largest frame in bytes, as agreed; 0 for no limit.
    frame_max: u32,
    capabilities: Capabilities,
    counters: Counters,
    /// Consumer tags generated so far.
    consumer_tags: u64,
    /// Channels with confirms to tell at the end of the turn.
    confirming: Vec<u16>,
    /// Properties of a message that came by another protocol, see [`delivery::translate`].
    translated: Vec<u8>,
}

/// What the client says it can do, as far as that matters.
#[derive(Clone, Copy, Debug, Default)]
struct Capabilities {
    authentication_failure_close: bool,
    connection_blocked: bool,
    consumer_cancel_notify: bool,
}

/// What a channel needs for one call.
struct Env<'a> {
    shard: &'a mut Shard,
    out: &'a mut Vec<u8>,
    link: &'a mut Link,
}

/// One connection.
pub struct Connection {
    link: Link,
    phase: Phase,
    /// By number; grown to the highest one used.
    channels: Vec<Option<Box<Channel>>>,
    /// The channel whose request is outstanding.
    parked: Option<u16>,
    partial: Option<PartialBody>,
    last_publish: Option<Box<LastPublish>>,
    login: Option<Box<LoginState>>,
    /// What is held for as long as the connection is there.
    seat: Option<Seat>,
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
    /// Whether the peer was told that the broker is short of something.
    blocked: bool,
    /// Whether sessions and connection were given back to the shard.
    released: bool,
}

impl Connection {
    /// After the protocol header `AMQP 0 0 9 1` has been received (it is not part of what [`Connection::receive`] gets).
    /// Writes `connection.start`. `owner` comes back in the shard's outputs; `name` is `peer -> local`, for listings and logs.
    pub fn new(config: Arc<Config>, cx: &mut Context<'_>, owner: u32, name: String) -> Self {
        handshake::start(&config, cx.out);
        Connection {
            phase: Phase::Starting,
            channels: Vec::new(),
            parked: None,
            partial: None,
            last_publish: None,
            login: None,
            seat: None,
            actions: VecDeque::new(),
            name,
            close_reason: None,
            deadline_ns: Some(
                cx.now_ns.saturating_add(config.handshake_timeout_ms.saturating_mul(1_000_000)),
            ),
            channel_max: config.channel_max,
            heartbeat_ns: 0,
            next_heartbeat_ns: 0,
            last_heard_ns: cx.now_ns,
            reading: true,
            blocked: false,
            released: false,
            link: Link {
                id: cx.shard.open_connection(owner),
                vhost: VhostId::default(),
                vhost_name: String::new(),
                user: String::new(),
                frame_max: config.frame_max_bytes.min(MAX_LOGIN_FRAME_BYTES),
                capabilities: Capabilities::default(),
                counters: Counters::default(),
                consumer_tags: 0,
                confirming: Vec::new(),
                translated: Vec::new(),
                config,
            },
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
        self.parked.is_some() || self.phase == Phase::Authenticating
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
        let Some(channel) = channel.filter(|channel| !channel.closing) else { return };
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let result = match output {
            Output::Reply { result, .. } => {
                self.parked = None;
                channel.replied(&mut env, *result)
            }
            Output::Confirmed { sequence, accepted, .. } => {
                match channel.confirmed(&mut env, sequence, accepted) {
                    // A commit goes on waiting.
                    Ok(Flow::Parked) => return,
                    result => {
                        if self.parked == Some(number) && !channel.awaits_reply() {
                            self.parked = None;
                        }
                        result
                    }
                }
            }
            Output::ConsumerCancelled { consumer, .. } => {
                return channel.consumer_cancelled(&mut env, consumer);
            }
            Output::Delivery(_) => return,
        };
        self.finish(cx, number, result);
    }

    fn deliver(&mut self, cx: &mut Context<'_>, first: Delivery) -> u64 {
        let channel = match self.channels.get_mut(usize::from(first.channel)) {
            Some(Some(channel)) if !channel.closing => channel,
            _ => {
                cx.shard.release_all(first.message, first.followers);
                return u64::from(first.followers) + 1;
            }
        };
        let mut env = Env { shard: cx.shard, out: cx.out, link: &mut self.link };
        let (owner, number) = (first.owner, first.channel);
        let mut next = Some(first);
        let mut count = 0;
        while let Some(delivery) = next {
            channel.deliver(&mut env, &delivery);
            count += u64::from(delivery.followers) + 1;
            next = env.shard.next_delivery(owner, number);
        }
        count
    }

    fn authenticated(&mut self, cx: &mut Context<'_>, answer: LoginAnswer) {
        self.login_checked(cx, answer);
    }

    fn end_of_turn(&mut self, cx: &mut Context<'_>) {
        let mut confirming = std::mem::take(&mut self.link.confirming);
        for number in confirming.drain(..) {
            if let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) {
                channel.flush_confirms(cx.out);
            }
        }
        // The allocation is kept.
        self.link.confirming = confirming;
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Option<u64> {
        if self.deadline_ns.is_some_and(|deadline| cx.now_ns >= deadline) {
            self.deadline_ns = None;
            self.link.counters.faults.timeout += 1;
            if self.phase == Phase::Closing {
                let (reason, error) = self.close_reason.take().unwrap_or_default();
                self.close(cx.shard, format!("{reason}; the peer did not answer the close"), error);
            } else {
                self.close(cx.shard, format!("handshake timed out in state {}", self.phase.name()), true);
            }
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

    fn set_reading(&mut self, now_ns: u64, reading: bool) {
        self.reading = reading;
        self.last_heard_ns = now_ns;
    }

    fn set_blocked(&mut self, cx: &mut Context<'_>, reason: Option<&str>) {
        if self.phase != Phase::Open || self.blocked == reason.is_some() {
            return;
        }
        self.blocked = reason.is_some();
        self.last_heard_ns = cx.now_ns;
        if self.link.capabilities.connection_blocked {
            match reason {
                Some(reason) => Method::ConnectionBlocked { reason: reason.as_bytes() }.encode(0, cx.out),
                None => Method::ConnectionUnblocked.encode(0, cx.out),
            }
        }
    }

    fn shut_down(&mut self, cx: &mut Context<'_>, code: u16, text: &str) {
        match self.phase {
            Phase::Closing | Phase::Closed => {}
            Phase::Open | Phase::Opening => {
                self.end_of_turn(cx);
                self.send_close(cx, &Exception::new(code, text), (0, 0), false);
            }
            _ => self.close(cx.shard, format!("{} - {text}", code::name(code)), false),
        }
    }

    fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn closed(&mut self, shard: &mut Shard) -> Option<String> {
        self.phase = Phase::Closed;
        self.release(shard);
        self.close_reason.take().and_then(|(reason, error)| error.then_some(reason))
    }
}

impl Connection {
    /// What follows from a channel's step.
    fn finish(&mut self, cx: &mut Context<'_>, number: u16, result: Result<Flow, Exception>) {
        match result {
            Ok(Flow::Done) => {}
            Ok(Flow::Parked) => self.parked = Some(number),
            Ok(Flow::Closed) => self.channels[usize::from(number)] = None,
            Err(exception) => self.raise(cx, number, &exception),
        }
    }

    /// Ends the channel or the connection.
    fn raise(&mut self, cx: &mut Context<'_>, number: u16, exception: &Exception) {
        let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) else {
            return self.fail(cx, exception, (0, 0));
        };
        let (class_id, method_id) = channel.current;
        if exception.is_hard() {
            return self.fail(cx, exception, (class_id, method_id));
        }
        self.link.counters.channel_faults += 1;
        self.link.counters.faults.count(exception.code);
        channel.flush_confirms(cx.out);
        channel.release(cx.shard);
        channel.closing = true;
        let reply_text = exception.reply_text();
        Method::ChannelClose {
            reply_code: exception.code,
            reply_text: reply_text.as_bytes(),
            class_id,
            method_id,
        }
        .encode(number, cx.out);
    }

    /// Ends the connection because of a fault of the peer.
    fn fail(&mut self, cx: &mut Context<'_>, exception: &Exception, method: (u16, u16)) {
        self.link.counters.connection_faults += 1;
        self.link.counters.faults.count(exception.code);
        match self.phase {
            // A peer that has not logged in is told nothing.
            Phase::Starting | Phase::Securing | Phase::Authenticating => {
                self.close(cx.shard, exception.reply_text(), true)
            }
            _ => self.send_close(cx, exception, method, true),
        }
    }

    /// Writes `connection.close`, and waits for the answer.
    fn send_close(&mut self, cx: &mut Context<'_>, exception: &Exception, method: (u16, u16), error: bool) {
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        let reply_text = exception.reply_text();
        Method::ConnectionClose {
            reply_code: exception.code,
            reply_text: reply_text.as_bytes(),
            class_id: method.0,
            method_id: method.1,
        }
        .encode(0, cx.out);
        self.phase = Phase::Closing;
        self.deadline_ns = Some(cx.now_ns.saturating_add(CLOSE_TIMEOUT_NS));
        self.close_reason = Some((reply_text, error));
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
        self.link.confirming = Vec::new();
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        for mut channel in std::mem::take(&mut self.channels).into_iter().flatten() {
            channel.release(shard);
        }
        shard.close_connection(self.link.id);
    }

    /// Sends a heartbeat when it is time, and notices a silent peer.
    fn beat(&mut self, cx: &mut Context<'_>) {
        if !self.reading || self.blocked || self.is_parked() {
            self.last_heard_ns = cx.now_ns;
        }
        if cx.now_ns.saturating_sub(self.last_heard_ns) >= 2 * self.heartbeat_ns {
            self.link.counters.faults.timeout += 1;
            let seconds = self.heartbeat_ns / 1_000_000_000;
            return self.close(cx.shard, format!("missed heartbeats from client, timeout: {seconds}s"), true);
        }
        if cx.now_ns >= self.next_heartbeat_ns {
            cx.out.extend_from_slice(&frame::HEARTBEAT);
            self.next_heartbeat_ns = cx.now_ns + self.heartbeat_ns / 2;
        }
    }
}

impl Phase {
    /// RabbitMQ's name for it.
    fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Securing | Phase::Authenticating => "securing",
            Phase::Tuning => "tuning",
            Phase::Opening => "opening",
            Phase::Open => "running",
            Phase::Closing => "closing",
            Phase::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_are_small() {
        let bytes = size_of::<Connection>() + size_of::<Channel>() + 2 * size_of::<Option<Box<Channel>>>();
        assert!(bytes <= 1536, "{bytes} bytes for a connection with a channel");
    }
}
