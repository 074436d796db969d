"""What must start without torch, and that the names which our packages hand out are there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cam
import jobs
import promptsg_core
from tests.support.imports import REPOSITORY, modules_below, tree_of
from tests.support.packages import LIBRARIES, package_of

# What the model needs, and what takes a second to import.
SLOW = {"torch", "torchvision", "webdataset"}
RUN_A_MODEL = {"mining", "training", "faithfulness", "benchmark", "shards", *LIBRARIES}  # the reader of shards too
WITHOUT_TORCH = [
    *(name for name in modules_below() if package_of(name) not in RUN_A_MODEL and name != "jobs.__main__"),
    "cam.measures",
    "cam.overlay",
    "jobs.faithfulness.early",
    "jobs.mining.request",
    "jobs.training.early",
    "jobs.shards.locate",  # with all that reads tars and addresses
    "jobs.shards.samples",
    "promptsg_core.images",
]
# Of what jobs hands out, that which runs no model.
HANDED_WITHOUT_TORCH = [
    "DiffConfig",
    "EvaluateConfig",
    "GalleryConfig",
    "LocaliseConfig",
    "RenderConfig",
    "RowSelection",
    "Run",
    "StatsConfig",
    "SubmitConfig",
    "diff_runs",
    "evaluate",
    "finalize",
    "gallery",
    "localise",
    "open_run",
    "prompt_stats",
    "render",
    "select_rows",
    "stats",
    "status",
    "submit",
    "verify",
]
DOORS = [jobs, cam, promptsg_core]


def modules_after(code: str) -> set[str]:
    """Names of all modules that a fresh interpreter has loaded after this code."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def slow_alone(statements: list[str]) -> list[str]:
    """Those of the statements that load what is slow. One interpreter runs all of them; only if that is slow are they
    told apart."""
    if not SLOW & modules_after("\n".join(statements)):
        return []
    return [statement for statement in statements if SLOW & modules_after(statement)]


def test_what_needs_no_model_does_not_wait_for_torch() -> None:
    assert slow_alone([f"import {module}" for module in WITHOUT_TORCH]) == []


def test_what_jobs_hands_out_for_stored_maps_does_not_wait_for_torch() -> None:
    assert slow_alone([f"from jobs import {name}" for name in HANDED_WITHOUT_TORCH]) == []


def test_a_package_itself_loads_nothing() -> None:
    ours = {name for name in modules_after("import jobs, cam, promptsg_core") if name.split(".")[0] in ("jobs", "cam")}
    assert ours == {"jobs", "cam"}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_every_name_that_a_package_hands_out_is_there(door: ModuleType) -> None:
    """The table, `__all__` and the imports that a type checker reads say the same, and each name exists."""
    homes = {name: f"{door.__name__}.{home}" for name, home in door._MODULES.items()}
    assert sorted(homes) == sorted(door.__all__)
    assert homes == typed_homes(REPOSITORY / door.__name__ / "__init__.py")
    lacking = [f"{home}.{name}" for name, home in homes.items() if not hasattr(importlib.import_module(home), name)]
    assert lacking == []
    assert [name for name, home in homes.items() if getattr(door, name).__module__ != home] == []
    assert set(homes) <= set(dir(door))


def typed_homes(path: Path) -> dict[str, str]:
    """name -> module, of what a package imports under TYPE_CHECKING."""
    (guarded,) = [node for node in tree_of(path).body if isinstance(node, ast.If)]
    statements = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in statements for alias in node.names}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_name_that_a_package_lacks_is_an_attribute_error(door: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{door.__name__}' has no attribute 'mien'"):
        _ = door.mien
