//! What a shard counts. Written by the shard alone, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only its shard's thread changes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; by the owning thread only, so that no read-modify-write is needed.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Replaces the number.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one shard.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The counters at one moment, of one shard or summed over all.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Adds the counters of a shard.
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Connections ended, for whatever reason.
    closed,
    /// Connections open now.
    open,
    /// Connections refused because there were too many.
    refused_full,
    /// Connections refused because they spoke a protocol that is not spoken here.
    refused_protocol,
    /// Connections that did not finish their handshake in time.
    handshake_timeouts,
    /// Logins refused.
    refused_logins,
    /// Connections ended for a fault of the peer, refused logins included.
    faults,
    /// Connections that the peer reset or that the network lost.
    resets,
    /// Bytes received.
    received_bytes,
    /// Deliveries written.
    deliveries,
    /// Turns taken.
    turns,
    /// Times asleep.
    sleeps,
    /// Times that publishers were stopped because this shard was congested.
    congestions,
    /// Bytes of messages held.
    memory_bytes,
}
