"""A worker is seen while it loads its model, where there is a run that it goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from jobs.errors import UserError
from jobs.mining import mine as mine_module
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.runs.presence.judge import WorkerState
from jobs.runs.status import status
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint


def test_a_worker_is_seen_while_its_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    market_shard(tmp_path / "query-0.tar", 2)
    root, seen = tmp_path / "RUN", list[list[WorkerState]]()

    def mining(pattern: str, **options: object) -> MiningSummary:
        values = {"checkpoint": tmp_path / "m.pth", "output": root, "shards": str(tmp_path / pattern), "workers": 0}
        values |= {"maps": ("mim_attention",), "precision": "fp32", "device": "cpu"}
        return mine(build_config(None, values), MineOptions(**options))  # type: ignore[arg-type]

    def loading(*_: object) -> NoReturn:
        seen.append([worker.state for worker in status(root).workers] if root.exists() else [])
        raise UserError("the model is another")

    with monkeypatch.context() as patch:
        patch.setattr(mine_module, "_load", loading)
        with pytest.raises(UserError, match="another"):
            mining("*.tar")
    assert seen.pop() == [] and not root.exists()  # before anything is written
    assert mining("*.tar").done == 1
    (log,) = (root / "logs").glob("shards-*.jsonl")
    before = log.read_bytes()
    assert mining("*.tar").nothing_to_do and log.read_bytes() == before  # who has no work is no worker

    market_shard(tmp_path / "query-1.tar", 2, first=10)
    monkeypatch.setattr(mine_module, "_load", loading)
    for pattern, options in (("*.tar", {"extend": True}), ("query-0.tar", {"add_maps": ("gradcam/mim",)})):
        with pytest.raises(UserError, match="another"):
            mining(pattern, **options)
        assert seen.pop() == ["running"]
        assert [worker.because for worker in status(root).workers] == ["ended by an error: the model is another"]
