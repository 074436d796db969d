"""Faithfulness of a run's maps, end to end and against loops over images; and the models with random weights."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from cam import CamError, class_target, extract_maps
from cam.faithfulness import KINDS, area, blur, mean_colour, removal_counts
from jobs.commands.faithfulness import command
from jobs.errors import UserError
from jobs.faithfulness import score as score_module
from jobs.faithfulness.measure import evenly_spaced, measure_faithfulness
from jobs.faithfulness.measured import NOBODY, Measured, count_people
from jobs.faithfulness.plan import FILLS, RANDOM, FaithfulnessConfig
from jobs.faithfulness.randomise import TargetedImages, correlations, reinitialised
from jobs.faithfulness.removal import random_orders
from jobs.faithfulness.score import ByClass, _labels, explained_score
from jobs.mining.config import build_config
from jobs.mining.mine import mine
from jobs.runs.query import RowSelection
from jobs.runs.run import open_run
from jobs.shards.urls import Shard
from jobs.statistics.intervals.resamples import mean_over_identities
from promptsg_core import load_model
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.preprocess import decode_image, resize_image
from tests.support.knowing_model import knowing_checkpoint, person_shard
from tests.support.made_heads import run_with_heads
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

MAPS = ("mim_attention", "gradcam++/mim", "hirescam/vit_proj")
LEVELS = ("nothing", "head", "head and tower")


def test_intervals_resample_whole_identities() -> None:
    generator = np.random.default_rng(5)
    people = np.repeat(np.arange(40), 25)
    values = generator.normal(size=40)[people] + 0.01 * generator.normal(size=1000)  # images of one person are alike
    mean, low, high = (v[0] for v in mean_over_identities(values[:, None], people, resamples=4000))
    spread = np.array([values[people == p].mean() for p in range(40)]).std() / 40**0.5
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.06)  # five times that of independent images
    with_gap = np.stack([values, np.where(people == 3, np.nan, values)], axis=1)
    means, lows, _ = mean_over_identities(with_gap, people)
    assert means[1] == pytest.approx(values[people != 3].mean()) and np.isfinite(lows).all()
    one = mean_over_identities(values[:25, None], people[:25])
    assert np.isfinite(one[0]).all() and np.isnan(one[1]).all() and np.isnan(one[2]).all()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that share out matrices as small as these only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.pth, other.pth, two shards of 12 + 8 images of 4 identities, and RUN over them."""
    path = tmp_path_factory.mktemp("faithfulness")
    tiny_checkpoint(path / "m.pth", image_size=(64, 32))
    tiny_checkpoint(path / "other.pth", seed=1, image_size=(64, 32))
    market_shard(path / "query-0.tar", 12, size=(70, 35))
    market_shard(path / "train-0.tar", 8, first=100, size=(70, 35))
    mined(path, "RUN")
    return path


def mined(path: Path, name: str, **options: object) -> Path:
    options = {"maps": MAPS, "workers": 0, "precision": "fp32", "device": "cpu", "batch_size": 8, **options}
    options |= {"checkpoint": path / "m.pth", "output": path / name, "shards": str(path / "*.tar")}
    assert mine(build_config(None, options)).exit_status == 0
    return path / name


def faithful(folder: Path, *options: object, run: str = "RUN") -> dict[str, Any]:
    """Runs the command on a run, its summary parsed."""
    arguments = [folder / run, "--checkpoint", folder / "m.pth", "--json", "--resamples", 200, "--steps", 4, *options]
    done = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def model_and_images(folder: Path, run: str = "RUN") -> tuple[PromptSG, list[dict[str, Any]], Tensor]:
    model = load_model(folder / "m.pth", device="cpu", precision="fp32")
    rows = pq.read_table(folder / run / "metadata" / "query-0.parquet").to_pylist()
    whole = (folder / "query-0.tar").read_bytes()
    pixels = [decode_image(whole[row["image_offset"] :][: row["image_size"]]) for row in rows]
    return model, rows, torch.stack([resize_image(image, model.config.image_size) for image in pixels])


def probabilities(model: PromptSG, images: Tensor, classes: Tensor) -> Tensor:
    logits = model.head(model.encode(images)).logits
    return logits.softmax(dim=1)[torch.arange(len(images)), classes]


def test_the_command_measures_what_a_loop_over_images_does(folder: Path, tmp_path: Path) -> None:
    options = (
        "--where",
        "split = 'query' AND tar_index % 2 = 1",
        "--map",
        MAPS[2],
        "--random",
        2,
        "--no-sanity",
        "--output",
        tmp_path,
    )
    summary = faithful(folder, *options, "--batch-size", 7)
    model, rows, images = model_and_images(folder)
    stored = open_run(folder / "RUN").read_maps(MAPS[2], "query-0")
    table = pq.read_table(tmp_path / "faithfulness.parquet").to_pylist()
    assert len(table) == 6 * 2 * 2 * 2 and [row["key"] for row in table[::8]] == [row["key"] for row in rows[1::2]]
    orders = random_orders(pa.Table.from_pylist(rows), 128, 2, seed=0)
    for number in (1, 5, 11):
        image, row = images[number : number + 1], rows[number]
        fills = {"blur": blur(image, 2.0), "mean": mean_colour(image)}
        by_map = np.argsort(-stored[number].ravel(), kind="stable")
        found = {(r["map"], r["fill"], r["kind"]): r for r in table if r["key"] == row["key"]}
        for fill, kind in itertools.product(FILLS, KINDS):
            exact = [slow_area(model, image, fills[fill], order, kind, row["predicted"])
                     for order in (by_map, *orders[number].numpy())]  # fmt: skip
            assert found[MAPS[2], fill, kind]["auc"] == pytest.approx(exact[0], abs=1e-5)
            assert found[RANDOM, fill, kind]["auc"] == pytest.approx(np.mean(exact[1:]), abs=1e-5)
            away = found[MAPS[2], fill, kind]["difference"]
            assert away == pytest.approx(exact[0] - np.mean(exact[1:]), abs=1e-5)
    for entry in summary["faithfulness"]:
        mine_ = [r["auc"] for r in table if all(r[name] == entry[name] for name in ("map", "fill", "kind"))]
        assert entry["auc"] == pytest.approx(np.mean(mine_)) and entry["auc_low"] < entry["auc"] < entry["auc_high"]
    assert summary["images"] == 6 and summary["identities"] == 3 and summary["blur_sigma_pixels"] == 2.0
    assert summary["score"] == "probability of the predicted class" and summary["sanity"] == []


def slow_area(model: PromptSG, image: Tensor, fill: Tensor, order: np.ndarray, kind: str, label: int) -> float:
    """One forward pass per step, patch by patch of 4x4 pixels on the 16x8 grid, and numpy's trapezoids."""
    scores = []
    for step in range(5):
        now, then = (image, fill) if kind == "deletion" else (fill, image)
        now = now.clone()
        for patch in order[: 32 * step]:
            y, x = 4 * (patch // 8), 4 * (patch % 8)
            now[..., y : y + 4, x : x + 4] = then[..., y : y + 4, x : x + 4]
        scores.append(float(probabilities(model, now, torch.tensor([label]))))
    return float(np.sum(np.diff(np.linspace(0, 1, 5)) * (np.array(scores[1:]) + np.array(scores[:-1])) / 2))


def test_what_is_written(folder: Path) -> None:
    summary = faithful(folder, "--sanity-images", 6, "--limit", 8, "--random", 1)
    out = folder / "RUN" / "faithfulness"
    assert json.loads((out / "summary.json").read_text()) == summary
    assert sorted(p.name for p in out.iterdir()) == ["curves.csv", "curves.png", "faithfulness.parquet", "summary.json"]
    lines = list(csv.DictReader((out / "curves.csv").open()))
    assert len(lines) == 4 * 2 * 2 * 5 * 2 and {line["score"] for line in lines} == {"probability", "logit"}
    table = pq.read_table(out / "faithfulness.parquet")
    assert table.num_rows == 8 * 4 * 2 * 2
    for fill, kind in itertools.product(FILLS, KINDS):  # the area of the mean curve is the mean area
        curve = [float(line["mean"]) for line in lines if (line["map"], line["fill"], line["kind"], line["score"]) ==
                 (MAPS[0], fill, kind, "probability")]  # fmt: skip
        (entry,) = (e for e in summary["faithfulness"] if (e["map"], e["fill"], e["kind"]) == (MAPS[0], fill, kind))
        assert float(area(torch.tensor(curve), removal_counts(128, 4))) == pytest.approx(entry["auc"], abs=1e-5)
    with Image.open(out / "curves.png") as picture:
        assert min(picture.size) > 700 and len(picture.convert("RGB").getcolors(1 << 24) or []) > 100
    levels = {(e["map"], e["random"]): e for e in summary["sanity"]}
    assert levels.keys() == set(itertools.product(MAPS, LEVELS)) and {e["images"] for e in levels.values()} == {6}
    for name in MAPS:
        assert levels[name, "nothing"]["pearson"] == pytest.approx(1, abs=1e-4)
        assert levels[name, "nothing"]["spearman"] == pytest.approx(1, abs=1e-3)
        assert all(levels[name, level]["pearson"] < 0.9 for level in LEVELS if level != "nothing")
    text = CliRunner().invoke(command, [str(folder / "RUN"), "--checkpoint", str(folder / "m.pth"), "--limit", "3",
                                        "--steps", "2", "--output", str(folder / "text")]).output  # fmt: skip
    assert "3 images" in text and "minus random" in text and "head and tower" in text


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(folder: Path, tmp_path: Path) -> None:
    options = ("--no-sanity", "--output", tmp_path, "--map", MAPS[0], "--limit", 3, "--random", 1)
    first, again = (faithful(folder, *options, "--batch-size", size)["faithfulness"] for size in (256, 5))
    other = faithful(folder, *options, "--seed", 1)["faithfulness"]
    for a, b in zip(first, again, strict=True):
        assert [a[k] for k in a if k.startswith("auc")] == pytest.approx([b[k] for k in a if k.startswith("auc")])
    assert [a["auc"] for a in first] != [b["auc"] for b in other]
    rows = pa.table({"shard": ["a"] * 3, "tar_index": [0, 1, 2]})
    assert torch.equal(random_orders(rows, 9, 2, 0)[2], random_orders(rows.slice(2), 9, 2, 0)[0])
    assert not torch.equal(random_orders(rows, 9, 2, 0)[0], random_orders(rows, 9, 2, 0)[1])


def test_another_checkpoint_is_refused_by_both_hashes(folder: Path, tmp_path: Path) -> None:
    from jobs.atomic import sha256_of

    other = ("--checkpoint", folder / "other.pth", "--no-sanity", "--output", tmp_path, "--limit", 2)
    with pytest.raises(UserError) as error:
        faithful(folder, *other)
    assert all(sha256_of(folder / name) in str(error.value) for name in ("m.pth", "other.pth"))
    summary = faithful(folder, *other, "--any-checkpoint")
    assert summary["checkpoint_sha256"] == sha256_of(folder / "other.pth")
    with pytest.raises(UserError, match="no image"):
        faithful(folder, "--where", "pid = 999")
    with pytest.raises(UserError, match="--where"):
        faithful(folder, "--where", "nosuch = 1")
    with pytest.raises(CamError, match="take from 1 to 128"):
        faithful(folder, "--steps", 129)


def test_a_label_map_that_was_learned_is_the_runs_own(tmp_path: Path) -> None:
    pids, classes = [4, 5, 9, 11, 17, 20], {4: 3, 5: 0, 9: 5, 11: 1, 17: 2, 20: 4}
    person_shard(tmp_path / "train-0.tar", pids, 4)
    knowing_checkpoint(tmp_path / "m.pth", classes)
    mined(tmp_path, "RUN", target="label", label_map="auto", maps=MAPS[:2])
    config = FaithfulnessConfig(run=tmp_path / "RUN", checkpoint=tmp_path / "m.pth")
    run = open_run(config.run)
    model = load_model(tmp_path / "m.pth", device="cpu", precision="fp32")
    score = explained_score(run, config, model)
    assert isinstance(score, ByClass) and score.labels == classes
    with pytest.raises(UserError, match="has its own: do not give one"):
        explained_score(run, replace(config, label_map=tmp_path / "map.json"), model)


def test_a_device_that_cannot_compute_as_the_run_did_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "can_compute", lambda precision, device: False)
    with pytest.raises(UserError, match=r"RUN was mined in fp32, in which a CPU \(.*\) cannot compute: use a device"):
        measure_faithfulness(
            FaithfulnessConfig(run=folder / "RUN", checkpoint=folder / "m.pth", output=tmp_path / "OUT", device="cpu")
        )


def test_labels_features_and_references_are_scored_by_their_own(folder: Path, tmp_path: Path) -> None:
    quick = ("--map", MAPS[1], "--sanity-images", 2, "--limit", 4, "--output", tmp_path, "--where", "split = 'query'")
    (folder / "labels.json").write_text(json.dumps({"1": 3, "2": 0, "3": 6, "21": 1, "22": 2}))
    mined(folder, "LABEL", target="label", label_map=folder / "labels.json")
    with pytest.raises(UserError, match="SHA-256"):
        faithful(folder, *quick, run="LABEL")
    summary = faithful(folder, *quick, "--label-map", folder / "labels.json", run="LABEL")
    model, rows, images = model_and_images(folder, "LABEL")
    begin = first_values(tmp_path, "deletion")
    chosen = {row["key"] for row in pq.read_table(tmp_path / "faithfulness.parquet").to_pylist()}
    some = [i for i, row in enumerate(rows) if row["key"] in chosen]
    classes = torch.tensor([{1: 3, 2: 0, 3: 6}[rows[i]["pid"]] for i in some])
    assert begin == pytest.approx(float(probabilities(model, images[some], classes).mean()), abs=1e-5)
    assert summary["score"] == "probability of the label's class"

    mined(folder, "FEATURE", target="feature", maps=MAPS[:2])
    summary = faithful(folder, *quick, run="FEATURE")
    assert summary["score"] == "cosine to the image's own feature" and summary["sanity"][0]["pearson"] > 0.999
    assert first_values(tmp_path, "deletion") == pytest.approx(1, abs=1e-6)

    mined(folder, "SIMILARITY", target="similarity", reference=folder / "RUN", maps=MAPS[:2])
    with pytest.raises(UserError, match="--reference"):
        faithful(folder, *quick, run="SIMILARITY")
    with pytest.raises(UserError, match="fingerprint"):
        faithful(folder, *quick, "--reference", folder / "FEATURE", run="SIMILARITY")
    summary = faithful(folder, *quick, "--reference", folder / "RUN", run="SIMILARITY")
    scores = {
        row["key"]: row["score"] for row in pq.read_table(folder / "SIMILARITY/metadata/query-0.parquet").to_pylist()
    }
    chosen = {row["key"] for row in pq.read_table(tmp_path / "faithfulness.parquet").to_pylist()}
    assert first_values(tmp_path, "deletion") == pytest.approx(np.mean([scores[key] for key in chosen]), abs=1e-5)
    assert summary["score"] == "cosine to the reference feature" and summary["sanity"][0]["pearson"] > 0.999
    own = faithful(folder, *quick, "--no-sanity", run="SIMILARITY")
    assert own["score"] == "cosine to the image's own feature"


def test_the_shards_of_labels_move_as_those_of_pictures_do(monkeypatch: pytest.MonkeyPatch) -> None:
    mined_from = [
        Shard(name="train-0", url="pipe:ssh there cat /old/train-0.tar", size=None),
        Shard(name="train-1", url="https://there/old/train-1.tar?version=2", size=10),
        Shard(name="train-2", url="/old/train-2.tar.gz", size=10),
    ]
    asked, resolved = SimpleNamespace(label_map=None), SimpleNamespace(label_map=None)
    run = SimpleNamespace(manifest=SimpleNamespace(asked=asked, resolved=resolved, shards=mined_from))
    model = SimpleNamespace(config=SimpleNamespace(num_classes=3))
    read: list[Shard] = []
    monkeypatch.setattr("jobs.faithfulness.score.labels_for", lambda shards, *_: read.extend(shards))
    config = FaithfulnessConfig(run=Path("RUN"), checkpoint=Path("m.pth"), shards_root="/new/")
    _labels(run, config, model)  # type: ignore[arg-type]
    assert [shard.url for shard in read] == ["/new/train-0.tar", "/new/train-1.tar", "/new/train-2.tar.gz"]


def first_values(folder: Path, kind: str) -> float:
    """Where the mean curve begins."""
    lines = csv.DictReader((folder / "curves.csv").open())
    return float(next(line["mean"] for line in lines if line["kind"] == kind and line["patches"] == "0"))


def test_reinitialising_touches_only_what_it_names_and_never_the_model(folder: Path) -> None:
    model, rows, images = model_and_images(folder)
    model.add_prompts({"red": model.config.prompt})
    levels = model.random_levels
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = torch.tensor([row["predicted"] for row in rows])
    stored = {name: extract_maps(model, images, [name]).maps[name].numpy() for name in MAPS}
    state = torch.get_rng_state()
    head, both = (reinitialised(model, levels[level], seed=4) for level in ("head", "head and tower"))
    batches = [TargetedImages(images[i : i + 5], class_target(classes[i : i + 5])) for i in range(0, len(images), 5)]
    found = {(c.random, c.map): c.values for c in correlations(model, batches, stored, seed=4)}
    assert torch.equal(state, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
        in_head, in_tower = name.startswith(levels["head"]), name.startswith("image_encoder.")
        if in_head:
            assert torch.equal(head.state_dict()[name], both.state_dict()[name]), name
        else:
            assert torch.equal(head.state_dict()[name], value), name
            assert in_tower or torch.equal(both.state_dict()[name], value), name
        if value.is_floating_point() and value.ndim > 1:  # matrices: norms start at ones and zeros
            assert torch.equal(head.state_dict()[name], value) != in_head, name
            assert torch.equal(both.state_dict()[name], value) != (in_head or in_tower), name
    assert not any(p.requires_grad for p in [*model.parameters(), *both.parameters()]) and not both.training
    assert head.prompts == model.prompts and not model.training
    assert torch.equal(head.state_dict()["bottleneck_proj.running_mean"], torch.zeros(32))
    wanted = extract_maps(both, images, MAPS, class_target(classes)).maps
    for name in MAPS:
        np.testing.assert_allclose(found["nothing", name], 1, atol=1e-5)
        pairs = list(zip(stored[name], wanted[name].numpy(), strict=True))
        compared = 0
        for got, (a, b) in zip(found["head and tower", name], pairs, strict=True):
            if np.ptp(b) > 0:  # a constant map has no correlation
                slow = pearsonr(a.ravel(), b.ravel())[0], spearmanr(a.ravel(), b.ravel())[0]
                assert got == pytest.approx(slow, abs=2e-3)
                compared += 1
        assert compared >= len(pairs) // 2, name


def test_the_function_gives_what_the_command_prints(folder: Path, tmp_path: Path) -> None:
    printed = faithful(folder, "--limit", 4, "--map", MAPS[0], "--sanity-images", 3, "--output", tmp_path / "a")
    config = FaithfulnessConfig(
        run=folder / "RUN",
        checkpoint=folder / "m.pth",
        selection=RowSelection(limit=4),
        maps=MAPS[:1],
        sanity_images=3,
        steps=4,
        resamples=200,
        output=tmp_path / "b",
    )
    result = measure_faithfulness(config)
    assert result.folder == tmp_path / "b" and result.summary.as_json() == printed
    for name in ("curves.csv", "summary.json", "curves.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    entry = next(e for e in result.summary.faithfulness if e.map == RANDOM)
    assert entry.difference is None and entry.auc.mean is not None
    assert result.measured.curves.shape == (4, 2, 2, 2, 5, 2) and result.measured.orders == (MAPS[0], RANDOM)
    assert result.measured.checked.tolist() == [0, 1, 2]
    areas = result.measured.areas()[:, 1, FILLS.index(entry.fill), KINDS.index(entry.kind)]
    assert entry.auc.mean == pytest.approx(areas.mean())


@pytest.mark.parametrize("field", ["steps", "random", "sanity_images", "resamples", "batch_size", "sigma"])
def test_numbers_that_are_too_small_are_refused(folder: Path, field: str) -> None:
    with pytest.raises(UserError, match=f"{field} is 0, it must be"):
        FaithfulnessConfig(run=folder / "RUN", checkpoint=folder / "m.pth", **{field: 0})


def test_checked_images_are_spread_evenly() -> None:
    assert evenly_spaced(200, 4).tolist() == [0, 50, 100, 150] and evenly_spaced(3, 32).tolist() == [0, 1, 2]
    assert evenly_spaced(10, 0).tolist() == []


def people_of(**columns: list[Any]) -> list[int]:
    empty = np.zeros((0,))
    measured = Measured(rows=pa.table(columns), orders=(), curves=empty, counts=empty, correlations=(), checked=empty,
                        zero_maps={}, scores=(), title="", sigma=1, precision="fp32",
                        checkpoint_sha256="")  # fmt: skip
    return measured.people().tolist()


def test_people_are_the_identities_of_the_one_rule() -> None:
    keys = ["10_c1s1_1_00", "0002_c1s1_000001_00", "0000_c1s1_000001_00", "-1_c1s1_1_00", "0002_c2s1_000002_00", "x"]
    assert people_of(key=keys, pid=[10, 2, 0, -1, 2, None]) == [1, 0, NOBODY, NOBODY, 0, NOBODY]
    stored = people_of(key=["a", "b", "c"], pid=[2, 2, 3], role=["person"] * 3, identity=["train/2", "test/2", "3"])
    assert stored == [1, 0, 2]  # one pid, two persons
    assert count_people(np.array([NOBODY, 0, 0, 3])) == 2


def test_single_heads_are_followed_but_not_compared_with_random_weights(tmp_path: Path) -> None:
    run = run_with_heads(tmp_path)
    config = FaithfulnessConfig(run=run.layout.root, checkpoint=tmp_path / "none.pth", maps=("mim_attention#1",))
    with pytest.raises(UserError, match=r"^mim_attention#1: re-initialised models .* give --no-sanity"):
        measure_faithfulness(config)
    with pytest.raises(UserError, match=r"none\.pth"):  # so far it goes
        measure_faithfulness(replace(config, sanity=False))
