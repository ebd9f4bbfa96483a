//! What is on the wire: what peers tell each other while they connect, and what goes with each message.
//!
//! Compatible with the peer's versions 0 and 1: 8 bytes while connecting, whole AMQP frames in a message, credit beside
//! each. The acceptor of the compatible contract sends back what both will use. Native mode announces itself behind those
//! 8 bytes, where others do not look, and differs in one thing: a message carries any part of the stream.

use crate::device::Private;

/// Largest message, without its trailer, that a peer may ask for.
pub(crate) const LARGEST_PEER_BYTES: u32 = 65_536;
/// Most credit that a peer may begin with.
pub(crate) const MOST_PEER_CREDIT: u16 = 64;
/// Least credit: with less, either nothing flows or grants answer grants for ever.
pub(crate) const LEAST_CREDIT: u16 = 4;
/// Least message: an AMQP frame may always be this long.
pub(crate) const LEAST_BYTES: u32 = 4096;
/// What version 1 puts behind each message.
pub(crate) const TRAILER_BYTES: usize = 4;

const CREDIT_MASK: u32 = 0x0fff_ffff;
const NO_DATA: u32 = 0x1000_0000;
/// Says that the one who sends this knows native mode; its first version.
const NATIVE: [u8; 8] = *b"FULMAR\x00\x01";

/// What one side announces while connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Most bytes of data in a message.
    pub(crate) message_bytes: u32,
    /// Messages that the other side may send at first.
    pub(crate) credit: u16,
    /// Of the compatible contract.
    pub(crate) version: u16,
    /// Messages carry a stream of bytes, cut anywhere.
    pub(crate) native: bool,
}

impl Terms {
    /// For the private data.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        // Version 0 is in the byte order of its hosts, all of which are little endian.
        if self.version == 0 {
            bytes.extend(self.message_bytes.to_le_bytes());
            bytes.extend(self.credit.to_le_bytes());
        } else {
            bytes.extend(self.message_bytes.to_be_bytes());
            bytes.extend(self.credit.to_be_bytes());
        }
        bytes.extend(self.version.to_be_bytes());
        if self.native {
            bytes.extend(NATIVE);
        }
        bytes
    }

    /// From private data.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(private: &Private) -> Result<Terms, String> {
        let Some((head, rest)) = private.as_slice().split_first_chunk::<8>() else {
            return Err("the peer sent no connection parameters".into());
        };
        let (size, credit, version) =
            ([head[0], head[1], head[2], head[3]], [head[4], head[5]], [head[6], head[7]]);
        let version = u16::from_be_bytes(version);
        let (message_bytes, credit) = match version {
            0 => (u32::from_le_bytes(size), u16::from_le_bytes(credit)),
            _ => (u32::from_be_bytes(size), u16::from_be_bytes(credit)),
        };
        let terms = Terms { message_bytes, credit, version, native: rest.starts_with(&NATIVE) };
        terms.check()?;
        Ok(terms)
    }

    fn check(&self) -> Result<(), String> {
        if self.version > 1 {
            return Err(format!(
                "the peer speaks version {} over RDMA; 0 and 1 are spoken here",
                self.version
            ));
        }
        if !(LEAST_BYTES..=LARGEST_PEER_BYTES).contains(&self.message_bytes) {
            let bytes = self.message_bytes;
            return Err(format!(
                "messages of {bytes} bytes; {LEAST_BYTES} to {LARGEST_PEER_BYTES} are taken"
            ));
        }
        if !(LEAST_CREDIT..=MOST_PEER_CREDIT).contains(&self.credit) {
            return Err(format!(
                "a credit of {}; {LEAST_CREDIT} to {MOST_PEER_CREDIT} are taken",
                self.credit
            ));
        }
        Ok(())
    }
}

/// Most bytes of the reason that goes with a refusal: the least that a connection manager carries is 148 in all.
const MOST_REASON_BYTES: usize = 128;

/// What goes with a refusal: the terms that would do, and for those who know native mode the reason, behind its length.
pub(crate) fn refusal(terms: &Terms, reason: &str) -> Vec<u8> {
    let mut bytes = terms.encode();
    let fits = |at: &usize| reason.is_char_boundary(*at);
    let most = (0..=reason.len().min(MOST_REASON_BYTES)).rev().find(fits).unwrap_or(0);
    bytes.push(most as u8);
    bytes.extend(&reason.as_bytes()[..most]);
    bytes
}

/// The reason that came with a refusal, as far as it can be printed; `None` from a peer that gives none.
pub(crate) fn reason(private: &Private) -> Option<String> {
    let rest = private.as_slice().get(8..)?.strip_prefix(&NATIVE)?;
    let (len, rest) = rest.split_first()?;
    let text = String::from_utf8_lossy(rest.get(..usize::from(*len))?);
    let text: String = text.chars().filter(|char| !char.is_control()).collect();
    (!text.is_empty()).then_some(text)
}

/// What goes behind a message of version 1.
pub(crate) fn trailer(credit: u32) -> [u8; TRAILER_BYTES] {
    (credit & CREDIT_MASK).to_be_bytes()
}

/// What goes beside a message of version 0.
pub(crate) fn immediate(credit: u32, has_data: bool) -> Option<u32> {
    let flags = if has_data { 0 } else { NO_DATA };
    (credit > 0 || !has_data).then_some((credit & CREDIT_MASK) | flags)
}

/// A received message: how many bytes of it are data, and the credit that came with it.
///
/// # Errors
/// It is shorter than what every message has.
pub(crate) fn open_message(
    version: u16,
    message: &[u8],
    immediate: Option<u32>,
) -> Result<(u32, u32), String> {
    let bytes = message.len() as u32;
    if version == 0 {
        let word = immediate.unwrap_or(0);
        let data = if word & NO_DATA == 0 { bytes } else { 0 };
        return Ok((data, word & CREDIT_MASK));
    }
    let Some((data, trailer)) = message.split_last_chunk::<TRAILER_BYTES>() else {
        return Err(format!("a message of {bytes} bytes has no trailer"));
    };
    let word = u32::from_be_bytes(*trailer);
    let data = if word & NO_DATA == 0 { data.len() as u32 } else { 0 };
    Ok((data, word & CREDIT_MASK))
}

/// The credit that a message grants.
pub(crate) fn credit_of(version: u16, message: &[u8], immediate: Option<u32>) -> u32 {
    open_message(version, message, immediate).map_or(0, |(_, credit)| credit)
}

/// Takes the credit out of a message.
pub(crate) fn forget_credit(version: u16, message: &mut [u8], immediate: &mut Option<u32>) {
    if let Some(word) = immediate {
        *word &= !CREDIT_MASK;
    } else if version != 0
        && let Some(trailer) = message.last_chunk_mut::<TRAILER_BYTES>()
    {
        *trailer = (u32::from_be_bytes(*trailer) & !CREDIT_MASK).to_be_bytes();
    }
}

/// Finds where frames end in what is sent, so that messages carry whole ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cutter {
    /// No connection header has been seen yet.
    #[default]
    Unknown,
    /// Any byte may be the last.
    Stream,
    /// AMQP 0-9-1.
    Amqp091,
    /// AMQP 0-10.
    Amqp010,
    /// AMQP 1.0.
    Amqp10,
}

/// What stands at the beginning of what is sent.
enum Unit {
    /// So many bytes that belong together.
    Whole(usize),
    /// The beginning of something.
    Part,
}

impl Cutter {
    /// Takes note of the header that begins a connection, whoever sends it.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        if *self != Cutter::Unknown || bytes.len() < 8 {
            return;
        }
        *self = match (&bytes[..4], &bytes[4..8]) {
            (b"AMQP", [1, 1, 0, 10]) => Cutter::Amqp010,
            (b"AMQP", [_, 1, 0, 0]) => Cutter::Amqp10,
            (b"AMQP", _) => Cutter::Amqp091,
            _ => Cutter::Stream,
        };
    }

    /// How many of these bytes the next message takes: whole frames, as many as fit. 0 if the first frame is not all
    /// there yet.
    ///
    /// # Errors
    /// The first frame is longer than a message.
    pub(crate) fn cut(&mut self, bytes: &[u8], most: usize) -> Result<usize, usize> {
        self.see(bytes);
        if matches!(self, Cutter::Stream | Cutter::Unknown) {
            return Ok(bytes.len().min(most));
        }
        let mut end = 0;
        loop {
            match self.unit(&bytes[end..]) {
                Unit::Whole(len) if end + len <= most => end += len,
                Unit::Whole(len) if end == 0 => return Err(len),
                Unit::Whole(_) | Unit::Part => return Ok(end),
            }
        }
    }

    fn unit(self, bytes: &[u8]) -> Unit {
        if bytes.len() < 8 {
            return Unit::Part;
        }
        let long = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let len = match self {
            _ if bytes.starts_with(b"AMQP") => 8,
            Cutter::Amqp010 => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            Cutter::Amqp10 => long,
            _ => u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]) as usize + 8,
        };
        if len <= bytes.len() { Unit::Whole(len.max(8)) } else { Unit::Part }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(message_bytes: u32, credit: u16, version: u16, native: bool) -> Terms {
        Terms { message_bytes, credit, version, native }
    }

    #[test]
    fn version_1_is_big_endian_and_version_0_little() {
        assert_eq!(terms(65_535, 64, 1, false).encode(), [0, 0, 0xff, 0xff, 0, 64, 0, 1]);
        assert_eq!(terms(65_535, 64, 0, false).encode(), [0xff, 0xff, 0, 0, 64, 0, 0, 0]);
    }

    #[test]
    fn zeros_behind_the_terms_do_not_matter() {
        for version in [0, 1] {
            for native in [false, true] {
                let terms = terms(8192, 64, version, native);
                let mut bytes = terms.encode();
                bytes.resize(196, 0);
                assert_eq!(Terms::decode(&Private::new(&bytes)), Ok(terms));
            }
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        for bad in [
            terms(65_537, 64, 1, false),
            terms(65_536, 65, 1, false),
            terms(8192, 3, 1, false),
            terms(100, 64, 1, false),
            terms(8192, 64, 2, false),
        ] {
            assert!(Terms::decode(&Private::new(&bad.encode())).is_err(), "{bad:?}");
        }
        assert!(Terms::decode(&Private::new(&[0; 7])).is_err());
        assert!(Terms::decode(&Private::new(&[0; 196])).is_err());
    }

    #[test]
    fn a_refusal_says_why_to_those_who_know_where_to_look() {
        let ours = terms(8192, 32, 1, true);
        let told = |text: &str| reason(&Private::new(&refusal(&ours, text)));
        assert_eq!(told("there are too many").as_deref(), Some("there are too many"));
        let long = told(&"é".repeat(200)).unwrap();
        assert_eq!(long, "é".repeat(64), "cut between letters");
        assert!(refusal(&ours, &long).len() <= 148, "what a refusal carries");
        assert_eq!(told("a\nb\u{7}").as_deref(), Some("ab"));
        assert_eq!(told(""), None);
        assert_eq!(reason(&Private::new(&terms(8192, 32, 1, false).encode())), None);
    }

    #[test]
    fn credit_goes_with_data_or_alone() {
        let mut message = b"frames".to_vec();
        message.extend(trailer(17));
        assert_eq!(open_message(1, &message, None), Ok((6, 17)));
        assert_eq!(open_message(1, &trailer(3), None), Ok((0, 3)));
        assert_eq!(open_message(1, &[b'x', 0x10, 0, 0, 9], None), Ok((0, 9)));
        assert!(open_message(1, &[0; 3], None).is_err());
        assert_eq!(open_message(0, b"frames", None), Ok((6, 0)));
        assert_eq!(open_message(0, b"frames", immediate(5, true)), Ok((6, 5)));
        assert_eq!(open_message(0, &[0; 4], immediate(5, false)), Ok((0, 5)));
        assert_eq!(immediate(0, true), None);
    }

    proptest! {
        /// Whatever a peer sends along while connecting: terms within the bounds, or none.
        #[test]
        fn any_private_data_is_understood_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..=196),
            plausible: bool,
            size in 0..0x2_0000u32,
            credit in 0..100u16,
            version in 0..3u16,
        ) {
            let mut bytes = bytes;
            if plausible {
                let head = terms(size, credit, version, size % 2 == 0).encode();
                bytes.splice(..head.len().min(bytes.len()), head);
            }
            let private = Private::new(&bytes);
            if let Ok(terms) = Terms::decode(&private) {
                prop_assert!((LEAST_BYTES..=LARGEST_PEER_BYTES).contains(&terms.message_bytes));
                prop_assert!((LEAST_CREDIT..=MOST_PEER_CREDIT).contains(&terms.credit));
                prop_assert!(terms.version <= 1);
                prop_assert_eq!(Terms::decode(&Private::new(&terms.encode())), Ok(terms));
            }
            if let Some(text) = reason(&private) {
                prop_assert!(text.len() <= 3 * MOST_REASON_BYTES.max(256) && !text.contains(char::is_control));
            }
        }

        /// Whatever arrives as a message: no more data than there are bytes, no more credit than the trailer can say.
        #[test]
        fn any_message_is_understood_or_refused(
            message in proptest::collection::vec(any::<u8>(), 0..100),
            immediate: Option<u32>,
            version in 0..2u16,
        ) {
            match open_message(version, &message, immediate) {
                Ok((data, credit)) => {
                    prop_assert!(data as usize <= message.len() && credit <= CREDIT_MASK);
                    prop_assert!(version == 0 || data as usize + TRAILER_BYTES <= message.len() || data == 0);
                }
                Err(_) => prop_assert!(version == 1 && message.len() < TRAILER_BYTES),
            }
        }

        /// Whatever is sent, in whatever pieces: the cutter gives every byte once, in messages that fit, or stops at a frame
        /// that is not whole or too long.
        #[test]
        fn the_cutter_takes_any_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..9000),
            header in 0..4usize,
        ) {
            let headers: [&[u8]; 4] = [b"AMQP\x01\x01\x00\x0a", b"AMQP\x00\x01\x00\x00", b"AMQP\x00\x00\x09\x01", b""];
            let bytes = [headers[header], &bytes].concat();
            let (mut cutter, mut at) = (Cutter::Unknown, 0);
            for _ in 0..=bytes.len() {
                match cutter.cut(&bytes[at..], 4096) {
                    Ok(0) => break,
                    Ok(len) => {
                        prop_assert!(len <= 4096 && at + len <= bytes.len());
                        at += len;
                    }
                    Err(len) => {
                        prop_assert!(len > 4096 && len <= bytes.len() - at);
                        break;
                    }
                }
            }
        }
    }

    fn frame(protocol: Cutter, body: usize) -> Vec<u8> {
        match protocol {
            Cutter::Amqp010 => {
                let mut frame = vec![0x0f, 0];
                frame.extend((body as u16 + 12).to_be_bytes());
                frame.resize(body + 12, 7);
                frame
            }
            Cutter::Amqp10 => {
                let mut frame = (body as u32 + 8).to_be_bytes().to_vec();
                frame.resize(body + 8, 7);
                frame
            }
            _ => {
                let mut frame = vec![1, 0, 1];
                frame.extend((body as u32).to_be_bytes());
                frame.resize(body + 7, 7);
                frame.push(0xce);
                frame
            }
        }
    }

    proptest! {
        #[test]
        fn messages_are_whole_frames_and_as_full_as_can_be(
            kind in 0..3usize,
            bodies in proptest::collection::vec(0..3000usize, 1..40),
            tail in 0..20usize,
        ) {
            let header: [u8; 8] = [*b"AMQP\x01\x01\x00\x0a", *b"AMQP\x00\x01\x00\x00", *b"AMQP\x00\x00\x09\x01"][kind];
            let protocol = [Cutter::Amqp010, Cutter::Amqp10, Cutter::Amqp091][kind];
            let mut stream = header.to_vec();
            let mut ends = vec![8];
            for body in bodies {
                stream.extend(frame(protocol, body));
                ends.push(stream.len());
            }
            let whole = stream.len();
            let last = frame(protocol, 100);
            stream.extend(&last[..tail]);
            let mut cutter = Cutter::Unknown;
            let mut at = 0;
            loop {
                let len = cutter.cut(&stream[at..], 4096).unwrap();
                if len == 0 {
                    break;
                }
                prop_assert!(len <= 4096);
                prop_assert!(ends.contains(&(at + len)));
                let next = ends.iter().find(|end| **end > at + len);
                prop_assert!(next.is_none_or(|next| next - at > 4096), "another frame had fitted");
                at += len;
            }
            prop_assert_eq!(at, whole);
            prop_assert_eq!(cutter, protocol);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_told() {
        let mut cutter = Cutter::Amqp091;
        assert_eq!(cutter.cut(&frame(Cutter::Amqp091, 5000), 4096), Err(5008));
        let mut cutter = Cutter::Stream;
        assert_eq!(cutter.cut(&[0; 5000], 4096), Ok(4096));
    }
}
