"""Do the maps show what the model uses: deletion, insertion, and the randomisation check.

The function behind the command is `jobs.measure_faithfulness`: `jobs.faithfulness` is this package.
May use mining, statistics, runs and shards.
"""
