"""How fast this machine mines.

May use mining, statistics, runs and shards.
"""
