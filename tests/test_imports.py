"""The arrows between the packages, and what must start without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

PACKAGES = {"promptsg_core", "cam", "jobs"}
MODULES = {
    "promptsg_core": ["promptsg_core", "promptsg_core.checkpoint", "promptsg_core.preprocess"],
    "cam": ["cam", "cam.extract", "cam.measures"],
}
WITHOUT_TORCH = [
    "cam.measures",
    "cam.overlay",
    "cam.panels",
    "jobs.statistics.mask_scores",
    "promptsg_core.images",
]


def modules_after(*imports: str) -> set[str]:
    """Names of all modules that a fresh interpreter has loaded after these imports."""
    code = f"import {', '.join(imports)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", MODULES)
def test_core_and_cam_import_nothing_else_of_ours(package: str) -> None:
    loaded = {name.partition(".")[0] for name in modules_after(*MODULES[package])}
    assert loaded & PACKAGES == {package}


def test_what_needs_no_model_does_not_wait_for_torch() -> None:
    """One interpreter imports them all; only if torch comes in are they told apart."""
    slow = {"torch", "webdataset"}
    if slow & modules_after(*WITHOUT_TORCH):
        assert [module for module in WITHOUT_TORCH if slow & modules_after(module)] == []
