//! Connections over RDMA, where the host can: one shard takes them beside its sockets.

use std::io;
use std::net::SocketAddr;

use fulmar_rdma::{Joined, Side, VerbsDevice};
use fulmar_transport::{AnyTransport, Config, ListenerId};

use crate::settings::Settings;

/// Where to take connections over RDMA.
#[derive(Debug)]
pub(super) struct Wanted {
    addresses: Vec<SocketAddr>,
    /// Somebody asked for it, so that it is worth a warning where it cannot be.
    is_asked_for: bool,
}

/// A side that listens.
pub(super) struct Listening {
    side: Side<VerbsDevice>,
    listeners: Vec<ListenerId>,
}

/// What the options say; `None` if nothing is to be tried.
pub(super) fn wanted(settings: &Settings) -> Option<Wanted> {
    let addresses = settings.rdma_addresses();
    let is_asked_for = settings.rdma_port.is_some();
    (!addresses.is_empty()).then_some(Wanted { addresses, is_asked_for })
}

impl Wanted {
    /// Listens on the addresses that RDMA devices have. `None`, and one line in the log, if there are none.
    pub(super) fn listen(&self, config: &Config) -> Option<Listening> {
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
        (!listeners.is_empty()).then_some(Listening { side, listeners })
    }

    fn tell(&self, text: &str) {
        if self.is_asked_for {
            log::warn!("{text}");
        } else {
            log::info!("{text}");
        }
    }
}

impl Listening {
    /// Puts the side beside a transport.
    pub(super) fn join(
        self,
        transport: AnyTransport,
    ) -> io::Result<(Joined<AnyTransport, VerbsDevice>, Vec<ListenerId>)> {
        Ok((Joined::new(transport, self.side)?, self.listeners))
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::EADDRNOTAVAIL) => "no RDMA device has this address".to_string(),
        _ => error.to_string(),
    }
}
