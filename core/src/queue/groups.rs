//! Message groups: what has one value in a header goes to one consumer at a time, in order.
//!
//! A group has an owner while somebody holds messages of it; until all of them are settled the rest of the group is for
//! nobody else. Here is known to which group each message belongs, from its coming until it is gone for good, and which
//! of them wait. What comes back finds its place, so that the order in a group stays whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use slab::Slab;

use crate::hash::Map;
use crate::{Name, SessionId};

/// Who holds messages of a group: a consumer, or a session that fetched them.
pub(crate) type Owner = (SessionId, Option<u32>);

struct Group {
    name: Name,
    owner: Option<Owner>,
    /// Places of those that wait.
    ready: BTreeSet<u64>,
    /// How many are in the owner's hands.
    held: usize,
}

/// The groups of one queue.
pub(crate) struct Groups {
    header: Name,
    groups: Slab<Group>,
    by_name: Map<Name, u32>,
    /// Groups by the places of their messages.
    members: Map<u64, u32>,
    /// Groups without an owner that have something to give, by the first place of each.
    free: BTreeMap<u64, u32>,
    /// The same for those with an owner.
    owned: Map<Owner, BTreeMap<u64, u32>>,
    /// The first place of those that lost their owner and that nobody has been told of.
    freed: Option<u64>,
}

impl Groups {
    /// Groups are named by this header.
    pub(crate) fn new(header: Name) -> Self {
        Groups {
            header,
            groups: Slab::new(),
            by_name: Map::default(),
            members: Map::default(),
            free: BTreeMap::new(),
            owned: Map::default(),
            freed: None,
        }
    }

    /// The header.
    pub(crate) fn header(&self) -> &Name {
        &self.header
    }

    /// A message of that group came.
    pub(crate) fn enqueued(&mut self, name: Name, place: u64) {
        let index = match self.by_name.get(name.as_bytes()) {
            Some(&index) => index,
            None => {
                let group = Group { name: name.clone(), owner: None, ready: BTreeSet::new(), held: 0 };
                let index = self.groups.insert(group) as u32;
                self.by_name.insert(name, index);
                index
            }
        };
        self.members.insert(place, index);
        self.change(index, |group| {
            group.ready.insert(place);
        });
    }

    /// The place of the first message that somebody may take.
    pub(crate) fn first_for(&self, owner: Owner) -> Option<u64> {
        let free = self.free.keys().next();
        let own = self.owned.get(&owner).and_then(|groups| groups.keys().next());
        match (free, own) {
            (Some(free), Some(own)) => Some(*free.min(own)),
            (free, own) => free.or(own).copied(),
        }
    }

    /// Whether somebody may take a message.
    pub(crate) fn is_for(&self, place: u64, owner: Owner) -> bool {
        let Some(&index) = self.members.get(&place) else { return true };
        self.groups[index as usize].owner.is_none_or(|other| other == owner)
    }

    /// A message that waited is in somebody's hands, and its group with it.
    pub(crate) fn taken(&mut self, place: u64, owner: Owner) {
        let Some(&index) = self.members.get(&place) else { return };
        self.change(index, |group| {
            debug_assert!(group.owner.is_none_or(|other| other == owner));
            let waited = group.ready.remove(&place);
            debug_assert!(waited, "a message is taken once");
            group.owner = Some(owner);
            group.held += 1;
        });
    }

    /// A message came back.
    pub(crate) fn requeued(&mut self, place: u64) {
        let Some(&index) = self.members.get(&place) else { return };
        self.change(index, |group| {
            group.held -= 1;
            group.ready.insert(place);
        });
    }

    /// A message is gone, wherever it was.
    pub(crate) fn gone(&mut self, place: u64) {
        let Some(index) = self.members.remove(&place) else { return };
        self.change(index, |group| {
            if !group.ready.remove(&place) {
                group.held -= 1;
            }
        });
    }

    /// The first place of groups that have lost their owner since the last call.
    pub(crate) fn take_freed(&mut self) -> Option<u64> {
        self.freed.take()
    }

    /// Changes a group, and what is known of it with it.
    fn change(&mut self, index: u32, change: impl FnOnce(&mut Group)) {
        self.unlist(index);
        let group = &mut self.groups[index as usize];
        change(group);
        if group.held == 0 && group.ready.is_empty() {
            let group = self.groups.remove(index as usize);
            self.by_name.remove(group.name.as_bytes());
            return;
        }
        if group.held == 0 && group.owner.take().is_some() {
            let first = group.ready.first().copied();
            self.freed = self.freed.into_iter().chain(first).min();
        }
        self.list(index);
    }

    fn unlist(&mut self, index: u32) {
        let Group { ready, owner, .. } = &self.groups[index as usize];
        let Some(first) = ready.first() else { return };
        match owner {
            None => {
                self.free.remove(first);
            }
            Some(owner) => {
                let Some(groups) = self.owned.get_mut(owner) else { return };
                groups.remove(first);
                if groups.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
    }

    fn list(&mut self, index: u32) {
        let Group { ready, owner, .. } = &self.groups[index as usize];
        let Some(&first) = ready.first() else { return };
        match owner {
            None => self.free.insert(first, index),
            Some(owner) => self.owned.entry(*owner).or_default().insert(first, index),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardId;

    fn owner(id: u32) -> Owner {
        (SessionId { shard: ShardId(0), index: 0, generation: 0 }, Some(id))
    }

    /// One message of each group named, at the places from 0 on.
    fn groups(names: &str) -> Groups {
        let mut groups = Groups::new(Name::from("group"));
        for (place, name) in names.chars().enumerate() {
            groups.enqueued(Name::from(name.to_string()), place as u64);
        }
        groups
    }

    fn take(groups: &mut Groups, id: u32) -> Option<u64> {
        let place = groups.first_for(owner(id))?;
        groups.taken(place, owner(id));
        Some(place)
    }

    #[test]
    fn a_group_stays_with_whom_it_is_until_all_is_settled() {
        let mut groups = groups("AAABBBCCC");
        assert_eq!((take(&mut groups, 1), take(&mut groups, 2)), (Some(0), Some(3)));
        groups.gone(0);
        assert_eq!(groups.take_freed(), Some(1));
        assert_eq!((take(&mut groups, 2), take(&mut groups, 1)), (Some(1), Some(6)));
        assert!(groups.is_for(2, owner(2)) && !groups.is_for(2, owner(1)));
        groups.gone(3);
        assert_eq!(take(&mut groups, 1), Some(4));
        groups.gone(6);
        assert_eq!((take(&mut groups, 2), take(&mut groups, 2)), (Some(2), Some(7)));
        assert_eq!(groups.take_freed(), Some(4));
        [1, 2, 7].into_iter().for_each(|place| groups.gone(place));
        assert_eq!((take(&mut groups, 2), take(&mut groups, 2)), (Some(8), None));
        groups.gone(4);
        assert_eq!((take(&mut groups, 2), take(&mut groups, 1)), (Some(5), None));
    }

    #[test]
    fn what_comes_back_goes_first_and_frees_its_group() {
        let mut groups = groups("AABA");
        assert_eq!((take(&mut groups, 1), take(&mut groups, 1)), (Some(0), Some(1)));
        groups.requeued(0);
        assert_eq!(groups.take_freed(), None);
        assert_eq!((groups.first_for(owner(2)), groups.first_for(owner(1))), (Some(2), Some(0)));
        groups.requeued(1);
        assert_eq!(groups.take_freed(), Some(0));
        assert_eq!(take(&mut groups, 2), Some(0));
        // What is neither held nor waits leaves its group as it is.
        groups.gone(1);
        groups.gone(3);
        assert_eq!((take(&mut groups, 1), take(&mut groups, 1)), (Some(2), None));
        groups.gone(0);
        groups.gone(2);
        assert!(groups.groups.is_empty() && groups.by_name.is_empty() && groups.members.is_empty());
        assert!(groups.free.is_empty() && groups.owned.is_empty() && groups.take_freed().is_none());
    }
}
