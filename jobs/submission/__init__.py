"""Runs as SLURM job arrays.

May use mining, statistics, runs and shards.
"""
