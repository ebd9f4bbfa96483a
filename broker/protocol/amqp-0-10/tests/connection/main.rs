//! Connections over real shards, spoken to in controls and commands. Every scenario runs with whole and with shredded
//! input, with the queues on the connection's own shard and on another one.

mod bench;
mod handshake;
mod moving;
mod permissions;
mod receiving;
mod sending;
mod sessions;
mod topology;
mod transactions;
