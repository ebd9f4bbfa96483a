//! Class `connection`: greeting, login, tuning, opening and closing.

use std::sync::Arc;

use fulmar_core::{Name, Table, Value as Core};
use fulmar_protocol::{Accepted, Action, Config, Context, Exchange, Login, LoginAnswer, MAX_LOGIN_ROUNDS};

use super::errors::Fault;
use super::{Connection, Phase};
use crate::codec::encode_table;
use crate::codec::frame::{MIN_FRAME_MAX_BYTES, ProtocolHeader};
use crate::codec::table::{
    CloseCode, ConnectionCloseOk, ConnectionHeartbeat, ConnectionOpenOk, ConnectionSecure, ConnectionStart,
    ConnectionStartOk, ConnectionTune, ConnectionTuneOk, code,
};
use crate::codec::value::encode_array;
use crate::codec::{ArrayRef, Control, MapRef, Value};

/// What the existing libraries and tools look for: who a broker is, across its connections.
const FEDERATION_TAG: &str = "qpid.federation_tag";
/// Controls are never longer than a frame of any size.
const ANY_FRAME_MAX: u16 = MIN_FRAME_MAX_BYTES;

/// Writes the protocol header and `connection.start`.
pub(super) fn start(config: &Config, out: &mut Vec<u8>) {
    out.extend_from_slice(&ProtocolHeader::AMQP_0_10.to_bytes());
    let text = |name: &str, text: &str| (Name::from(name), Core::Text(Name::from(text)));
    let properties = Table(vec![
        text("product", &config.product),
        text("version", &config.version),
        text("platform", std::env::consts::OS),
        text(FEDERATION_TAG, &config.broker_id),
    ]);
    let (mut map, mut mechanisms, mut locales) = (Vec::new(), Vec::new(), Vec::new());
    encode_table(&properties, &mut map);
    let offered = mechanisms_of(config).map(|name| Value::Str16(name.as_bytes()));
    encode_array(code::STR16, offered, &mut mechanisms);
    encode_array(code::STR16, [Value::Str16(b"en_US")], &mut locales);
    let start = ConnectionStart {
        server_properties: Some(MapRef::new(&map)),
        mechanisms: Some(ArrayRef::new(&mechanisms)),
        locales: Some(ArrayRef::new(&locales)),
    };
    Control::from(start).encode_frames(0, ANY_FRAME_MAX, out);
}

/// The mechanisms of this protocol among those that the broker offers.
fn mechanisms_of(config: &Config) -> impl Iterator<Item = &str> {
    config.mechanisms.iter().map(String::as_str).filter(|&name| name != "AMQPLAIN")
}

/// Writes `connection.heartbeat`.
pub(super) fn heartbeat(out: &mut Vec<u8>) {
    Control::from(ConnectionHeartbeat {}).encode_frames(0, ANY_FRAME_MAX, out);
}

/// A login on its way.
pub(super) struct LoginState {
    mechanism: String,
    /// What the caller keeps between rounds, while the peer is asked.
    exchange: Option<Exchange>,
    rounds: u8,
}

impl Connection {
    /// A control of class `connection`.
    pub(super) fn connection_control(
        &mut self,
        cx: &mut Context<'_>,
        control: Control<'_>,
    ) -> Result<(), Fault> {
        match (self.phase, control) {
            (Phase::Closing, Control::ConnectionCloseOk(_)) => self.end(cx),
            (Phase::Closing, Control::ConnectionClose(_)) => {
                self.write(cx, ConnectionCloseOk {});
                self.end(cx);
            }
            (Phase::Closing, _) => {}
            (_, Control::ConnectionClose(close)) => {
                self.release(cx.shard);
                self.write(cx, ConnectionCloseOk {});
                let code = close.reply_code.unwrap_or(CloseCode::Normal);
                let text = String::from_utf8_lossy(close.reply_text.unwrap_or_default());
                self.close(cx.shard, format!("closed by the client: {} {text}", code.code()), false);
            }
            (_, Control::ConnectionHeartbeat(_)) => {}
            (Phase::Starting, Control::ConnectionStartOk(start_ok)) => self.start_ok(&start_ok)?,
            (Phase::Securing, Control::ConnectionSecureOk(secure_ok)) => {
                self.authenticate(Some(secure_ok.response.unwrap_or_default().to_vec()))?;
            }
            (Phase::Tuning, Control::ConnectionTuneOk(tune_ok)) => self.tune_ok(cx, tune_ok),
            (Phase::Opening, Control::ConnectionOpen(open)) => {
                self.open(cx, open.virtual_host.unwrap_or_default());
            }
            (phase, control) => {
                let text = format!("unexpected {} while {}", control.name(), phase.name());
                return Err(Fault::framing(text));
            }
        }
        Ok(())
    }

    fn write<'c>(&self, cx: &mut Context<'_>, control: impl Into<Control<'c>>) {
        control.into().encode_frames(0, self.link.frame_max, cx.out);
    }

    /// The close is answered.
    fn end(&mut self, cx: &mut Context<'_>) {
        let (reason, error) = self.close_reason.take().unwrap_or_default();
        self.close(cx.shard, reason, error);
    }

    fn start_ok(&mut self, start_ok: &ConnectionStartOk<'_>) -> Result<(), Fault> {
        if let Some(properties) = start_ok.client_properties {
            properties.validate()?;
        }
        let mechanism = String::from_utf8_lossy(start_ok.mechanism.unwrap_or_default()).into_owned();
        if !mechanisms_of(&self.link.config).any(|offered| offered == mechanism) {
            let text = format!("unsupported mechanism '{mechanism}'");
            return Err(Fault::Connection(CloseCode::ConnectionForced, text));
        }
        self.login = Some(Box::new(LoginState { mechanism, exchange: None, rounds: 0 }));
        self.authenticate(start_ok.response.map(<[u8]>::to_vec))
    }

    /// Has the caller look at what the peer says.
    fn authenticate(&mut self, response: Option<Vec<u8>>) -> Result<(), Fault> {
        let Some(state) = &mut self.login else { return Ok(()) };
        state.rounds += 1;
        if state.rounds > MAX_LOGIN_ROUNDS {
            let text = "the login takes too many rounds".to_owned();
            return Err(Fault::Connection(CloseCode::ConnectionForced, text));
        }
        let (mechanism, exchange) = (state.mechanism.clone(), state.exchange.take());
        self.phase = Phase::Authenticating;
        self.actions.push_back(Action::Authenticate(Box::new(Login {
            mechanism,
            response,
            exchange,
            takes_layer: true,
        })));
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
                self.write(cx, ConnectionSecure { challenge: Some(&challenge) });
            }
            LoginAnswer::Accepted(Accepted { user, permission, seat, layer }) => {
                self.login = None;
                self.link.user = user;
                self.seat = seat;
                self.layer = layer;
                if let Some(permission) = permission {
                    cx.shard.set_permission(self.link.id, permission);
                }
                self.phase = Phase::Tuning;
                let config = Arc::clone(&self.link.config);
                let tune = ConnectionTune {
                    channel_max: Some(config.channel_max),
                    max_frame_size: Some(self.link.frame_max),
                    heartbeat_min: Some(0),
                    heartbeat_max: Some(config.heartbeat_s),
                };
                self.write(cx, tune);
            }
            LoginAnswer::Refused(why) => self.login_refused(cx, &why),
            LoginAnswer::Malformed(why) => self.fail(cx, CloseCode::ConnectionForced, &why),
        }
    }

    fn login_refused(&mut self, cx: &mut Context<'_>, why: &str) {
        let mechanism = self.login.take().map(|login| login.mechanism).unwrap_or_default();
        self.link.counters.connection_faults += 1;
        self.link.counters.faults.access_refused += 1;
        self.send_close(cx, CloseCode::ConnectionForced, "Authentication failed", true);
        self.close_reason = Some((format!("{mechanism} login refused: {why}"), true));
    }

    /// Takes what the client chose. What was not offered ends the connection without a word, as specified.
    fn tune_ok(&mut self, cx: &mut Context<'_>, tune_ok: ConnectionTuneOk) {
        let offered = (self.link.config.channel_max, self.link.frame_max);
        let channel_max = tune_ok.channel_max.unwrap_or(offered.0);
        let frame_max = tune_ok.max_frame_size.filter(|&bytes| bytes != 0).unwrap_or(offered.1);
        if channel_max > offered.0 && offered.0 != 0 {
            return self.refuse_tuning(cx, "channel-max", channel_max, offered.0);
        }
        if !(MIN_FRAME_MAX_BYTES..=offered.1).contains(&frame_max) {
            return self.refuse_tuning(cx, "max-frame-size", frame_max, offered.1);
        }
        self.link.frame_max = frame_max;
        self.channel_max = if channel_max == 0 { u16::MAX } else { channel_max };
        self.heartbeat_ns = u64::from(tune_ok.heartbeat.unwrap_or(0)) * 1_000_000_000;
        self.next_heartbeat_ns = cx.now_ns + self.heartbeat_ns / 2;
        self.phase = Phase::Opening;
    }

    fn refuse_tuning(&mut self, cx: &mut Context<'_>, field: &str, chosen: u16, offered: u16) {
        self.link.counters.connection_faults += 1;
        self.link.counters.faults.not_allowed += 1;
        let text = format!("{field} of {chosen} chosen in connection.tune-ok, {offered} was offered");
        self.close(cx.shard, text, true);
    }

    /// What follows is in the layer that the login has brought, if it has.
    fn protect(&mut self) {
        if let Some(layer) = self.layer.take() {
            self.is_protecting = true;
            self.actions.push_back(Action::Protect(layer));
        }
    }

    fn open(&mut self, cx: &mut Context<'_>, virtual_host: &[u8]) {
        let name = if virtual_host.is_empty() { b"/" } else { virtual_host };
        let text = String::from_utf8_lossy(name).into_owned();
        let Some(vhost) = cx.shard.vhost(name) else {
            return self.fail(cx, CloseCode::InvalidPath, &format!("no virtual host '{text}'"));
        };
        if let Err(refusal) = cx.shard.may_open(self.link.id, &text) {
            return self.fail(cx, CloseCode::InvalidPath, &refusal.to_string());
        }
        self.link.vhost = vhost;
        self.link.vhost_name = text;
        self.phase = Phase::Open;
        self.deadline_ns = None;
        let mut hosts = Vec::new();
        let known = self.link.config.known_hosts.iter().map(|url| Value::Str16(url.as_bytes()));
        encode_array(code::STR16, known, &mut hosts);
        self.write(cx, ConnectionOpenOk { known_hosts: Some(ArrayRef::new(&hosts)) });
        self.protect();
    }
}
