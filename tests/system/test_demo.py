"""`promptsg demo` and `promptsg test`: commands made of commands; and that the tiny model can be trained again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.commands.demo import CHECKPOINT, MAPS
from jobs.pedestrians.dataset import write_pedestrian_shards
from jobs.runs.run import open_run
from jobs.runs.verify import verify
from jobs.statistics.localisation.localise import Localisation, localise, read_masks
from tests.support.shard_files import market_key, sample_members, textured_image, write_tar
from tests.support.tiny import tiny_checkpoint


def promptsg(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "look"
    done = promptsg("demo", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_demo_makes_all_that_it_names(demo: tuple[Path, str]) -> None:
    folder, said = demo
    assert verify(folder / "RUN").exit_status == 0
    assert open_run(folder / "RUN").maps == MAPS
    for path in ("gallery/index.html", "RUN/stats/report.html", "RUN/evaluation/metrics.json"):
        assert (folder / path).stat().st_size > 500
    assert list((folder / "sheet").glob("*.png")) and list((folder / "ranked").glob("*.png"))
    assert "fixed prior" in said
    _, last = said.split("Look first at\n")
    named = [line.split("  (")[0].strip() for line in last.splitlines()]
    assert named == [str(folder / path) for path in ("gallery/index.html", "ranked", "RUN/stats/report.html", "sheet")]


def test_the_tiny_model_finds_people_that_it_has_never_seen(demo: tuple[Path, str]) -> None:
    """The quality that the README states, with room for other machines' arithmetic."""
    folder, _ = demo
    metrics = json.loads((folder / "RUN" / "evaluation" / "metrics.json").read_text())
    assert 0.95 <= metrics["mAP"] <= 1
    found = scores(folder / "RUN", sorted((folder / "shards").glob("*.tar")))
    assert found["mim_attention"].ratio >= 2.3 and found["mim_attention"].pointing >= 0.8
    assert found["mim_attention"].auc >= 0.8
    assert found["hirescam/vit_proj"].ratio >= 2.4 and found["hirescam/vit_proj"].pointing >= 0.8
    assert found["gradcam++/vit_proj"].pointing >= 0.65
    assert found["gradcam++/vit_proj"].zero == 0
    for name in ("mim_attention", "hirescam/vit_proj"):  # the single image's map, not where persons usually stand
        assert (
            found[name].auc > found[f"average of {name}"].auc or found[name].ratio > found[f"average of {name}"].ratio
        )


def scores(run: Path, shards: list[Path]) -> dict[str, Localisation]:
    return {entry.name: entry for entry in localise(open_run(run), read_masks(shards))}


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    done = promptsg("demo", tmp_path)
    assert done.returncode == 1 and "is not empty and not a demo's folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_localisation_of_a_run_by_hand(tmp_path: Path) -> None:
    """Maps that are the masks themselves score the most that can be had; their average is the prior."""
    from cam.placement import GridPlacement
    from jobs.shards.samples import Sample
    from jobs.statistics.localisation.mask_scores import covered_share
    from tests.support.made_runs import made_manifest, made_shard

    shards = write_pedestrian_shards(tmp_path / "s", train=0, test=4, cameras=2, distractors=4, junk=2)
    masks = read_masks(shards)
    keys = sorted(masks)
    samples = [Sample(key=key, tar_index=n, pid=int(key.split("_")[0]), camid=0) for n, key in enumerate(keys)]
    shares = np.stack([covered_share(masks[key], GridPlacement.even((16, 8))) for key in keys]).astype(np.float32)
    manifest = made_manifest(tmp_path / "RUN", ["a"], ["mim_attention"])
    made_shard(tmp_path / "RUN", manifest, "a", samples, mim_attention=shares)
    found = {entry.name: entry for entry in localise(open_run(tmp_path / "RUN"), masks)}
    people = [n for n, sample in enumerate(samples) if (sample.pid or 0) > 0]
    assert found["mim_attention"].images == len(people)
    assert found["mim_attention"].auc > 0.95 and found["mim_attention"].pointing > 0.95
    exact = np.mean([(shares[n] ** 2).sum() / shares[n].sum() / shares[n].mean() for n in people])
    assert found["mim_attention"].ratio == pytest.approx(exact, rel=1e-5)
    assert found["average of mim_attention"].ratio == pytest.approx(found["fixed prior"].ratio, rel=1e-5)
    low, high = found["mim_attention"].interval["ratio"]
    assert low < found["mim_attention"].ratio < high


def test_test_is_mine_then_evaluate_then_render(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    for split, first in (("query", 0), ("gallery", 1)):
        members = []
        for pid in range(1, 5):
            for camid in range(2):
                number = 10 * pid + 2 * camid + first
                image = textured_image(number)
                members += sample_members(market_key(pid, camid, number), image, pid=pid, camid=camid)
        write_tar(tmp_path / f"{split}-0.tar", members)
    done = promptsg("test", "--checkpoint", tmp_path / "m.pth", "--shards", tmp_path / "*-0.tar", "--visualize", 3,
                    "--output", tmp_path / "RUN", "--map", "mim_attention", "--map", "gradcam/mim")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("$ promptsg ") == 3
    assert pq.read_table(tmp_path / "RUN" / "evaluation" / "queries.parquet").num_rows == 8
    assert len(list((tmp_path / "RUN" / "attention_visualizations").glob("*.png"))) == 3
    missing = promptsg("test", "--checkpoint", tmp_path / "no.pth", "--shards", tmp_path / "*-0.tar", "--output",
                       tmp_path / "X")  # fmt: skip
    assert missing.returncode == 1 and "no.pth" in missing.stderr and missing.stdout.count("$ promptsg ") == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_from_scratch_reaches_the_same_quality(tmp_path: Path, seed: int) -> None:
    """The commands beside the checkpoint with three seeds, on identities that training has not seen."""
    write_pedestrian_shards(tmp_path / "train", images_per_camera=8, splits=("train",))
    shards = write_pedestrian_shards(tmp_path / "test", splits=("query", "gallery"))
    mean_ap, found = quality(tmp_path / "trained", shards, "--seed", seed)
    before, untrained = quality(tmp_path / "untrained", shards, "--seed", seed, "--steps", 1)
    print(f"seed {seed}: mAP {mean_ap:.3f}", *found.values(), sep="\n")
    print(f"after one step: mAP {before:.3f}", *untrained.values(), sep="\n")
    assert mean_ap >= 0.90 > 0.5 > before
    assert found["mim_attention"].ratio >= 2.0 > 1.2 > untrained["mim_attention"].ratio
    assert found["mim_attention"].pointing >= 0.7 and found["mim_attention"].auc >= 0.75
    assert found["hirescam/vit_proj"].ratio >= 2.0 and found["hirescam/vit_proj"].pointing >= 0.8
    assert found["gradcam++/vit_proj"].pointing >= 0.6 and found["gradcam++/vit_proj"].zero == 0


def quality(folder: Path, shards: list[Path], *training: object) -> tuple[float, dict[str, Localisation]]:
    """mAP, and every map's localisation on the shards, of a model trained from scratch on those beside `folder`."""
    done = promptsg("train", "--shards", folder.parent / "train" / "train-*.tar", "--scratch", "--weights", "fp16",
                    "--output", folder / "T", *training, OMP_NUM_THREADS="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = [word for path in shards for word in ("--shards", path)] + [
        word for name in MAPS for word in ("--maps", name)
    ]
    assert promptsg("mine", *words, "--checkpoint", folder / "T" / "model.safetensors", "--output",
                    folder / "RUN").returncode == 0  # fmt: skip
    assert promptsg("evaluate", folder / "RUN").returncode == 0
    metrics = json.loads((folder / "RUN" / "evaluation" / "metrics.json").read_text())
    return metrics["mAP"], scores(folder / "RUN", shards)


def test_the_shipped_checkpoint_is_small_and_says_what_it_is() -> None:
    from promptsg_core.checkpoint import inspect_checkpoint

    path = Path(str(files("configs").joinpath("demo", CHECKPOINT)))
    info = inspect_checkpoint(path)
    assert path.stat().st_size < 6_000_000 and info.family == "H" and info.config.grid == (16, 8)
    assert info.config.vocab_size == 7 and info.config.token_rows is not None
