"""A run on disk: written, read, queried, checked.

May use shards.
"""
