//! Listeners.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::EpollTransport;
use super::life::State;
use crate::{Event, ListenerId, clock, socket};

/// Connections that a listener accepts a turn at most.
const ACCEPTS_PER_TURN: usize = 64;
/// How long a listener rests after the system had no descriptor left.
const ACCEPT_REST_NS: u64 = 50_000_000;

pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    pub(super) local: SocketAddr,
    pub(super) ready: bool,
    pub(super) rest_until_ns: Option<u64>,
    pub(super) refused: u64,
}

impl EpollTransport {
    pub(super) fn accept_ready(&mut self, events: &mut Vec<Event>) {
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.accept_one(index, events) {
                    break;
                }
            }
        }
    }

    /// Accepts a connection; false if there is none now.
    fn accept_one(&mut self, index: usize, events: &mut Vec<Event>) -> bool {
        let Some(listener) = self.listeners[index].as_mut().filter(|listener| listener.ready) else {
            return false;
        };
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let nowhere = std::ptr::null_mut();
        // SAFETY: no address is asked for; the result is checked.
        let fd = unsafe { libc::accept4(listener.socket.as_raw_fd(), nowhere, nowhere.cast(), flags) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => listener.ready = false,
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                    log::warn!("cannot accept on {}: {error}", listener.local);
                    listener.ready = false;
                    listener.rest_until_ns = Some(clock::monotonic_ns() + ACCEPT_REST_NS);
                }
                _ => {}
            }
            return listener.ready;
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // A socket that its peer has already reset has no addresses any more.
        let (Ok(peer), Ok(local)) = (socket::peer_addr(fd), socket::local_addr(fd)) else { return true };
        socket::accepted(fd, peer, local);
        match self.add(socket, State::Open) {
            Ok(conn) => {
                events.push(Event::Accepted { listener: ListenerId(index as u32), conn, peer, local })
            }
            Err(error) => {
                let Some(listener) = self.listeners[index].as_mut() else { return false };
                listener.refused += 1;
                if listener.refused.is_power_of_two() {
                    log::warn!(
                        "refused {} connections on {} so far: {error}",
                        listener.refused,
                        listener.local
                    );
                }
            }
        }
        true
    }
}
