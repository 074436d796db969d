"""Logging, set up in one place."""

from __future__ import annotations

import logging
import sys


def setup_logging() -> None:
    """Writes one line for each event to standard error, so that standard output is only for results."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
