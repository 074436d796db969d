"""How a reader works inside: shards cut into batches, in a thread of this process or in processes of their own.

May use what `jobs.shards` may use.
"""
