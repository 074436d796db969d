"""What is wrong with a measurement, told without torch, by the same rules as for mining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.faithfulness.early import refuse_wrong_request
from jobs.faithfulness.plan import FaithfulnessConfig
from jobs.runs.query import RowSelection
from tests.support.made_heads import run_with_heads


@pytest.fixture
def config(tmp_path: Path) -> FaithfulnessConfig:
    (tmp_path / "m.pth").write_bytes(b"no weights")
    return FaithfulnessConfig(run=run_with_heads(tmp_path).layout.root, checkpoint=tmp_path / "m.pth")


def test_what_can_be_is_not_refused(config: FaithfulnessConfig) -> None:
    refuse_wrong_request(config)
    refuse_wrong_request(replace(config, maps=("mim_attention#1",), sanity=False))


def test_a_single_head_beside_random_weights(config: FaithfulnessConfig) -> None:
    with pytest.raises(UserError, match=r"^mim_attention#1: re-initialised models .* give --no-sanity"):
        refuse_wrong_request(replace(config, maps=("mim_attention", "mim_attention#1")))


def test_files_a_run_and_a_condition_that_are_not_there(config: FaithfulnessConfig, tmp_path: Path) -> None:
    for wrong, message in (
        (replace(config, checkpoint=tmp_path), "the checkpoint .* does not exist or is not a file"),
        (replace(config, label_map=tmp_path / "none.json"), "cannot read .*none.json: No such file"),
        (replace(config, label_map=tmp_path), "cannot read .*: Is a directory"),
        (replace(config, reference=tmp_path / "none"), "none is not a run: it has no run.json"),
        (replace(config, selection=RowSelection(where="nosuch = 1")), "nosuch"),
    ):
        with pytest.raises(UserError, match=message):
            refuse_wrong_request(wrong)
