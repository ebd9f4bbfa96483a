//! The lanes between shards and the protocol by which an idle shard sleeps.

use std::sync::Arc;

use crate::ShardId;

/// Lanes, in the order in which a shard drains them. Each keeps its order; none waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Topology changes and their acknowledgements.
    Control,
    /// Credit, settlements, confirms, answers, empty buffers going home.
    Reply,
    /// Everything whose order a session relies on towards a queue (publishes, requests), and deliveries back.
    Data,
}

/// Wakes a sleeping shard. Implemented by the transport's wakers, and by the simulation.
pub trait Wake: Send + Sync {
    /// The shard's thread leaves its wait, now or before its next one.
    fn wake(&self);
}

/// One shard's end of the lanes to and from all others.
///
/// Sending never blocks and never fails: what does not fit the ring waits in a private backlog, and
/// [`MeshEnd::has_backlog`] tells the owner to stop reading the sources that cause it.
pub struct MeshEnd<T> {
    _todo: std::marker::PhantomData<T>,
}

/// Makes the lanes between `wakers.len()` shards, with `slots` each (a power of two).
pub fn mesh<T: Send>(_wakers: Vec<Arc<dyn Wake>>, _slots: usize) -> Vec<MeshEnd<T>> {
    todo!()
}

impl<T: Send> MeshEnd<T> {
    /// Queues an item for a shard other than this one. Seen there after [`MeshEnd::publish`].
    pub fn send(&mut self, _to: ShardId, _lane: Lane, _item: T) {
        todo!()
    }

    /// Makes everything sent visible, moves backlogs on as far as there is room, wakes receivers that sleep.
    pub fn publish(&mut self) {
        todo!()
    }

    /// The next item of a lane, from any shard, fairly.
    pub fn receive(&mut self, _lane: Lane) -> Option<(ShardId, T)> {
        todo!()
    }

    /// Whether anything waits for room in a ring.
    pub fn has_backlog(&self) -> bool {
        todo!()
    }

    /// First half of going to sleep: raises the flag, issues the barrier, looks once more. `false`: there is work, or
    /// a backlog could move; the flag is down again.
    pub fn prepare_sleep(&mut self) -> bool {
        todo!()
    }

    /// After sleep: takes the flag down.
    pub fn awake(&mut self) {
        todo!()
    }
}
