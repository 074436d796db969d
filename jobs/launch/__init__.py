"""Who this process is among others, and when it must stop.

May use the modules at the root of jobs only.
"""
