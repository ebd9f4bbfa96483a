//! What the fuzzers call, and the inputs that they start from.
//!
//! Each module is one target: `run` takes any bytes and panics only if the code under test is wrong; `seeds` gives
//! well-formed inputs. The same entry points serve libFuzzer (`fuzz_targets/`) and the plain runner (`src/plain.rs`).

pub mod record;
