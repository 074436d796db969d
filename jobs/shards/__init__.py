"""Tar shards: names, strict reading, samples, decoding, random access.

May use datasets.
"""
