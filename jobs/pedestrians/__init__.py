"""The drawn data set: pedestrians with masks of their parts, for the demo and the tests.

May use shards, datasets and launch.
"""
