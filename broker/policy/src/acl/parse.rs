//! Lines become groups, quotas and rules. Nothing here knows what rules mean together.

use std::collections::{BTreeSet, HashMap};

use super::Note;
use super::words::{ALL, Action, Bound, Object, Outcome, Property, criterion};

/// The largest quota.
const MOST_QUOTA: u16 = 65_530;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) rules: Vec<RuleDraft>,
    /// Later ones count.
    pub(super) connection_quotas: Vec<(String, u16)>,
    pub(super) queue_quotas: Vec<(String, u16)>,
    /// Everybody whom the file names.
    pub(super) users: BTreeSet<String>,
}

/// A rule as it stands.
#[derive(Debug)]
pub(super) struct RuleDraft {
    pub(super) line: u32,
    pub(super) outcome: Outcome,
    /// `None`: everybody.
    pub(super) users: Option<BTreeSet<String>>,
    /// `None`: every action.
    pub(super) action: Option<Action>,
    /// Without one: every object.
    pub(super) object: Option<Object>,
    pub(super) criteria: Vec<Criterion>,
}

/// What a rule asks of a property.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Criterion {
    pub(super) property: Property,
    pub(super) bound: Option<Bound>,
    pub(super) value: String,
}

/// Reads all lines.
///
/// # Errors
/// Every line that is wrong.
pub(super) fn parse(text: &str) -> Result<Draft, Vec<Note>> {
    let mut parser = Parser::default();
    let mut faults = Vec::new();
    let mut last = 0;
    for (line, text) in (1..).zip(text.lines()) {
        last = line;
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        parser.line = line;
        if let Err(text) = parser.line(text) {
            faults.push(Note { line, text });
        }
    }
    if parser.continues {
        faults.push(Note { line: last, text: "the file ends where a group is to be continued".into() });
    }
    if faults.is_empty() { Ok(parser.draft) } else { Err(faults) }
}

#[derive(Default)]
struct Parser {
    draft: Draft,
    groups: HashMap<String, BTreeSet<String>>,
    line: u32,
    /// The group that the last line was of.
    group: String,
    /// The last line ended with a backslash.
    continues: bool,
}

impl Parser {
    fn line(&mut self, text: &str) -> Result<(), String> {
        let (text, continues) = match text.rsplit_once('\\') {
            Some((before, _)) => (before, true),
            None => (text, false),
        };
        let is_continued = std::mem::replace(&mut self.continues, continues);
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words[..] {
            [] if continues => Err("nothing stands before the backslash".into()),
            [] => Ok(()),
            _ if is_continued => self.members(&words),
            ["group", ref rest @ ..] => self.group(rest, continues),
            // Nothing but a group is continued: the next line would become one.
            _ if continues => {
                self.continues = false;
                Err("only groups are continued on the next line".into())
            }
            ["acl", ref rest @ ..] => self.rule(rest),
            ["quota", ref rest @ ..] => self.quota(rest),
            _ => Err(format!("a line begins with 'group', 'acl' or 'quota', not with '{}'", words[0])),
        }
    }

    fn group(&mut self, words: &[&str], continues: bool) -> Result<(), String> {
        let [name, members @ ..] = words else { return Err("a group needs a name".into()) };
        if members.is_empty() && !continues {
            return Err(format!("group '{name}' has no members"));
        }
        if !is_group_name(name) {
            return Err(format!("'{name}' is no name of a group: letters, digits, '-' and '_' make one"));
        }
        if self.groups.contains_key(*name) {
            return Err(format!("group '{name}' is there already"));
        }
        self.groups.insert(name.to_string(), BTreeSet::new());
        self.group = name.to_string();
        self.members(members)
    }

    fn members(&mut self, words: &[&str]) -> Result<(), String> {
        for &word in words {
            if word == self.group {
                continue;
            }
            let members = match self.groups.get(word) {
                Some(members) => members.clone(),
                None if is_group_name(word) => {
                    return Err(format!("group '{word}' is not there yet; a user is written as name@realm"));
                }
                None => {
                    check_user(word)?;
                    self.draft.users.insert(word.to_string());
                    BTreeSet::from([word.to_string()])
                }
            };
            self.groups.entry(self.group.clone()).or_default().extend(members);
        }
        Ok(())
    }

    fn quota(&mut self, words: &[&str]) -> Result<(), String> {
        let [what, most, names @ ..] = words else {
            return Err("a quota is written as: quota connections|queues NUMBER user|group|all …".into());
        };
        let most = most.parse().ok().filter(|&most| most <= MOST_QUOTA);
        let most =
            most.ok_or_else(|| format!("a quota is a number up to {MOST_QUOTA}, not '{}'", words[1]))?;
        let quotas = match *what {
            "connections" => &mut self.draft.connection_quotas,
            "queues" => &mut self.draft.queue_quotas,
            _ => return Err(format!("there are quotas of connections and of queues, not of '{what}'")),
        };
        for &name in names {
            match self.groups.get(name) {
                Some(members) => quotas.extend(members.iter().map(|member| (member.clone(), most))),
                None => quotas.push((name.to_string(), most)),
            }
        }
        Ok(())
    }

    fn rule(&mut self, words: &[&str]) -> Result<(), String> {
        let [outcome, user, action, rest @ ..] = words else {
            return Err("a rule is written as: acl PERMISSION user|group|all ACTION|all [OBJECT|all [PROPERTY=VALUE …]]".into());
        };
        let outcome = outcome.parse()?;
        if *user == ALL && *action == ALL && !rest.is_empty() {
            return Err(format!("nothing can follow 'all all', but '{}' does", rest.join(" ")));
        }
        let action = if *action == ALL { None } else { Some(action.parse()?) };
        let (object, properties) = match rest {
            [] | [ALL] => (None, &[][..]),
            [ALL, properties @ ..] => (None, properties),
            [object, properties @ ..] => (Some(object.parse()?), properties),
        };
        let mut criteria: Vec<Criterion> = Vec::new();
        for word in properties {
            let found = read_criterion(word)?;
            // The first one counts.
            let is_known = |known: &Criterion| (known.property, known.bound) == (found.property, found.bound);
            if !criteria.iter().any(is_known) {
                criteria.push(found);
            }
        }
        let users = (*user != ALL).then(|| self.users(user));
        self.draft.rules.push(RuleDraft { line: self.line, outcome, users, action, object, criteria });
        Ok(())
    }

    fn users(&mut self, name: &str) -> BTreeSet<String> {
        if let Some(members) = self.groups.get(name) {
            return members.clone();
        }
        self.draft.users.insert(name.to_string());
        BTreeSet::from([name.to_string()])
    }
}

fn read_criterion(word: &str) -> Result<Criterion, String> {
    let Some((name, value)) = word.split_once('=').filter(|(_, value)| !value.is_empty()) else {
        return Err(format!("'{word}' is not written as property=value"));
    };
    let (property, bound) = criterion(name).ok_or_else(|| format!("unknown property '{name}'"))?;
    Ok(Criterion { property, bound, value: value.to_string() })
}

fn is_group_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn check_user(name: &str) -> Result<(), String> {
    if name.split_once('@').is_none_or(|(_, realm)| realm.is_empty()) {
        return Err(format!("user '{name}' needs a realm: name@realm"));
    }
    let is_legal =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'@' | b'.' | b'/');
    if !name.bytes().all(is_legal) {
        return Err(format!("user '{name}' has characters other than letters, digits and -_@./"));
    }
    Ok(())
}
