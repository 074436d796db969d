"""Maps that are added to the shards of a run that are done."""
