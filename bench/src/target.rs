//! What is put under load: a broker, or the floor.

use std::net::SocketAddr;

use crate::result::TargetFacts;
use crate::url::Url;

/// Something that takes messages from publishers and hands them to consumers.
#[derive(Clone, Debug)]
pub enum Target {
    /// A broker.
    Broker(Url),
    /// A relay without any protocol: the first connection of a pair is the consumer's, the second the publisher's.
    Relay(Server),
    /// A server that sends back what it gets.
    Echo(Server),
}

/// Where a server without a protocol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// By RDMA instead of TCP.
    pub is_rdma: bool,
}

impl Server {
    fn transport(self) -> &'static str {
        if self.is_rdma { "rdma" } else { "tcp" }
    }
}

impl Target {
    /// What is known of it without asking.
    pub fn facts(&self) -> TargetFacts {
        let (name, protocol, transport, options) = match self {
            Target::Broker(url) => ("broker", url.protocol.name(), url.transport(), url.to_string()),
            Target::Relay(server) => ("floor relay", "none", server.transport(), String::new()),
            Target::Echo(server) => ("floor echo", "none", server.transport(), String::new()),
        };
        TargetFacts {
            name: name.into(),
            version: None,
            protocol: protocol.into(),
            transport: transport.into(),
            options,
            idle: None,
        }
    }
}
