//! What a host is tuned for.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What a host is tuned for; wanted values depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Lowest and steadiest latency: shards own their cores; power and the rest of the host come second.
    #[default]
    Latency,
    /// Most messages a second: cores at full clock, interrupts spread, room in buffers.
    Throughput,
    /// Beside other work: nothing that takes cores, power or memory from others.
    Shared,
}

impl Profile {
    /// Each, in the order in which tables have their columns.
    pub const ALL: [Profile; 3] = [Profile::Latency, Profile::Throughput, Profile::Shared];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Latency => "latency",
            Profile::Throughput => "throughput",
            Profile::Shared => "shared",
        }
    }

    /// What it is for, in half a line.
    pub fn summary(self) -> &'static str {
        match self {
            Profile::Latency => "lowest and steadiest latency; shards own their cores",
            Profile::Throughput => "most messages a second; shards share cores with interrupts",
            Profile::Shared => "beside other work; takes nothing from it",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
