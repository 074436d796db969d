"""Shards through a model into a run.

May use runs, shards and launch.
"""
