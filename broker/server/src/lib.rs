//! The Fulmar message broker.
