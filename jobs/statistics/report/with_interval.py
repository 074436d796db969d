"""A number with its interval, as it stands in results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class WithInterval:
    """A number and its 95 % bootstrap interval over identities; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, value: float, low: float = float("nan"), high: float = float("nan")) -> WithInterval:
        """NaN is not defined."""
        return cls(value=_known(value), low=_known(low), high=_known(high))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
