//! The server's side of one TLS connection, without its socket.
//!
//! 1. Handshakes cost up to milliseconds of computing, so that they are a call of their own ([`Session::shake_hands`]),
//!    which another thread may make; it never touches what follows a handshake.
//! 2. Input is decrypted record by record; each is lent to the caller and forgotten. What is kept is the beginning of a
//!    record, within [`MAX_INPUT_BYTES`].
//! 3. After a failure nothing more is decrypted; what is left to send is the alert that says why.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

use crate::{Failure, IdentityField, identity};

/// Most input that is kept: the largest message of TLS and the records around it.
pub const MAX_INPUT_BYTES: usize = 80 * 1024;
const RECORD_HEADER_BYTES: usize = 5;
/// What a record takes besides what it carries, at most.
const RECORD_OVERHEAD_BYTES: usize = 64;
const RECORD_BYTES: usize = 16 * 1024;
/// Steps of rustls that one call may take without taking input; far beyond what any needs.
const MAX_IDLE_STEPS: usize = 64;

/// Where decrypted bytes go.
type Sink<'a> = &'a mut dyn FnMut(&[u8]);

/// The server's side of one TLS connection.
pub struct Session {
    tls: UnbufferedServerConnection,
    /// What could not be used yet: the beginning of a record, or of a message of several.
    input: Vec<u8>,
    /// How much of that has been looked at, during the handshake.
    inspected: usize,
    identity_field: IdentityField,
    failed: bool,
}

/// What came of input.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// More may follow.
    More,
    /// The peer has said that nothing follows.
    End,
    /// It is over; the alert is in the output.
    Failed(Failure),
}

/// What a handshake has agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// `TLS 1.3`, `TLS 1.2`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub suite: String,
    /// Bits of the key of the cipher.
    pub strength_bits: u32,
    /// Whether an earlier session was resumed.
    pub is_resumed: bool,
    /// Who the peer is by its certificate; `None` without one, or if it says nothing of that.
    pub identity: Option<String>,
    /// Whether the peer showed a certificate, which was found good.
    pub has_certificate: bool,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<String>,
}

/// One line for a log.
impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.version, self.suite)?;
        if self.is_resumed {
            f.write_str(", resumed")?;
        }
        if let Some(alpn) = &self.alpn {
            write!(f, ", for {alpn:?}")?;
        }
        match &self.identity {
            Some(identity) => write!(f, ", by its certificate {identity:?}"),
            None if self.has_certificate => f.write_str(", with a certificate that does not say who it is"),
            None => Ok(()),
        }
    }
}

impl Session {
    pub(crate) fn new(config: Arc<ServerConfig>, identity_field: IdentityField) -> Result<Self, Failure> {
        let tls = UnbufferedServerConnection::new(config)?;
        Ok(Session { tls, input: Vec::new(), inspected: 0, identity_field, failed: false })
    }

    /// Whether the handshake is not over yet.
    #[inline]
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Takes input during the handshake. Whether [`Session::shake_hands`] can go on with it.
    ///
    /// # Errors
    /// There is more than any handshake needs.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        self.input.extend_from_slice(bytes);
        let end = end_of_records(&self.input, self.inspected);
        let can_go_on = end > self.inspected;
        if !can_go_on && self.input.len() > MAX_INPUT_BYTES {
            return Err(self.fail(Failure::TOO_LONG));
        }
        Ok(can_go_on)
    }

    /// Takes the handshake as far as the input goes, and no further than its end. Appends to `out` what is to be sent.
    pub fn shake_hands(&mut self, out: &mut Vec<u8>) -> Received {
        let seen = end_of_records(&self.input, self.inspected);
        let before = self.input.len();
        let received = self.pump(out, None);
        let taken = before - self.input.len();
        self.inspected = if self.is_handshaking() { seen.saturating_sub(taken) } else { 0 };
        if self.is_handshaking() && self.input.len() > MAX_INPUT_BYTES {
            return Received::Failed(self.fail(Failure::TOO_LONG));
        }
        received
    }

    /// Takes input after the handshake, for [`Session::receive`]. `spare` is a buffer that sessions which keep nothing
    /// have in common.
    pub fn take(&mut self, bytes: &[u8], spare: &mut Vec<u8>) {
        if self.input.capacity() == 0 {
            std::mem::swap(&mut self.input, spare);
        }
        self.input.extend_from_slice(bytes);
    }

    /// Decrypts what it has, after the handshake, and hands each piece to `sink`. Appends to `out` what is to be sent.
    pub fn receive(
        &mut self,
        spare: &mut Vec<u8>,
        out: &mut Vec<u8>,
        mut sink: impl FnMut(&[u8]),
    ) -> Received {
        let received = self.pump(out, Some(&mut sink));
        if self.input.is_empty() {
            self.input.shrink_to(MAX_INPUT_BYTES);
            *spare = std::mem::take(&mut self.input);
        } else if self.input.len() > MAX_INPUT_BYTES && received == Received::More {
            return Received::Failed(self.fail(Failure::TOO_LONG));
        }
        received
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.failed = true;
        failure
    }

    /// Has rustls take input, and drops what it took.
    fn pump(&mut self, out: &mut Vec<u8>, sink: Option<Sink<'_>>) -> Received {
        let mut taken = 0;
        let received = self.step(&mut taken, out, sink);
        self.input.drain(..taken);
        received
    }

    fn step(&mut self, taken: &mut usize, out: &mut Vec<u8>, mut sink: Option<Sink<'_>>) -> Received {
        let mut idle_steps = 0;
        loop {
            if self.failed || (sink.is_none() && !self.tls.is_handshaking()) {
                return Received::More;
            }
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut self.input[*taken..]);
            let mut received = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => match &mut sink {
                    // What follows a handshake stays where it is until it is asked for.
                    None => received = Some(Received::More),
                    Some(sink) => {
                        while let Some(Ok(record)) = traffic.next_record() {
                            discard += record.discard;
                            sink(record.payload);
                        }
                    }
                },
                Ok(ConnectionState::EncodeTlsData(encode)) => encode_into(out, encode),
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    received = Some(Received::More);
                }
                // Early data is never offered, and what is not known yet cannot be handled.
                Ok(_) => received = Some(Received::End),
                Err(error) => {
                    let failure = self.fail(error.into());
                    self.collect_alert(*taken, out);
                    return Received::Failed(failure);
                }
            }
            *taken += discard;
            if let Some(received) = received {
                return received;
            }
            idle_steps = if discard > 0 { 0 } else { idle_steps + 1 };
            assert!(idle_steps < MAX_IDLE_STEPS, "TLS does not come to an end");
        }
    }

    /// After a failure rustls has an alert to send. It is asked once: the next time it would fail again.
    fn collect_alert(&mut self, taken: usize, out: &mut Vec<u8>) {
        if let Ok(ConnectionState::EncodeTlsData(encode)) =
            self.tls.process_tls_records(&mut self.input[taken..]).state
        {
            encode_into(out, encode);
        }
    }

    /// Encrypts `plain` and appends it to `out`. After the handshake, and between calls that took all they could.
    ///
    /// # Errors
    /// The keys are used up, or something failed before; the connection has to end.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let room_bytes = plain.len() + (plain.len() / RECORD_BYTES + 1) * RECORD_OVERHEAD_BYTES;
        let sent = self.write(out, |mut traffic, out| {
            append(out, room_bytes, |room| match traffic.encrypt(plain, room) {
                Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                result => result.map_err(|_| None),
            })
        });
        if sent { Ok(()) } else { Err(self.fail(rustls::Error::EncryptError.into())) }
    }

    /// Appends to `out` what tells the peer that nothing follows.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.write(out, |mut traffic, out| {
            append(out, RECORD_OVERHEAD_BYTES, |room| match traffic.queue_close_notify(room) {
                Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                result => result.map_err(|_| None),
            })
        });
    }

    /// Calls `write` once rustls can encrypt, whatever it has to send itself before. Whether that worked.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> bool,
    ) -> bool {
        if self.failed || self.is_handshaking() {
            return false;
        }
        for _ in 0..MAX_IDLE_STEPS {
            // Of the beginning of a message it may hold positions, so that it always gets what there is.
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.input);
            match state {
                Ok(ConnectionState::WriteTraffic(traffic)) => return write(traffic, out),
                Ok(ConnectionState::EncodeTlsData(encode)) => encode_into(out, encode),
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                // The peer has closed its side, which is told once; this side may go on.
                Ok(ConnectionState::PeerClosed) => {}
                _ => return false,
            }
            self.input.drain(..discard);
        }
        false
    }

    /// What the handshake has agreed on; of use after it.
    pub fn agreed(&self) -> Agreed {
        let suite = self.tls.negotiated_cipher_suite();
        let certificate = self.tls.peer_certificates().and_then(|chain| chain.first());
        Agreed {
            version: match self.tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS",
            },
            suite: suite.map(|suite| format!("{:?}", suite.suite())).unwrap_or_default(),
            strength_bits: suite.map_or(0, strength_bits),
            is_resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
            identity: certificate.and_then(|certificate| identity(certificate, self.identity_field)),
            has_certificate: certificate.is_some(),
            alpn: self.tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        }
    }
}

fn encode_into(out: &mut Vec<u8>, mut encode: EncodeTlsData<'_, ServerConnectionData>) {
    append(out, RECORD_OVERHEAD_BYTES, |room| match encode.encode(room) {
        Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
        result => result.map_err(|_| None),
    });
}

/// Appends what `write` puts into the room that it is given: as much as said, or as it then asks for. Whether it did.
fn append(
    out: &mut Vec<u8>,
    room_bytes: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> bool {
    let start = out.len();
    let mut room_bytes = room_bytes;
    for _ in 0..2 {
        out.resize(start + room_bytes, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return true;
            }
            Err(Some(required)) => room_bytes = required,
            Err(None) => break,
        }
    }
    out.truncate(start);
    false
}

/// Where the last whole record of `input` ends, seen from `start`, which is where one begins.
fn end_of_records(input: &[u8], start: usize) -> usize {
    let mut end = start;
    while let Some(header) = input.get(end..end + RECORD_HEADER_BYTES) {
        let next = end + RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
        if next > input.len() {
            // What cannot become a record is looked at now, and refused.
            let is_record = (20..=24).contains(&header[0]) && header[1] == 3;
            let is_long = next - end > RECORD_BYTES + 2048 + RECORD_HEADER_BYTES;
            return if is_record && !is_long { end } else { input.len() };
        }
        end = next;
    }
    end
}

fn strength_bits(suite: SupportedCipherSuite) -> u32 {
    use rustls::CipherSuite::*;
    match suite.suite() {
        TLS13_AES_128_GCM_SHA256
        | TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 128,
        _ => 256,
    }
}
