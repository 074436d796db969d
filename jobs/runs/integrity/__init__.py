"""Whether the files of a run are what was written: each belongs to its run and its shard, and no byte has changed."""
