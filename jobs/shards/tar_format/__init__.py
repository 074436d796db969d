"""The format below a shard: headers, blocks and compressed streams.

May use what `jobs.shards` may use.
"""
