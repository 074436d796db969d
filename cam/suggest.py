"""What an error message suggests for a name that does not exist: the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean gradcam++/mim?`, to be added to what is wrong, or nothing where no valid name is near."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
