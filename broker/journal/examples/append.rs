//! Appends messages to a log without a disk, for counting instructions: `append COUNT BYTES [MESSAGES AT A TIME]`.

use std::collections::VecDeque;

mod support;

use support::{Appender, EndsAtOnce};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let [count, bytes, rest @ ..] = &numbers[..] else {
        eprintln!("usage: append COUNT BYTES [MESSAGES]");
        std::process::exit(2);
    };
    let messages = rest.first().map_or(1, |messages| *messages as u16);
    Appender::new(*bytes as usize, messages).append(*count, 64, &mut EndsAtOnce(VecDeque::new()));
}
