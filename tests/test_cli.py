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


def test_the_import_of_a_command_is_a_task_of_its_own() -> None:
    """From a file system that has not read the files lately it takes long, and logging must be set up by then."""
    code = """
import sys, time, jobs.progress
from jobs.cli import main
jobs.progress._FIRST_LINE_SECONDS = 0.0
class Slow:
    def find_spec(self, name, path=None, target=None):
        time.sleep(0.5 * (name == "jobs.commands.gallery"))
sys.meta_path.insert(0, Slow())
main(["gallery", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and " loading promptsg gallery, 0 s so far" in done.stderr, done.stderr


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


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("sys.modules['torch'] = None", "this command runs a model, and torch is not installed: install torch and"),
        ("sys.modules['torchvision'] = None", "this command runs a model, and torchvision is not installed"),
    ],
)
def test_without_torch_a_command_that_needs_it_says_what_to_install(breaks: str, message: str) -> None:
    code = f"import sys; {breaks}\nfrom jobs.cli import main\nmain(['info', {__file__!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"promptsg: {message}")
    assert done.stderr.count("promptsg: ") == 1 and "Traceback" not in done.stderr


def test_builds_that_do_not_belong_together_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchvision raises beside a torch of another build, when it is imported."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("jobs.commands.status.status", fail)
    done = CliRunner().invoke(main, ["status", "RUN"])
    assert done.exit_code == 1 and "torch and torchvision are of different builds (operator" in done.output
