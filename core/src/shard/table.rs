//! A table whose slots carry generations, so that a stale identifier finds nothing.

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by index and generation.
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Table { slots: Vec::new(), free: Vec::new() }
    }

    /// Stores what `make` returns for the index and generation that it will have.
    pub(super) fn insert(&mut self, make: impl FnOnce(u32, u32) -> T) -> (u32, u32) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(make(index, slot.generation));
        (index, slot.generation)
    }

    #[inline]
    pub(super) fn get(&self, index: u32, generation: u32) -> Option<&T> {
        let slot = self.slots.get(index as usize)?;
        if slot.generation == generation { slot.value.as_ref() } else { None }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation == generation { slot.value.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, index: u32, generation: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_identifier_finds_nothing() {
        let mut table = Table::new();
        let (index, generation) = table.insert(|_, _| 'a');
        assert_eq!(table.remove(index, generation), Some('a'));
        let (again, next) = table.insert(|_, _| 'b');
        assert_eq!(index, again);
        assert_eq!(table.get(index, generation), None);
        assert_eq!(table.remove(index, generation), None);
        assert_eq!(table.get_mut(again, next), Some(&mut 'b'));
        assert_eq!(table.len(), 1);
    }
}
