//! `headers`: the arguments of a binding against the application headers of a message.
//!
//! `x-match` says how. By AMQP 0-9-1's rules `all` (the default) and `any` look at arguments that do not begin with
//! `x-`, `all-with-x` and `any-with-x` at all but `x-match` itself; by AMQP 0-10's there has to be an `x-match`, `all` or
//! `any`, and arguments that begin with `qpid.` are left out. An argument without a value asks only that the header be
//! there.
//!
//! A binding stands under one of the headers that it wants, or under each of them if any will do, so that a message is
//! held only against bindings that one of its own headers has named.

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::HashTable;
use slab::Slab;

use super::{Binding, Destination, ExchangeType, Listed, Scratch};
use crate::request::Rules;
use crate::topology::{BindingEntry, Routable};
use crate::{Name, Refusal, Table, Value};

/// What each binding asks for, and who asks for which header.
#[derive(Default)]
pub(super) struct Headers {
    patterns: Slab<Pattern>,
    cues: HashTable<Cue>,
    /// Where bindings lead that want nothing and so match everything.
    content: Listed<Destination>,
}

struct Pattern {
    destination: Destination,
    any: bool,
    wanted: Vec<Wish>,
}

/// A header that a pattern wants.
struct Wish {
    name: Name,
    /// None: whatever it is.
    value: Option<Value>,
    /// Where the header's cue has the pattern; [`UNLISTED`] if it does not.
    place: u32,
}

/// A header that patterns stand under.
struct Cue {
    name: Name,
    value: Option<Value>,
    members: Vec<Member>,
}

/// A pattern, and which of its wishes it stands there for.
#[derive(Clone, Copy)]
struct Member {
    pattern: u32,
    wish: u32,
}

const UNLISTED: u32 = u32::MAX;

impl ExchangeType for Headers {
    fn check(&self, binding: &BindingEntry) -> Result<(), Refusal> {
        mode(binding).map(drop)
    }

    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        let pattern = Pattern::new(binding);
        if pattern.is_content() {
            self.content.insert(binding.id, binding.destination);
        }
        let place = self.patterns.insert(pattern) as u32;
        self.enlist(place);
        place
    }

    fn unbind(&mut self, binding: &Binding<'_>, place: u32) {
        let pattern = self.patterns.remove(place as usize);
        if pattern.is_content() {
            self.content.remove(binding.id);
        }
        for wish in pattern.wanted.iter().filter(|wish| wish.place != UNLISTED) {
            self.strike(wish);
        }
    }

    fn route(&self, _: &[u8], message: &Routable<'_>, _: &mut Scratch, found: &mut Vec<Destination>) {
        found.extend(self.content.items());
        if self.cues.is_empty() || !message.has_headers {
            return;
        }
        let headers = message.encoding.headers(message.properties);
        for (name, value) in &headers.0 {
            for value in [None, Some(value)] {
                let Some(cue) = self.cue(name.as_bytes(), value) else { continue };
                let patterns = cue.members.iter().map(|member| &self.patterns[member.pattern as usize]);
                let matching = patterns.filter(|pattern| pattern.matches(&headers));
                found.extend(matching.map(|pattern| pattern.destination));
            }
        }
    }

    fn is_by_key_alone(&self) -> bool {
        false
    }

    fn is_matching_arguments(&self) -> bool {
        true
    }

    fn is_described(&self, binding: &BindingEntry, arguments: &Table) -> bool {
        let mut own = binding.arguments.0.iter().filter(|(name, _)| !is_reserved(name.as_bytes()));
        own.all(|(name, value)| {
            let asked = arguments.get(name.as_bytes());
            asked.is_some_and(|asked| *value == Value::Void || value.is_equivalent(asked))
        })
    }
}

impl Headers {
    /// Puts a new pattern under the headers that may call it: each that it wants if any will do, otherwise the one that
    /// fewest others stand under.
    fn enlist(&mut self, place: u32) {
        let pattern = &self.patterns[place as usize];
        let wishes = 0..pattern.wanted.len() as u32;
        if pattern.any {
            return wishes.for_each(|wish| self.list(Member { pattern: place, wish }));
        }
        let crowd = |wish: &Wish| {
            self.cue(wish.name.as_bytes(), wish.value.as_ref()).map_or(0, |cue| cue.members.len())
        };
        // A header that is there, whatever it is, says least.
        let rarest = wishes.min_by_key(|&wish| {
            let wish = &pattern.wanted[wish as usize];
            (wish.value.is_none(), crowd(wish))
        });
        if let Some(wish) = rarest {
            self.list(Member { pattern: place, wish });
        }
    }

    fn list(&mut self, member: Member) {
        let wish = &mut self.patterns[member.pattern as usize].wanted[member.wish as usize];
        let (name, value) = (wish.name.as_bytes(), wish.value.as_ref());
        let entry = self.cues.entry(hash(name, value), |cue| cue.is(name, value), Cue::hash);
        let cue = entry.or_insert_with(|| Cue {
            name: wish.name.clone(),
            value: wish.value.clone(),
            members: Vec::new(),
        });
        wish.place = cue.get().members.len() as u32;
        cue.into_mut().members.push(member);
    }

    /// Takes a pattern that is gone from a header's list.
    fn strike(&mut self, wish: &Wish) {
        let (name, value) = (wish.name.as_bytes(), wish.value.as_ref());
        let found = self.cues.find_entry(hash(name, value), |cue| cue.is(name, value));
        let Ok(mut cue) = found else { unreachable!("a listed wish has a cue") };
        let members = &mut cue.get_mut().members;
        members.swap_remove(wish.place as usize);
        match members.get(wish.place as usize) {
            Some(moved) => {
                self.patterns[moved.pattern as usize].wanted[moved.wish as usize].place = wish.place;
            }
            None if members.is_empty() => drop(cue.remove()),
            None => {}
        }
    }

    fn cue(&self, name: &[u8], value: Option<&Value>) -> Option<&Cue> {
        self.cues.find(hash(name, value), |cue| cue.is(name, value))
    }
}

impl Cue {
    fn is(&self, name: &[u8], value: Option<&Value>) -> bool {
        self.name.as_bytes() == name
            && match (&self.value, value) {
                (None, None) => true,
                (Some(own), Some(value)) => own.is_equivalent(value),
                _ => false,
            }
    }

    fn hash(&self) -> u64 {
        hash(self.name.as_bytes(), self.value.as_ref())
    }
}

fn hash(name: &[u8], value: Option<&Value>) -> u64 {
    let mut hasher = crate::hash::Hashing::default().build_hasher();
    name.hash(&mut hasher);
    match value {
        Some(value) => value.hash_equivalent(&mut hasher),
        None => hasher.write_u8(u8::MAX),
    }
    hasher.finish()
}

impl Pattern {
    fn new(binding: &Binding<'_>) -> Self {
        let mode = mode(binding.entry).expect("arguments were checked when planned");
        let mut wanted: Vec<Wish> = Vec::new();
        for (name, value) in binding.entry.arguments.0.iter().filter(|(name, _)| mode.counts(name.as_bytes()))
        {
            // Names may repeat on the wire; the first one counts, and a message has it once.
            if wanted.iter().all(|wish| wish.name != *name) {
                let value = Some(value).filter(|value| **value != Value::Void).cloned();
                wanted.push(Wish { name: name.clone(), value, place: UNLISTED });
            }
        }
        Pattern { destination: binding.destination, any: mode.any, wanted }
    }

    /// Whether nothing at all is wanted.
    fn is_content(&self) -> bool {
        !self.any && self.wanted.is_empty()
    }

    fn matches(&self, headers: &Table) -> bool {
        let matches = |wish: &Wish| {
            let header = headers.get(wish.name.as_bytes());
            header.is_some_and(|header| wish.value.as_ref().is_none_or(|value| value.is_equivalent(header)))
        };
        if self.any { self.wanted.iter().any(matches) } else { self.wanted.iter().all(matches) }
    }
}

/// How a binding's arguments are held against headers.
struct Mode {
    /// One of them suffices.
    any: bool,
    with_x: bool,
    with_qpid: bool,
}

impl Mode {
    /// Whether an argument of that name names a header.
    fn counts(&self, name: &[u8]) -> bool {
        name != b"x-match"
            && (self.with_x || !name.starts_with(b"x-"))
            && (self.with_qpid || !is_reserved(name))
    }
}

fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"qpid.")
}

fn mode(binding: &BindingEntry) -> Result<Mode, Refusal> {
    match binding.rules {
        Rules::Amqp091 => mode_0_9_1(&binding.arguments),
        Rules::Amqp010 => mode_0_10(binding),
    }
}

fn mode_0_9_1(arguments: &Table) -> Result<Mode, Refusal> {
    let invalid = |reason: String| Refusal::InvalidArgument { argument: "x-match".into(), reason };
    let (any, with_x) = match arguments.get(b"x-match") {
        None => (false, false),
        Some(Value::Text(mode)) => match mode.as_bytes() {
            b"all" => (false, false),
            b"any" => (true, false),
            b"all-with-x" => (false, true),
            b"any-with-x" => (true, true),
            _ => {
                let known = "'all', 'any', 'all-with-x', 'any-with-x'";
                return Err(invalid(format!("'{mode}' is not one of {known}")));
            }
        },
        Some(other) => return Err(invalid(format!("{other} is not text"))),
    };
    Ok(Mode { any, with_x, with_qpid: true })
}

fn mode_0_10(binding: &BindingEntry) -> Result<Mode, Refusal> {
    let any = match binding.arguments.get(b"x-match").and_then(Value::as_bytes) {
        Some(b"all") => false,
        Some(b"any") => true,
        _ => {
            let reason = "the argument 'x-match' has to be 'all' or 'any'".into();
            return Err(Refusal::InvalidBinding { exchange: binding.source.clone(), reason });
        }
    };
    Ok(Mode { any, with_x: true, with_qpid: false })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn by_amqp_0_10_s_rules_x_counts_and_qpid_does_not() {
        let mut exchange = Headers::default();
        let arguments = [("x-match", text("all")), ("x-a", text("1")), ("qpid.fed.op", text("B"))];
        let entry = BindingEntry { rules: Rules::Amqp010, ..entry("", &arguments) };
        exchange.check(&entry).unwrap();
        exchange.bind(&bound(0, 1, &entry));
        assert_eq!(found_with(&exchange, "", &[("x-a", text("1"))]), [1]);
        assert!(found_with(&exchange, "", &[("b", text("1"))]).is_empty());
    }

    #[test]
    fn only_what_a_message_names_is_looked_at() {
        let mut exchange = Headers::default();
        let entries: Vec<_> =
            (0..100).map(|n| entry("", &[("kind", text("all the same")), ("n", Value::I32(n))])).collect();
        for (n, entry) in entries.iter().enumerate() {
            exchange.bind(&bound(n as u32, n as u32, entry));
        }
        let crowds: Vec<usize> = exchange.cues.iter().map(|cue| cue.members.len()).collect();
        assert_eq!(crowds, vec![1; 100], "each stands under what tells it from the others");
    }

    fn wish() -> impl Strategy<Value = (&'static str, Value)> {
        let value = prop_oneof![
            Just(Value::Void),
            (0..3u8).prop_map(Value::U8),
            (0..3i32).prop_map(Value::I32),
            prop::sample::select(vec!["a", "b"]).prop_map(text),
        ];
        (prop::sample::select(vec!["a", "b", "c", "x-d", "qpid.e"]), value)
    }

    /// The definition. Of a name that repeats the first one counts.
    fn naive(rules: Rules, any: bool, arguments: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
        let first = |fields: &[(&str, Value)], name: &str| {
            fields.iter().find(|field| field.0 == name).map(|field| field.1.clone())
        };
        let mut names: Vec<&str> = arguments.iter().map(|(name, _)| *name).collect();
        names.retain(|name| !name.starts_with(if rules == Rules::Amqp091 { "x-" } else { "qpid." }));
        let matches = |name: &&str| match (first(arguments, name), first(headers, name)) {
            (Some(wanted), Some(own)) => wanted == Value::Void || wanted.is_equivalent(&own),
            _ => false,
        };
        if any { names.iter().any(matches) } else { names.iter().all(matches) }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_agrees_with_the_definition(
            patterns in prop::collection::vec((any::<bool>(), any::<bool>(), prop::collection::vec(wish(), 0..4)), 1..20),
            removed in prop::collection::vec(any::<bool>(), 20),
            messages in prop::collection::vec(prop::collection::vec(wish(), 0..5), 1..10),
        ) {
            let mut exchange = Headers::default();
            let mut entries = Vec::new();
            for (amqp_0_10, any, wishes) in &patterns {
                let rules = if *amqp_0_10 { Rules::Amqp010 } else { Rules::Amqp091 };
                let mut arguments = vec![("x-match", text(if *any { "any" } else { "all" }))];
                arguments.extend(wishes.iter().cloned());
                entries.push(BindingEntry { rules, ..entry("", &arguments) });
            }
            let bind = |(n, entry)| exchange.bind(&bound(n as u32, n as u32, entry));
            let places: Vec<u32> = entries.iter().enumerate().map(bind).collect();
            for (n, entry) in entries.iter().enumerate().filter(|(n, _)| removed[*n]) {
                exchange.unbind(&bound(n as u32, n as u32, entry), places[n]);
            }
            for headers in &messages {
                let expected: Vec<u32> = (0..patterns.len()).filter(|&n| !removed[n]).filter(|&n| {
                    let (_, any, wishes) = &patterns[n];
                    naive(entries[n].rules, *any, wishes, headers)
                }).map(|n| n as u32).collect();
                prop_assert_eq!(found_with(&exchange, "", headers), expected);
            }
            for (n, entry) in entries.iter().enumerate().filter(|(n, _)| !removed[*n]) {
                exchange.unbind(&bound(n as u32, n as u32, entry), places[n]);
            }
            prop_assert!(exchange.patterns.is_empty() && exchange.cues.is_empty());
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
