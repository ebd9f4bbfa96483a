//! Values addressed by slot and generation, so that a stale [`ConnId`] finds nothing.

use crate::ConnId;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// A table whose slots are reused and whose ids are not.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    limit: u32,
}

impl<T> Slots<T> {
    /// An empty table that takes at most `limit` values.
    pub(crate) fn new(limit: u32) -> Self {
        Slots { slots: Vec::new(), free: Vec::new(), limit }
    }

    /// Puts a value in; gives it back if the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<ConnId, T> {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            debug_assert!(slot.value.is_none());
            slot.value = Some(value);
            return Ok(ConnId { index, generation: slot.generation });
        }
        let index = self.slots.len() as u32;
        if index >= self.limit {
            return Err(value);
        }
        self.slots.push(Slot { generation: 1, value: Some(value) });
        Ok(ConnId { index, generation: 1 })
    }

    /// The value, unless it is gone.
    pub(crate) fn get(&self, id: ConnId) -> Option<&T> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation { slot.value.as_ref() } else { None }
    }

    /// The value, unless it is gone.
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.value.as_mut() } else { None }
    }

    /// What the slot holds now, if anything.
    pub(crate) fn at(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.value.as_mut()
    }

    /// The id of what the slot holds now.
    pub(crate) fn id_at(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots[index as usize].generation }
    }

    /// Takes the value out; its id is stale from now on.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_ids_find_nothing_and_slots_are_reused() {
        let mut slots = Slots::new(2);
        let first = slots.insert('a').unwrap();
        let second = slots.insert('b').unwrap();
        assert_eq!(slots.insert('c'), Err('c'));
        assert_eq!(slots.remove(first.index), Some('a'));
        assert_eq!(slots.remove(first.index), None);
        let third = slots.insert('c').unwrap();
        assert_eq!(third.index, first.index);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.get(third), Some(&'c'));
        assert_eq!(slots.get(second), Some(&'b'));
        assert_eq!(slots.get(ConnId { index: 9, generation: 1 }), None);
        assert_eq!(slots.id_at(third.index), third);
    }
}
