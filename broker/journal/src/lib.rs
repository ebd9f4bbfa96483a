//! Fulmar's durable store: a journal for each shard, its files, and what a restart makes of them.
