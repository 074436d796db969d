"""Each kind of damage to each file, and each command that reads it: noticed or harmless, never another result.

By default a fixed sample of the cases; all of them with `-m slow`, which prints how many there were of each outcome.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.damaged_matrix import TARGETS, Target
from tests.support.damaged_workspace import Outcome, Workspace

GOOD = {Outcome.NOTICED, Outcome.HARMLESS, Outcome.SAID, Outcome.OTHER_INPUT}
_PARTS = 8  # so that several processes can share the cases, and a failure does not hide all others
_SAMPLED = 40
# Files of a run that are whole, but another's: noticed where readers compare what files say of themselves.
_OF_ANOTHER = {"another over it", "swapped", "copy beside"}


@dataclass(frozen=True)
class Case:
    target: Target
    damage: str
    command: str

    def __str__(self) -> str:
        return f"{self.target.path}, {self.damage}, {self.command}"

    @property
    def is_of_another(self) -> bool:
        """Whether only a comparison with what other files say can tell: readers must compare it."""
        path = self.target.path
        if path == "RUN/run.json" and self.damage.startswith("bit flipped"):
            return True
        if path.startswith("RUN/maps") and self.command == "mine again":
            return True
        return path.startswith(("RUN/maps", "RUN/metadata/", "RUN/run.json")) and self.damage in _OF_ANOTHER


CASES = [
    Case(target, damage, command)
    for target in TARGETS
    for damage in target.damages
    for command in target.commands
    if damage != "no permission" or os.geteuid() != 0
]
_SHUFFLED = random.Random(19).sample(CASES, len(CASES))
SAMPLE = [case for case in _SHUFFLED if case.command not in ("faithfulness", "stats")][:_SAMPLED]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    root = tmp_path_factory.mktemp("damage")
    (root / "work").mkdir()
    before = Path.cwd()
    os.chdir(root / "work")
    try:
        made = Workspace(root)
        assert made.whole.is_dir()
        yield made
    finally:
        os.chdir(before)


def faults_of(workspace: Workspace, cases: list[Case]) -> list[str]:
    """What is not as it should be; prints how often each outcome was."""
    counts: Counter[Outcome] = Counter()
    faults = []
    for case in cases:
        outcome, told = workspace.outcome(case.target, case.damage, case.command)
        counts[outcome] += 1
        if outcome not in GOOD:
            faults.append(f"{case}: {outcome.value}\n{told.out[-300:]}{told.err[-600:]}{told.trace[-900:]}")
    print(f"{len(cases)} cases:", ", ".join(f"{count} {outcome.value}" for outcome, count in counts.most_common()))
    return faults


def test_a_sample_of_the_damage_is_noticed_or_harmless(workspace: Workspace) -> None:
    faults = faults_of(workspace, [case for case in SAMPLE if not case.is_of_another])
    assert not faults, "\n\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_PARTS))
def test_all_damage_is_noticed_or_harmless(workspace: Workspace, part: int) -> None:
    faults = faults_of(workspace, [case for case in CASES[part::_PARTS] if not case.is_of_another])
    assert not faults, "\n\n".join(faults)


@pytest.mark.slow
def test_files_of_another_shard_or_run_are_noticed(workspace: Workspace) -> None:
    faults = faults_of(workspace, [case for case in CASES if case.is_of_another])
    assert not faults, "\n\n".join(faults)
