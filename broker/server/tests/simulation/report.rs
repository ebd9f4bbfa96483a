//! What happened, in figures.

use std::ops::AddAssign;

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What happened in a run, or in several.
        #[derive(Clone, Debug, Default)]
        pub struct Report {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AddAssign<&Report> for Report {
            fn add_assign(&mut self, other: &Report) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

figures! {
    published,
    consumed,
    redelivered,
    dead,
    resets,
    /// Requests of gardeners that were answered or refused.
    tended,
    /// Commits that were refused.
    refused,
    /// Branches of distributed transactions that were prepared, left alone and ended by somebody else.
    recovered,
    /// Transactions whose commits were not answered and that were done.
    unheard_done,
    /// And those that were not.
    unheard_undone,
    /// Connections that went on on another shard, where their sessions were.
    moved,
    steps,
    /// Transactions that the end of the broker has undone after a message of theirs had been settled.
    undone,
    /// Runs with clients over RDMA.
    over_rdma,
    /// Clients over RDMA whose hosts vanished.
    vanished,
    /// Queues of RDMA connections that failed.
    flushed,
    /// Senders that gave up on a receiver that was not ready.
    not_ready,
    /// Senders that gave up without an answer.
    unanswered,
    /// Completion queues that overran.
    overruns,
    /// Messages over RDMA whose credit was lost.
    lost_grants,
    /// Times that the broker's output had to wait for credit.
    credit_stalls,
    /// Runs with durable data.
    durable,
    /// Restarts after the broker was killed.
    kills,
    /// Restarts after the disk lost what was not flushed.
    power_cuts,
    /// Restarts that were interrupted.
    interrupted,
    /// Restarts with another number of shards.
    resharded,
    /// Restarts for which something had to end first with the number of shards that it was begun with.
    unmoved,
    /// Runs in which flushes failed.
    failing_flushes,
    /// Runs in which writes failed.
    failing_writes,
    /// Runs in which the disk was full.
    full_disks,
    /// Publishes that were refused while a disk failed.
    doubtful,
    /// Bits that were changed in files.
    flips,
    /// Restarts that were refused because of that.
    flips_named,
    /// Changed bits that a restart took for a torn end.
    flips_at_end,
    /// Messages that came again after a restart, though they had been settled.
    returned,
    /// Settlements that were committed.
    committed,
    /// Times that a prepared branch was found there after a restart.
    kept_branches,
}
