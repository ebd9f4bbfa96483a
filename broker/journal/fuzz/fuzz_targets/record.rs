#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fulmar_journal_fuzz::record::run(input));
