//! What a shard counts. Written by the shard alone, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use fulmar_protocol::Counters as ConnectionCounters;
use fulmar_transport::RdmaCounts;

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
    /// Connections that came from another shard, where they were accepted.
    moved,
    /// Connections refused because there were too many.
    refused_full,
    /// Connections refused because they spoke a protocol that is not spoken here.
    refused_protocol,
    /// Connections that did not finish their handshake in time.
    handshake_timeouts,
    /// TLS handshakes that succeeded.
    tls_handshakes,
    /// Those among them that resumed an earlier session.
    tls_resumptions,
    /// Connections that TLS ended: handshakes that failed, damaged records.
    tls_failures,
    /// Logins refused.
    refused_logins,
    /// Connections ended for a fault of the peer, refused logins included.
    faults,
    /// Connections that the peer reset or that the network lost.
    resets,
    /// Messages published, on connections that have ended.
    published,
    /// Channels closed for a fault of the peer, on connections that have ended.
    channel_faults,
    /// Faults by kind, on connections that have ended: malformed or oversized frames (501).
    faults_frame,
    /// Malformed methods (502).
    faults_syntax,
    /// Invalid commands (503).
    faults_command,
    /// Channels that are not open, or open already (504).
    faults_channel,
    /// Frames out of place (505).
    faults_unexpected_frame,
    /// Things not allowed (530).
    faults_not_allowed,
    /// Things not implemented (540).
    faults_not_implemented,
    /// Access refused (403).
    faults_access_refused,
    /// Exchanges and queues that do not exist (404).
    faults_not_found,
    /// Locked resources (405).
    faults_resource_locked,
    /// Failed preconditions (406).
    faults_precondition,
    /// Peers that fell silent.
    faults_timeout,
    /// Other faults.
    faults_other,
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
    /// Of the connections over RDMA, as they were not long ago: accepted so far.
    rdma_accepted,
    /// Refused so far.
    rdma_refused,
    /// There now, those that are being made or flushed included.
    rdma_connections,
    /// Bytes of memory locked for them.
    rdma_locked_bytes,
    /// Bytes received over them.
    rdma_received_bytes,
    /// Bytes sent over them.
    rdma_sent_bytes,
    /// Messages of RDMA sent.
    rdma_sends,
    /// Those of them that told their end.
    rdma_signaled,
    /// Messages of RDMA received.
    rdma_receives,
    /// Times that the doorbell was rung: for sends and for receives.
    rdma_posts,
    /// Completions taken.
    rdma_completions,
    /// Bytes that were copied before they were sent.
    rdma_copied_bytes,
    /// Times that output had to wait for the peer's credit.
    rdma_credit_stalls,
    /// Times that the journal had no space for more.
    journal_full,
    /// Journals that have failed.
    journal_failures,
    /// Shards that have stopped before everything was stored.
    journal_unstored,
}

impl Counters {
    /// Shows what connections over RDMA have done.
    pub(super) fn set_rdma(&self, rdma: &RdmaCounts) {
        for (counter, count) in [
            (&self.rdma_accepted, rdma.accepted),
            (&self.rdma_refused, rdma.refused),
            (&self.rdma_connections, rdma.connections),
            (&self.rdma_locked_bytes, rdma.locked_bytes),
            (&self.rdma_received_bytes, rdma.received_bytes),
            (&self.rdma_sent_bytes, rdma.sent_bytes),
            (&self.rdma_sends, rdma.sends),
            (&self.rdma_signaled, rdma.signaled),
            (&self.rdma_receives, rdma.receives),
            (&self.rdma_posts, rdma.send_posts + rdma.receive_posts),
            (&self.rdma_completions, rdma.completions),
            (&self.rdma_copied_bytes, rdma.copied_bytes),
            (&self.rdma_credit_stalls, rdma.credit_stalls),
        ] {
            counter.set(count);
        }
    }

    /// Adds what was counted on a connection that has ended.
    pub(super) fn add_connection(&self, connection: &ConnectionCounters) {
        self.published.add(connection.published);
        self.channel_faults.add(connection.channel_faults);
        let faults = &connection.faults;
        for (counter, count) in [
            (&self.faults_frame, faults.frame),
            (&self.faults_syntax, faults.syntax),
            (&self.faults_command, faults.command),
            (&self.faults_channel, faults.channel),
            (&self.faults_unexpected_frame, faults.unexpected_frame),
            (&self.faults_not_allowed, faults.not_allowed),
            (&self.faults_not_implemented, faults.not_implemented),
            (&self.faults_access_refused, faults.access_refused),
            (&self.faults_not_found, faults.not_found),
            (&self.faults_resource_locked, faults.resource_locked),
            (&self.faults_precondition, faults.precondition),
            (&self.faults_timeout, faults.timeout),
            (&self.faults_other, faults.other),
        ] {
            counter.add(u64::from(count));
        }
    }
}
