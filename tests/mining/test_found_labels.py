"""`--target label` end to end: a model with another numbering is refused, and its numbering is learned exactly."""

from __future__ import annotations

import json
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from jobs.commands.mine import command
from jobs.errors import UserError
from jobs.mining import found_labels
from jobs.mining.config import MineConfig, build_config
from jobs.mining.mine import mine
from jobs.mining.model import load
from jobs.mining.request import request_of
from jobs.mining.summary import MiningSummary
from jobs.mining.targets import LabelTarget
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import create_manifest
from jobs.runs.run import open_run
from jobs.runs.verify import verify
from jobs.shards.urls import expand_shards
from tests.support.knowing_model import knowing_checkpoint, person_shard

PIDS = [3 * number + 2 for number in range(12)]
MAPS = ("mim_attention", "gradcam/mim", "hirescam/vit_proj")
_order = list(range(len(PIDS)))
random.Random(1).shuffle(_order)
CLASSES = dict(zip(PIDS, _order, strict=True))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training shards and a query shard; checkpoints with the usual numbering and with another one."""
    folder = tmp_path_factory.mktemp("numbering")
    person_shard(folder / "train-0.tar", PIDS[:6], 4)
    person_shard(folder / "train-1.tar", PIDS[6:], 4)
    person_shard(folder / "query-0.tar", [500], 2)
    knowing_checkpoint(folder / "other.pth", CLASSES)
    knowing_checkpoint(folder / "usual.pth", {pid: number for number, pid in enumerate(PIDS)})
    (folder / "right.json").write_text(json.dumps(CLASSES))
    (folder / "wrong.json").write_text(json.dumps({pid: (label + 1) % 12 for pid, label in CLASSES.items()}))
    return folder


def configured(inputs: Path, output: Path, checkpoint: str = "other", **options: object) -> MineConfig:
    common = {"maps": MAPS, "workers": 0, "precision": "fp32", "device": "cpu", "target": "label"}
    places = {"shards": str(inputs / "*.tar"), "checkpoint": inputs / f"{checkpoint}.pth", "output": output}
    return build_config(None, {**common, **places, **options})


def mined(*place: Path, **options: object) -> MiningSummary:
    return mine(configured(*place, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learned(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("learned") / "RUN"
    assert mined(inputs, output, label_map="auto").exit_status == 0
    return output


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("the model was run over training images again")


def test_another_numbering_is_refused_before_anything_is_written(inputs: Path, tmp_path: Path) -> None:
    words = ["--shards", f"{inputs}/*.tar", "--checkpoint", f"{inputs}/other.pth", "--output", str(tmp_path / "RUN"),
             "--target", "label", "--precision", "fp32", "--device", "cpu", "--workers", "0"]  # fmt: skip
    with pytest.raises(UserError) as error:
        CliRunner().invoke(command, words, catch_exceptions=False)
    said = str(error.value)
    assert "on 48 training images of 12 persons the prediction is the label in " in said and "(chance: 8.3%)" in said
    assert "--label-map FILE" in said and "--label-map auto" in said and "\n" not in said
    assert not (tmp_path / "RUN").exists()
    with pytest.raises(
        UserError, match=r"the classes of the label map .*wrong\.json are not this checkpoint's: .*auto"
    ):
        mined(inputs, tmp_path / "RUN", label_map=inputs / "wrong.json")


def test_the_usual_numbering_is_found_to_be_right(inputs: Path, tmp_path: Path) -> None:
    assert mined(inputs, tmp_path / "RUN", checkpoint="usual").exit_status == 0
    manifest = open_run(tmp_path / "RUN").manifest
    assert manifest.label_agreement is not None and manifest.resolved.label_map is None
    assert manifest.label_agreement.agreement > 0.9 and manifest.label_agreement.images == 48


def test_the_permutation_is_learned_and_recorded(learned: Path) -> None:
    manifest = open_run(learned).manifest
    assert manifest.asked.label_map == "auto" and manifest.resolved.label_map == CLASSES
    assert manifest.label_agreement is not None and manifest.label_agreement.agreement > 0.9
    assert verify(learned).exit_status == 0


def test_maps_under_a_learned_map_are_those_under_the_right_file(inputs: Path, learned: Path, tmp_path: Path) -> None:
    assert mined(inputs, tmp_path / "RUN", label_map=inputs / "right.json").exit_status == 0
    for shard in ("train-0", "train-1", "query-0"):
        with h5py.File(learned / f"maps/{shard}.h5") as one, h5py.File(tmp_path / f"RUN/maps/{shard}.h5") as other:
            for name in MAPS:
                assert one[f"maps/{name}"][:].tobytes() == other[f"maps/{name}"][:].tobytes()
    maps = open_run(learned).read_maps("gradcam/mim", "train-0")
    assert np.isfinite(maps).all() and maps.any()


def test_a_run_that_is_continued_neither_learns_nor_checks_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, options in (("L", {"label_map": "auto"}), ("U", {"checkpoint": "usual"})):
        assert mined(inputs, tmp_path / name, **options).exit_status == 0
        before = open_run(tmp_path / name).manifest
        maps = open_run(tmp_path / name).read_maps("gradcam/mim", "train-1")
        (tmp_path / name / "metadata/train-1.parquet").unlink()
        with monkeypatch.context() as patched:
            patched.setattr(found_labels, "predict", forbidden)
            assert mined(inputs, tmp_path / name, **options).shards == 1
        assert open_run(tmp_path / name).manifest == before
        np.testing.assert_array_equal(open_run(tmp_path / name).read_maps("gradcam/mim", "train-1"), maps)
    with pytest.raises(UserError, match=r'label_map was "auto" and is now [0-9a-f]{8}…'):
        mined(inputs, tmp_path / "L", label_map=inputs / "right.json")


def test_of_two_workers_that_learn_at_once_the_first_one_counts(inputs: Path, tmp_path: Path) -> None:
    """The other one comes to write run.json, finds another map there, and takes that."""
    config = configured(inputs, tmp_path / "RUN", label_map="auto")
    shards = expand_shards(config.shards)
    loaded, request = load(config, (), shards), request_of(config, shards, ())
    swapped = {**CLASSES, PIDS[0]: CLASSES[PIDS[1]], PIDS[1]: CLASSES[PIDS[0]]}
    layout = RunLayout(tmp_path / "RUN")
    first = create_manifest(layout, request, loaded.resolved.model_copy(update={"label_map": swapped}))
    second = create_manifest(layout, request, loaded.resolved, label_agreement=loaded.label_agreement)
    assert second == first and second.resolved.label_map == swapped
    targets = loaded.of_run(second).targets
    assert isinstance(targets, LabelTarget) and targets.labels == swapped
    assert load(config, (), shards, started=second).targets == LabelTarget(swapped)


def test_a_model_that_knows_nobody_is_not_refused_but_nothing_is_learned_from_it(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knowing_checkpoint(tmp_path / "weak.pth", {pid + 1000: number for number, pid in enumerate(PIDS)}, sharpness=0.01)
    weak = {"checkpoint": tmp_path / "weak.pth"}
    common = {**configured(inputs, tmp_path / "W").model_dump(exclude_unset=True), **weak}
    assert mine(build_config(None, common)).exit_status == 0
    assert "was the checkpoint trained on these images" in caplog.text
    with pytest.raises(UserError, match=r"of 12 persons have no clear class of their own, such as pid \d+: class"):
        mine(build_config(None, {**common, "output": tmp_path / "A", "label_map": "auto"}))
    assert not (tmp_path / "A").exists()


def test_without_training_images_the_check_is_said_to_be_impossible(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    only = {"shards": str(inputs / "query-0.tar"), "label_map": inputs / "right.json"}
    assert mined(inputs, tmp_path / "RUN", **only).exit_status == 0
    assert "could not be checked: the shards have 0 images of 0 persons" in caplog.text
    with pytest.raises(UserError, match="training shards have 0 pids, but the checkpoint has 12 classes"):
        mined(inputs, tmp_path / "A", shards=only["shards"], label_map="auto")


def test_a_file_called_auto_is_a_file(tmp_path: Path) -> None:
    places = {"shards": "s", "checkpoint": "m", "output": "r"}
    assert build_config(None, {**places, "label_map": "./auto"}).label_map == Path.cwd() / "auto"
    assert build_config(None, {**places, "label_map": tmp_path / "auto"}).label_map == tmp_path / "auto"
    assert build_config(None, {**places, "label_map": "auto"}).label_map == "auto"
    with pytest.raises(UserError, match="label_map is 5: expected a path or auto"):
        build_config(None, {**places, "label_map": 5})
