//! The lanes between shards and the protocol by which an idle shard sleeps.
//!
//! 1. Each lane between two shards keeps its order and loses nothing; lanes and pairs of shards are independent.
//! 2. Sending never blocks; what does not fit waits in the sender's backlog, in order.
//! 3. A shard that sleeps after [`MeshEnd::prepare_sleep`] is woken by whatever is published for it later, and by room
//!    for its backlog.
//! 4. Nothing here makes a system call but [`Wake::wake`], which only a sleeping shard receives.

mod atomic;
mod bell;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ShardId;
use bell::{Bell, News, announce};
use ring::{Consumer, Producer, ring};

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

const LANES: usize = 3;

/// Items taken from one shard before the next one has its turn.
const BURST: u32 = 32;

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
    shard: ShardId,
    bell: Arc<Bell>,
    /// All other shards, in order.
    peers: Vec<Peer<T>>,
    /// Whose turn it is, for each lane.
    turns: [Turn; LANES],
    /// Items in the backlogs of all peers.
    backlog: usize,
}

struct Peer<T> {
    shard: ShardId,
    bell: Arc<Bell>,
    outgoing: [Outgoing<T>; LANES],
    incoming: [Consumer<T>; LANES],
    /// Something was pushed that may not be published.
    has_sent: bool,
    /// Something was taken since this end published last, so that there is room.
    has_received: bool,
}

struct Outgoing<T> {
    ring: Producer<T>,
    backlog: VecDeque<T>,
}

#[derive(Clone, Copy, Default)]
struct Turn {
    peer: usize,
    left: u32,
}

/// Makes the lanes between `wakers.len()` shards, with `slots` each (a power of two).
pub fn mesh<T: Send>(wakers: Vec<Arc<dyn Wake>>, slots: usize) -> Vec<MeshEnd<T>> {
    let bells: Vec<Arc<Bell>> = wakers.into_iter().map(|waker| Arc::new(Bell::new(waker))).collect();
    let shards = bells.len();
    assert!(shards <= 256, "a shard's number is one octet");
    let mut ends: Vec<MeshEnd<T>> = Vec::new();
    for (shard, bell) in bells.iter().enumerate() {
        let mut end = MeshEnd {
            shard: ShardId(shard as u8),
            bell: bell.clone(),
            peers: Vec::new(),
            turns: Default::default(),
            backlog: 0,
        };
        // With every shard made before this one; so each end meets its peers in the order of their numbers.
        for other in &mut ends {
            let (here, there) = lanes(slots);
            let (back_there, back_here) = lanes(slots);
            end.peers.push(Peer::new(other.shard, &other.bell, here, back_here));
            other.peers.push(Peer::new(end.shard, bell, back_there, there));
        }
        ends.push(end);
    }
    ends
}

/// The rings of all lanes in one direction.
fn lanes<T>(slots: usize) -> ([Producer<T>; LANES], [Consumer<T>; LANES]) {
    let [(p0, c0), (p1, c1), (p2, c2)] = std::array::from_fn(|_| ring(slots));
    ([p0, p1, p2], [c0, c1, c2])
}

impl<T> Peer<T> {
    fn new(
        shard: ShardId,
        bell: &Arc<Bell>,
        outgoing: [Producer<T>; LANES],
        incoming: [Consumer<T>; LANES],
    ) -> Self {
        let outgoing = outgoing.map(|ring| Outgoing { ring, backlog: VecDeque::new() });
        Peer { shard, bell: bell.clone(), outgoing, incoming, has_sent: false, has_received: false }
    }
}

impl<T: Send> MeshEnd<T> {
    /// Queues an item for a shard other than this one. Seen there after [`MeshEnd::publish`].
    #[inline]
    pub fn send(&mut self, to: ShardId, lane: Lane, item: T) {
        assert_ne!(to, self.shard, "a shard has no lane to itself");
        let place = to.index() - usize::from(to > self.shard);
        let peer = &mut self.peers[place];
        let outgoing = &mut peer.outgoing[lane as usize];
        peer.has_sent = true;
        let refused = match outgoing.backlog.is_empty() {
            true => outgoing.ring.push(item).err(),
            false => Some(item),
        };
        if let Some(item) = refused {
            outgoing.backlog.push_back(item);
            self.backlog += 1;
        }
    }

    /// Makes everything sent visible, moves backlogs on as far as there is room, wakes receivers that sleep.
    pub fn publish(&mut self) {
        if self.backlog > 0 {
            self.move_backlogs();
        }
        let mut has_news = false;
        for peer in &mut self.peers {
            if peer.has_sent {
                for outgoing in &mut peer.outgoing {
                    outgoing.ring.publish();
                }
            }
            has_news |= peer.has_sent | peer.has_received;
        }
        if !has_news {
            return;
        }
        announce();
        for peer in &mut self.peers {
            if std::mem::take(&mut peer.has_sent) {
                peer.bell.ring(News::Items);
            }
            if std::mem::take(&mut peer.has_received) {
                peer.bell.ring(News::Room);
            }
        }
    }

    /// The next item of a lane, from any shard, fairly.
    #[inline]
    pub fn receive(&mut self, lane: Lane) -> Option<(ShardId, T)> {
        let turn = &mut self.turns[lane as usize];
        // One more than there are peers: the first may have used up its turn.
        for _ in 0..=self.peers.len() {
            let peer = self.peers.get_mut(turn.peer)?;
            if turn.left > 0
                && let Some(item) = peer.incoming[lane as usize].pop()
            {
                turn.left -= 1;
                peer.has_received = true;
                return Some((peer.shard, item));
            }
            turn.peer = (turn.peer + 1) % self.peers.len();
            turn.left = BURST;
        }
        None
    }

    /// Whether anything waits for room in a ring.
    pub fn has_backlog(&self) -> bool {
        self.backlog > 0
    }

    /// First half of going to sleep: publishes, raises the flag, issues the barrier, looks once more. `false`: there is
    /// work, or a backlog could move; the flag is down again.
    pub fn prepare_sleep(&mut self) -> bool {
        self.publish();
        self.bell.lie_down(self.has_backlog());
        let has_work = self.peers.iter_mut().any(|peer| {
            peer.incoming.iter_mut().any(|ring| !ring.is_empty())
                || peer.outgoing.iter_mut().any(|out| !out.backlog.is_empty() && out.ring.has_room())
        });
        if has_work {
            self.bell.get_up();
        }
        !has_work
    }

    /// After sleep: takes the flag down.
    pub fn awake(&mut self) {
        self.bell.get_up();
    }

    fn move_backlogs(&mut self) {
        for peer in &mut self.peers {
            for outgoing in &mut peer.outgoing {
                while !outgoing.backlog.is_empty() && outgoing.ring.has_room() {
                    let item = outgoing.backlog.pop_front().expect("it is not empty");
                    let pushed = outgoing.ring.push(item);
                    assert!(pushed.is_ok(), "the ring has room");
                    self.backlog -= 1;
                    peer.has_sent = true;
                }
            }
        }
    }
}
