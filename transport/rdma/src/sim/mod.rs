//! A simulated device: endpoints joined by a fabric in this process, whose delays and faults come from a seed.
//!
//! 1. It is stricter than hardware: memory that is not registered, a queue that is overrun, a completion without room, a
//!    message of no bytes or without credit, credit for receives that are not posted end the test.
//! 2. What is under way when an endpoint fails or is disconnected is flushed, in order, as hardware does it.
//! 3. It counts what costs: posts, sends that tell their end, completions.
//! 4. A device that is dropped is a process that ends: its peers are told, unless it was cut off before.

mod device;
mod fabric;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fulmar_transport::sim::Random;

pub use device::{SimDevice, SimParcel};
use fabric::Fabric;

/// What a device has been asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Rings of the doorbell for sends.
    pub send_posts: u64,
    /// Messages sent.
    pub sends: u64,
    /// Those of them that tell their end.
    pub signaled: u64,
    /// Rings of the doorbell for receives.
    pub receive_posts: u64,
    /// Completions handed out.
    pub completions: u64,
    /// Messages that found no receive posted, and were tried again.
    pub not_ready: u64,
    /// Times that memory was registered.
    pub registrations: u64,
    /// Bytes of messages sent.
    pub bytes: u64,
}

/// What goes wrong on a fabric, each so many times in a million that a message could arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimFaults {
    /// The receiver has no room, and the sender gives up.
    pub not_ready: u32,
    /// Nobody answers, and the sender gives up.
    pub unanswered: u32,
    /// The queues of either end fail, and what is under way is flushed.
    pub flushed: u32,
    /// The completion queue of either end overruns: it tells nothing any more.
    pub overrun: u32,
    /// The credit that goes with the message is lost, as with a peer that forgets it.
    pub lost_grant: u32,
}

/// How often something went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimFaultCounts {
    /// Senders that gave up on a receiver without room.
    pub not_ready: u64,
    /// Senders that gave up without an answer, because of a fault or because nobody was there.
    pub unanswered: u64,
    /// Ends whose queues failed.
    pub flushed: u64,
    /// Completion queues that overran.
    pub overrun: u64,
    /// Messages whose credit was lost.
    pub lost_grants: u64,
    /// Devices that were cut off.
    pub vanished: u64,
    /// Messages that found no receive posted, and were tried again: no fault of the fabric's, but of whoever sent them.
    pub without_room: u64,
}

/// What joins devices.
#[derive(Clone)]
pub struct SimFabric(Arc<Mutex<Fabric>>);

impl SimFabric {
    /// A fabric on which, in a thousand times that a message could arrive, `hold` times it does not yet.
    pub fn new(seed: u64, hold: usize) -> Self {
        SimFabric(Arc::new(Mutex::new(Fabric::new(Random::new(seed), hold))))
    }

    /// Another device on it.
    pub fn device(&self) -> SimDevice {
        SimDevice::new(self.clone())
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: SimFaults) {
        self.lock().faults = faults;
    }

    /// What went wrong so far.
    pub fn fault_counts(&self) -> SimFaultCounts {
        self.lock().fault_counts
    }

    /// From now on nothing reaches a device or comes from it, and nobody is told.
    pub fn cut(&self, device: &SimDevice) {
        self.lock().cut(device.node());
    }

    /// Takes a device out of its host, and puts another in its place: the host is told, its peers are not.
    pub fn remove(&self, device: &SimDevice) {
        self.lock().lose_all(device.node(), libc::ENODEV, true);
    }

    /// The addresses of a device belong to another one from now on.
    pub fn change_address(&self, device: &SimDevice) {
        self.lock().lose_all(device.node(), libc::EADDRNOTAVAIL, false);
    }

    fn lock(&self) -> MutexGuard<'_, Fabric> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a simulated endpoint sends inline.
const INLINE_BYTES: u32 = 128;
/// Completions taken a poll.
const TAKEN_AT_ONCE: usize = 64;
