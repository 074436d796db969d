"""The parts of the check, most important first, and the seconds that each may take."""

from __future__ import annotations

from tests.gpu.parts import Part

PARTS = (
    Part(name="machine", module="machine", least=0, most=30),
    Part(name="model", module="made_model", least=10, most=45),
    Part(name="tests", module="suite", least=20, most=110),
    Part(name="speed", module="speed", least=20, most=55),
    Part(name="job", module="job", least=35, most=110),
    Part(name="one batch", module="one_batch", least=12, most=25),
    Part(name="agreement", module="agreement", least=15, most=45),
    Part(name="families", module="families", least=12, most=40),
    Part(name="determinism", module="determinism", least=12, most=30),
    Part(name="bench", module="bench", least=40, most=60),
)


def part_called(name: str) -> Part:
    """The part of this name."""
    return next(part for part in PARTS if part.name == name)
