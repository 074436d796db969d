"""What CI and the hooks before a commit run: the parts of .ci/run, and that both check the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.imports import REPOSITORY

HOOKS = REPOSITORY / ".pre-commit-config.yaml"
SETUP = """\
classifiers =
    Programming Language :: Python :: 3
    Programming Language :: Python :: 3.10
    Programming Language :: Python :: 3.9
    Programming Language :: Python :: 3.11
"""


def bash(code: str, folder: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a piece of bash."""
    command = [shutil.which("bash") or "bash", "-euc", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **variables})


def program(path: Path, text: str) -> Path:
    """A shell script that can be called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a setup.cfg, and `bin` for a PATH of ours with the few tools that .ci/pythons.sh calls."""
    (tmp_path / "setup.cfg").write_text(SETUP)
    (tmp_path / "bin").mkdir()
    for tool in ("sed", "sort", "find"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def found_pythons(place: Path) -> list[str]:
    done = bash(f". {REPOSITORY}/.ci/pythons.sh; found_pythons", place, PATH=str(place / "bin"))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_supported_versions_are_those_of_setup_cfg(place: Path) -> None:
    done = bash(f". {REPOSITORY}/.ci/pythons.sh; supported_versions", place)
    assert done.stdout.split() == ["3.9", "3.10", "3.11"]
    assert bash(". .ci/pythons.sh; supported_versions").stdout.split()[0] == "3.10"


def test_pythons_are_found_on_the_path_and_must_be_what_they_are_called(place: Path) -> None:
    ours = place / "bin"
    program(ours / "python3.10", "echo 3.10")
    program(ours / "python3.9", "echo 'pyenv: python3.9: command not found' >&2; exit 127")  # a shim that leads nowhere
    program(ours / "python3", "echo 3.11")
    assert found_pythons(place) == [f"3.10 {ours}/python3.10", f"3.11 {ours}/python3"]


def test_pythons_of_pyenv_are_found_the_newest_of_a_version_first(place: Path) -> None:
    program(place / "bin" / "pyenv", f"echo '{place}/pyenv'")
    for version in ("3.9.2", "3.9.18", "3.10.1"):
        program(place / "pyenv" / "versions" / version / "bin" / "python", f"echo {version.rpartition('.')[0]}")
    program(place / "pyenv" / "versions" / "3.11.0" / "bin" / "python", "exit 1")  # without venv, or broken
    versions = place / "pyenv" / "versions"
    assert found_pythons(place) == [f"3.9 {versions}/3.9.18/bin/python", f"3.10 {versions}/3.10.1/bin/python"]


def test_no_python_is_no_line(place: Path) -> None:
    assert found_pythons(place) == []


STUBS = """
. .ci/run
install_system_packages() { :; }
check_all() { echo "all with $1"; }
check_briefly() { echo "briefly with $1"; }
"""


def test_the_newest_is_checked_in_full_and_the_oldest_briefly() -> None:
    done = bash(STUBS + "found_pythons() { printf '%s\\n' '3.10 /a b/python' '3.11 /c' '3.12 /d'; }; main")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["all with /d", "briefly with /a b/python"]
    assert "passed: all of it on Python 3.12, briefly on 3.10; supported are 3.10" in lines[-1]


def test_one_python_is_checked_once_and_none_is_an_error() -> None:
    done = bash(STUBS + "found_pythons() { echo '3.11 /c'; }; main")
    assert done.stdout.splitlines()[0] == "all with /c" and "briefly" not in done.stdout
    assert "passed: all of it on Python 3.11; supported are" in done.stdout
    done = bash(STUBS + "found_pythons() { :; }; main")
    assert done.returncode == 1 and "no supported Python was found; supported are 3.10" in done.stderr


def test_a_check_that_fails_ends_the_run() -> None:
    done = bash(STUBS + "check_all() { false; echo on; }\nfound_pythons() { echo '3.11 /c'; }; main")
    assert done.returncode == 1 and "passed" not in done.stdout and "on\n" not in done.stdout


def test_the_readmes_commands_are_the_two_that_run() -> None:
    lines = bash(". .ci/run; readme_commands").stdout.splitlines()
    assert lines == ["pip install . && promptsg demo", "pip install '.[test]' && pytest -q"]


def test_the_quick_tests_are_there() -> None:
    named = bash('. .ci/run; printf "%s\\n" "${quick_tests[@]}"').stdout.split()
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_the_hooks_run_what_ci_runs() -> None:
    ((repository),) = yaml.safe_load(HOOKS.read_text())["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert entries == ["ruff check .", "ruff format --check .", "mypy"]
    lines = [line.strip() for line in (REPOSITORY / ".ci" / "run").read_text().splitlines()]
    assert [entry for entry in entries if entry not in lines] == []
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}  # nothing is fetched


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of git with our configuration and a module in each package."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    for name in (".pre-commit-config.yaml", "setup.cfg", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for package in ("jobs", "promptsg_core", "cam"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text('"""A package."""\n')
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


def run_hooks(checkout: Path) -> subprocess.CompletedProcess[str]:
    """The hooks on everything, as `git commit` runs them."""
    pytest.importorskip("pre_commit", reason="needs pre-commit: pip install '.[dev]'")
    words = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color=never"]
    there = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**there, "PATH": path, "PRE_COMMIT_HOME": str(checkout.parent / "pre-commit")}
    return subprocess.run(words, cwd=checkout, capture_output=True, text=True, env=environment)


def test_the_hooks_pass_on_code_that_is_clean(checkout: Path) -> None:
    done = run_hooks(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 3


def test_each_hook_finds_what_it_is_for(checkout: Path) -> None:
    text = '''"""A module."""

from typing import Any


def f(x: Any) -> None:
    try:
        print(x)
    except Exception:
        g( x )


def g(x):
    print(x)
'''
    (checkout / "cam" / "module.py").write_text(text)
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    done = run_hooks(checkout)
    assert done.returncode == 1 and done.stdout.count("Failed") == 3, done.stdout
    for finding in ("ANN401", "BLE001", "1 file would be reformatted", "no-untyped-def"):
        assert finding in done.stdout
