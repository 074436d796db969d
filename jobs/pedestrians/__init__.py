"""The drawn data set: pedestrians with person masks, for the demo and the tests.

May use shards, datasets and launch.
"""
