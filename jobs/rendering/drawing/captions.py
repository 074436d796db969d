"""How pictures and their index say who an image shows, from which camera, and how well it was ranked."""

from __future__ import annotations

from jobs.phrases import camera_text


def who_text(pid: int | None, camid: int | None, *, between: str = " · ") -> str:
    """`pid 12 · cam 3 (c4)`: identity and camera of an image; `?` for what is not known."""
    return f"pid {'?' if pid is None else pid}{between}cam {camera_text(camid)}"


def ap_text(ap: float | None) -> str:
    """`AP 0.312`: a query's average precision; empty where it is not known."""
    return "" if ap is None else f"AP {ap:.3f}"
