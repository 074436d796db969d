"""What is wrong with a training by its words and files alone, told before its images are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.training import train as train_module
from jobs.training.config import TrainConfig
from jobs.training.early import refuse_wrong_training
from promptsg_core.errors import ModelError


def refused(folder: Path, **changes: object) -> str:
    """What the check says, and the library's call before it reads an image."""
    (folder / "a.tar").write_bytes(b"")
    values: dict[str, object] = {"shards": (str(folder / "a.tar"),), "output": folder / "OUT", "init": folder / "c.pth"}
    config = TrainConfig.model_validate(values | changes)
    said = set()
    for call in (refuse_wrong_training, train_module.train):
        with pytest.raises((UserError, ModelError)) as error:
            call(config)  # type: ignore[operator]
        said.add(str(error.value))
    (message,) = said
    return message


def test_what_is_not_there_is_told_before_the_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "load_training_images", lambda *_: pytest.fail("images are read"))
    assert refused(tmp_path) == f"cannot read {tmp_path / 'c.pth'}: No such file or directory"
    (tmp_path / "c.pth").mkdir()
    assert refused(tmp_path) == f"cannot read {tmp_path / 'c.pth'}: Is a directory"
    assert "device 'gpu' is not one" in refused(tmp_path, device="gpu")
    assert "none.tar" in refused(tmp_path, shards=(str(tmp_path / "none.tar"),))
