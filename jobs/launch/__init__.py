"""Which process this is among others, which shards it works on, and when it must stop.

May use the modules at the root of jobs only.
"""
