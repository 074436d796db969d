"""What `from jobs import ...` hands out to a notebook."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jobs

SOURCE = Path(jobs.__file__)


def handed_out() -> dict[str, str]:
    """Name -> module, by the imports that the type checker sees."""
    imports = [node for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.ImportFrom)]
    return {
        alias.name: node.module or ""
        for node in imports
        for alias in node.names
        if (node.module or "").startswith("jobs.")
    }


def test_the_type_checker_sees_what_python_hands_out() -> None:
    assert handed_out() == {name: f"jobs.{module}" for name, module in jobs._MODULES.items()}
    assert set(handed_out()) <= set(dir(jobs))


@pytest.mark.parametrize("name", sorted(jobs._MODULES))
def test_a_name_is_that_of_its_module(name: str) -> None:
    assert getattr(jobs, name).__module__ == f"jobs.{jobs._MODULES[name]}"


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'jobs' has no attribute 'opn_run'"):
        jobs.opn_run  # noqa: B018


def test_reading_a_run_needs_no_torch_and_importing_jobs_needs_nothing() -> None:
    code = (
        "import jobs, sys; print('pyarrow' in sys.modules); from jobs import open_run, status, verify, finalize, submit"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
