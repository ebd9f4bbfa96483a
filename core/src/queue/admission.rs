//! A queue and its policy: what becomes of a message that comes, and who learns of one that goes.

use super::limit::Limit;
use super::policy::position;
use super::{Admission, Alert, Depth, Item, Policy, Queue, QueueCounters};
use crate::request::Overflow;
use crate::{MessageView, Name};

/// What follows from a message's coming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Enqueued {
    /// Its confirm has to wait.
    pub(crate) stopped: bool,
    /// What management is told.
    pub(crate) alerts: [Option<Alert>; 2],
}

impl Queue {
    /// How much is in it, in clients' hands included.
    pub(crate) fn depth(&self) -> Depth {
        Depth {
            messages: (self.ready.len() + self.unsettled.len()) as u64,
            bytes: self.ready.body_bytes() + self.unsettled.bytes(),
        }
    }

    /// What it has done by its policy.
    pub(crate) fn counters(&self) -> QueueCounters {
        self.policy.as_ref().map(|policy| policy.counters()).unwrap_or_default()
    }

    /// Whether its limit leaves room for so many bytes more.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let limit = self.policy.as_ref().and_then(|policy| policy.limit);
        limit.is_none_or(|limit| limit.has_room(self.depth(), bytes as u64))
    }

    /// Whether it refuses to take a message of so many bytes later, whatever comes until then.
    pub(crate) fn refuses_promise(&self, bytes: usize) -> bool {
        let Some(limit) = self.policy.as_deref().and_then(|policy| policy.limit) else {
            return self.refuses(bytes);
        };
        let bytes = bytes as u64;
        match limit.overflow {
            Overflow::Ring => !limit.can_hold(bytes),
            Overflow::RingStrict => {
                let is_stuck = || !matches!(self.oldest(), Some(Oldest::Ready(_)));
                !limit.can_hold(bytes) || !limit.has_room(self.depth(), bytes) && is_stuck()
            }
            Overflow::SelfDestruct => false,
            _ => !limit.has_room(self.promised_depth(), bytes),
        }
    }

    /// Keeps room for a message of so many bytes.
    pub(crate) fn keep_room(&mut self, bytes: usize) {
        self.promised.messages += 1;
        self.promised.bytes += bytes as u64;
    }

    /// Gives up room that was kept.
    pub(crate) fn give_up_room(&mut self, bytes: usize) {
        self.promised.messages -= 1;
        self.promised.bytes -= bytes as u64;
    }

    /// How deep it will be when it has what it has promised to take.
    fn promised_depth(&self) -> Depth {
        let Depth { messages, bytes } = self.depth();
        Depth { messages: messages + self.promised.messages, bytes: bytes + self.promised.bytes }
    }

    /// What becomes of a message of so many bytes and of this priority.
    pub(crate) fn admit(&mut self, bytes: u64, priority: u8) -> Admission {
        let (depth, level) = (self.depth(), self.level(priority));
        let (oldest, promised_depth) = (self.oldest(), self.promised_depth());
        let Some(policy) = self.policy.as_deref_mut() else { return Admission::Take };
        let has_room = |limit: &Limit| match limit.overflow {
            Overflow::Reject => limit.has_room(promised_depth, bytes),
            _ => limit.has_room(depth, bytes),
        };
        let Some(limit) = policy.limit.filter(|limit| !has_room(limit)) else {
            return Admission::Take;
        };
        let is_strict = limit.overflow == Overflow::RingStrict;
        let admission = match (limit.overflow, oldest) {
            (Overflow::SelfDestruct, _) => Admission::Destroy,
            (Overflow::Ring | Overflow::RingStrict, Some(oldest)) if limit.can_hold(bytes) => match oldest {
                Oldest::Held(..) if is_strict => Admission::Refuse,
                Oldest::Held(lowest, _) | Oldest::Ready(lowest) if lowest > level => Admission::Drop,
                _ => Admission::Displace,
            },
            _ => Admission::Refuse,
        };
        match admission {
            Admission::Refuse => policy.count_refused(),
            Admission::Drop | Admission::Displace => policy.count_overwritten(),
            Admission::Take | Admission::Destroy => {}
        }
        admission
    }

    /// Takes the oldest message of the lowest priority, be it in a client's hands.
    pub(crate) fn displace(&mut self) -> Option<Item> {
        self.consumers.next_is_another();
        match self.oldest()? {
            Oldest::Ready(_) => self.ready.pop_lowest(),
            Oldest::Held(_, tag) => self.take_back(tag).map(|(item, _)| item),
        }
    }

    /// Whether it wants a message at all.
    pub(crate) fn wants(&self, message: &MessageView<'_>) -> bool {
        self.policy.as_ref().is_none_or(|policy| policy.wants(message))
    }

    /// The header that holds keys, if only the last message of each key stays.
    pub(crate) fn last_value_header(&self) -> Option<&Name> {
        Some(self.policy.as_ref()?.last_value.as_ref()?.header())
    }

    /// Notes the key of the message that came last, and takes the one that it takes the place of, be it in a client's
    /// hands.
    pub(crate) fn replace(&mut self, key: Name, priority: u8) -> Option<Item> {
        let position = (self.level(priority), self.next_sequence - 1);
        let policy = self.policy.as_deref_mut()?;
        let replaced = policy.last_value.as_mut()?.enqueued(key, position)?;
        policy.count_replaced();
        match policy.held_at(replaced) {
            Some(tag) => self.take_back(tag).map(|(item, _)| item),
            None => {
                self.consumers.next_is_another();
                self.ready.remove(replaced.0, replaced.1)
            }
        }
    }

    /// The header that names groups, if it has any.
    pub(crate) fn group_header(&self) -> Option<&Name> {
        Some(self.groups()?.header())
    }

    /// Notes the group of the message that came last.
    pub(crate) fn note_group(&mut self, name: Name) {
        let place = self.next_sequence - 1;
        if let Some(groups) = self.groups_mut() {
            groups.enqueued(name, place);
        }
    }

    /// Tells its policy of the message that came last.
    pub(crate) fn note_enqueued(&mut self, now_ns: u64) -> Enqueued {
        let depth = self.depth();
        let Some(policy) = self.policy.as_deref_mut() else { return Enqueued::default() };
        let (stopped, alerts) = policy.enqueued(depth, now_ns);
        self.note_watchers();
        Enqueued { stopped, alerts }
    }

    /// Keeps the confirm of the message that came last until publishers may go on.
    pub(crate) fn withhold(&mut self, confirm: u32) {
        let sequence = self.next_sequence - 1;
        if let Some(flow) = self.policy.as_deref_mut().and_then(|policy| policy.flow.as_mut()) {
            flow.withhold(sequence, confirm);
        }
    }

    /// A message has left it for good. Whether [`Queue::observe`] has to follow, and nobody has been told so.
    pub(crate) fn gone(&mut self, item: &Item) -> bool {
        let Some(policy) = self.policy.as_deref_mut() else { return false };
        policy.gone(item);
        !std::mem::replace(&mut policy.noted, true)
    }

    /// Messages have left it: the confirms that wait no longer, and what management is told.
    pub(crate) fn observe(&mut self) -> (Vec<u32>, [Option<Alert>; 2]) {
        self.look_at_freed();
        let depth = self.depth();
        let Some(policy) = self.policy.as_deref_mut() else { return (Vec::new(), [None; 2]) };
        policy.noted = false;
        let alerts = policy.observe(depth);
        let released = policy.flow.as_mut().map(|flow| flow.take_released()).unwrap_or_default();
        self.note_watchers();
        (released, alerts)
    }

    /// The confirms that wait, when the queue ends.
    pub(crate) fn take_withheld(&mut self) -> Vec<u32> {
        let flow = self.policy.as_deref_mut().and_then(|policy| policy.flow.as_mut());
        flow.map_or_else(Vec::new, |flow| {
            flow.resume();
            flow.take_released()
        })
    }

    /// The level of a priority.
    #[inline]
    pub(super) fn level(&self, priority: u8) -> u8 {
        priority.saturating_sub(self.lowest_priority).min(self.ready.max_priority())
    }

    fn oldest(&self) -> Option<Oldest> {
        let held = self.policy.as_deref().and_then(Policy::oldest_held);
        let ready = self.ready.peek_lowest().map(position);
        match (ready, held) {
            (Some(ready), Some((held, tag))) if held < ready => Some(Oldest::Held(held.0, tag)),
            (None, Some((held, tag))) => Some(Oldest::Held(held.0, tag)),
            (Some(ready), _) => Some(Oldest::Ready(ready.0)),
            (None, None) => None,
        }
    }
}

/// The oldest message of the lowest level, and that level.
#[derive(Clone, Copy)]
enum Oldest {
    Ready(u8),
    /// With its tag.
    Held(u8, u64),
}
