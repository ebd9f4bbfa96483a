//! GSSAPI (RFC 4752): logins by Kerberos tickets, and the security layers that they may bring, by the system's library.
//!
//! 1. Accepting a ticket reads and writes files: it is for a thread that may wait. A [`Layer`] only computes.
//! 2. A layer is offered where the caller can put one between a connection and its socket.
//! 3. The keys are looked up for each login, so that new ones in the keytab count.

mod sys;

use std::fmt;

use sys::{CONFIDENTIALITY, Context, INTEGRITY, Keys, MUTUAL, SEQUENCE, Step};

/// Longest wrapped message that is taken, and told to the client: that of the peer.
const MAX_WRAPPED_BYTES: u32 = 65_535;
/// Bytes of a message's length.
const LENGTH_BYTES: usize = 4;
/// Shorter messages than these make no sense of a client's limit.
const MIN_PLAIN_BYTES: u32 = 64;

/// The layers of RFC 4752, each a bit.
mod layer {
    pub const NONE: u8 = 1;
    pub const INTEGRITY: u8 = 2;
    pub const CONFIDENTIALITY: u8 = 4;
}

/// What went wrong, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

/// Whether logins can be looked at here: the library and keys of the service are there.
///
/// # Errors
/// What is missing.
pub fn is_available(service: &str) -> Result<(), Failure> {
    Keys::of_service(service).map(|_| ())
}

/// A login between two rounds.
pub struct Exchange {
    context: Context,
    state: State,
}

enum State {
    /// The client has to say more of itself.
    Introduced,
    /// It is this client, and is to say nothing.
    Known(String, u8),
    /// It is this client, and is to choose one of these layers.
    Choosing(String, u8),
}

/// What follows from a round.
pub enum Round {
    /// The client is to say more.
    Challenge(Vec<u8>, Box<Exchange>),
    /// It is logged in.
    Accepted {
        /// Its principal, `name@REALM`.
        user: String,
        /// Whom it would like to act as; empty if it does not say.
        authorize_as: String,
        /// What lies between it and the broker from now on.
        layer: Option<Box<Layer>>,
    },
}

impl Exchange {
    /// Begins with a client's first message. Security layers are offered if `layers` says so.
    ///
    /// # Errors
    /// Why the login is refused.
    pub fn begin(service: &str, token: &[u8], layers: bool) -> Result<Round, Failure> {
        Exchange { context: Context::new()?, state: State::Introduced }.accept(service, token, layers)
    }

    /// Goes on with a further message.
    ///
    /// # Errors
    /// Why the login is refused.
    pub fn go_on(mut self, service: &str, response: &[u8], layers: bool) -> Result<Round, Failure> {
        match std::mem::replace(&mut self.state, State::Introduced) {
            State::Introduced => self.accept(service, response, layers),
            State::Known(user, can) if response.is_empty() => self.offer(user, can),
            State::Known(..) => Err(Failure("more is said than was asked for".to_owned())),
            State::Choosing(user, can) => self.choose(user, can, response),
        }
    }

    fn accept(mut self, service: &str, token: &[u8], layers: bool) -> Result<Round, Failure> {
        let keys = Keys::of_service(service)?;
        let Step { token, client } = self.context.accept(&keys, token)?;
        let Some((user, flags)) = client else { return Ok(Round::Challenge(token, Box::new(self))) };
        let can = if layers { layers_of(flags) } else { layer::NONE };
        if token.is_empty() {
            return self.offer(user, can);
        }
        self.state = State::Known(user, can);
        Ok(Round::Challenge(token, Box::new(self)))
    }

    fn offer(mut self, user: String, can: u8) -> Result<Round, Failure> {
        let most_bytes = if can == layer::NONE { 0 } else { MAX_WRAPPED_BYTES };
        let mut challenge = Vec::new();
        self.context.wrap(false, &with_size(can, most_bytes), &mut challenge)?;
        self.state = State::Choosing(user, can);
        Ok(Round::Challenge(challenge, Box::new(self)))
    }

    fn choose(mut self, user: String, can: u8, response: &[u8]) -> Result<Round, Failure> {
        let malformed = || Failure("the choice of a security layer is malformed".to_owned());
        let (chosen, most_bytes, name) = self.context.unwrap(response, |plain, _| {
            let (head, name) = plain.split_first_chunk::<4>().ok_or_else(malformed)?;
            let [chosen, size @ ..] = *head;
            let most_bytes = size.into_iter().fold(0, |bytes, byte| bytes << 8 | u32::from(byte));
            let name = String::from_utf8(name.to_vec()).map_err(|_| malformed())?;
            Ok((chosen, most_bytes, name))
        })??;
        if chosen.count_ones() != 1 || chosen & can == 0 {
            return Err(Failure(format!("security layer {chosen} was not offered")));
        }
        let layer = match chosen {
            layer::NONE => None,
            chosen => {
                let confidential = chosen == layer::CONFIDENTIALITY;
                Some(Box::new(Layer::new(self.context, confidential, most_bytes)?))
            }
        };
        // A keytab knows no names but whole ones; clients may leave the realm of theirs out.
        let short = user.split_once('@').map_or(&user[..], |(short, _)| short);
        let authorize_as = if name == short { String::new() } else { name };
        Ok(Round::Accepted { user, authorize_as, layer })
    }
}

/// What a context is good for. RFC 4752 has clients that want a layer ask for all of this.
fn layers_of(flags: u32) -> u8 {
    let has = |wanted| flags & wanted == wanted;
    match has(MUTUAL | SEQUENCE | INTEGRITY) {
        true if has(CONFIDENTIALITY) => layer::NONE | layer::INTEGRITY | layer::CONFIDENTIALITY,
        true => layer::NONE | layer::INTEGRITY,
        false => layer::NONE,
    }
}

/// A layer and a size, as RFC 4752 writes them.
fn with_size(layer: u8, bytes: u32) -> [u8; 4] {
    let [_, size @ ..] = bytes.to_be_bytes();
    [layer, size[0], size[1], size[2]]
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange by GSSAPI")
    }
}

impl fmt::Debug for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Round::Challenge(..) => f.write_str("Challenge"),
            Round::Accepted { user, .. } => write!(f, "Accepted({user:?})"),
        }
    }
}

/// A security layer: what is sent and received is in messages that nobody else can have written or, if it is
/// confidential, read. Each comes after its length.
pub struct Layer {
    context: Context,
    confidential: bool,
    /// The longest message that the client takes, before it is wrapped.
    longest_plain_bytes: usize,
    /// The beginning of a message; never more than one.
    begun: Vec<u8>,
}

impl Layer {
    fn new(mut context: Context, confidential: bool, most_bytes: u32) -> Result<Self, Failure> {
        // What is longer would only take more memory.
        let most_bytes = most_bytes.min(MAX_WRAPPED_BYTES);
        let longest = context.longest_plain_bytes(confidential, most_bytes)?;
        if longest < MIN_PLAIN_BYTES {
            return Err(Failure(format!(
                "messages of {most_bytes} bytes are too short for a security layer"
            )));
        }
        Ok(Layer { context, confidential, longest_plain_bytes: longest as usize, begun: Vec::new() })
    }

    /// Whether nobody else can read what is sent.
    pub fn is_confidential(&self) -> bool {
        self.confidential
    }

    /// Appends what the client is to be sent instead of `plain`.
    ///
    /// # Errors
    /// The library's; nothing can be sent any more.
    pub fn wrap(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        for piece in plain.chunks(self.longest_plain_bytes) {
            let at = out.len();
            out.extend_from_slice(&[0; LENGTH_BYTES]);
            self.context.wrap(self.confidential, piece, out)?;
            let bytes = (out.len() - at - LENGTH_BYTES) as u32;
            out[at..at + LENGTH_BYTES].copy_from_slice(&bytes.to_be_bytes());
        }
        Ok(())
    }

    /// Gives `take` what the client has sent, message by message; keeps the beginning of one.
    ///
    /// # Errors
    /// Somebody has changed what was sent, or it is no message; nothing can be received any more.
    pub fn unwrap(&mut self, mut input: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), Failure> {
        while !input.is_empty() {
            let wanted = self.wanted_bytes()?;
            if self.begun.is_empty() && input.len() >= LENGTH_BYTES {
                let bytes = length(input)?;
                if let Some(token) = input[LENGTH_BYTES..].get(..bytes) {
                    self.open(token, &mut take)?;
                    input = &input[LENGTH_BYTES + bytes..];
                    continue;
                }
            }
            let (piece, rest) = input.split_at(input.len().min(wanted - self.begun.len()));
            self.begun.extend_from_slice(piece);
            input = rest;
            if self.begun.len() > LENGTH_BYTES && self.begun.len() == self.wanted_bytes()? {
                let token = std::mem::take(&mut self.begun);
                self.open(&token[LENGTH_BYTES..], &mut take)?;
            }
        }
        Ok(())
    }

    /// How long the message that has begun is with its length, as far as that is known.
    fn wanted_bytes(&self) -> Result<usize, Failure> {
        match self.begun.len() {
            ..LENGTH_BYTES => Ok(LENGTH_BYTES),
            _ => Ok(LENGTH_BYTES + length(&self.begun)?),
        }
    }

    fn open(&mut self, token: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), Failure> {
        let confidential = self.confidential;
        self.context.unwrap(token, |plain, is_confidential| {
            if confidential && !is_confidential {
                return Err(Failure("a message was not encrypted".to_owned()));
            }
            take(plain);
            Ok(())
        })?
    }
}

/// The length that a message begins with.
fn length(input: &[u8]) -> Result<usize, Failure> {
    let Some(&bytes) = input.first_chunk::<LENGTH_BYTES>() else { return Ok(0) };
    match u32::from_be_bytes(bytes) {
        bytes @ 1..=MAX_WRAPPED_BYTES => Ok(bytes as usize),
        bytes => Err(Failure(format!("a message of {bytes} bytes, {MAX_WRAPPED_BYTES} were agreed"))),
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.confidential { "Layer(confidentiality)" } else { "Layer(integrity)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_sizes_are_written_as_the_rfc_has_it() {
        assert_eq!(with_size(layer::NONE | layer::INTEGRITY, MAX_WRAPPED_BYTES), [3, 0, 0xff, 0xff]);
        assert_eq!(with_size(layer::CONFIDENTIALITY, 0x0102_0304), [4, 2, 3, 4]);
    }

    #[test]
    fn a_layer_takes_messages_in_order_from_who_is_known() {
        let (all, integrity) =
            (MUTUAL | SEQUENCE | INTEGRITY | CONFIDENTIALITY, layer::NONE | layer::INTEGRITY);
        assert_eq!(layers_of(all), integrity | layer::CONFIDENTIALITY);
        assert_eq!(layers_of(all & !CONFIDENTIALITY), integrity);
        for missing in [MUTUAL, SEQUENCE, INTEGRITY] {
            assert_eq!(layers_of(all & !missing), layer::NONE);
        }
    }

    #[test]
    fn messages_are_as_long_as_was_agreed() {
        assert_eq!(length(&[0, 0, 0, 1, 9]), Ok(1));
        assert_eq!(length(&[0, 0, 0xff, 0xff]), Ok(65_535));
        for wrong in [[0, 0, 0, 0], [0, 1, 0, 0], [0x0f, 1, 0, 0x14]] {
            assert!(length(&wrong).is_err(), "{wrong:?}");
        }
    }

    /// Whether the library is there or not: nobody has keys of this service.
    #[test]
    fn a_service_without_keys_is_named_and_so_is_a_missing_library() {
        let text = is_available("fulmar-no-such-service").unwrap_err().to_string();
        let is_named = text.starts_with("no keys of the service 'fulmar-no-such-service': ");
        assert!(is_named || text.starts_with("libgssapi_krb5.so.2 cannot be loaded"), "{text}");
        let rubbish = Exchange::begin("fulmar-no-such-service", b"rubbish", true);
        assert!(rubbish.is_err());
    }
}
