"""The sums of a block of shards: what is kept of a pass over maps, stored in a file, and merged with others."""
