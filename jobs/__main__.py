"""`python -m jobs` is the same as `promptsg`."""

from jobs.cli import main

main()
