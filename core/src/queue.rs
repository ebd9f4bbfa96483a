//! One queue: ordering, limits, consumers.
