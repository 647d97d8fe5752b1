//! What the guests of a shard may see.
