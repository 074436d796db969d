"""Which row of a model's camera embedding each image gets: what the user says of it, and what follows.

May use what `jobs.mining` may use.
"""
