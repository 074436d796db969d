"""Typed look-ups in the environment's variables (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobs.errors import UserError


class Variables:
    """Reads `os.environ` or the like. An empty variable counts as absent."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._given = variables

    def __contains__(self, name: str) -> bool:
        return bool(self._given.get(name, "").strip())

    def text(self, name: str) -> str | None:
        """The variable's text without spaces around it, None if absent."""
        return self._given[name].strip() if name in self else None

    def count(self, name: str) -> int | None:
        """A whole number from 0, None if absent. Raises UserError for anything else."""
        text = self.text(name)
        if text is None:
            return None
        if re.fullmatch(r"[0-9]{1,18}", text) is None:
            raise UserError(f"the environment's {name} is {text!r}, not a whole number from 0; unset or mend it")
        return int(text)

    def required(self, name: str, because: str) -> int:
        """A whole number from 0. Raises UserError if it is absent though the variable `because` is set."""
        value = self.count(name)
        if value is None:
            raise UserError(f"{because} is set and {name} is not; set both (torchrun and srun do) or unset {because}")
        return value
