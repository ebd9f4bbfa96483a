//! What the parts of a broker are told, by the options that it was started with.

use std::sync::Arc;

use fulmar_core::{Limits, Name, ShardConfig, ShardId};
use fulmar_policy::census::Census;
use fulmar_protocol::{Config as ProtocolConfig, Switch};
use fulmar_tls::Acceptor;
use fulmar_transport::Config as TransportConfig;

use crate::settings::Settings;
use crate::worker::{StopGate, WorkerConfig};

/// Connections above the limit that may exist for as long as it takes to refuse them.
const REFUSAL_PLACES: u32 = 64;

pub(super) fn limits(settings: &Settings, shards: usize) -> Limits {
    Limits {
        delivery_window_bytes: settings.delivery_window_bytes,
        max_message_bytes: settings.max_message_bytes,
        memory_bytes: settings.memory_limit_bytes / shards as u64,
        paging_bytes: settings.memory_limit_bytes / shards as u64 / 4,
        default_queue_bytes: settings.default_queue_bytes,
        flow_stop_percent: settings.flow_stop_percent,
        flow_resume_percent: settings.flow_resume_percent,
        alert_percent: settings.alert_percent,
        dtx_default_timeout_s: settings.dtx_default_timeout_s,
        dtx_max_timeout_s: settings.dtx_max_timeout_s,
        ..Limits::default()
    }
}

pub(super) fn shard_config(settings: &Settings, index: usize) -> ShardConfig {
    let shards = settings.shard_count();
    let names =
        std::iter::once("/").chain(settings.vhosts.iter().map(String::as_str).filter(|&name| name != "/"));
    ShardConfig {
        id: ShardId(index as u8),
        shards: shards as u8,
        limits: limits(settings, shards),
        vhosts: names.map(Name::from).collect(),
        seed: random_seed(),
    }
}

/// A UUID of version 4.
fn random_uuid() -> String {
    let bits = u128::from(random_seed()) << 64 | u128::from(random_seed());
    let bits = bits & !(0xF << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A seed that differs from process to process and from call to call.
pub(super) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}

pub(super) fn transport_config(settings: &Settings) -> TransportConfig {
    // The worker refuses what is too much, and says so; it needs a few places for that.
    let max_connections = connections_per_shard(settings) + REFUSAL_PLACES;
    TransportConfig { max_connections, ..TransportConfig::default() }
}

fn connections_per_shard(settings: &Settings) -> u32 {
    settings.max_connections.div_ceil(settings.shard_count() as u32)
}

pub(super) fn protocol_config(settings: &Settings) -> ProtocolConfig {
    ProtocolConfig {
        product: "Fulmar".to_string(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        cluster_name: "fulmar".to_string(),
        broker_id: random_uuid(),
        frame_max_bytes: settings.frame_max_bytes,
        channel_max: settings.channel_max,
        heartbeat_s: settings.heartbeat_s,
        handshake_timeout_ms: settings.handshake_timeout_ms,
        // They depend on the peer.
        mechanisms: Vec::new(),
        max_consumers_per_channel: u32::MAX,
        max_message_bytes: settings.max_message_bytes,
        timestamps: Switch::new(settings.enable_timestamp),
        known_hosts: settings.known_hosts_url.clone(),
        whereabouts: Default::default(),
        can_move: true,
    }
}

pub(super) fn worker_config(
    settings: &Settings,
    protocol: &Arc<ProtocolConfig>,
    census: &Arc<Census>,
    tls: Option<Arc<Acceptor>>,
) -> WorkerConfig {
    let shards = settings.shard_count();
    let most = settings.connections_per_address;
    WorkerConfig {
        protocol: protocol.clone(),
        high_water_bytes: TransportConfig::default().high_water_bytes,
        memory_bytes: settings.memory_limit_bytes / shards as u64,
        max_connections: u64::from(connections_per_shard(settings)),
        idle: settings.idle,
        addresses: (most > 0).then(|| (census.clone(), most)),
        gate: Arc::new(StopGate::new(shards)),
        tls,
        require_encryption: settings.require_encryption,
    }
}
