//! Access control lists: who may do what, by the rules of a file as Apache Qpid C++ reads it.
//!
//! 1. The first rule that matches decides; if none does, the last rule for everybody and everything, wherever it stands;
//!    if there is none, nothing is allowed.
//! 2. A file is taken as a whole or not at all: every line that is wrong is named with its reason.
//! 3. Messages are looked at only if a rule speaks of publishing, as the peer has it ([`Acl::checks_publishing`]).
//!
//! [`parse`](self) makes rules of lines, `compile` sorts them by what is asked, `hosts` and `pattern` compare.

mod compile;
mod hosts;
mod parse;
mod pattern;
#[cfg(test)]
mod tests;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

pub use words::{Action, Object, Outcome, Property};

use hosts::Hosts;
use pattern::{Identity, KeyPattern, Text};
use words::{ACTIONS, OBJECTS};

/// The rules of a file.
#[derive(Debug, Default)]
pub struct Acl {
    rules: Vec<Rule>,
    /// By action and object.
    lists: [[List; OBJECTS]; ACTIONS],
    mode: Verdict,
    checks_publishing: bool,
    connections: Connections,
    connection_quotas: Quotas,
    queue_quotas: Quotas,
    warnings: Vec<Note>,
}

/// A line of a file, and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line, from 1.
    pub line: u32,
    /// What it is.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

/// A decision, and the rule that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The decision.
    pub outcome: Outcome,
    /// The line of the rule; `None` if there was none.
    pub line: Option<u32>,
}

/// Something known of what is asked, besides its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    /// A name or a word.
    Text(&'a str),
    /// Yes or no; rules say `true` and `false`.
    Flag(bool),
    /// A size or a count.
    Number(u64),
}

/// A rule, ready to be compared.
#[derive(Debug)]
struct Rule {
    verdict: Verdict,
    name: Option<Text>,
    conditions: Vec<Condition>,
    /// The key that a publisher uses.
    key: Option<KeyPattern>,
}

/// What has to hold besides the name and the routing key.
#[derive(Debug)]
enum Condition {
    Is(Property, Text),
    AtMost(Property, u64),
    AtLeast(Property, u64),
}

/// The rules for one action on one kind of object, in the file's order, as indices.
#[derive(Debug, Default)]
struct List {
    by_user: HashMap<String, Vec<u32>>,
    others: Vec<u32>,
}

/// Where users may connect from.
#[derive(Debug, Default)]
struct Connections {
    everybody: Vec<(Hosts, Verdict)>,
    by_user: HashMap<String, Vec<(Hosts, Verdict)>>,
    otherwise: Option<Verdict>,
}

/// How many of something users may have.
#[derive(Debug, Default)]
struct Quotas(HashMap<String, u16>);

impl Quotas {
    fn of(&self, user: &str) -> Option<u16> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.0.get(user).or_else(|| self.0.get(words::ALL)).copied().unwrap_or(0))
    }
}

impl Acl {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Every line that is wrong.
    pub fn parse(text: &str) -> Result<Acl, Vec<Note>> {
        compile::compile(parse::parse(text)?)
    }

    /// Lines that were understood and will never matter.
    pub fn warnings(&self) -> &[Note] {
        &self.warnings
    }

    /// Whether messages have to be asked for at all.
    pub fn checks_publishing(&self) -> bool {
        self.checks_publishing
    }

    /// Whether a user, as `name@realm`, may do something with the object of that name. A rule that asks for a property
    /// which is not among the facts does not speak of this; without facts, rules are not held to what they ask for, which
    /// is how the peer has it for queries, consuming and purging.
    pub fn decide(
        &self,
        user: &str,
        action: Action,
        object: Object,
        name: &str,
        facts: Option<&[(Property, Fact<'_>)]>,
    ) -> Verdict {
        let identity = Identity::of(user);
        let rules = self.rules_for(user, action, object);
        rules.filter_map(|rule| rule.judge(&identity, name, facts)).next().unwrap_or(self.mode)
    }

    /// Whether a user may publish to an exchange with a routing key. The default exchange has the empty name.
    pub fn may_publish(&self, user: &str, exchange: &str, routing_key: &str) -> Verdict {
        let identity = Identity::of(user);
        let mut rules = self.rules_for(user, Action::Publish, Object::Exchange);
        let found = rules.find(|rule| rule.covers_publish(&identity, exchange, routing_key));
        found.map_or(self.mode, |rule| rule.verdict)
    }

    /// Whether a user may connect from an address.
    pub fn may_connect(&self, user: &str, from: IpAddr) -> Verdict {
        let Connections { everybody, by_user, otherwise } = &self.connections;
        let own = by_user.get(user).map_or(&[][..], Vec::as_slice);
        let found = everybody.iter().chain(own).find(|(hosts, _)| hosts.contains(from));
        let allowed = Verdict { outcome: Outcome::Allow, line: None };
        found.map(|(_, verdict)| *verdict).or(*otherwise).unwrap_or(allowed)
    }

    /// How many connections a user may have; `None`: that is not limited here.
    pub fn connection_quota(&self, user: &str) -> Option<u16> {
        self.connection_quotas.of(user)
    }

    /// How many queues a user may have; `None`: that is not limited here.
    pub fn queue_quota(&self, user: &str) -> Option<u16> {
        self.queue_quotas.of(user)
    }

    fn rules_for(&self, user: &str, action: Action, object: Object) -> impl Iterator<Item = &Rule> {
        let List { by_user, others } = &self.lists[action as usize][object as usize];
        by_user.get(user).unwrap_or(others).iter().map(|&index| &self.rules[index as usize])
    }
}

impl Rule {
    /// What the rule says, if it speaks of this.
    fn judge(
        &self,
        user: &Identity<'_>,
        name: &str,
        facts: Option<&[(Property, Fact<'_>)]>,
    ) -> Option<Verdict> {
        if self.name.as_ref().is_some_and(|text| !text.matches(user, name)) {
            return None;
        }
        let Some(facts) = facts else { return Some(self.verdict) };
        let known = |property| facts.iter().find(|(known, _)| *known == property).map(|(_, fact)| *fact);
        if let Some(pattern) = &self.key {
            match known(Property::RoutingKey)? {
                Fact::Text(key) if pattern.matches(user, key) => {}
                _ => return None,
            }
        }
        let mut is_within_limits = true;
        for condition in &self.conditions {
            match condition {
                Condition::Is(property, text) => {
                    let is_so = match known(*property)? {
                        Fact::Text(found) => text.matches(user, found),
                        Fact::Flag(found) => text.matches(user, if found { "true" } else { "false" }),
                        Fact::Number(found) => text.matches(user, &found.to_string()),
                    };
                    if !is_so {
                        return None;
                    }
                }
                Condition::AtMost(property, limit) => {
                    is_within_limits &= within(known(*property)?, *limit, |found, limit| found <= limit);
                }
                Condition::AtLeast(property, limit) => {
                    is_within_limits &= within(known(*property)?, *limit, |found, limit| found >= limit);
                }
            }
        }
        let outcome = match self.verdict.outcome {
            Outcome::Allow if !is_within_limits => Outcome::Deny,
            Outcome::AllowLog if !is_within_limits => Outcome::DenyLog,
            outcome => outcome,
        };
        Some(Verdict { outcome, ..self.verdict })
    }

    fn covers_publish(&self, user: &Identity<'_>, exchange: &str, routing_key: &str) -> bool {
        let is_exchange = self.name.as_ref().is_none_or(|text| text.matches_exchange(user, exchange));
        is_exchange && self.key.as_ref().is_none_or(|key| key.matches_published(user, routing_key))
    }
}

/// A limit of 0 is none.
fn within(fact: Fact<'_>, limit: u64, holds: fn(u64, u64) -> bool) -> bool {
    match fact {
        _ if limit == 0 => true,
        Fact::Number(found) => holds(found, limit),
        Fact::Text(_) | Fact::Flag(_) => false,
    }
}
