"""Batch scripts, as package data: `importlib.resources.files("slurm")`."""
