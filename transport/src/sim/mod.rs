//! A simulated network: transports and clients on one virtual clock, everything decided by a seed.
//!
//! One thread, no real time, no system call. With the same seed and the same calls, the same things happen. Bytes keep
//! their order within a direction of a connection and arrive cut anywhere; everything else may be late, partial, out
//! of order across connections, or reset, as [`Faults`] say. Files are on one [`Disk`], which outlives transports; a
//! transport that is dropped is a process that ends, and leaves in any state what was under way.
//!
//! ```
//! use fulmar_transport::sim::{Faults, Network};
//! use fulmar_transport::{Config, Event, Transport, Wait};
//!
//! let network = Network::new(42, Faults::default());
//! let mut shard = network.transport(Config::default()); // One for each shard; what it stands in is generic over it.
//! let (_, address) = shard.listen("127.0.0.1:5672".parse().unwrap(), 128).unwrap();
//!
//! let client = network.connect(address);
//! let (mut sent, mut seen) = (0, Vec::new());
//! while seen != b"hello" {
//!     // Not connected yet, it takes nothing; later it takes what fits.
//!     sent += client.send(&b"hello"[sent..]);
//!     // Shards take turns; a turn never blocks, it notes until when it would have waited.
//!     let mut events = Vec::new();
//!     shard.turn(Wait::Until(None), &mut events).unwrap();
//!     for event in events {
//!         if let Event::Received { buf, .. } = event {
//!             seen.extend_from_slice(shard.bytes(&buf));
//!             shard.recycle(buf);
//!         }
//!     }
//!     shard.flush();
//!     // When nobody has anything to do, the clock goes to whatever comes next: an arrival, or the end of a wait.
//!     network.advance().expect("the bytes are on their way");
//! }
//! ```
//!
//! [`Network::advance`] gives `None` when nothing is on its way and nobody waits for a time: whatever has not happened
//! by then never will. It does not move the clock while a transport was woken or has left work for its next turn.

mod client;
mod disk;
mod file;
mod network;
mod random;
mod transport;

pub use client::{SimClient, SimClientState};
pub use disk::{BLOCK_BYTES, Disk, DiskFaults, DiskImage, SECTOR_BYTES, SimFile};
pub use network::{Faults, Network};
pub use random::Random;
pub use transport::SimTransport;
