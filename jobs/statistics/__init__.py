"""Where the model looks, per group of images, with bootstrap intervals.

May use runs, shards and launch.
"""
