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
    Relay(SocketAddr),
    /// A server that sends back what it gets.
    Echo(SocketAddr),
}

impl Target {
    /// What is known of it without asking.
    pub fn facts(&self) -> TargetFacts {
        let (name, protocol, tls, options) = match self {
            Target::Broker(url) => ("broker", url.protocol.name(), url.tls.is_some(), url.to_string()),
            Target::Relay(_) => ("floor relay", "none", false, String::new()),
            Target::Echo(_) => ("floor echo", "none", false, String::new()),
        };
        TargetFacts {
            name: name.into(),
            version: None,
            protocol: protocol.into(),
            transport: if tls { "tls" } else { "tcp" }.into(),
            options,
            idle: None,
        }
    }
}
