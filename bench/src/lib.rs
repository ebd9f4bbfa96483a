//! Fulmar's load and latency harness.
