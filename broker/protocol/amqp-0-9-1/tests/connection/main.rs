//! Connections over real shards, spoken to in frames. Every scenario runs with whole and with shredded input, with the
//! queues on the connection's own shard and on another one.

mod alike;
mod bench;
mod channels;
mod consuming;
mod faults;
mod handshake;
mod publishing;
mod random;
mod topology;
mod transactions;
