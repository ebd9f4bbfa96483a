//! Every bound of the core, in one place. [`Limits::tiny`] makes tests meet them.

/// Bounds of one shard.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of deliveries that one shard may have under way to one connection before the connection drains them.
    pub delivery_window_bytes: u32,
    /// Largest message body accepted, in bytes.
    pub max_message_bytes: u64,
    /// Bytes of messages that a shard holds before publishers are stopped.
    pub memory_bytes: u64,
    /// Bytes of messages that a shard holds, with what they take besides their buffers, before long queues put some of
    /// theirs out of memory. Well below `memory_bytes`.
    pub paging_bytes: u64,
    /// Slots of each lane of the ring between two shards; a power of two.
    pub lane_slots: usize,
    /// Routes remembered by a shard.
    pub route_cache_entries: usize,
    /// Free message buffers kept for reuse, in bytes.
    pub pool_bytes: usize,
    /// Bytes that a queue of Qpid's kinds may hold if it is declared without a limit: what flow control is a part of.
    pub default_queue_bytes: u64,
    /// Percent of its limit beyond which such a queue stops its publishers; 0: only if asked for.
    pub flow_stop_percent: u8,
    /// Percent of its limit below which publishers go on.
    pub flow_resume_percent: u8,
    /// Percent of its limit at which an alert is raised; 0: only if asked for.
    pub alert_percent: u8,
    /// Events kept for management; older ones are forgotten.
    pub events: usize,
    /// Exchanges that one publish may pass on its way (exchange-to-exchange, alternate exchanges).
    pub max_route_hops: usize,
    /// Bytes of messages that wait for commits on one shard. Well below `memory_bytes`: a connection that is not read
    /// because memory is short cannot commit.
    pub transaction_bytes: u64,
    /// Branches of distributed transactions that are known at a time.
    pub dtx_branches: usize,
    /// How long a branch may take until it is prepared if nobody says otherwise, in seconds; 0 for ever.
    pub dtx_default_timeout_s: u32,
    /// The longest that anybody may ask for, in seconds; 0 for any.
    pub dtx_max_timeout_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            delivery_window_bytes: 256 * 1024,
            max_message_bytes: 128 << 20,
            memory_bytes: 1 << 30,
            paging_bytes: 256 << 20,
            lane_slots: 1024,
            route_cache_entries: 4096,
            pool_bytes: 16 << 20,
            default_queue_bytes: 100 << 20,
            flow_stop_percent: 80,
            flow_resume_percent: 70,
            alert_percent: 80,
            events: 1024,
            max_route_hops: 64,
            transaction_bytes: 256 << 20,
            dtx_branches: 16 * 1024,
            dtx_default_timeout_s: 60,
            dtx_max_timeout_s: 3600,
        }
    }
}

impl Limits {
    /// Limits so small that ordinary tests run into every one of them.
    pub fn tiny() -> Self {
        Limits {
            delivery_window_bytes: 256,
            max_message_bytes: 64 * 1024,
            memory_bytes: 1 << 20,
            paging_bytes: 16 * 1024,
            lane_slots: 4,
            route_cache_entries: 4,
            pool_bytes: 4096,
            default_queue_bytes: 4096,
            flow_stop_percent: 80,
            flow_resume_percent: 70,
            alert_percent: 80,
            events: 4,
            max_route_hops: 8,
            transaction_bytes: 16 * 1024,
            dtx_branches: 8,
            dtx_default_timeout_s: 60,
            dtx_max_timeout_s: 3600,
        }
    }
}
