"""Families of other packages, which an entry point registers: a package is laid out as pip installs one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cam import extract_maps
from jobs.commands.info import command
from promptsg_core import ModelError, inspect_checkpoint, load_model
from promptsg_core.families import registry
from promptsg_core.families.registry import config_of, families, family_of
from tests.support.tiny_clipreid import tiny_clipreid

# A family whose files are CLIP-ReID's with one tensor more, which it does not need.
MODULE = """
from dataclasses import dataclass, replace
from promptsg_core.families.clipreid import ClipReidConfig, ClipReidFamily
from promptsg_core.families.family import Signature, without

@dataclass(frozen=True, kw_only=True)
class GatedConfig(ClipReidConfig):
    recorded_as = {name!r}

@dataclass(frozen=True)
class Gated(ClipReidFamily):
    def read(self, tensors, stated):
        found = super().read(without(tensors, ["^gate"]), stated)
        return {returned}

FAMILY = Gated("Gated", Signature(has=("^gate.weight$", "cls_ctx")), GatedConfig, "example.org")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path of imports, whose packages count as installed."""
    for cached in (families, registry.registered):
        cached.cache_clear()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for cached in (families, registry.registered):
        cached.cache_clear()


OWN = "replace(found, config=GatedConfig(**vars(found.config)))"


def lay_out(folder: Path, package: str, name: str | None = "gated", returned: str = OWN) -> None:
    (folder / f"{package}.py").write_text(MODULE.format(name=name, returned=returned))
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[promptsg.families]\ngated = {package}:FAMILY\n")


def test_a_registered_family_is_listed_loaded_and_explained(install: Path) -> None:
    lay_out(install, "gated_reid")
    state = {**tiny_clipreid(), "gate.weight": torch.zeros(3)}
    torch.save(state, install / "m.pth")
    assert family_of(state).name == "Gated" and family_of(tiny_clipreid()).name == "CLIP-ReID"
    assert config_of("gated").__name__ == "GatedConfig" and config_of("clipreid").__name__ == "ClipReidConfig"
    assert "Gated" in CliRunner().invoke(command, [], catch_exceptions=False).output
    model = load_model(install / "m.pth", device="cpu", precision="fp32", image_size=(64, 32))
    assert model.config.to_dict()["family"] == "gated"
    images = torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
    assert extract_maps(model, images, model.config.default_maps).maps["cls_attention"].shape == (2, *model.grid)


def test_one_without_a_name_in_runs_or_that_does_not_load_is_named(install: Path) -> None:
    lay_out(install, "nameless_reid", name=None)
    with pytest.raises(ModelError, match="the family gated of nameless_reid:FAMILY has no name in runs"):
        families()
    (install / "nameless_reid-1.0.dist-info" / "entry_points.txt").write_text(
        "[promptsg.families]\ngone = no_such_module:FAMILY\n"
    )
    with pytest.raises(ModelError, match="the family gone of no_such_module:FAMILY cannot be loaded: No module"):
        families()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("found", "m.pth: the family Gated read the file as ClipReidConfig, but its configuration is GatedConfig"),
        ("found.config", "m.pth: the family Gated read the file as ClipReidConfig, expected ReadTensors"),
    ],
)
def test_what_a_family_reads_must_be_of_its_own_type(install: Path, returned: str, message: str) -> None:
    lay_out(install, f"other_reid_{len(returned)}", returned=returned)
    torch.save({**tiny_clipreid(), "gate.weight": torch.zeros(3)}, install / "m.pth")
    with pytest.raises(ModelError, match=message):
        inspect_checkpoint(install / "m.pth")


def test_a_name_in_runs_that_is_taken_is_refused(install: Path) -> None:
    lay_out(install, "posing_reid", name="clipreid")
    with pytest.raises(ModelError, match=r"posing_reid:FAMILY is recorded as 'clipreid' .* CLIP-ReID, which is built"):
        families()


def test_two_packages_with_one_name_in_runs_are_refused(install: Path) -> None:
    lay_out(install, "first_reid")
    lay_out(install, "second_reid")
    with pytest.raises(ModelError, match=r"as 'gated' in runs, and so is gated of (first|second)_reid:FAMI"):
        families()
