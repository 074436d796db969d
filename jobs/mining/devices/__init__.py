"""What is done on a model's device beside the model: copies to and from the host, and the measures of maps.

May use what `jobs.mining` may use.
"""
