//! Which protocol a new connection speaks, by its first bytes. A table; each protocol adds its rows.

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough bytes yet.
    More,
    /// A protocol that is spoken here; the header that was recognised is `header_bytes` long.
    Speak {
        /// The protocol.
        protocol: Protocol,
        /// Length of the header, which the protocol's own decoder does not see.
        header_bytes: usize,
    },
    /// A TLS handshake; what is spoken inside is seen later.
    Secure,
    /// Something that is not spoken here.
    Refuse {
        /// What it was, for the log.
        what: &'static str,
        /// What to answer before closing.
        answer: &'static [u8],
    },
}

/// A protocol spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// AMQP 0-9-1.
    Amqp091,
    /// AMQP 0-10.
    Amqp010,
}

/// Most bytes that a verdict needs.
pub const MAX_HEADER_BYTES: usize = 8;

/// The header of AMQP 0-9-1; also the answer to headers that are not spoken, as its §4.2.2 asks.
pub const AMQP_0_9_1: &[u8] = b"AMQP\x00\x00\x09\x01";
/// The header of AMQP 0-10; also the answer to other versions of its form, as its §4.3 asks.
pub const AMQP_0_10: &[u8] = b"AMQP\x01\x01\x00\x0a";

struct Row {
    prefix: &'static [u8],
    verdict: Verdict,
}

const fn speak(header: &'static [u8], protocol: Protocol) -> Row {
    Row { prefix: header, verdict: Verdict::Speak { protocol, header_bytes: header.len() } }
}

const fn refuse(prefix: &'static [u8], what: &'static str, answer: &'static [u8]) -> Row {
    Row { prefix, verdict: Verdict::Refuse { what, answer } }
}

/// A row that the bytes may still become comes before the rows whose prefix is a part of its own.
const TABLE: &[Row] = &[
    speak(AMQP_0_9_1, Protocol::Amqp091),
    speak(AMQP_0_10, Protocol::Amqp010),
    refuse(b"AMQP\x00\x01\x00\x00", "AMQP 1.0", AMQP_0_9_1),
    refuse(b"AMQP\x03\x01\x00\x00", "AMQP 1.0 with SASL", AMQP_0_9_1),
    refuse(b"AMQP\x02\x01\x00\x00", "AMQP 1.0 with TLS", AMQP_0_9_1),
    refuse(b"AMQP\x01\x01\x00\x09", "AMQP 0-9", AMQP_0_9_1),
    refuse(b"AMQP\x01\x01\x08\x00", "AMQP 0-8", AMQP_0_9_1),
    refuse(b"AMQP\x01\x01", "an unknown version of AMQP", AMQP_0_10),
    refuse(b"AMQP", "an unknown version of AMQP", AMQP_0_9_1),
    Row { prefix: b"\x16\x03", verdict: Verdict::Secure },
    refuse(b"STOMP", "STOMP", b""),
    refuse(b"CONNECT\n", "STOMP", b""),
    refuse(b"CONNECT\r", "STOMP", b""),
    refuse(b"GET ", "HTTP", b""),
    refuse(b"HEAD ", "HTTP", b""),
    refuse(b"POST ", "HTTP", b""),
];

/// The verdict on the first bytes of a connection.
pub fn detect(bytes: &[u8]) -> Verdict {
    for row in TABLE {
        if bytes.starts_with(row.prefix) {
            return row.verdict;
        }
        if row.prefix.starts_with(bytes) {
            return Verdict::More;
        }
    }
    Verdict::Refuse { what: "no known protocol", answer: AMQP_0_9_1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> &'static str {
        match detect(bytes) {
            Verdict::Refuse { what, .. } => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_header_is_recognised_only_when_whole() {
        for cut in 0..8 {
            assert_eq!(detect(&AMQP_0_9_1[..cut]), Verdict::More, "{cut} bytes");
        }
        let speak = Verdict::Speak { protocol: Protocol::Amqp091, header_bytes: 8 };
        assert_eq!(detect(AMQP_0_9_1), speak);
        assert_eq!(detect(b"AMQP\x00\x00\x09\x01\x01\x00"), speak);
        let speak = Verdict::Speak { protocol: Protocol::Amqp010, header_bytes: 8 };
        assert_eq!(detect(b"AMQP\x01\x01\x00\x0a"), speak);
    }

    #[test]
    fn an_unknown_version_is_answered_with_a_header_of_its_own_form() {
        let answer = |bytes| match detect(bytes) {
            Verdict::Refuse { answer, .. } => answer,
            other => panic!("{other:?}"),
        };
        assert_eq!(answer(b"AMQP\x01\x01\x00\x0b"), AMQP_0_10);
        assert_eq!(answer(b"AMQP\x01\x01\x00\x09"), AMQP_0_9_1);
        assert_eq!(answer(b"AMQP\x00\x00\x09\x00"), AMQP_0_9_1);
    }

    #[test]
    fn other_protocols_are_named() {
        assert_eq!(refused(b"AMQP\x00\x01\x00\x00"), "AMQP 1.0");
        assert_eq!(refused(b"AMQP\x01\x01\x00\x09"), "AMQP 0-9");
        assert_eq!(refused(b"AMQP\x01\x01\x08\x00"), "AMQP 0-8");
        assert_eq!(refused(b"AMQP\x09"), "an unknown version of AMQP");
        assert_eq!(detect(b"\x16\x03\x01\x02\x00"), Verdict::Secure);
        assert_eq!(refused(b"STOMP\n"), "STOMP");
        assert_eq!(refused(b"CONNECT\naccept-version:1.2"), "STOMP");
        assert_eq!(refused(b"GET / HTTP/1.1"), "HTTP");
    }

    #[test]
    fn garbage_is_refused_as_soon_as_no_row_can_match() {
        assert_eq!(detect(b"AMQX"), Verdict::Refuse { what: "no known protocol", answer: AMQP_0_9_1 });
        assert_eq!(refused(b"\0"), "no known protocol");
    }

    #[test]
    fn no_row_needs_more_than_the_limit() {
        assert!(TABLE.iter().all(|row| row.prefix.len() <= MAX_HEADER_BYTES));
    }
}
