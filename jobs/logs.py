"""Logging, set up in one place."""

from __future__ import annotations

import logging
import sys


def setup_logging() -> None:
    """One line per event on standard error, so that standard output stays free for results."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
