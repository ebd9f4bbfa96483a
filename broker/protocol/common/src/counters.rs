//! What happened on a connection, counted.

/// What happened on a connection, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages published by the peer.
    pub published: u64,
    /// Messages sent to the peer (`basic.deliver`, `basic.get-ok`).
    pub delivered: u64,
    /// Messages returned to the peer.
    pub returned: u64,
    /// Channels closed because of a fault of the peer.
    pub channel_faults: u64,
    /// Connections closed because of a fault of the peer; 0 or 1 for one connection.
    pub connection_faults: u64,
    /// Faults by kind.
    pub faults: Faults,
}

/// Faults of the peer by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Malformed or oversized frames (501).
    pub frame: u32,
    /// Malformed methods (502).
    pub syntax: u32,
    /// Invalid commands (503).
    pub command: u32,
    /// Channels that are not open, or open already (504).
    pub channel: u32,
    /// Frames out of place (505).
    pub unexpected_frame: u32,
    /// Things not allowed (530).
    pub not_allowed: u32,
    /// Things not implemented (540).
    pub not_implemented: u32,
    /// Access refused (403), failed logins included.
    pub access_refused: u32,
    /// Exchanges and queues that do not exist (404).
    pub not_found: u32,
    /// Locked resources (405).
    pub resource_locked: u32,
    /// Failed preconditions (406).
    pub precondition: u32,
    /// Peers that fell silent, or were too slow to shake hands.
    pub timeout: u32,
    /// Everything else.
    pub other: u32,
}

impl Faults {
    /// Counts a fault by its code, which says the same in every version of AMQP before 1.0.
    pub fn count(&mut self, code: u16) {
        let counter = match code {
            501 => &mut self.frame,
            502 => &mut self.syntax,
            503 => &mut self.command,
            504 => &mut self.channel,
            505 => &mut self.unexpected_frame,
            530 => &mut self.not_allowed,
            540 => &mut self.not_implemented,
            403 => &mut self.access_refused,
            404 => &mut self.not_found,
            405 => &mut self.resource_locked,
            406 => &mut self.precondition,
            _ => &mut self.other,
        };
        *counter += 1;
    }
}
