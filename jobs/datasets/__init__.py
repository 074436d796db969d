"""Re-ID data sets on disk: layouts, names, and packing into shards.

May use the modules at the root of jobs only.
"""
