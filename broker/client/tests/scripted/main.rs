//! The client against a scripted peer in memory.

mod amqp_0_10;
mod back_pressure;
mod calls;
mod handshake;
mod peer;
mod publishing;
mod receiving;
mod reconnect;

use std::time::Duration;

/// Awaits what a test does and what its peer does; neither may take long. Time is simulated where it is paused.
async fn both<A, B>(client: impl Future<Output = A>, peer: impl Future<Output = B>) -> (A, B) {
    tokio::time::timeout(Duration::from_secs(600), async { tokio::join!(client, peer) })
        .await
        .expect("client and peer wait for each other")
}
