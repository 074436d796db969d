"""resume.pt with bits that flipped, and of earlier versions; trainings that must give the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from jobs.cli import main
from jobs.errors import UserError
from jobs.training.state_file import SavedState, read_state, write_state
from promptsg_core.training import checkpoint_bytes
from tests.support.imports import REPOSITORY
from tests.support.shard_files import market_shard
from tests.training.test_train import tiny_model

CPU = torch.device("cpu")
STATE = SavedState(
    signature="{}",
    step=3,
    figures="[]",
    model={"a": torch.arange(2000.0), "b": torch.ones(3).half()},
    optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    scaler={},
)


def assert_same(found: SavedState) -> None:
    assert (found.step, found.signature, found.figures, found.scaler) == (3, "{}", "[]", {})
    assert found.optimizer == STATE.optimizer
    assert all(torch.equal(found.model[key], STATE.model[key]) for key in "ab")


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    write_state(path, STATE)
    assert_same(read_state(path, CPU))
    assert list(tmp_path.iterdir()) == [path]
    whole = path.read_bytes()
    head = len(b"promptsg training state 1\n")
    assert whole[head : head + 32] == hashlib.sha256(whole[head + 32 :]).digest()
    rng = np.random.default_rng(0)
    places = [*range(head + 40), *rng.integers(len(whole), size=300).tolist()]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"resume.pt is damaged, .*: delete it, and the same command starts again"):
            read_state(path, CPU)
    for size in (0, 1, head, head + 32, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"resume.pt is damaged"):
            read_state(path, CPU)


def test_a_state_of_an_earlier_version_is_read_and_its_parts_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    torch.save(vars(STATE), path)
    assert_same(read_state(path, CPU))
    whole = path.read_bytes()
    place = whole.index(torch.arange(2000.0)[1000:1010].numpy().tobytes())
    for bit in range(8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"resume.pt is damaged"):
            read_state(path, CPU)


def test_a_checkpoint_has_its_metadata_in_order(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = tiny_model()
    content = checkpoint_bytes(model, token_rows=[0, 2])
    path.write_bytes(content)
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    header = json.loads(content[8 : 8 + size])
    assert list(header["__metadata__"]) == ["format", "promptsg.config", "promptsg.token_rows"]
    with safe_open(path, "pt") as file:
        assert file.metadata() == header["__metadata__"]
        for key, tensor in model.state_dict().items():
            kept = tensor[[0, 2]] if key == "prompt_composer.token_embedding.weight" else tensor
            assert torch.equal(file.get_tensor(key), kept), key


def test_identical_trainings_give_identical_files_in_every_process(tmp_path: Path) -> None:
    market_shard(tmp_path / "train-000000.tar", 20)
    settings = ("image_size=[32,16]", "identities=4", "images_each=2", "steps=3", "precision=fp32", "device=cpu")
    words = ["train", "--shards", str(tmp_path / "train-000000.tar"), "--scratch"]
    words += [word for setting in settings for word in ("--set", setting)]
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    command = [sys.executable, "-m", "jobs", *words, "--output", str(one.parent)]
    # Sets have another order there. The number of threads is a part of what is computed.
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert CliRunner().invoke(main, [*words, "--output", str(two.parent)]).exit_code == 0
    assert one.read_bytes() == two.read_bytes()
