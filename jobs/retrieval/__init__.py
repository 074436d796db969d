"""Retrieval from stored features: mAP, CMC, re-ranking, and what AP correlates with.

May use mining, statistics, runs and shards.
"""
