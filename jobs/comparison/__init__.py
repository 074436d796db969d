"""What changed from one run to another over the same images: their maps, and how they retrieve.

May use retrieval, statistics, runs and shards.
"""
