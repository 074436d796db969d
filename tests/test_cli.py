"""The command group: help without torch, one-line errors, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import COMMANDS, main


def promptsg(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs", *words], capture_output=True, text=True, env=env)


def test_help_has_every_command_with_its_line() -> None:
    done = promptsg("--help")
    assert done.returncode == 0
    listed = " ".join(done.stdout.partition("Commands:")[2].split())
    assert listed == " ".join(f"{name} {line}" for name, line in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"], prog_name="x")
    _, found, example = result.output.partition("Example")
    assert result.exit_code == 0 and found and f"promptsg {name}" in example


def test_help_does_not_wait_for_torch() -> None:
    code = """
import sys
from jobs.cli import COMMANDS, main
for name in COMMANDS:
    main([name, "--help"], standalone_mode=False)
    print("slow:", name, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("slow:")]
    assert found == [[name, "False"] for name in COMMANDS]


def test_an_unknown_command_is_a_usage_error() -> None:
    done = promptsg("mien")
    assert done.returncode == 2 and "No such command 'mien'" in done.stderr


def test_what_a_user_can_cause_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = promptsg("status", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"promptsg: {tmp_path} is not a run: it has no run.json (mine one with `promptsg mine`)\n"


def test_the_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    done = promptsg("status", str(tmp_path), env={**os.environ, "PROMPTSG_DEBUG": "1"})
    assert done.returncode == 1 and "Traceback" in done.stderr
