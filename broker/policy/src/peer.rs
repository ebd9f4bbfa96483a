//! What is known of a peer before it has said who it is.

use std::net::IpAddr;

/// What the transport found out about a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// What comes and goes is encrypted.
    pub encrypted: bool,
    /// Who the peer is by its certificate, which was verified: what SASL EXTERNAL goes by.
    pub certificate: Option<String>,
    /// How hard the encryption is to break, in bits of its key; 0 without one.
    pub strength: u32,
}

/// A peer that wants to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub address: IpAddr,
    /// What the transport found out about it.
    pub identity: PeerIdentity,
    /// Whether its protocol and its transport leave room for a security layer.
    pub takes_layer: bool,
}

impl Peer {
    /// A peer at an address, in canonical form: an IPv4 address that came in an IPv6 one is the former.
    pub fn new(address: IpAddr, identity: PeerIdentity) -> Self {
        Peer { address: address.to_canonical(), identity, takes_layer: false }
    }

    /// Whether it is on this host.
    pub fn is_loopback(&self) -> bool {
        self.address.is_loopback()
    }
}
