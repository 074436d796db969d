"""Pictures and the gallery from stored maps, and pictures of single images and pairs.

May use mining, statistics, runs and shards.
"""
