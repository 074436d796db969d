"""What `promptsg evaluate` wrote of a run, as the readers of the run use it."""
