"""Do the maps show what the model uses: deletion, insertion, and the randomisation check.

May use mining, statistics, runs and shards.
"""
