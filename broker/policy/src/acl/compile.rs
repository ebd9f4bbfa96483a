//! Rules, sorted by what will be asked.

use super::hosts::Hosts;
use super::parse::{Criterion, Draft, RuleDraft};
use super::pattern::{KeyPattern, Text};
use super::words::{Action, Bound, Object, Property, occasions};
use super::{Acl, Condition, Note, Quotas, Rule, Verdict};

/// What full queues do, as rules may say it.
const POLICY_TYPES: [&str; 3] = ["ring", "self-destruct", "reject"];

/// Makes rules of what a file says.
///
/// # Errors
/// Every rule that cannot be.
pub(super) fn compile(draft: Draft) -> Result<Acl, Vec<Note>> {
    let mut acl = Acl::default();
    let mut faults = Vec::new();
    let mode = draft.rules.iter().rposition(|rule| rule.users.is_none() && rule.action.is_none());
    for (at, rule) in draft.rules.iter().enumerate() {
        if Some(at) == mode {
            acl.mode = verdict(rule);
        } else if (rule.action, rule.object) == (Some(Action::Create), Some(Object::Connection)) {
            let added = add_connection_rule(&mut acl, rule);
            faults.extend(added.err().map(|text| Note { line: rule.line, text }));
        } else {
            let added = add_rule(&mut acl, rule, &draft);
            faults.extend(added.err().map(|text| Note { line: rule.line, text }));
        }
    }
    acl.connection_quotas = Quotas(draft.connection_quotas.into_iter().collect());
    acl.queue_quotas = Quotas(draft.queue_quotas.into_iter().collect());
    if faults.is_empty() { Ok(acl) } else { Err(faults) }
}

fn verdict(rule: &RuleDraft) -> Verdict {
    Verdict { outcome: rule.outcome, line: Some(rule.line) }
}

fn add_connection_rule(acl: &mut Acl, rule: &RuleDraft) -> Result<(), String> {
    let value = |property| rule.criteria.iter().find(|c| c.property == property).map(|c| c.value.as_str());
    let is_other = |c: &&Criterion| !matches!(c.property, Property::Host | Property::Name);
    if let Some(other) = rule.criteria.iter().find(is_other) {
        acl.warnings.push(ignored(rule, &format!("connections have no property '{}'", other.property)));
        return Ok(());
    }
    if value(Property::Name).is_some() {
        return Err("a rule on creating connections has no name".into());
    }
    let Some(host) = value(Property::Host) else {
        return Err("a rule on creating connections needs host=ADDRESS, host=FIRST,LAST or host=all".into());
    };
    let (hosts, verdict) = (Hosts::parse(host)?, verdict(rule));
    let connections = &mut acl.connections;
    match &rule.users {
        None if hosts == Hosts::Any => {
            if let Some(line) = connections.otherwise.replace(verdict).and_then(|before| before.line) {
                return Err(format!("line {line} says already who may connect otherwise"));
            }
        }
        None => connections.everybody.push((hosts, verdict)),
        Some(users) => {
            for user in users {
                connections.by_user.entry(user.clone()).or_default().push((hosts, verdict));
            }
        }
    }
    Ok(())
}

/// Adds a rule to every list of those that it can matter for.
fn add_rule(acl: &mut Acl, rule: &RuleDraft, draft: &Draft) -> Result<(), String> {
    if let (Some(action), Some(object)) = (rule.action, rule.object)
        && !can_match(action, object, &rule.criteria)
    {
        let why = match occasions(action, object) {
            [] => format!("nobody is ever asked whether he may {action} a {object}"),
            _ => format!("who is asked to {action} a {object} never tells all of these properties"),
        };
        acl.warnings.push(ignored(rule, &why));
        return Ok(());
    }
    // As the peer has it: a rule of everything counts, whatever it asks for.
    acl.checks_publishing |= rule.action.is_none_or(|action| action == Action::Publish);
    let index = acl.rules.len() as u32;
    let mut is_asked = false;
    for (&action, &object) in
        Action::EVERY.iter().flat_map(|action| Object::EVERY.iter().map(move |o| (action, o)))
    {
        let is_meant =
            rule.action.is_none_or(|own| own == action) && rule.object.is_none_or(|own| own == object);
        if !is_meant || !can_match(action, object, &rule.criteria) {
            continue;
        }
        is_asked = true;
        let list = &mut acl.lists[action as usize][object as usize];
        // Whoever is named in the file has a list of his own, with the rules for everybody in their places.
        let named =
            draft.users.iter().filter(|&user| rule.users.as_ref().is_none_or(|users| users.contains(user)));
        for user in named {
            list.by_user.entry(user.clone()).or_default().push(index);
        }
        if rule.users.is_none() {
            list.others.push(index);
        }
    }
    if is_asked {
        acl.rules.push(ready(rule)?);
    } else {
        acl.warnings.push(ignored(rule, "nobody is ever asked for all of these properties"));
    }
    Ok(())
}

fn ignored(rule: &RuleDraft, why: &str) -> Note {
    Note { line: rule.line, text: format!("the rule is ignored: {why}") }
}

/// Whether there is an occasion on which all that a rule asks for is known.
fn can_match(action: Action, object: Object, criteria: &[Criterion]) -> bool {
    occasions(action, object).iter().any(|known| {
        criteria
            .iter()
            .all(|criterion| criterion.property == Property::Name || known.contains(&criterion.property))
    })
}

fn ready(rule: &RuleDraft) -> Result<Rule, String> {
    let mut made = Rule { verdict: verdict(rule), name: None, conditions: Vec::new(), key: None };
    for Criterion { property, bound, value } in &rule.criteria {
        match (property, bound) {
            (Property::Name, _) => made.name = Some(Text::new(value, true)),
            (Property::RoutingKey, _) => made.key = Some(KeyPattern::new(value)),
            (_, Some(Bound::Most)) => {
                made.conditions.push(Condition::AtMost(*property, number(*property, value)?));
            }
            (_, Some(Bound::Least)) => {
                made.conditions.push(Condition::AtLeast(*property, number(*property, value)?));
            }
            (Property::PolicyType, None) if !POLICY_TYPES.contains(&value.as_str()) => {
                return Err(format!("policytype is one of {}, not '{value}'", POLICY_TYPES.join(", ")));
            }
            (_, None) => {
                let may_name_user = matches!(property, Property::Alternate | Property::QueueName);
                made.conditions.push(Condition::Is(*property, Text::new(value, may_name_user)));
            }
        }
    }
    Ok(made)
}

fn number(property: Property, value: &str) -> Result<u64, String> {
    let number = value.parse::<u64>().ok().filter(|&number| number < i64::MAX as u64);
    number.ok_or_else(|| format!("the limit of {property} is a number, not '{value}'"))
}
