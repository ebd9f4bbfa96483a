//! A client's end of a simulated connection.

use std::net::SocketAddr;

use super::Network;
use super::network::Stand;

/// Where a client's connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimClientState {
    /// Not answered yet.
    Connecting,
    /// Bytes flow.
    Open,
    /// The server has closed its side, and everything was received.
    Ended,
    /// Refused, reset or failed, with this error. What had arrived before may still be received.
    Broken(i32),
}

/// A client's end of a connection. It does nothing by itself: it sends what it is told to, and one that is not asked to
/// receive is a peer that never reads. Dropping it closes it.
pub struct SimClient {
    network: Network,
    end: usize,
}

impl SimClient {
    pub(super) fn new(network: Network, end: usize) -> Self {
        SimClient { network, end }
    }

    /// Where it stands now.
    pub fn state(&self) -> SimClientState {
        let net = self.network.net.borrow();
        let end = &net.ends[self.end];
        match end.stand {
            Stand::Connecting => SimClientState::Connecting,
            Stand::Broken(error) => SimClientState::Broken(error),
            Stand::Open if end.finished && end.inbox.is_empty() => SimClientState::Ended,
            Stand::Open => SimClientState::Open,
        }
    }

    /// Its own address, by which the server knows it.
    pub fn local_addr(&self) -> SocketAddr {
        self.network.net.borrow().ends[self.end].local
    }

    /// Sends what the network takes of `bytes`; gives how many. 0 while connecting, with a full window, and when the
    /// connection is over.
    pub fn send(&self, bytes: &[u8]) -> usize {
        self.network.net.borrow_mut().send(self.end, bytes).unwrap_or(0)
    }

    /// Takes what has arrived, at most so many bytes.
    pub fn receive(&self, most: usize) -> Vec<u8> {
        self.network.net.borrow_mut().receive(self.end, most)
    }

    /// Bytes that have arrived.
    pub fn available(&self) -> usize {
        self.network.net.borrow().ends[self.end].inbox.len()
    }

    /// Says that it will send no more, and goes on receiving.
    pub fn finish(&self) {
        self.network.net.borrow_mut().finish(self.end);
    }

    /// Closes the connection. What has arrived and was not received turns this into a reset, as with real sockets.
    pub fn close(self) {}

    /// Resets the connection.
    pub fn reset(self) {
        self.network.net.borrow_mut().reset(self.end);
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        let mut net = self.network.net.borrow_mut();
        if !net.ends[self.end].released {
            net.close(self.end);
        }
    }
}
