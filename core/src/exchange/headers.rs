//! `headers`: the arguments of a binding against the application headers of a message.
//!
//! `x-match` says how: `all` (the default) and `any` look at arguments that do not begin with `x-`, `all-with-x` and
//! `any-with-x` at all but `x-match` itself. An argument without a value asks only that the header be there.

use super::{Binding, Destination, ExchangeType, Listed, Scratch};
use crate::topology::{BindingEntry, Routable};
use crate::{Name, Refusal, Table, Value};

/// What each binding asks for.
#[derive(Default)]
pub(super) struct Headers {
    bindings: Listed<Pattern>,
}

struct Pattern {
    destination: Destination,
    any: bool,
    wanted: Vec<(Name, Value)>,
}

impl ExchangeType for Headers {
    fn check(&self, binding: &BindingEntry) -> Result<(), Refusal> {
        mode(&binding.arguments).map(drop)
    }

    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        let arguments = &binding.entry.arguments;
        let (any, with_x) = mode(arguments).expect("arguments were checked when planned");
        let counts = |name: &[u8]| if with_x { name != b"x-match" } else { !name.starts_with(b"x-") };
        let wanted = arguments.0.iter().filter(|(name, _)| counts(name.as_bytes())).cloned().collect();
        self.bindings.insert(binding.id, Pattern { destination: binding.destination, any, wanted });
        0
    }

    fn unbind(&mut self, binding: &Binding<'_>, _: u32) {
        self.bindings.remove(binding.id);
    }

    fn route(&self, _: &[u8], message: &Routable<'_>, _: &mut Scratch, found: &mut Vec<Destination>) {
        let headers = match message.has_headers {
            true => message.encoding.headers(message.properties),
            false => Table::default(),
        };
        let matching = self.bindings.items().filter(|pattern| pattern.matches(&headers));
        found.extend(matching.map(|pattern| pattern.destination));
    }

    fn is_by_key_alone(&self) -> bool {
        false
    }
}

impl Pattern {
    fn matches(&self, headers: &Table) -> bool {
        let matches = |(name, wanted): &(Name, Value)| {
            headers
                .get(name.as_bytes())
                .is_some_and(|value| *wanted == Value::Void || wanted.is_equivalent(value))
        };
        if self.any { self.wanted.iter().any(matches) } else { self.wanted.iter().all(matches) }
    }
}

/// Whether one of the arguments suffices, and whether those beginning with `x-` count.
fn mode(arguments: &Table) -> Result<(bool, bool), Refusal> {
    let invalid = |reason: String| Refusal::InvalidArgument { argument: "x-match".into(), reason };
    match arguments.get(b"x-match") {
        None => Ok((false, false)),
        Some(Value::Text(mode)) => match mode.as_bytes() {
            b"all" => Ok((false, false)),
            b"any" => Ok((true, false)),
            b"all-with-x" => Ok((false, true)),
            b"any-with-x" => Ok((true, true)),
            _ => Err(invalid(format!("'{mode}' is not one of 'all', 'any', 'all-with-x', 'any-with-x'"))),
        },
        Some(other) => Err(invalid(format!("{other} is not text"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::tests::{bound, entry, found_with};

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    /// Whether a binding with those arguments matches a message with those headers.
    fn matches(arguments: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
        let mut exchange = Headers::default();
        let entry = entry("ignored", arguments);
        exchange.check(&entry).unwrap();
        exchange.bind(&bound(0, 1, &entry));
        found_with(&exchange, "key", headers) == [1]
    }

    #[test]
    fn all_is_the_default() {
        for x_match in [None, Some(("x-match", text("all")))] {
            let mut arguments = vec![("a", Value::I32(1)), ("b", text("two"))];
            arguments.extend(x_match);
            assert!(matches(&arguments, &[("b", text("two")), ("a", Value::I32(1)), ("c", Value::Void)]));
            assert!(!matches(&arguments, &[("a", Value::I32(1))]));
            assert!(!matches(&arguments, &[("a", Value::I32(1)), ("b", text("three"))]));
        }
        assert!(matches(&[], &[]), "nothing asked for is always there");
    }

    #[test]
    fn any_needs_one() {
        let arguments = [("x-match", text("any")), ("a", Value::I32(1)), ("b", text("two"))];
        assert!(matches(&arguments, &[("b", text("two"))]));
        assert!(!matches(&arguments, &[("b", text("three")), ("c", Value::I32(1))]));
        assert!(!matches(&[("x-match", text("any"))], &[("a", Value::I32(1))]));
    }

    #[test]
    fn x_headers_count_only_where_asked_for() {
        for (mode, counts) in [("all", false), ("all-with-x", true)] {
            let arguments = [("x-match", text(mode)), ("x-a", text("1")), ("b", text("2"))];
            assert_eq!(!matches(&arguments, &[("b", text("2"))]), counts);
            assert!(matches(&arguments, &[("b", text("2")), ("x-a", text("1"))]));
        }
        for (mode, counts) in [("any", false), ("any-with-x", true)] {
            let arguments = [("x-match", text(mode)), ("x-a", text("1")), ("b", text("2"))];
            assert_eq!(matches(&arguments, &[("x-a", text("1"))]), counts);
        }
    }

    #[test]
    fn no_value_asks_for_presence() {
        let arguments = [("a", Value::Void)];
        assert!(matches(&arguments, &[("a", text("whatever"))]));
        assert!(!matches(&arguments, &[("b", text("whatever"))]));
    }

    #[test]
    fn integers_match_whatever_their_width_and_other_types_do_not() {
        assert!(matches(&[("a", Value::I64(5))], &[("a", Value::U8(5))]));
        assert!(!matches(&[("a", Value::I64(5))], &[("a", text("5"))]));
    }

    #[test]
    fn unbinding_takes_the_right_one() {
        let mut exchange = Headers::default();
        let entries = ["1", "2", "3"].map(|value| entry("", &[("a", text(value))]));
        for (n, entry) in entries.iter().enumerate() {
            exchange.bind(&bound(n as u32, n as u32, entry));
        }
        exchange.unbind(&bound(0, 0, &entries[0]), 0);
        for n in 0..3u32 {
            let found = found_with(&exchange, "", &[("a", text(&(n + 1).to_string()))]);
            assert_eq!(found, if n == 0 { vec![] } else { vec![n] });
        }
    }

    #[test]
    fn an_unknown_mode_is_refused() {
        for mode in [text("some"), Value::I32(1)] {
            let refused = Headers::default().check(&entry("", &[("x-match", mode)]));
            assert!(
                matches!(refused, Err(Refusal::InvalidArgument { argument, .. }) if argument == "x-match".into())
            );
        }
    }
}
