"""Logging, set up in one place."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

from jobs.phrases import shown_lines

_label = ""  # of all lines of this process


class _Formatter(logging.Formatter):
    """Lines in which nothing that comes from data can drive the terminal. Tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_lines(super().format(record))


if TYPE_CHECKING:
    _ToText = logging.StreamHandler[TextIO]
else:  # Python 3.10 has no StreamHandler[...] outside of annotations
    _ToText = logging.StreamHandler


class _Handler(_ToText):
    """Writes lines above the bars that tqdm shows, where it shows any."""

    def emit(self, record: logging.LogRecord) -> None:
        if (loaded := sys.modules.get("tqdm")) is None:
            return super().emit(record)
        with loaded.tqdm.external_write_mode(file=self.stream):
            return super().emit(record)


def setup_logging(label: str | None = None) -> None:
    """Writes one line for each event to standard error, so that standard output is only for results.

    `label` goes before each message: `rank 1/4`, where several processes write to one place. None leaves it as it is.
    """
    global _label
    _label = _label if label is None else label
    before = f"[{_label}] " if _label else ""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s {before}%(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def log_label() -> str:
    """What the lines of this process's log begin with, without brackets; nothing where it writes alone."""
    return _label


def bars_are_shown() -> bool:
    """Whether progress is a bar: on a terminal to which no other process writes. Elsewhere it is lines of the log."""
    if _label:
        return False
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):  # services and consoles may have none, one of their own, or a closed one
        return False
