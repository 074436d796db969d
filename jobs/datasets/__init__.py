"""Re-ID data sets on disk: what their names say, how they are laid out, and packing them into tar shards.

May use the modules at the root of jobs only.
"""
