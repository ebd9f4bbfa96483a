#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fulmar_amqp_0_10_fuzz::message::run(input));
