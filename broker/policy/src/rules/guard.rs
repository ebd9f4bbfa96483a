//! What one connection may do, by the rules in force.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fulmar_core::permission::{Known, Permission};
use fulmar_core::request::Account;
use fulmar_core::{Name, Refusal, Request};

use super::permits::{Access, Permit};
use super::questions::{Kind, Question, needs, question};
use super::{RuleSet, Rules};
use crate::acl::{Acl, Action, Object, Verdict};

/// Addresses that are remembered as allowed.
const MAX_ADDRESSES: usize = 1024;

/// Asks for one connection. See [`Rules`].
pub struct Guard {
    rules: Arc<Rules>,
    epoch: u64,
    current: Arc<RuleSet>,
    /// As virtual hosts know the user.
    user: String,
    /// As access control lists do: `name@realm`.
    identity: String,
    vhost: String,
    permit: Permitted,
    /// Exchange and routing key of messages that are allowed, and how long the former is.
    allowed: HashSet<Box<[u8]>>,
    /// For looking there.
    address: Vec<u8>,
}

/// What the file of permissions says.
enum Permitted {
    Everything,
    Nothing,
    By(Box<Permit>),
}

impl Guard {
    /// For a user, who is known to access control lists as `identity`.
    pub fn new(rules: Arc<Rules>, user: String, identity: String) -> Self {
        let (epoch, current) = (rules.epoch(), rules.current());
        let mut guard = Guard {
            rules,
            epoch,
            current,
            user,
            identity,
            vhost: String::new(),
            permit: Permitted::Everything,
            allowed: HashSet::new(),
            address: Vec::new(),
        };
        guard.find_permit();
        guard
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.allowed.len()
    }

    fn find_permit(&mut self) {
        self.permit = match self.current.permits.of(&self.user) {
            None => Permitted::Everything,
            Some(own) => own
                .get(&self.vhost)
                .cloned()
                .map_or(Permitted::Nothing, |permit| Permitted::By(Box::new(permit))),
        };
    }

    /// Takes note of rules that have been replaced.
    #[inline]
    fn refresh(&mut self) {
        let epoch = self.rules.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.current = self.rules.current();
            self.allowed.clear();
            self.find_permit();
        }
    }

    fn permits(&self, access: Access, kind: Kind, name: &[u8]) -> Result<(), Refusal> {
        let is_allowed = match &self.permit {
            Permitted::Everything => true,
            Permitted::Nothing => false,
            Permitted::By(permit) => permit.allows(access, name),
        };
        if is_allowed {
            return Ok(());
        }
        self.rules.denied.fetch_add(1, Ordering::Relaxed);
        let name = if kind == Kind::Exchange && name.is_empty() { b"amq.default" } else { name };
        Err(Refusal::Denied(format!(
            "{} access to {} '{}' in vhost '{}' refused for user '{}'",
            access.word(),
            kind.word(),
            String::from_utf8_lossy(name),
            self.vhost,
            self.user
        )))
    }

    /// What an answer of the access control list comes to: a line in the log if it says so, a number if it is no.
    fn conclude(
        &self,
        verdict: Verdict,
        action: Action,
        object: Object,
        name: &str,
        refused: impl FnOnce() -> String,
    ) -> Result<(), Refusal> {
        let Verdict { outcome, line } = verdict;
        if outcome.is_logged()
            && let Some(left_out) = self.rules.log.take()
        {
            let line = line.map_or("no rule".to_owned(), |line| format!("line {line}"));
            log::info!("acl: {outcome} {} {action} {object} '{name}' ({line})", self.identity);
            if left_out > 0 {
                log::info!("acl: {left_out} more were not written down");
            }
        }
        if outcome.allows() {
            return Ok(());
        }
        self.rules.denied.fetch_add(1, Ordering::Relaxed);
        Err(Refusal::Denied(refused()))
    }

    fn ask(&self, acl: &Acl, question: &Question) -> Result<(), Refusal> {
        let Question { action, object, name, facts } = question;
        let facts: Option<Vec<_>> = facts
            .as_ref()
            .map(|facts| facts.iter().map(|(property, fact)| (*property, fact.view())).collect());
        let verdict = acl.decide(&self.identity, *action, *object, name, facts.as_deref());
        self.conclude(verdict, *action, *object, name, || {
            format!("ACL denied {object} {action} request from {}", self.identity)
        })
    }

    fn ask_publish(&self, acl: &Acl, exchange: &[u8], routing_key: &[u8]) -> Result<(), Refusal> {
        let (exchange, key) = (String::from_utf8_lossy(exchange), String::from_utf8_lossy(routing_key));
        let verdict = acl.may_publish(&self.identity, &exchange, &key);
        self.conclude(verdict, Action::Publish, Object::Exchange, &exchange, || {
            format!("{} cannot publish to {exchange} with routing-key {key}", self.identity)
        })
    }
}

impl Permission for Guard {
    fn another(&self) -> Box<dyn Permission> {
        let mut another = Guard::new(self.rules.clone(), self.user.clone(), self.identity.clone());
        self.vhost.clone_into(&mut another.vhost);
        another.find_permit();
        Box::new(another)
    }

    fn open(&mut self, vhost: &str) -> Result<(), Refusal> {
        self.refresh();
        vhost.clone_into(&mut self.vhost);
        self.find_permit();
        if matches!(self.permit, Permitted::Nothing) {
            self.rules.denied.fetch_add(1, Ordering::Relaxed);
            let text = format!("access to vhost '{vhost}' refused for user '{}'", self.user);
            return Err(Refusal::Denied(text));
        }
        Ok(())
    }

    fn request(&mut self, request: &Request, known: &Known) -> Result<(), Refusal> {
        self.refresh();
        if !matches!(self.permit, Permitted::Everything) {
            for (access, kind, name) in needs(request) {
                self.permits(access, kind, name.as_bytes())?;
            }
        }
        match &self.current.acl {
            Some(acl) => question(request, known).map_or(Ok(()), |question| self.ask(acl, &question)),
            None => Ok(()),
        }
    }

    fn account(&mut self) -> Option<Account> {
        let quota = self.current.acl.as_ref().and_then(|acl| acl.queue_quota(&self.identity));
        let most = match (quota, self.rules.sources().queues_per_user) {
            (Some(most), _) => most.into(),
            (None, 0) => u32::MAX,
            (None, most) => most,
        };
        Some(Account { user: Name::from(&self.identity[..]), most })
    }

    fn publish(&mut self, exchange: &[u8], routing_key: &[u8]) -> Result<(), Refusal> {
        self.refresh();
        let acl = self.current.acl.clone().filter(|acl| acl.checks_publishing());
        if acl.is_none() && matches!(self.permit, Permitted::Everything) {
            return Ok(());
        }
        self.address.clear();
        self.address.push(u8::try_from(exchange.len()).unwrap_or(u8::MAX));
        self.address.extend_from_slice(exchange);
        self.address.extend_from_slice(routing_key);
        if self.allowed.contains(&self.address[..]) {
            return Ok(());
        }
        self.permits(Access::Write, Kind::Exchange, exchange)?;
        if let Some(acl) = acl {
            self.ask_publish(&acl, exchange, routing_key)?;
        }
        if self.allowed.len() >= MAX_ADDRESSES {
            self.allowed.clear();
        }
        self.allowed.insert(self.address[..].into());
        Ok(())
    }
}
