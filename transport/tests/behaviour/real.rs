//! The kernel's transports, over loopback, and what only they can show.

use std::net::SocketAddr;

use fulmar_transport::{Config, EpollTransport, Transport, UringTransport};

use crate::world::{Side, World};

/// Two transports over the loopback interface.
pub struct RealWorld<T> {
    server: Side<T>,
    client: Side<T>,
}

pub type UringWorld = RealWorld<UringTransport>;
pub type EpollWorld = RealWorld<EpollTransport>;

/// Making a transport, or saying why not.
pub trait Make: Transport + Sized {
    fn make(config: Config) -> Option<Self>;
}

impl Make for UringTransport {
    fn make(config: Config) -> Option<Self> {
        match UringTransport::new(config) {
            Ok(transport) => Some(transport),
            Err(refused) => {
                eprintln!("skipped: {refused}");
                None
            }
        }
    }
}

impl Make for EpollTransport {
    fn make(config: Config) -> Option<Self> {
        Some(EpollTransport::new(config).expect("epoll"))
    }
}

impl<T: Make> World for RealWorld<T> {
    type T = T;

    fn new(server: Config, client: Config) -> Option<Self> {
        Some(RealWorld { server: Side::new(T::make(server)?), client: Side::new(T::make(client)?) })
    }

    fn sides(&mut self) -> (&mut Side<T>, &mut Side<T>) {
        (&mut self.server, &mut self.client)
    }

    fn advance(&mut self) {
        std::thread::yield_now();
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }
}
