//! The exchange: bindings, keys, headers, bodies.

use fulmar_core::message::{Edit, Properties};
use fulmar_core::request::{DestinationKind, Rules};
use fulmar_core::{Encoding, VhostId};

use super::*;

/// Properties are `name=number` or `name=text` with `;` between them, headers; those with `~` in front are not headers.
struct Plain;

impl Encoding for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }

    fn headers(&self, _: &[u8]) -> Table {
        Table::default()
    }

    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>> {
        let text = std::str::from_utf8(properties).unwrap();
        let fields = text.split(';').filter_map(|field| field.split_once('='));
        let (_, value) = fields.into_iter().find(|(known, _)| known.as_bytes() == name)?;
        Some(value.parse().map_or(Scalar::Text(value.as_bytes()), Scalar::Int))
    }

    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }

    fn property(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        match self.scalar(properties, &[b"~", name].concat())? {
            Scalar::Text(text) => Some(Value::Text(text.into())),
            other => panic!("{other:?} is no property of these tests"),
        }
    }

    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

fn entry(key: &str, query: Option<Value>) -> BindingEntry {
    BindingEntry {
        vhost: VhostId(0),
        source: "x".into(),
        destination: "q".into(),
        kind: DestinationKind::Queue,
        key: key.into(),
        arguments: Table(query.map(|query| (Name::from("xquery"), query)).into_iter().collect()),
        rules: Rules::Amqp010,
    }
}

fn query(text: &str) -> Option<Value> {
    Some(Value::Text(text.into()))
}

fn routed(exchange: &Xml, key: &str, properties: &str, body: &[u8]) -> Vec<u32> {
    let message = Routable {
        key: key.as_bytes(),
        properties: properties.as_bytes(),
        encoding: &Plain,
        has_headers: !properties.is_empty(),
        body,
        random: 0,
    };
    let mut found = Vec::new();
    exchange.route(key.as_bytes(), &message, &mut Scratch::default(), &mut found);
    let mut queues: Vec<u32> = found
        .into_iter()
        .map(|destination| match destination {
            Destination::Queue(queue) => queue,
            Destination::Exchange(_) => panic!("nothing else was bound"),
        })
        .collect();
    queues.sort();
    queues
}

fn bound(bindings: &[(&str, Option<Value>)]) -> (Xml, Vec<BindingEntry>) {
    let mut exchange = Xml::default();
    let entries: Vec<_> = bindings.iter().map(|(key, query)| entry(key, query.clone())).collect();
    for (n, entry) in entries.iter().enumerate() {
        exchange.check(entry).unwrap();
        exchange.bind(&Binding { id: n as u32, destination: Destination::Queue(n as u32), entry });
    }
    (exchange, entries)
}

#[test]
fn key_and_query_have_to_match() {
    let (exchange, _) = bound(&[
        ("k", query("./colour = 'blue'")),
        ("k", query("./colour = 'red'")),
        ("l", query("./colour = 'blue'")),
        ("k", query("")),
        ("k", None),
        ("k", query("./colour = 'blue'")),
    ]);
    assert_eq!(routed(&exchange, "k", "", b"<colour>blue</colour>"), [0, 3, 4, 5]);
    assert_eq!(routed(&exchange, "k", "", b"<colour>red</colour>"), [1, 3, 4]);
    assert_eq!(routed(&exchange, "l", "", b"<colour>blue</colour>"), [2]);
    assert_eq!(routed(&exchange, "k", "", b"<>colour>blue</colour>"), [3, 4], "the body need not be XML");
    assert_eq!(routed(&exchange, "none", "", b"<colour>blue</colour>"), []);
}

#[test]
fn headers_are_variables_and_so_are_properties() {
    let prolog = "declare variable $colour external; declare variable $n external;\
                  declare variable $content-type external;";
    let (exchange, _) = bound(&[
        ("k", query(&format!("{prolog} $colour = 'blue'"))),
        ("k", query(&format!("{prolog} $n + 1 = 3"))),
        ("k", query(&format!("{prolog} $content-type = 'text/xml'"))),
    ]);
    assert_eq!(routed(&exchange, "k", "colour=blue;n=2", b"not XML"), [0, 1]);
    assert_eq!(routed(&exchange, "k", "~content-type=text/xml", b""), [2]);
    assert_eq!(
        routed(&exchange, "k", "content-type=a;~content-type=text/xml", b""),
        [],
        "a header comes first"
    );
    assert_eq!(routed(&exchange, "k", "", b""), []);
}

#[test]
fn unbinding_takes_the_right_one() {
    let (mut exchange, entries) =
        bound(&[("k", query("true()")), ("k", query("true()")), ("k", query("1 = 1")), ("l", None)]);
    for n in [1u32, 3, 0] {
        let (destination, entry) = (Destination::Queue(n), &entries[n as usize]);
        exchange.unbind(&Binding { id: n, destination, entry }, 0);
    }
    assert_eq!(routed(&exchange, "k", "", b""), [2]);
    let (destination, entry) = (Destination::Queue(2), &entries[2]);
    exchange.unbind(&Binding { id: 2, destination, entry }, 0);
    assert!(exchange.by_key.is_empty());
}

#[test]
fn a_query_that_does_not_parse_is_refused_with_its_place() {
    let check = |query| Xml::default().check(&entry("k", query));
    let refused = |query| match check(query) {
        Err(Refusal::InvalidBinding { exchange, reason }) => {
            assert_eq!(exchange, Name::from("x"));
            reason
        }
        other => panic!("expected it to be refused: {other:?}"),
    };
    assert_eq!(
        refused(query("./colour $=! 'blue'")),
        "the query does not parse: line 1, column 10: expected an operator or the end, found '$'"
    );
    assert_eq!(refused(Some(Value::I32(1))), "the argument 'xquery' is not text");
    assert_eq!(refused(Some(Value::Bytes(Name::from(&b"\xff"[..])))), "the query is not valid UTF-8");
    assert_eq!(check(Some(Value::Bytes("true()".into()))), Ok(()));
}

#[test]
fn a_message_pays_for_all_its_queries_from_one_purse() {
    let costly = "count(for $a in 1 to 1000, $b in 1 to 1000 return 1) > 5";
    let bindings: Vec<_> = (0..30)
        .map(|n| ("k", query(&format!("{costly}(: {n} :)"))))
        .chain([("k", query("true()"))])
        .collect();
    let (exchange, _) = bound(&bindings);
    assert_eq!(routed(&exchange, "k", "", b""), [], "nothing was left for the last one");
    let (exchange, _) = bound(&bindings[27..]);
    assert_eq!(routed(&exchange, "k", "", b""), [3]);
    let same: Vec<_> = (0..30).map(|_| ("k", query(costly))).chain([("k", query("true()"))]).collect();
    let (exchange, _) = bound(&same);
    assert_eq!(routed(&exchange, "k", "", b""), [30], "the same query is worked out once");
}

#[test]
fn bodies_that_would_cost_too_much_to_parse_are_none() {
    let (exchange, _) = bound(&[("k", query("*")), ("k", query("not(*)")), ("k", query("true()"))]);
    let attributes = |count: usize| {
        let all: String = (0..count).map(|n| format!(" a{n} = \"{n}\"")).collect();
        format!("<m{all}/>")
    };
    let namespaces = |count: usize| {
        let open: String = (0..count).map(|n| format!("<a xmlns:p{n}='urn:{n}'>")).collect();
        format!("{open}{}", "</a>".repeat(count))
    };
    let whole = [0, 2];
    let none = [2];
    assert_eq!(routed(&exchange, "k", "", b"<m/>"), whole);
    assert_eq!(routed(&exchange, "k", "", attributes(200).as_bytes()), whole);
    assert_eq!(routed(&exchange, "k", "", attributes(300).as_bytes()), none);
    assert_eq!(routed(&exchange, "k", "", attributes(200_000).as_bytes()), none);
    assert_eq!(routed(&exchange, "k", "", namespaces(200).as_bytes()), whole);
    assert_eq!(routed(&exchange, "k", "", namespaces(30_000).as_bytes()), none);
    assert_eq!(routed(&exchange, "k", "", format!("<m>{}</m>", "x".repeat(1 << 20)).as_bytes()), none);
    assert_eq!(routed(&exchange, "k", "", format!("<m>{}</m>", "<n/>".repeat(200_000)).as_bytes()), none);
    let entities = b"<!DOCTYPE m [<!ENTITY a 'aaaa'>]><m>&a;</m>";
    assert_eq!(routed(&exchange, "k", "", entities), none);
    assert_eq!(routed(&exchange, "k", "", b"<m>\xff</m>"), none, "it is not UTF-8");
}
