//! The connection's own controls: login, limits, the close.

use std::time::Duration;

use fulmar_amqp_0_10::codec::frame::MIN_FRAME_MAX_BYTES;
use fulmar_amqp_0_10::codec::table::{
    ConnectionClose, ConnectionCloseOk, ConnectionOpen, ConnectionSecureOk, ConnectionStart,
    ConnectionStartOk, ConnectionTune, ConnectionTuneOk,
};
use fulmar_amqp_0_10::codec::value::encode_map;
use fulmar_amqp_0_10::codec::{Control, MapRef, Value};

use super::{CONNECTION, Engine, Phase, lossy, unexpected};
use crate::Error;
use crate::engine::Event;
use crate::engine::login::{self, Login};

impl Engine {
    pub(super) fn connection_control(
        &mut self,
        control: &Control<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        match (self.phase, control) {
            (Phase::AwaitStart, Control::ConnectionStart(start)) => {
                self.start_ok(start)?;
                self.phase = Phase::AwaitTune;
            }
            (Phase::AwaitTune, Control::ConnectionSecure(secure)) => {
                let login = self.login.as_mut().ok_or_else(|| unexpected("connection.secure"))?;
                let response = login.answer(&self.options, secure.challenge.unwrap_or_default())?;
                self.out.control(CONNECTION, ConnectionSecureOk { response: Some(&response) });
            }
            (Phase::AwaitTune, Control::ConnectionTune(tune)) => {
                self.login = None;
                self.tune(*tune);
                self.phase = Phase::AwaitOpenOk;
            }
            (Phase::AwaitOpenOk, Control::ConnectionOpenOk(_)) => {
                self.phase = Phase::Open;
                events.push(Event::Connected);
            }
            (Phase::AwaitOpenOk, Control::ConnectionRedirect(redirect)) => {
                let host = lossy(redirect.host.unwrap_or_default());
                return Err(Error::Protocol(format!("it sends its clients to {host}, though asked not to")));
            }
            (_, Control::ConnectionHeartbeat(_)) => {}
            (_, Control::ConnectionClose(close)) => self.closed(close, events),
            (Phase::Closing, Control::ConnectionCloseOk(_)) => {
                self.phase = Phase::Closed;
                events.push(Event::Closed(Ok(())));
            }
            (_, control) => return Err(unexpected(control.name())),
        }
        Ok(())
    }

    fn start_ok(&mut self, start: &ConnectionStart<'_>) -> Result<(), Error> {
        let offered = start.mechanisms.unwrap_or_default();
        let name = |value: Value<'_>| value.to_core().ok()?.as_bytes().map(<[u8]>::to_vec);
        let offered: Vec<Vec<u8>> = offered.iter().flatten().filter_map(name).collect();
        let offered: Vec<&[u8]> = offered.iter().map(Vec::as_slice).collect();
        let login = Login::new(&self.options, &offered)?;
        let response = login.first(&self.options);

        let process = std::env::args_os().next().unwrap_or_default();
        let process = std::path::Path::new(&process).file_name().unwrap_or_default().to_string_lossy();
        let mut entries = vec![
            (&b"product"[..], Value::Str16(b"fulmar-client")),
            (b"version", Value::Str16(env!("CARGO_PKG_VERSION").as_bytes())),
            (b"platform", Value::Str16(b"Rust")),
            // What a broker's tools list connections by.
            (b"qpid.client_process", Value::Str16(process.as_bytes())),
            (b"qpid.client_pid", Value::Int32(std::process::id().cast_signed())),
        ];
        if let Some(name) = &self.options.connection_name {
            entries.push((b"connection_name", Value::Str16(name.as_bytes())));
        }
        let mut properties = Vec::new();
        encode_map(entries, &mut properties);
        let start_ok = ConnectionStartOk {
            client_properties: Some(MapRef::new(&properties)),
            mechanism: Some(login.mechanism().as_bytes()),
            response: Some(&response),
            locale: Some(b"en_US"),
        };
        self.out.control(CONNECTION, start_ok);
        self.login = Some(login);
        Ok(())
    }

    /// Agrees on the smaller of both sides' limits.
    fn tune(&mut self, tune: ConnectionTune) {
        let own_frame_max = u16::try_from(self.options.frame_max_bytes).unwrap_or(u16::MAX);
        let frame_max = tune.max_frame_size.filter(|&size| size > 0).unwrap_or(u16::MAX);
        self.out.frame_max = own_frame_max.min(frame_max).max(MIN_FRAME_MAX_BYTES);
        self.channel_max = tune.channel_max.filter(|&max| max > 0).unwrap_or(u16::MAX);
        // A broker that names no longest interval sends no heartbeats.
        let longest_s = tune.heartbeat_max.unwrap_or(0);
        let heartbeat_s = match self.options.heartbeat_s {
            0 => 0,
            wanted_s => wanted_s.max(tune.heartbeat_min.unwrap_or(0)).min(longest_s),
        };
        self.heart.beat = (heartbeat_s > 0).then(|| Duration::from_secs(heartbeat_s.into()));
        let tune_ok = ConnectionTuneOk {
            channel_max: Some(self.channel_max),
            max_frame_size: Some(self.out.frame_max),
            heartbeat: Some(heartbeat_s),
        };
        self.out.control(CONNECTION, tune_ok);
        let open = ConnectionOpen {
            virtual_host: Some(self.options.virtual_host.as_bytes()),
            capabilities: None,
            insist: true,
        };
        self.out.control(CONNECTION, open);
    }

    fn closed(&mut self, close: &ConnectionClose<'_>, events: &mut Vec<Event>) {
        self.out.control(CONNECTION, ConnectionCloseOk {});
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        let code = close.reply_code.unwrap_or_default().code();
        let text = lossy(close.reply_text.unwrap_or_default());
        events.push(Event::Closed(match phase {
            // Both sides closed at once.
            Phase::Closing => Ok(()),
            Phase::AwaitTune => Err(login::refused(&self.options, &text)),
            _ => Err(Error::ConnectionClosed { code, text }),
        }));
    }
}
