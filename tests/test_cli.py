"""The command group: help without torch, one-line errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import COMMANDS


def promptsg(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs", *words], capture_output=True, text=True, env=env)


def test_help_names_every_command() -> None:
    done = promptsg("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name}" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = promptsg(name, "--help")
    assert done.returncode == 0 and f"promptsg {name}" in done.stdout and "Example" in done.stdout, done.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    done = promptsg("mien")
    assert done.returncode == 2 and "No such command 'mien'" in done.stderr


def test_what_a_user_can_cause_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = promptsg("status", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"promptsg: {tmp_path} is not a run: it has no run.json (mine one with `promptsg mine`)\n"


def test_the_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    import os

    done = promptsg("status", str(tmp_path), env={**os.environ, "PROMPTSG_DEBUG": "1"})
    assert done.returncode == 1 and "Traceback" in done.stderr
