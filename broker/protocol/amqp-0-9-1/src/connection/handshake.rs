//! Channel 0: greeting, login, tuning, opening and closing of the connection, and what concerns it as a whole.

use std::sync::Arc;

use fulmar_core::{Name, Table, Value};
use fulmar_protocol::{
    Accepted, Action, Config, Connection as _, Context, Exchange, Login, LoginAnswer, MAX_LOGIN_ROUNDS,
};

use super::channel::Channel;
use super::errors::Exception;
use super::{Capabilities, Connection, Phase};
use crate::codec::frame::MIN_FRAME_MAX_BYTES;
use crate::codec::table::encode_table;
use crate::codec::{CodecError, Frame, FrameKind, Method, TableRef, reply_code as code};

/// What the broker can do beyond the specification, in the words of RabbitMQ.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// Writes `connection.start`.
pub(super) fn start(config: &Config, out: &mut Vec<u8>) {
    let text = |text: &str| Value::Text(Name::from(text));
    let capabilities = CAPABILITIES.iter().map(|&name| (Name::from(name), Value::Bool(true))).collect();
    let properties = Table(vec![
        (Name::from("capabilities"), Value::Table(Table(capabilities))),
        (Name::from("cluster_name"), text(&config.cluster_name)),
        (Name::from("copyright"), text("The Fulmar authors")),
        (Name::from("information"), text("Licensed under the Apache License 2.0")),
        (Name::from("platform"), text("Rust")),
        (Name::from("product"), text(&config.product)),
        (Name::from("version"), text(&config.version)),
    ]);
    let mut encoded = Vec::new();
    encode_table(&properties, &mut encoded);
    Method::ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: TableRef::new(&encoded),
        mechanisms: config.mechanisms.join(" ").as_bytes(),
        locales: b"en_US",
    }
    .encode(0, out);
}

/// A login on its way.
pub(super) struct LoginState {
    mechanism: String,
    /// What the caller keeps between rounds, while the peer is asked.
    exchange: Option<Exchange>,
    rounds: u8,
}

/// The response of `PLAIN` that says what a table of `AMQPLAIN` says. `None`: it is none.
fn plain_of_table(response: &[u8]) -> Option<Vec<u8>> {
    let table = TableRef::new(response).to_table().ok()?;
    let field = |name: &[u8]| table.get(name).and_then(Value::as_bytes);
    let (user, password) = (field(b"LOGIN")?, field(b"PASSWORD")?);
    let is_one = !user.contains(&0);
    is_one.then(|| [b"\0", user, b"\0", password].concat())
}

impl Connection {
    /// A frame on channel 0, or on any channel while the connection is not open.
    pub(super) fn connection_frame(&mut self, cx: &mut Context<'_>, frame: Frame<'_>) {
        let closing = self.phase == Phase::Closing;
        match frame.kind {
            FrameKind::Heartbeat if frame.channel == 0 => {}
            FrameKind::Method if frame.channel == 0 => match Method::decode(frame.payload) {
                Ok(method) => {
                    let ids = (method.class_id(), method.method_id());
                    if let Err(exception) = self.connection_method(cx, method) {
                        self.fail(cx, &exception, ids);
                    }
                }
                Err(_) if closing => {}
                Err(error) => self.fail(cx, &malformed(error), (0, 0)),
            },
            _ if closing => {}
            kind => {
                let text = format!("type {}, channel {}", kind as u8, frame.channel);
                self.fail(cx, &Exception::new(code::UNEXPECTED_FRAME, text), (0, 0));
            }
        }
    }

    fn connection_method(&mut self, cx: &mut Context<'_>, method: Method<'_>) -> Result<(), Exception> {
        match (self.phase, method) {
            (Phase::Closing, Method::ConnectionCloseOk) => {
                let (reason, error) = self.close_reason.take().unwrap_or_default();
                self.close(cx.shard, reason, error);
            }
            (Phase::Closing, Method::ConnectionClose { .. }) => {
                Method::ConnectionCloseOk.encode(0, cx.out);
                let (reason, error) = self.close_reason.take().unwrap_or_default();
                self.close(cx.shard, reason, error);
            }
            (Phase::Closing, _) => {}
            (_, Method::ConnectionClose { reply_code, reply_text, .. }) => {
                self.end_of_turn(cx);
                self.release(cx.shard);
                Method::ConnectionCloseOk.encode(0, cx.out);
                let text = String::from_utf8_lossy(reply_text);
                self.close(cx.shard, format!("closed by the client: {reply_code} {text}"), false);
            }
            (Phase::Starting, Method::ConnectionStartOk { client_properties, mechanism, response, .. }) => {
                self.start_ok(client_properties, mechanism, response)?;
            }
            (Phase::Securing, Method::ConnectionSecureOk { response }) => {
                self.authenticate(response.to_vec())?
            }
            (Phase::Tuning, Method::ConnectionTuneOk { channel_max, frame_max, heartbeat }) => {
                self.tune_ok(cx, channel_max, frame_max, heartbeat)?;
            }
            (Phase::Opening, Method::ConnectionOpen { virtual_host }) => self.open(cx, virtual_host)?,
            // Only tokens expire; whoever logged in with a password stays who they are.
            (Phase::Open, Method::ConnectionUpdateSecret { .. }) => {
                Method::ConnectionUpdateSecretOk.encode(0, cx.out);
            }
            (phase, _) => {
                let text = format!("unexpected method in connection state {}", phase.name());
                return Err(Exception::new(code::CHANNEL_ERROR, text));
            }
        }
        Ok(())
    }

    fn start_ok(
        &mut self,
        client_properties: TableRef<'_>,
        mechanism: &[u8],
        response: &[u8],
    ) -> Result<(), Exception> {
        let properties = client_properties.to_table().map_err(malformed)?;
        if let Some(Value::Table(capabilities)) = properties.get(b"capabilities") {
            let has = |name: &str| capabilities.get(name.as_bytes()) == Some(&Value::Bool(true));
            self.link.capabilities = Capabilities {
                authentication_failure_close: has("authentication_failure_close"),
                connection_blocked: has("connection.blocked"),
                consumer_cancel_notify: has("consumer_cancel_notify"),
            };
        }
        let mechanism = String::from_utf8_lossy(mechanism);
        if !self.link.config.mechanisms.iter().any(|offered| *offered == mechanism) {
            let text = format!("unknown authentication mechanism '{mechanism}'");
            return Err(Exception::new(code::COMMAND_INVALID, text));
        }
        let response = match &*mechanism {
            "AMQPLAIN" => plain_of_table(response)
                .ok_or_else(|| Exception::new(code::SYNTAX_ERROR, "malformed AMQPLAIN response"))?,
            _ => response.to_vec(),
        };
        self.login =
            Some(Box::new(LoginState { mechanism: mechanism.into_owned(), exchange: None, rounds: 0 }));
        self.authenticate(response)
    }

    /// Has the caller look at what the peer says.
    fn authenticate(&mut self, response: Vec<u8>) -> Result<(), Exception> {
        let Some(state) = &mut self.login else { return Ok(()) };
        state.rounds += 1;
        if state.rounds > MAX_LOGIN_ROUNDS {
            return Err(Exception::new(code::SYNTAX_ERROR, "the login takes too many rounds"));
        }
        let login = Login {
            takes_layer: false,
            mechanism: state.mechanism.clone(),
            response: Some(response),
            exchange: state.exchange.take(),
        };
        self.phase = Phase::Authenticating;
        self.actions.push_back(Action::Authenticate(Box::new(login)));
        Ok(())
    }

    /// The caller has looked at a round of the login.
    pub(super) fn login_checked(&mut self, cx: &mut Context<'_>, answer: LoginAnswer) {
        if self.phase != Phase::Authenticating {
            return;
        }
        match answer {
            LoginAnswer::Challenge(challenge, exchange) => {
                if let Some(state) = &mut self.login {
                    state.exchange = Some(exchange);
                }
                self.phase = Phase::Securing;
                Method::ConnectionSecure { challenge: &challenge }.encode(0, cx.out);
            }
            LoginAnswer::Accepted(Accepted { user, permission, seat, layer: _ }) => {
                self.login = None;
                self.link.user = user;
                self.seat = seat;
                if let Some(permission) = permission {
                    cx.shard.set_permission(self.link.id, permission);
                }
                self.phase = Phase::Tuning;
                let config = Arc::clone(&self.link.config);
                Method::ConnectionTune {
                    channel_max: config.channel_max,
                    frame_max: config.frame_max_bytes,
                    heartbeat: config.heartbeat_s,
                }
                .encode(0, cx.out);
            }
            LoginAnswer::Refused(why) => self.login_refused(cx, &why),
            LoginAnswer::Malformed(why) => {
                self.fail(cx, &Exception::new(code::SYNTAX_ERROR, why), (0, 0));
            }
        }
    }

    fn login_refused(&mut self, cx: &mut Context<'_>, why: &str) {
        let mechanism = self.login.take().map(|login| login.mechanism).unwrap_or_default();
        let text = format!(
            "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
        );
        let exception = Exception::new(code::ACCESS_REFUSED, text);
        let reason = format!("{mechanism} login refused: {why}");
        self.link.counters.connection_faults += 1;
        self.link.counters.faults.count(exception.code);
        if self.link.capabilities.authentication_failure_close {
            self.send_close(cx, &exception, (0, 0), true);
            self.close_reason = Some((reason, true));
        } else {
            self.close(cx.shard, reason, true);
        }
    }

    fn tune_ok(
        &mut self,
        cx: &Context<'_>,
        channel_max: u16,
        frame_max: u32,
        heartbeat_s: u16,
    ) -> Result<(), Exception> {
        let config = &self.link.config;
        negotiated("frame_max", frame_max, MIN_FRAME_MAX_BYTES, config.frame_max_bytes)?;
        negotiated("channel_max", channel_max.into(), 1, config.channel_max.into())?;
        self.link.frame_max = frame_max;
        self.channel_max = if channel_max == 0 { u16::MAX } else { channel_max };
        self.heartbeat_ns = u64::from(heartbeat_s) * 1_000_000_000;
        self.next_heartbeat_ns = cx.now_ns + self.heartbeat_ns / 2;
        self.phase = Phase::Opening;
        Ok(())
    }

    fn open(&mut self, cx: &mut Context<'_>, virtual_host: &[u8]) -> Result<(), Exception> {
        let name = String::from_utf8_lossy(virtual_host).into_owned();
        let Some(vhost) = cx.shard.vhost(virtual_host) else {
            return Err(Exception::new(code::NOT_ALLOWED, format!("vhost {name} not found")));
        };
        if let Err(refusal) = cx.shard.may_open(self.link.id, &name) {
            return Err(Exception::new(code::NOT_ALLOWED, refusal.to_string()));
        }
        self.link.vhost = vhost;
        self.link.vhost_name = name;
        self.phase = Phase::Open;
        self.deadline_ns = None;
        Method::ConnectionOpenOk.encode(0, cx.out);
        Ok(())
    }

    /// A frame on a channel that is not open: only `channel.open` can be one.
    pub(super) fn frame_on_closed_channel(&mut self, cx: &mut Context<'_>, frame: Frame<'_>) {
        let number = frame.channel;
        if number > self.channel_max {
            let open = self.channels.iter().flatten().count();
            let text = format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({})",
                self.channel_max
            );
            return self.fail(cx, &Exception::new(code::NOT_ALLOWED, text), (20, 10));
        }
        let method = match frame.kind {
            FrameKind::Method => Method::decode(frame.payload),
            _ => {
                let text = "expected method frame, got non method frame instead";
                return self.fail(cx, &Exception::new(code::UNEXPECTED_FRAME, text), (0, 0));
            }
        };
        match method {
            Ok(Method::ChannelOpen) => {
                let session = cx.shard.open_session(self.link.id, number);
                let index = usize::from(number);
                if self.channels.len() <= index {
                    self.channels.resize_with(index + 1, || None);
                }
                self.channels[index] = Some(Box::new(Channel::new(number, session)));
                Method::ChannelOpenOk.encode(number, cx.out);
            }
            // The answer to a close that crossed ours.
            Ok(Method::ChannelCloseOk) => {}
            Ok(method) => {
                let ids = (method.class_id(), method.method_id());
                self.fail(cx, &Exception::new(code::CHANNEL_ERROR, "expected 'channel.open'"), ids);
            }
            Err(error) => self.fail(cx, &malformed(error), (0, 0)),
        }
    }

    /// A frame on a channel that the broker is closing: everything but the end of it is ignored.
    pub(super) fn frame_on_closing_channel(&mut self, cx: &mut Context<'_>, frame: Frame<'_>) {
        if frame.kind != FrameKind::Method {
            return;
        }
        match Method::decode(frame.payload) {
            Ok(Method::ChannelCloseOk) => self.channels[usize::from(frame.channel)] = None,
            Ok(Method::ChannelClose { .. }) => Method::ChannelCloseOk.encode(frame.channel, cx.out),
            _ => {}
        }
    }
}

/// Checks what the client chose against what was offered.
fn negotiated(field: &str, client: u32, minimum: u32, offered: u32) -> Result<(), Exception> {
    let no_limit = if field == "channel_max" && client == 0 { " (no limit)" } else { "" };
    let refuse = |comparison: &str, bound: &str, limit: u32| {
        let text = format!(
            "negotiated {field} = {client}{no_limit} is {comparison} than the {bound} allowed value ({limit})"
        );
        Err(Exception::new(code::NOT_ALLOWED, text))
    };
    if client != 0 && client < minimum {
        refuse("lower", "minimum", minimum)
    } else if offered != 0 && (client == 0 || client > offered) {
        refuse("higher", "maximum", offered)
    } else {
        Ok(())
    }
}

/// A method that cannot be decoded.
pub(super) fn malformed(error: CodecError) -> Exception {
    let code = match error {
        CodecError::UnknownMethod { .. } => code::NOT_IMPLEMENTED,
        _ => code::SYNTAX_ERROR,
    };
    Exception::new(code, error.to_string())
}
