"""What is wrong with a request to mine by its words and files alone; a file that is no checkpoint does not matter."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.benchmark.bench import BenchConfig, bench
from jobs.errors import UserError
from jobs.mining.config import MineConfig, build_config
from jobs.mining.mine import mine
from jobs.mining.model_options import ModelOptions
from jobs.mining.request import refuse_wrong_mining
from promptsg_core.errors import ModelError

CASES = (
    ({"checkpoint": "none.pth"}, "the checkpoint .*none.pth does not exist"),
    ({"device": "gpu"}, "device 'gpu' is not one"),
    ({"maps": ("mim_atention",)}, "unknown map 'mim_atention'; did you mean mim_attention"),
    ({"target": "label", "label_map": "none.json"}, "cannot read .*none.json: No such file"),
    ({"target": "label", "label_map": "."}, "cannot read .*: Is a directory"),
    ({"camera_map": "none.json"}, "cannot read .*none.json: No such file"),
    ({"target": "similarity", "reference": "none"}, "none is not a run: it has no run.json"),
)


def config_of(folder: Path, **changes: object) -> MineConfig:
    (folder / "m.pth").write_bytes(b"no weights")
    (folder / "a.tar").write_bytes(b"")
    values: dict[str, object] = {"checkpoint": "m.pth", "shards": "a.tar", "output": "RUN", **changes}
    places = ("checkpoint", "shards", "output", "label_map", "camera_map", "model_settings", "reference")
    values |= {name: str(folder / str(values[name])) for name in places if name in values}
    return build_config(None, values)


@pytest.mark.parametrize(("changes", "message"), CASES)
def test_mining_and_benchmark_refuse_the_same(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, **changes)
    for call in (refuse_wrong_mining, mine, lambda mining: bench(BenchConfig(mining=mining))):
        with pytest.raises((UserError, ModelError), match=message):
            call(config)  # type: ignore[operator]
    assert not (tmp_path / "RUN").exists()


def test_the_commands_for_single_images_look_for_the_camera_map_too(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"cannot read .*none.json: No such file"):
        ModelOptions(checkpoint=tmp_path / "m.pth", camera_map=tmp_path / "none.json").load()
