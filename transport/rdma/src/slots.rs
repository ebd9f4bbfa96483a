//! Values addressed by slot and generation, so that a stale [`ConnId`] finds nothing.

use fulmar_transport::ConnId;
use slab::Slab;

/// A table whose slots are reused and whose ids are not.
pub(crate) struct Slots<T> {
    values: Slab<T>,
    generations: Vec<u32>,
    limit: u32,
}

impl<T> Slots<T> {
    /// An empty table that takes at most `limit` values.
    pub(crate) fn new(limit: u32) -> Self {
        Slots { values: Slab::new(), generations: Vec::new(), limit }
    }

    /// Puts a value in; gives it back if the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<ConnId, T> {
        if self.values.len() >= self.limit as usize {
            return Err(value);
        }
        let index = self.values.insert(value);
        if index == self.generations.len() {
            self.generations.push(0);
        }
        self.generations[index] = self.generations[index].wrapping_add(1);
        Ok(self.id_at(index as u32))
    }

    /// The value, unless it is gone.
    pub(crate) fn get(&self, id: ConnId) -> Option<&T> {
        let is_current = self.generations.get(id.index as usize) == Some(&id.generation);
        self.values.get(id.index as usize).filter(|_| is_current)
    }

    /// The value, unless it is gone.
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let is_current = self.generations.get(id.index as usize) == Some(&id.generation);
        self.values.get_mut(id.index as usize).filter(|_| is_current)
    }

    /// What the slot holds now, if anything.
    pub(crate) fn at(&mut self, index: u32) -> Option<&mut T> {
        self.values.get_mut(index as usize)
    }

    /// The id of what the slot holds now.
    pub(crate) fn id_at(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.generations[index as usize] }
    }

    /// Takes the value out; its id is stale from now on.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        self.values.try_remove(index as usize)
    }

    /// The slots in use.
    pub(crate) fn indices(&self) -> Vec<u32> {
        self.values.iter().map(|(index, _)| index as u32).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}
