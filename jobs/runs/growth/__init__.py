"""Runs that grow: shards that join the list later, and maps that are added to shards that are done."""
