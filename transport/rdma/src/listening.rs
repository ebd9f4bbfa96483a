//! Listeners, and what becomes of those who ask to connect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use fulmar_transport::{ListenerId, Waker};

use crate::conn::{Conn, State};
use crate::device::{Device, DeviceEvent, Private};
use crate::side::Side;
use crate::spread::{Door, Handed, Inbox, Spread};

/// How long after a listener's device is gone another one is looked for, and how often.
const LISTEN_AGAIN_NS: u64 = 1_000_000_000;

/// An address at which connections are taken.
pub(crate) struct Listener {
    addr: SocketAddr,
    backlog: u32,
    /// As the device knows it; none while no device has the address.
    device: Option<u32>,
    retry_ns: u64,
}

impl<D: Device> Side<D> {
    /// Takes connections at an address; port 0 picks one. If its device is removed, another is looked for, until there
    /// is one with this address.
    ///
    /// # Errors
    /// The device's.
    pub fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)> {
        let (device, local) = self.device.listen(addr, backlog)?;
        let listener = Listener { addr: local, backlog, device: Some(device), retry_ns: 0 };
        Ok((ListenerId(self.listeners.insert(listener) as u32), local))
    }

    /// Takes no more.
    pub fn unlisten(&mut self, listener: ListenerId) {
        if let Some(gone) = self.listeners.try_remove(listener.0 as usize)
            && let Some(device) = gone.device
        {
            self.device.unlisten(device);
        }
    }

    /// Has the threads behind these doors take their share of the connections that are asked for here; `own` is the
    /// place of this side's own door.
    pub fn spread_over(&mut self, own: usize, doors: Vec<Door<D>>) {
        self.spread = Some(Spread::new(own, doors));
    }

    /// Takes from now on who is handed over by way of this; the waker is used for each.
    pub fn open_inbox(&mut self, inbox: Inbox<D>, waker: Arc<dyn Waker>) {
        inbox.open(waker);
        self.inbox = Some(inbox);
    }

    /// Takes who was handed over since; after the waker was used.
    pub fn take_handed(&mut self) {
        while let Some(handed) = self.inbox.as_ref().and_then(Inbox::take) {
            let Handed { parcel, listener, peer, local, private } = handed;
            match self.device.take_over(parcel) {
                Ok((endpoint, port)) => self.requested(listener, endpoint, port, (peer, local), &private),
                Err(error) => log::debug!("{peer}: gone before it was answered: {error}"),
            }
        }
    }

    /// Somebody wants to connect: answered here, or by another thread.
    pub(crate) fn asked(&mut self, event: DeviceEvent) {
        let DeviceEvent::Request { listener, endpoint, port, peer, local, private } = event else { return };
        let listener = self.listeners.iter().find(|(_, known)| known.device == Some(listener));
        let listener = listener.map_or(0, |(at, _)| at as u32);
        if let Some(spread) = &mut self.spread
            && let Some(to) = spread.next()
        {
            let parcel = self.device.hand_over(endpoint);
            self.counts.handed_over += 1;
            return spread.hand(to, Handed { parcel, listener, peer, local, private });
        }
        self.requested(listener, endpoint, port, (peer, local), &private);
    }

    fn requested(
        &mut self,
        listener: u32,
        endpoint: u32,
        port: u8,
        (peer, local): (SocketAddr, SocketAddr),
        private: &Private,
    ) {
        let mut conn = Conn::new(endpoint, State::Accepting, peer, local);
        conn.port = port;
        conn.listener = Some(listener);
        self.answer(conn, private);
    }

    /// The device of a listener is gone.
    pub(crate) fn listener_lost(&mut self, device: u32) {
        let now_ns = self.now_ns;
        for (_, listener) in &mut self.listeners {
            if listener.device == Some(device) {
                log::warn!("rdma: the device of {} is gone; looking for another", listener.addr);
                listener.device = None;
                listener.retry_ns = now_ns + LISTEN_AGAIN_NS;
            }
        }
    }

    /// Listens again where a device has the address by now.
    pub(crate) fn listen_again(&mut self) {
        let now_ns = self.now_ns;
        for (_, listener) in &mut self.listeners {
            if listener.device.is_some() || listener.retry_ns > now_ns {
                continue;
            }
            match self.device.listen(listener.addr, listener.backlog) {
                Ok((device, local)) => {
                    log::info!("rdma: listening on {local} again");
                    listener.device = Some(device);
                }
                Err(_) => listener.retry_ns = now_ns + LISTEN_AGAIN_NS,
            }
        }
    }

    /// When to look for a device again.
    pub(crate) fn next_retry_ns(&self) -> Option<u64> {
        let lost = self.listeners.iter().filter(|(_, listener)| listener.device.is_none());
        lost.map(|(_, listener)| listener.retry_ns).min()
    }
}
