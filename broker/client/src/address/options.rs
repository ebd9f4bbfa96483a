//! The options of an address: which there are, and of what type.

use fulmar_core::{Table, Value};

use super::parser::{Entry, Mistake, Parsed, Part, Tree};
use super::{
    Address, AddressBinding, Declare, LinkOptions, NodeKind, NodeOptions, Policy, Reliability, Subscribe,
};

/// Gives a parsed address its meaning.
///
/// # Errors
/// The first option that is not known, or whose value cannot be used.
pub(super) fn address((name, subject, options): Parsed) -> Result<Address, Mistake> {
    let mut address = Address { name, subject, ..Address::default() };
    for Entry { at, name, value } in options {
        match name.as_str() {
            "create" => address.create = policy(&value)?,
            "assert" => address.assert = policy(&value)?,
            "delete" => address.delete = policy(&value)?,
            "mode" => address.browse = choice(&value, &[("browse", true), ("consume", false)])?,
            "node" => address.node = node(value)?,
            "link" => address.link = link(value)?,
            _ => return Err(unknown(at, &name, "create, assert, delete, mode, node and link")),
        }
    }
    Ok(address)
}

fn node(part: Part) -> Result<NodeOptions, Mistake> {
    let mut node = NodeOptions::default();
    for Entry { at, name, value } in map(part)? {
        match name.as_str() {
            "type" => {
                let kinds = [("queue", NodeKind::Queue), ("topic", NodeKind::Topic)];
                node.kind = Some(choice(&value, &kinds)?);
            }
            "durable" => node.durable = boolean(&value)?,
            "x-declare" => node.declare = declare(value)?,
            "x-bindings" => node.bindings = bindings(value)?,
            _ => return Err(unknown(at, &name, "type, durable, x-declare and x-bindings")),
        }
    }
    Ok(node)
}

fn link(part: Part) -> Result<LinkOptions, Mistake> {
    let mut link = LinkOptions::default();
    for Entry { at, name, value } in map(part)? {
        match name.as_str() {
            "name" => link.name = Some(text(value)?),
            "durable" => link.durable = boolean(&value)?,
            "reliability" => {
                let choices = [
                    ("unreliable", Reliability::Unreliable),
                    ("at-most-once", Reliability::AtMostOnce),
                    ("at-least-once", Reliability::AtLeastOnce),
                    ("exactly-once", Reliability::ExactlyOnce),
                ];
                link.reliability = Some(choice(&value, &choices)?);
            }
            "timeout" => link.timeout_s = Some(number(&value)?),
            "x-declare" => link.declare = declare(value)?,
            "x-bindings" => link.bindings = bindings(value)?,
            "x-subscribe" => link.subscribe = subscribe(value)?,
            "selector" => link.selector = Some(text(value)?),
            _ => {
                let known =
                    "name, durable, reliability, timeout, x-declare, x-bindings, x-subscribe and selector";
                return Err(unknown(at, &name, known));
            }
        }
    }
    Ok(link)
}

fn declare(part: Part) -> Result<Declare, Mistake> {
    let mut declare = Declare::default();
    for Entry { at, name, value } in map(part)? {
        // Both spellings are in use.
        match name.replace('_', "-").as_str() {
            "type" => declare.kind = Some(text(value)?),
            "durable" => declare.durable = Some(boolean(&value)?),
            "exclusive" => declare.exclusive = Some(boolean(&value)?),
            "auto-delete" => declare.auto_delete = Some(boolean(&value)?),
            "alternate-exchange" => declare.alternate_exchange = Some(text(value)?),
            "arguments" => declare.arguments = table(value)?,
            _ => {
                let known = "type, durable, exclusive, auto-delete, alternate-exchange and arguments";
                return Err(unknown(at, &name, known));
            }
        }
    }
    Ok(declare)
}

fn subscribe(part: Part) -> Result<Subscribe, Mistake> {
    let mut subscribe = Subscribe::default();
    for Entry { at, name, value } in map(part)? {
        match name.as_str() {
            "exclusive" => subscribe.exclusive = Some(boolean(&value)?),
            "arguments" => subscribe.arguments = table(value)?,
            _ => return Err(unknown(at, &name, "exclusive and arguments")),
        }
    }
    Ok(subscribe)
}

fn bindings(part: Part) -> Result<Vec<AddressBinding>, Mistake> {
    let Tree::List(parts) = part.tree else { return Err(wrong(&part, "a list")) };
    parts.into_iter().map(binding).collect()
}

fn binding(part: Part) -> Result<AddressBinding, Mistake> {
    let mut binding = AddressBinding::default();
    for Entry { at, name, value } in map(part)? {
        match name.as_str() {
            "exchange" => binding.exchange = Some(text(value)?),
            "queue" => binding.queue = Some(text(value)?),
            "key" => binding.key = Some(text(value)?),
            "arguments" => binding.arguments = table(value)?,
            _ => return Err(unknown(at, &name, "exchange, queue, key and arguments")),
        }
    }
    Ok(binding)
}

fn policy(part: &Part) -> Result<Policy, Mistake> {
    let policies = [
        ("always", Policy::Always),
        ("sender", Policy::Sender),
        ("receiver", Policy::Receiver),
        ("never", Policy::Never),
    ];
    choice(part, &policies)
}

fn choice<T: Copy>(part: &Part, choices: &[(&str, T)]) -> Result<T, Mistake> {
    let chosen = match &part.tree {
        Tree::Text(text) => choices.iter().find(|(name, _)| name == text),
        _ => None,
    };
    chosen.map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
        wrong(part, &format!("one of {}", names.join(", ")))
    })
}

/// Text counts too, since one of the libraries writes truth values in quotes.
fn boolean(part: &Part) -> Result<bool, Mistake> {
    match &part.tree {
        Tree::Bool(value) => Ok(*value),
        Tree::Text(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Tree::Text(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Tree::Integer(value @ 0..=1) => Ok(*value == 1),
        _ => Err(wrong(part, "True or False")),
    }
}

fn number(part: &Part) -> Result<u32, Mistake> {
    let number = if let Tree::Integer(value) = part.tree { u32::try_from(value).ok() } else { None };
    number.ok_or_else(|| wrong(part, "a number from 0"))
}

/// Words that look like something else are text where text belongs.
fn text(part: Part) -> Result<String, Mistake> {
    match part.tree {
        Tree::Text(text) => Ok(text),
        Tree::Integer(value) => Ok(value.to_string()),
        _ => Err(wrong(&part, "text")),
    }
}

fn map(part: Part) -> Result<Vec<Entry>, Mistake> {
    match part.tree {
        Tree::Map(entries) => Ok(entries),
        _ => Err(wrong(&part, "options in {}")),
    }
}

fn table(part: Part) -> Result<Table, Mistake> {
    let entries = map(part)?;
    Ok(Table(entries.into_iter().map(|entry| (entry.name.into(), value(entry.value))).collect()))
}

fn value(part: Part) -> Value {
    match part.tree {
        Tree::Void => Value::Void,
        Tree::Bool(value) => Value::Bool(value),
        Tree::Integer(value) => Value::I64(value),
        Tree::Float(value) => Value::F64(value),
        Tree::Text(text) => Value::Text(text.into()),
        Tree::List(parts) => Value::Array(parts.into_iter().map(value).collect()),
        Tree::Map(entries) => Value::Table(Table(
            entries.into_iter().map(|entry| (entry.name.into(), value(entry.value))).collect(),
        )),
    }
}

fn wrong(part: &Part, wanted: &str) -> Mistake {
    Mistake { at: part.at, reason: format!("{wanted} is expected here") }
}

fn unknown(at: usize, name: &str, known: &str) -> Mistake {
    Mistake { at, reason: format!("the option {name} is not known; {known} are") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn every_option_has_its_place() {
        let address = address(
            "x/s; {create: sender, assert: receiver, delete: always, mode: browse,
              node: {type: topic, durable: True, x-declare: {type: xml, auto-delete: 'True', exclusive: 1,
                     alternate-exchange: amq.fanout, arguments: {'qpid.ive': 1}},
                     x-bindings: [{exchange: e, queue: q, key: k, arguments: {a: [1.5, {b: None}]}}]},
              link: {name: n, durable: true, reliability: at-least-once, timeout: 7, selector: \"a = 'b'\",
                     x-declare: {auto_delete: False, durable: False}, x-bindings: [{}],
                     x-subscribe: {exclusive: True, arguments: {c: 2}}}}",
        );
        let argument = |table: &Table, name: &str| table.get(name.as_bytes()).cloned();
        assert_eq!((address.create, address.assert), (Policy::Sender, Policy::Receiver));
        assert_eq!((address.delete, address.browse), (Policy::Always, true));
        let node = &address.node;
        assert_eq!((node.kind, node.durable), (Some(NodeKind::Topic), true));
        assert_eq!((node.declare.auto_delete, node.declare.exclusive), (Some(true), Some(true)));
        assert_eq!(node.declare.alternate_exchange.as_deref(), Some("amq.fanout"));
        assert_eq!(node.declare.kind.as_deref(), Some("xml"));
        assert_eq!(argument(&node.declare.arguments, "qpid.ive"), Some(Value::I64(1)));
        let inner = Value::Table(Table(vec![("b".into(), Value::Void)]));
        let expected = Some(Value::Array(vec![Value::F64(1.5), inner]));
        assert_eq!(argument(&node.bindings[0].arguments, "a"), expected);
        assert_eq!(node.bindings[0].key.as_deref(), Some("k"));
        let link = &address.link;
        assert_eq!((link.name.as_deref(), link.timeout_s), (Some("n"), Some(7)));
        assert_eq!((link.durable, link.reliability), (true, Some(Reliability::AtLeastOnce)));
        assert_eq!((link.declare.auto_delete, link.declare.durable), (Some(false), Some(false)));
        assert_eq!(link.bindings, [AddressBinding::default()]);
        assert_eq!((link.subscribe.exclusive, link.selector.as_deref()), (Some(true), Some("a = 'b'")));
        assert_eq!(argument(&link.subscribe.arguments, "c"), Some(Value::I64(2)));
    }

    #[test]
    fn what_is_not_an_option_is_told_with_its_place() {
        for (text, at, reason) in [
            ("q; {creat: always}", 5, "creat is not known"),
            ("q; {create: sometimes}", 13, "one of always, sender"),
            ("q; {node: {type: heap}}", 18, "one of queue, topic"),
            ("q; {node: queue}", 11, "options in {}"),
            ("q; {node: {durable: 2}}", 21, "True or False"),
            ("q; {node: {x-declare: {colour: red}}}", 24, "colour"),
            ("q; {link: {x-bindings: {}}}", 24, "a list"),
            ("q; {link: {timeout: -1}}", 21, "a number from 0"),
            ("q; {link: {name: []}}", 18, "text"),
            ("q; {mode: look}", 11, "one of browse, consume"),
        ] {
            match text.parse::<Address>() {
                Err(Error::Address { at: found, reason: told, .. }) => {
                    assert!(found == at && told.contains(reason), "{text}: {found} {told}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
