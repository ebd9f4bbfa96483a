//! Exchanges that keep something from message to message: how many there were (`qpid.msg_sequence`), or the last one
//! (`qpid.ive`, initial value).
//!
//! 1. Such an exchange has a home, as a queue has. What is published to it, or dead-lettered, passes there, is numbered
//!    and kept there and goes on to its queues from there: every queue gets it in the order of the numbers.
//! 2. A binding made while there is a last message gets it, if it matches; no other does again.
//! 3. Only the exchange that a message is addressed to looks, not those that it comes to by way of others.
//!
//! After a restart a durable exchange goes on with larger numbers; its last message is forgotten.
//!
//! A session's request to another shard may overtake what it published to such an exchange and has no confirm for yet.

use super::envelope::Letter;
use super::handover::is_handover;
use super::publish::Selected;
use super::route::Route;
use super::sessions::OpenConfirm;
use super::{Published, Shard};
use crate::mesh::Lane;
use crate::message::{Edit, Message};
use crate::topology::{BindingEntry, ExchangeEntry, Keeping};
use crate::{MessageId, Name, QueueId, SessionId, Value, VhostId};

/// The header that tells a message's number.
const SEQUENCE: &str = "qpid.msg_sequence";

const NS_PER_MS: u64 = 1_000_000;

/// How many bits of a number count the messages of one run. Above them are the runs before.
const NUMBER_BITS: u32 = 40;

/// What is missing of a confirm while the exchange's home has not told how many shards will answer.
const UNTOLD: u32 = 1 << 31;

/// What an exchange keeps.
#[derive(Default)]
pub(super) struct Kept {
    /// The last message's number.
    sequence: i64,
    last: Option<Last>,
}

impl Kept {
    /// Of an exchange that was there in runs before this one. Each run has numbers of its own, since nobody writes down how
    /// far the one before has come.
    pub(super) fn of_later_run(run: u32) -> Self {
        Kept { sequence: i64::from(run.saturating_sub(1)) << NUMBER_BITS, last: None }
    }
}

/// The last message that came.
#[derive(Clone, Copy)]
struct Last {
    message: MessageId,
    since_ns: u64,
}

/// Where a message goes that passes an exchange's home, and who wants to know of it.
pub(super) struct Passage {
    vhost: VhostId,
    /// Not always the one that the message was published to.
    exchange: Name,
    confirm: Option<(SessionId, u64)>,
    /// A queue gave it up, and may not get it again for ever.
    dead: bool,
}

/// What the home of an exchange has to tell of a publish.
struct Outcome {
    /// Answers that are still to come.
    missing: u32,
    accepted: bool,
}

impl Shard {
    /// Publishes a message to an exchange that keeps something. Takes it over, except as [`Published::Unroutable`] says.
    pub(super) fn publish_to_keeper(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        message: MessageId,
        mandatory: bool,
        confirm: Option<u64>,
        keeping: Keeping,
    ) -> Published {
        let exchange = Name::from(self.store.view(message).exchange);
        let mut passage = Passage { vhost, exchange, confirm: None, dead: false };
        if mandatory && self.route_passage(&passage, message).0.is_empty() {
            self.store.retain(message);
            self.hand_to_keeper(passage, message, keeping);
            return Published::Unroutable(message);
        }
        passage.confirm = confirm.map(|sequence| (session, sequence));
        let Outcome { missing, accepted } = self.hand_to_keeper(passage, message, keeping);
        let (Some(sequence), 1..) = (confirm, missing) else {
            return if accepted { Published::Confirmed } else { Published::Rejected };
        };
        if let Some(session) = self.session_mut(session) {
            session.confirms.push_back(OpenConfirm { sequence, missing, accepted });
        }
        Published::Pending
    }

    /// Hands a message that comes from a queue, which gave it up if it is `dead`, to the home of an exchange, if that
    /// keeps something; otherwise nothing was done. Takes the message over. How many will answer.
    pub(super) fn pass_to_keeper(
        &mut self,
        vhost: VhostId,
        exchange: &[u8],
        message: MessageId,
        dead: bool,
        handover: Option<(SessionId, u64)>,
    ) -> Option<u32> {
        let keeping = self.topology.keeping(vhost, exchange)?;
        let passage = Passage { vhost, exchange: Name::from(exchange), confirm: handover, dead };
        Some(self.hand_to_keeper(passage, message, keeping).missing)
    }

    /// A message from another shard for an exchange at home here.
    pub(super) fn receive_for_keeper(&mut self, passage: &Passage, message: Message) {
        let message = self.store.insert(message);
        let Outcome { missing, accepted } =
            match self.topology.keeping(passage.vhost, passage.exchange.as_bytes()) {
                Some(keeping) => self.route_from_keeper(passage, message, keeping),
                // Deleted while the message was on its way.
                None => {
                    self.store.release(message);
                    Outcome { missing: 0, accepted: true }
                }
            };
        if let Some((session, sequence)) = passage.confirm {
            let letter = Letter::Routed { session, sequence, missing, accepted };
            self.send(session.shard, Lane::Reply, letter);
        }
    }

    /// An exchange's home has routed a message that a session here published.
    pub(super) fn routed_by_keeper(&mut self, id: SessionId, sequence: u64, missing: u32, accepted: bool) {
        if is_handover(id) {
            self.expect_of_handover(sequence, i64::from(missing) + 1 - i64::from(UNTOLD));
            return self.handed_over(sequence, sequence);
        }
        let Some(session) = self.session_mut(id) else { return };
        let Ok(at) = session.confirms.binary_search_by_key(&sequence, |open| open.sequence) else { return };
        // Some may have answered before. One more is missing until the end of this.
        session.confirms[at].missing -= UNTOLD - 1 - missing;
        self.confirmed(id, sequence, sequence, accepted);
    }

    /// A binding was made: its exchange's last message goes to it, if it is kept here.
    pub(super) fn send_initial_value(&mut self, binding: &BindingEntry) {
        let Some(keeping) = self.topology.keeping(binding.vhost, binding.source.as_bytes()) else { return };
        let last = self.kept.get(&keeping.slot).and_then(|kept| kept.last);
        let Some(Last { message, since_ns }) = last else { return };
        let content = self.store.get(message);
        let age_ms = (self.clock.monotonic_ns - since_ns) / NS_PER_MS;
        if content.ttl_ms().is_some_and(|ttl_ms| ttl_ms <= age_ms) {
            return;
        }
        let mut targets = Vec::new();
        self.topology.route_by_binding(binding, &content.routable(self.random.next()), &mut targets);
        self.store.retain(message);
        self.distribute_internally(message, &targets, None);
    }

    /// An exchange is about to go, and with it what it keeps.
    pub(super) fn forget_kept(&mut self, exchange: &ExchangeEntry) {
        let Some(keeping) = self.topology.keeping(exchange.vhost, exchange.name.as_bytes()) else { return };
        if let Some(Last { message, .. }) = self.kept.remove(&keeping.slot).and_then(|kept| kept.last) {
            self.store.release(message);
        }
    }

    /// Takes the message over.
    fn hand_to_keeper(&mut self, passage: Passage, message: MessageId, keeping: Keeping) -> Outcome {
        if keeping.home == self.config.id {
            return self.route_from_keeper(&passage, message, keeping);
        }
        let message = self.store.extract(message);
        let missing = if passage.confirm.is_some() { UNTOLD } else { 0 };
        let letter = Letter::PublishToKeeper { passage: Box::new(passage), message };
        self.send(keeping.home, Lane::Data, letter);
        Outcome { missing, accepted: true }
    }

    /// At the exchange's home: numbers and keeps a message, and hands it to its queues. Takes it over.
    fn route_from_keeper(&mut self, passage: &Passage, message: MessageId, keeping: Keeping) -> Outcome {
        let message = self.keep(message, keeping);
        let (mut targets, has_blind_keys) = self.route_passage(passage, message);
        if passage.dead {
            self.remove_cycles(message, &mut targets);
        }
        self.stats.unroutable += u64::from(targets.is_empty());
        let message = if has_blind_keys { self.without_blind_keys(message) } else { message };
        let mut route = Route::default();
        route.set(&targets, self.config.id);
        let is_published = passage.confirm.is_some_and(|(session, _)| !is_handover(session));
        if is_published && self.admit_or_release(&route.local, message).is_err() {
            return Outcome { missing: 0, accepted: false };
        }
        let outcome = self.hand_to_all(message, &route, passage.confirm);
        let missing = route.remote.len() as u32 + u32::from(outcome.withheld);
        Outcome { missing, accepted: outcome.accepted }
    }

    /// Takes the message over and gives the one that takes its place.
    fn keep(&mut self, mut message: MessageId, keeping: Keeping) -> MessageId {
        let kept = self.kept.entry(keeping.slot).or_default();
        if keeping.sequence {
            kept.sequence += 1;
            let header = (Name::from(SEQUENCE), Value::I64(kept.sequence));
            message = self.store.edit(message, &Edit { set_headers: vec![header], ..Edit::default() });
        }
        if keeping.initial_value {
            self.store.retain(message);
            let last = Last { message, since_ns: self.clock.monotonic_ns };
            if let Some(old) = kept.last.replace(last) {
                self.store.release(old.message);
            }
        }
        message
    }

    /// The queues that an exchange leads a message to, and whether some of them are by keys that nobody may see.
    fn route_passage(&mut self, passage: &Passage, message: MessageId) -> (Vec<QueueId>, bool) {
        let exchange = passage.exchange.as_bytes();
        let content = self.store.get(message);
        let selected = match content.view().exchange == exchange {
            true => Selected::of(content),
            // Keys that a publisher chose were for the exchange that it published to.
            false => Selected::default(),
        };
        let mut targets = Vec::new();
        // An exchange that has gone meanwhile takes nothing.
        let _ = self.route_by_exchange(passage.vhost, Some(exchange), message, &selected, &mut targets);
        (targets, selected.has_blind_keys())
    }
}
