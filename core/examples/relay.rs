//! The way of small messages through the core alone, to be counted:
//!
//! ```text
//! cargo build --release -p fulmar-core --example relay
//! valgrind --tool=callgrind target/release/examples/relay MESSAGES [SHARDS [ack|alike]]
//! ```
//!
//! The difference between two runs, divided by the difference of their messages, is what a message costs.

#[path = "../tests/relay/mod.rs"]
mod relay;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |place: usize, default| arguments.get(place).map_or(Ok(default), |text| text.parse());
    let messages = number(1, 100_000).expect("a number of messages");
    let shards = number(2, 1).expect("a number of shards") as u8;
    let ack = arguments.get(3).is_some_and(|text| text == "ack");
    let alike = arguments.get(3).is_some_and(|text| text == "alike");
    let mut relay = relay::Relay::new(shards);
    relay.consume("q", 1, !ack);
    if alike {
        relay.relay_alike(messages, b"q");
    } else {
        relay.relay(messages, &[b"q"], ack, false);
    }
    relay.end();
}
