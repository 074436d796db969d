"""Logging, set up in one place."""

from __future__ import annotations

import logging
import sys

from jobs.phrases import shown_lines


class _Formatter(logging.Formatter):
    """Lines in which nothing that comes from data can drive the terminal. Tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_lines(super().format(record))


def setup_logging() -> None:
    """Writes one line for each event to standard error, so that standard output is only for results."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
