use super::*;
use crate::message::{Edit, Encoding, Id, Properties, ReplyTo, Scalar};
use crate::{Table, Value};

/// Headers as lines: a name, a type and a value. Properties are lines that begin with `@`.
pub(super) struct Lines;

/// The value under a name, with its type.
fn line<'a>(properties: &'a [u8], name: &[u8]) -> Option<(u8, &'a str)> {
    let find = |line: &'a [u8]| line.strip_prefix(name)?.strip_prefix(b"=");
    let (&kind, value) = properties.split(|&byte| byte == b'\n').find_map(find)?.split_first()?;
    Some((kind, std::str::from_utf8(value).unwrap()))
}

impl Encoding for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        panic!("selectors build no values")
    }

    fn headers(&self, _: &[u8]) -> Table {
        panic!("selectors build no tables")
    }

    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>> {
        let (kind, value) = line(properties, name)?;
        Some(match kind {
            b's' => Scalar::Text(value.as_bytes()),
            b'i' => Scalar::Int(value.parse().unwrap()),
            b'f' => Scalar::Float(value.parse().unwrap()),
            b'b' => Scalar::Bool(value.parse().unwrap()),
            b't' => Scalar::Timestamp(value.parse().unwrap()),
            b'v' => Scalar::Void,
            _ => Scalar::Other,
        })
    }

    fn properties<'a>(&self, properties: &'a [u8]) -> Properties<'a> {
        let text = |name: &str| line(properties, name.as_bytes()).map(|(_, value)| value.as_bytes());
        let number = |name: &str| line(properties, name.as_bytes()).map(|(_, value)| value.parse().unwrap());
        Properties {
            delivery_mode: number("@mode").map(|mode: u64| mode as u8),
            priority: number("@priority").map(|priority| priority as u8),
            timestamp_s: number("@timestamp"),
            message_id: text("@id").map(Id::of_text),
            correlation_id: text("@correlation"),
            reply_to: match (text("@exchange"), text("@key"), text("@address")) {
                (None, None, None) => None,
                (None, None, Some(address)) => Some(ReplyTo::Address(address)),
                (exchange, routing_key, _) => {
                    Some(ReplyTo::Parts { exchange: exchange.unwrap_or_default(), routing_key })
                }
            },
            message_type: text("@type"),
            ..Properties::default()
        }
    }

    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

pub(super) fn view<'a>(exchange: &'a str, routing_key: &'a str, lines: &'a str) -> MessageView<'a> {
    MessageView {
        encoding: &Lines,
        exchange: exchange.as_bytes(),
        routing_key: routing_key.as_bytes(),
        properties: lines.as_bytes(),
        body: b"",
    }
}

fn truth(selector: &str, lines: &str) -> Option<bool> {
    let parsed = Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
    let (message, standing) = (view("", "", lines), Standing::default());
    let truth = parsed.expression.truth(&Subject { message: &message, standing: &standing });
    assert_eq!(parsed.matches(&message), truth == Some(true), "{selector}");
    truth
}

fn check(lines: &str, expectations: &[(&str, Option<bool>)]) {
    for (selector, expected) in expectations {
        assert_eq!(truth(selector, lines), *expected, "{selector}");
    }
}

const TRUE: Option<bool> = Some(true);
const FALSE: Option<bool> = Some(false);

#[test]
fn what_is_not_known_neither_holds_nor_fails() {
    check(
        "a=i1\nvoid=v\nmap=m",
        &[
            ("", TRUE),
            (" \t\n", TRUE),
            ("none = 1", None),
            ("none <> 1", None),
            ("NOT none = 1", None),
            ("none = 1 AND a = 1", None),
            ("none = 1 AND a = 2", FALSE),
            ("a = 2 AND none = 1", FALSE),
            ("none = 1 OR a = 1", TRUE),
            ("none = 1 OR a = 2", None),
            ("none IS NULL", TRUE),
            ("none IS NOT NULL", FALSE),
            ("void IS NULL AND map IS NULL", TRUE),
            ("a IS NULL", FALSE),
            ("(none = 1) IS NULL", TRUE),
            ("none BETWEEN 1 AND 2", None),
            ("a BETWEEN none AND 2", None),
            ("a BETWEEN 2 AND none", None),
            ("none IN (1)", None),
            ("a IN (2, none)", None),
            ("a IN (none, 1)", TRUE),
            ("a NOT IN (2, none)", None),
            ("a NOT IN (none, 1)", FALSE),
            ("none LIKE '%'", None),
            ("none NOT LIKE '%'", None),
            ("a + none = 1", None),
            ("a", None),
            ("'text'", None),
            ("NOT a", None),
        ],
    );
}

#[test]
fn values_compare_by_their_type() {
    check(
        "yes=btrue\nn=i42\nx=f42\nwhen=t7\ns=shello",
        &[
            ("n = x AND n = 42.0 AND x = 42 AND when = 7", TRUE),
            ("n < 43 AND n <= 42 AND n > 41.5 AND n >= 42", TRUE),
            ("n <> 42", FALSE),
            ("s = 'hello' AND s <> 'world'", TRUE),
            ("s < 'world' OR s > 'world' OR s <= 'hello' OR s >= 'hello'", FALSE),
            ("yes AND yes = TRUE AND yes <> false", TRUE),
            ("s = 42 OR s <> 42 OR s < 42", FALSE),
            ("NOT s = 42", TRUE),
            ("yes = 1", FALSE),
            ("n BETWEEN 42 AND 42 AND n NOT BETWEEN 43 AND 41", TRUE),
            ("s BETWEEN 1 AND 2", FALSE),
            ("n IN ('hello', 1, 42.0)", TRUE),
            ("n IN ('hello', yes)", FALSE),
            ("n NOT IN ('hello', 1)", FALSE),
            ("n NOT IN (1, 2.5)", TRUE),
            ("s LIKE 'h%o' AND s LIKE 'hell_' AND s NOT LIKE 'h_o'", TRUE),
            ("n LIKE '%'", None),
            ("'50%' LIKE '50!%' ESCAPE '!'", TRUE),
            ("'50x' LIKE '50!%' ESCAPE '!'", FALSE),
            ("'a' LIKE 'a' ESCAPE ''", TRUE),
        ],
    );
}

#[test]
fn arithmetic_goes_from_left_to_right_and_points_before_dashes() {
    check(
        "a=f42\nb=i39",
        &[
            ("2 + 3 * 4 = 14 AND (2 + 3) * 4 = 20 AND 10 - 3 - 2 = 5", TRUE),
            ("17 / 4 = 4 AND 17 / 4.0 = 4.25 AND 100 / 5 / 2 = 10", TRUE),
            ("a * b + 19 < a * (b + 19)", TRUE),
            ("-a = 0 - a AND - -b = b AND +b = b AND + -b = -39", TRUE),
            ("b / 0 = 0", None),
            ("a / 0 > 1e300", TRUE),
            ("'1' + 1 = 2", None),
            ("-'1' = 1", None),
            ("9223372036854775807 + 1 < 0", TRUE),
            ("-9223372036854775808 / -1 < 0", TRUE),
            ("5 -3 = 2 AND 5 - -3 = 8", TRUE),
        ],
    );
}

#[test]
fn literals_are_those_of_the_peer() {
    check(
        "",
        &[
            ("9223372036854775807 > 0 AND -9223372036854775808 < 0", TRUE),
            ("0x8000_0000_0000_0001 = -9223372036854775807", TRUE),
            ("-9223372036854775808 = 0x8000_0000_0000_0000", TRUE),
            ("9223372036854775807L <> 0", TRUE),
            ("0.4f > 0.3d AND .5 = 0.5 AND 5. = 5 AND 1e3 = 1000", TRUE),
            ("1000_020.4f > 0x800p-3", TRUE),
            ("0x1000_0000 = 0x1000_0000p0", TRUE),
            ("0xFF = 255L AND 077L = 0b111_111 AND 077 = 63 AND 0 = 00", TRUE),
            ("'it''s' = 'it''s' AND '''' <> ''", TRUE),
        ],
    );
}

#[test]
fn identifiers_are_headers() {
    let lines = "_a$1.b=i1\nwith space=i2\n\"odd\"=i3\nand=i4\nJMSXGroupID=sg\nAND=i5";
    check(
        lines,
        &[
            ("_a$1.b = 1", TRUE),
            ("\"with space\" = 2 AND \"\"\"odd\"\"\" = 3", TRUE),
            ("\"and\" = 4 AND \"AND\" = 5", TRUE),
            ("JMSXGroupID = 'g'", TRUE),
            ("_A$1.b IS NULL", TRUE),
            ("amqp.nonsense IS NULL", TRUE),
        ],
    );
}

#[test]
fn properties_have_names_of_two_kinds() {
    let uuid = "abababab-abab-abab-abab-abababababab";
    let lines = format!(
        "@mode=i2\n@priority=i7\n@timestamp=i5\n@id=s{uuid}\n@correlation=sc\n@exchange=sx\n@key=sk\n@type=st"
    );
    let full = view("amq.topic", "news", &lines);
    let standing = Standing { redelivered: true, expires_ms: Some(99) };
    for (names, value) in [
        ("amqp.durable", "TRUE"),
        ("amqp.delivery_mode, JMSDeliveryMode", "'PERSISTENT'"),
        ("amqp.priority, JMSPriority", "7"),
        ("amqp.redelivered, JMSRedelivered", "TRUE"),
        ("amqp.subject", "'news'"),
        ("amqp.correlation_id, JMSCorrelationID", "'c'"),
        ("amqp.to, JMSDestination", "'amq.topic'"),
        ("amqp.absolute_expiry_time, JMSExpiration", "99"),
        ("amqp.message_id, JMSMessageID", &format!("'{uuid}'")),
        ("amqp.reply_to, JMSReplyTo", "'x/k'"),
        ("amqp.creation_time, JMSTimestamp", "5000"),
        ("amqp.jms_type, JMSType", "'t'"),
    ] {
        for name in names.split(", ") {
            let selector = Selector::parse(&format!("{name} = {value}")).unwrap();
            assert!(selector.matches_with(&full, &standing), "{selector:?}");
        }
    }
    let empty = view("", "queue", "qpid.subject=stold");
    for selector in [
        "NOT amqp.durable AND JMSDeliveryMode = 'NON_PERSISTENT'",
        "JMSPriority = 0 AND NOT JMSRedelivered AND JMSExpiration = 0 AND JMSTimestamp = 0",
        "amqp.subject = 'told' AND JMSType = 'told'",
        "JMSDestination = 'queue'",
        "JMSMessageID IS NULL AND JMSCorrelationID IS NULL AND JMSReplyTo IS NULL",
    ] {
        assert!(Selector::parse(selector).unwrap().matches(&empty), "{selector}");
    }
    for (lines, reply_to) in
        [("@exchange=sx", "x"), ("@key=sk", "k"), ("@address=sq", "q"), ("@exchange=sx\n@key=s", "x")]
    {
        let selector = Selector::parse(&format!("JMSReplyTo = '{reply_to}'")).unwrap();
        assert!(selector.matches(&view("", "", lines)), "{selector:?}");
    }
    assert!(Selector::parse("amqp.subject IS NULL").unwrap().matches(&view("x", "", "")));
}

#[test]
fn what_is_no_selector_is_refused_at_its_place() {
    for (text, position, reason) in [
        ("hello world", 6, "something after the end"),
        ("hello ^ world", 6, "an illegal character"),
        ("A is null not", 10, "something after the end"),
        ("A is null or not", 16, "expected a literal or an identifier"),
        ("A is null or and", 13, "expected a literal or an identifier"),
        ("A is null and (B='hello out there'", 34, "missing ')' after '('"),
        ("in='hello kitty'", 0, "expected a literal or an identifier"),
        ("A is 5", 5, "expected NULL or NOT NULL after IS"),
        ("A like 234", 7, "expected a string after LIKE"),
        ("A not 234 escape", 6, "expected LIKE, IN or BETWEEN"),
        ("A not like 'eclecti_' escape 'happy'", 29, "expected a string of one ASCII character after ESCAPE"),
        ("A not like 'eclecti_' escape happy", 29, "expected a string after ESCAPE"),
        ("A not like 'eclecti_' escape '%'", 29, "'%' and '_' cannot be escape characters"),
        ("A BETWEEN AND 'true'", 10, "expected a literal or an identifier"),
        ("A NOT BETWEEN 34 OR 3.9", 17, "expected AND after BETWEEN"),
        ("A IN 'hello'", 5, "missing '(' after IN"),
        ("A IN ()", 6, "expected a literal or an identifier"),
        ("A IN ('hello', 'there' 1)", 23, "missing ',' or ')' after IN"),
        ("'Embedded 123", 0, "a string without an end"),
        ("A = 'This isn''t fair", 4, "a string without an end"),
        ("\"quoted", 0, "a quoted identifier without an end"),
        ("9223372036854775808 > 0", 0, "an integer too large"),
        ("-9223372036854775809 < 0", 1, "an integer too large"),
        ("1e999 = 1", 0, "a floating-point number too large or too small"),
        ("A = 34e", 7, "an exponent without digits"),
        ("A = .e5", 5, "a point without digits"),
        ("0b34 = 1", 2, "a number without digits"),
        ("0X_34 = 1", 2, "a number without digits"),
        ("019 = 1", 2, "something after the end"),
        ("grün = 1", 2, "an illegal character"),
        ("'grün' ^ 1", 7, "an illegal character"),
    ] {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!((error.position, error.reason), (position, reason), "{text}");
    }
    let error = Selector::parse("a b").unwrap_err().to_string();
    assert_eq!(error, "illegal selector: something after the end at character 3");
}

#[test]
fn length_and_nesting_are_bounded() {
    let nested = |open: &str, close: &str, depth: usize| {
        Selector::parse(&format!("{}a{}", open.repeat(depth), close.repeat(depth))).map(drop)
    };
    for (open, close) in [("(", ")"), ("NOT ", ""), ("-", ""), ("+", ""), ("-(", ")")] {
        let levels = if open == "-(" { MAX_DEPTH / 2 } else { MAX_DEPTH };
        assert_eq!(nested(open, close, levels), Ok(()), "{open}");
        let error = nested(open, close, levels + 1).expect_err(open);
        assert_eq!(error.reason, "nested more than 100 deep", "{open}");
    }
    // Chains are as long as they like.
    let chain = "a=1 or ".repeat(9000) + "a+1-2+3-4=0 and a=2";
    assert!(Selector::parse(&chain).unwrap().matches(&view("", "", "a=i2")));
    assert_eq!(Selector::parse(&" ".repeat(MAX_BYTES + 1)).unwrap_err().position, MAX_BYTES);
    let like = |bytes| Selector::parse(&format!("a LIKE '{}'", "x".repeat(bytes))).map(drop);
    assert_eq!(like(MAX_PATTERN_BYTES), Ok(()));
    assert_eq!(like(MAX_PATTERN_BYTES + 1).unwrap_err().position, 7);
}

#[test]
fn subscriptions_say_it_in_an_argument() {
    let of = |name: &str, value: Value| Selector::of_arguments(&Table(vec![(name.into(), value)]));
    let text = |text: &str| Value::Text(text.into());
    for name in ["x-apache-selector", "x-filter-jms-selector"] {
        let found = of(name, text("a = 1")).unwrap().expect(name);
        assert_eq!(found.text(), "a = 1");
        assert_eq!(of(name, text(" ")), Ok(None));
        for (wrong, reason) in [
            (text("a ="), "illegal selector: expected a literal or an identifier at character 4"),
            (Value::I8(1), "not a text"),
            (Value::Bytes(Name::from(&b"\xff"[..])), "not a text"),
        ] {
            let refusal = Refusal::InvalidArgument { argument: name.into(), reason: reason.to_owned() };
            assert_eq!(of(name, wrong), Err(refusal));
        }
    }
    assert_eq!(of("selector", text("a ='")), Ok(None));
}
