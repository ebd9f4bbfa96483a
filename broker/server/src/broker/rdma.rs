//! Connections over RDMA, where the host can: the first shard listens, and all take their share beside their sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fulmar_rdma::{Door, Inbox, Joined, Side, VerbsDevice, door};
use fulmar_transport::{AnyTransport, Config, ListenerId};

use crate::settings::Settings;
use crate::worker::Stats;

/// What a shard has to do with it.
pub(super) struct Share {
    shard: usize,
    inbox: Inbox<VerbsDevice>,
    /// Of the first shard alone.
    wanted: Option<Wanted>,
    /// Somebody listens; known once the first shard is open.
    is_on: Arc<AtomicBool>,
}

/// Where to take connections, and for whom.
struct Wanted {
    addresses: Vec<SocketAddr>,
    /// Somebody asked for it, so that it is worth a warning where it cannot be.
    is_asked_for: bool,
    doors: Vec<Door<VerbsDevice>>,
}

/// A shard's side of it, before it has a reactor.
pub(super) struct Opened {
    side: Side<VerbsDevice>,
    inbox: Inbox<VerbsDevice>,
    listeners: Vec<ListenerId>,
}

/// What the options say, for each shard; `None` if nothing is to be tried.
pub(super) fn shares(settings: &Settings) -> Vec<Option<Share>> {
    let addresses = settings.rdma_addresses();
    if addresses.is_empty() {
        return (0..settings.shard_count()).map(|_| None).collect();
    }
    let (doors, inboxes): (Vec<_>, Vec<_>) = (0..settings.shard_count()).map(|_| door()).unzip();
    let is_asked_for = settings.rdma_port.is_some();
    let mut wanted = Some(Wanted { addresses, is_asked_for, doors });
    let is_on = Arc::new(AtomicBool::new(false));
    let share = |(shard, inbox)| Some(Share { shard, inbox, wanted: wanted.take(), is_on: is_on.clone() });
    inboxes.into_iter().enumerate().map(share).collect()
}

impl Share {
    /// Opens the shard's device; the first listens on the addresses that RDMA devices have. `None`, and one line in the
    /// log, where there are none.
    pub(super) fn open(self, config: &Config) -> Option<Opened> {
        let Share { shard, inbox, wanted, is_on } = self;
        let Some(wanted) = wanted else {
            if !is_on.load(Ordering::Relaxed) {
                return None;
            }
            return match VerbsDevice::new() {
                Ok(device) => {
                    Some(Opened { side: Side::new(device, config.clone()), inbox, listeners: Vec::new() })
                }
                Err(missing) => {
                    log::warn!("rdma: shard {shard} takes no connections: {missing}");
                    None
                }
            };
        };
        let (mut side, listeners) = wanted.listen(config)?;
        is_on.store(true, Ordering::Relaxed);
        side.spread_over(shard, wanted.doors);
        Some(Opened { side, inbox, listeners })
    }
}

impl Wanted {
    fn listen(&self, config: &Config) -> Option<(Side<VerbsDevice>, Vec<ListenerId>)> {
        let device = match VerbsDevice::new() {
            Ok(device) => device,
            Err(missing) => {
                self.tell(&format!("rdma: connections by TCP only: {missing}"));
                return None;
            }
        };
        let mut side = Side::new(device, config.clone());
        let mut listeners = Vec::new();
        for &addr in &self.addresses {
            match side.listen(addr, super::thread::BACKLOG) {
                Ok((listener, local)) => {
                    log::info!("rdma: listening on {local}");
                    listeners.push(Joined::<AnyTransport, VerbsDevice>::outer_listener(listener));
                }
                Err(error) => self.tell(&format!("rdma: not listening on {addr}: {}", explain(&error))),
            }
        }
        (!listeners.is_empty()).then_some((side, listeners))
    }

    fn tell(&self, text: &str) {
        if self.is_asked_for {
            log::warn!("{text}");
        } else {
            log::info!("{text}");
        }
    }
}

impl Opened {
    /// Puts the side beside a transport.
    pub(super) fn join(
        self,
        transport: AnyTransport,
    ) -> io::Result<(Joined<AnyTransport, VerbsDevice>, Vec<ListenerId>)> {
        let mut joined = Joined::new(transport, self.side)?;
        joined.open_inbox(self.inbox);
        Ok((joined, self.listeners))
    }
}

/// What the connections have done, in one line for all shards.
pub(super) fn log_end(stats: &Stats) {
    if stats.rdma_accepted == 0 {
        return;
    }
    log::info!(
        "rdma: {} connections, {} refused; {} messages of {} bytes sent, {} of them told their end, {} of {} bytes received; \
         {} posts, {} completions, {} waits for credit; {} bytes copied; {} KiB locked",
        stats.rdma_accepted,
        stats.rdma_refused,
        stats.rdma_sends,
        stats.rdma_sent_bytes,
        stats.rdma_signaled,
        stats.rdma_receives,
        stats.rdma_received_bytes,
        stats.rdma_posts,
        stats.rdma_completions,
        stats.rdma_credit_stalls,
        stats.rdma_copied_bytes,
        stats.rdma_locked_bytes >> 10,
    );
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::EADDRNOTAVAIL) => "no RDMA device has this address".to_string(),
        _ => error.to_string(),
    }
}
