"""`promptsg stats --by prompt` against numpy and scikit-learn: shares, stripes, agreement, attributes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from scipy import stats as scipy_stats

from jobs.commands.stats import command
from jobs.errors import UserError
from jobs.prompt_sets import read_prompt_set
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import create_manifest
from jobs.runs.request import RecordedShard, RequestedSettings, ResolvedSettings, RunRequest
from jobs.shards.samples import Sample
from jobs.statistics.prompts.attributes import auc_over_identities, read_attributes
from jobs.statistics.prompts.shares import shares_of
from tests.support.made_runs import made_shard
from tests.support.shard_files import market_key

PROBES = read_prompt_set("market-attributes")
PROMPTS = {name: PROBES[name].text for name in ("backpack", "hat", "short_hair", "male")} | {"shoes": "X with shoes"}
MAPS = tuple(f"mim_attention:{name}" for name in PROMPTS)
GRID = (12, 4)
PERSONS = 12


def has_backpack(pid: int) -> bool:
    return pid % 3 == 0


def build(root: Path, maps: tuple[str, ...] = ("mim_attention", *MAPS)) -> np.ndarray:
    """A run of two shards of 48 images; returns the maps (96, K, h, w). Backpacks draw attention to the shoulders."""
    rng = np.random.default_rng(5)
    shards = tuple(RecordedShard(name=name, url=f"/nowhere/{name}.tar", size=1) for name in ("a", "b"))
    request = RunRequest(asked=RequestedSettings(maps=maps, prompts=PROMPTS), shards=shards)
    manifest = create_manifest(RunLayout(root), request, ResolvedSettings(precision="fp32"))
    arrays = rng.gamma(0.7, 1, (96, len(maps), *GRID)).astype(np.float32)
    for n in range(96):
        if has_backpack(1 + n % PERSONS):
            arrays[n, 1:2, 2:6] *= rng.uniform(0.8, 2)
    for s, name in enumerate(("a", "b")):
        here = range(48 * s, 48 * s + 48)
        samples = [
            Sample(key=market_key(1 + n % PERSONS, n % 2, n), tar_index=n - 48 * s, pid=1 + n % PERSONS, camid=n % 2)
            for n in here
        ]
        some = {m: arrays[48 * s : 48 * s + 48, k] for k, m in enumerate(maps)}
        made_shard(root, manifest, name, samples, **some)
    return arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts")


@pytest.fixture(scope="module")
def arrays(folder: Path) -> np.ndarray:
    """(96, prompts, h, w)"""
    return build(folder / "RUN")[:, 1:].astype(np.float64)


@pytest.fixture(scope="module")
def found(folder: Path, arrays: np.ndarray) -> dict[str, object]:
    """What prompts.json has, with the labels of a table."""
    lines = [f"{pid},{1 + has_backpack(pid)},{1 + pid % 2},{1 + (pid > 6)}" for pid in range(1, PERSONS)]  # one is not
    (folder / "labels.csv").write_text("pid,backpack,hat,gender\n" + "\n".join(lines) + "\n")
    result = run_command(folder / "RUN", "--by", "prompt", "--attributes", folder / "labels.csv", "--resamples", 80,
                         "--seed", 3)  # fmt: skip
    assert result.output.startswith("5 prompts over 96 images: ")
    content: dict[str, object] = json.loads((folder / "RUN" / "stats" / "prompts" / "prompts.json").read_text())
    return content


def run_command(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)


def persons() -> np.ndarray:
    return np.array([1 + n % PERSONS for n in range(96)])


def test_where_each_prompt_looks(found: dict[str, list], arrays: np.ndarray) -> None:
    share = arrays / arrays.sum(axis=(2, 3), keepdims=True)
    assert [one["prompt"] for one in found["prompts"]] == list(PROMPTS)
    for k, one in enumerate(found["prompts"]):
        assert one["map"] == MAPS[k] and one["text"] == PROMPTS[one["prompt"]] and one["images"] == 96
        np.testing.assert_allclose(one["mean"], share[:, k].mean(axis=0), rtol=1e-5)
        stripes = share[:, k].sum(axis=2).reshape(96, 6, 2).sum(axis=2).mean(axis=0)
        assert [stripe["value"] for stripe in one["stripes"]] == pytest.approx(stripes.tolist(), rel=1e-5)
        entropy = scipy_stats.entropy(share[:, k].reshape(96, -1), axis=1).mean()
        assert one["entropy"]["value"] == pytest.approx(entropy, rel=1e-5)
        assert one["entropy"]["low"] < entropy < one["entropy"]["high"]


def test_the_share_that_each_prompt_has_of_each_image(folder: Path, found: dict[str, list], arrays: np.ndarray) -> None:
    rows = pq.read_table(folder / "RUN" / "stats" / "prompts" / "prompts.parquet")
    assert rows["key"].to_pylist() == [market_key(1 + n % PERSONS, n % 2, n) for n in range(96)]
    assert rows["shard"].to_pylist() == ["a"] * 48 + ["b"] * 48
    mass = arrays.sum(axis=(2, 3))
    highest = (arrays / mass[:, :, None, None]).argmax(axis=1)
    for k, (name, one) in enumerate(zip(PROMPTS, found["prompts"], strict=True)):
        won = (highest == k).mean(axis=(1, 2))
        np.testing.assert_allclose(rows[f"mim_attention_{name}_mass_share"], mass[:, k] / mass.sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(rows[f"mim_attention_{name}_won"], won, rtol=1e-6)
        assert one["shares"]["won"]["value"] == pytest.approx(won.mean(), rel=1e-6)
        assert one["shares"]["mass"]["value"] == pytest.approx((mass[:, k] / mass.sum(axis=1)).mean(), rel=1e-6)


def test_shares_of_ties_and_of_maps_without_mass() -> None:
    maps = np.array([[[1, 1, 2, 0], [1, 3, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]], np.float64)
    mass, won = shares_of(maps)
    np.testing.assert_allclose(mass, [[0.5, 0.5], [np.nan, np.nan]])
    np.testing.assert_allclose(won, [[(0.5 + 0 + 1 + 0.5) / 4, (0.5 + 1 + 0 + 0.5) / 4], [np.nan, np.nan]])


def test_agreement_between_prompts(found: dict[str, list], arrays: np.ndarray) -> None:
    flat = arrays.reshape(96, len(MAPS), -1)
    pairs = {(one["map_a"], one["map_b"]): one["value"] for one in found["agreement"] if one["measure"] == "spearman"}
    assert len(pairs) == 10
    wanted = np.mean([scipy_stats.spearmanr(flat[n, 0], flat[n, 4])[0] for n in range(96)])
    assert pairs[MAPS[0], MAPS[4]] == pytest.approx(wanted, abs=1e-5)


def test_attributes_against_scikit_learn(found: dict[str, list], arrays: np.ndarray) -> None:
    """`shoes` is of no list, `male` has no part, and short_hair's label is not in the table."""
    from sklearn.metrics import roc_auc_score  # it takes a second, and every process imports this module

    by_prompt = {one["prompt"]: one for one in found["attributes"]}
    assert list(by_prompt) == ["hat", "backpack"] or list(by_prompt) == ["backpack", "hat"]
    share = arrays / arrays.sum(axis=(2, 3), keepdims=True)
    rows, person = share.sum(axis=3), persons()
    known = person < PERSONS
    one, score = by_prompt["backpack"], rows[:, 0, 2:6].sum(axis=1)
    truth = np.array([has_backpack(pid) for pid in person])
    assert (one["label"], one["part"]) == ("backpack", "upper")
    assert (one["images_with"], one["images_without"], one["identities"]) == (24, 64, 11)
    assert one["auc"]["value"] == pytest.approx(roc_auc_score(truth[known], score[known]), abs=1e-6)
    assert one["auc"]["value"] > 0.7 and one["auc"]["low"] > 0.5
    others = rows[:, 1:, 2:6].sum(axis=2).mean(axis=1)
    assert one["others"]["value"] == pytest.approx(roc_auc_score(truth[known], others[known]), abs=1e-6)
    assert one["others"]["low"] < 0.5 < one["others"]["high"]
    hat = roc_auc_score((person % 2 == 1)[known], rows[:, 1, :2].sum(axis=1)[known])
    assert by_prompt["hat"]["auc"]["value"] == pytest.approx(hat, abs=1e-6)


def test_the_interval_of_an_auc_is_of_identities_drawn_again() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(9), 6)
    truth, scores = person % 2 == 0, rng.random(54).round(1)  # with ties
    found = auc_over_identities(scores, truth, person + 40, 150, 8)
    assert found.value == pytest.approx(roc_auc_score(truth, scores))
    draw, drawn = np.random.default_rng(8), []
    for _ in range(150):
        again = np.concatenate([np.flatnonzero(person == one) for one in draw.integers(9, size=9)])
        if 0 < truth[again].sum() < len(again):
            drawn.append(roc_auc_score(truth[again], scores[again]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
    assert auc_over_identities(scores, truth | True, person, 10, 0).value is None
    single = auc_over_identities(scores, person == 3, person, 10, 0)
    assert single.value is not None and single.low is None


def test_the_report_and_its_figures(folder: Path, found: dict[str, object]) -> None:
    files = folder / "RUN" / "stats" / "prompts"
    page = (files / "report.html").read_text()
    assert page.count("<img") == 4 and "X with shoes" in page and "backpack and hat" in page
    names = {path.stem for path in (files / "figures").glob("*.png")}
    assert names == {"mean_maps", "stripes", "agreement", "attributes"}


@pytest.mark.parametrize(
    ("text", "values", "from_zero"),
    [
        ("pid,hat,age\n2,1,4\n1,2,1\n3,,2\n", {"hat": [2, 1, -1], "age": [1, 4, 2]}, False),
        ("pid,hat,age\n2,0,4\n1,1,1\n3,,2\n", {"hat": [2, 1, -1], "age": [1, 4, 2]}, True),
        ("pid,hat,age\n2,FALSE,3\n1,true,0\n3,,1\n", {"hat": [2, 1, -1], "age": [1, 4, 2]}, True),
    ],
    ids=["published", "from 0", "words"],
)
def test_tables_of_labels(tmp_path: Path, text: str, values: dict[str, list[int]], from_zero: bool) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = read_attributes(tmp_path / "a.csv")
    assert found.pids.tolist() == [1, 2, 3] and found.from_zero == from_zero
    assert {name: column.tolist() for name, column in found.values.items()} == values
    assert found.of("hat", np.array([3, 7, 1])).tolist() == [-1, -1, 2]


def test_a_parquet_table_of_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pid": [2, 1], "hat": [True, None]}), tmp_path / "a.parquet")
    found = read_attributes(tmp_path / "a.parquet")
    assert found.pids.tolist() == [1, 2] and found.values["hat"].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hat\n1\n", "no column pid"),
        ("pid,hat\n", "no column pid, or no row"),
        ("pid,hat\n1,2\n1,1\n", "has the pid 1 twice"),
        ("pid,hat\n1,many\n", "the column hat has a value that is no whole number"),
    ],
)
def test_what_is_no_table_of_labels(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_attributes(tmp_path / "a.csv")


def test_what_cannot_be_compared_is_said(folder: Path, arrays: np.ndarray, tmp_path: Path) -> None:
    run = folder / "RUN"
    for words, said in {
        ("--by", "prompt", "--by", "camid"): "give it alone",
        ("--by", "prompt", "--block", "0/2"): "without --block",
        ("--by", "prompt", "--map", "mim_attention"): "has no map of a named prompt",
        ("--attributes", "x.csv"): "--attributes is for --by prompt",
        ("--by", "prompt", "--where", "pid > 99"): "no image",
    }.items():
        with pytest.raises(UserError, match=said):
            run_command(run, *words, "--output", tmp_path)
    (tmp_path / "x.csv").write_text("pid,backpack\n77,1\n78,2\n")
    with pytest.raises(UserError, match="no image has a label of a prompt that is of a list"):
        run_command(run, "--by", "prompt", "--attributes", tmp_path / "x.csv", "--output", tmp_path)
    build(tmp_path / "PLAIN", ("mim_attention",))
    with pytest.raises(UserError, match="mine with --prompt NAME=TEXT or --prompt-set; it has mim_attention"):
        run_command(tmp_path / "PLAIN", "--by", "prompt")


def test_labels_are_not_passed_over_where_prompt_is_a_column(
    folder: Path, arrays: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.statistics.prompts.stats.is_by_prompt", lambda config, run: False)
    with pytest.raises(UserError, match="is for --by prompt, where that is not a column"):
        run_command(folder / "RUN", "--by", "prompt", "--attributes", "x.csv")


def test_attributes_without_a_pid_or_of_another_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("pid,hat\n1,2\n,1\n")
    with pytest.raises(UserError, match=r"a\.csv has 1 row without a pid; give a CSV"):
        read_attributes(path)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"pid": [1, 2], "hat": [[1], [2, 1]]}), path)
    with pytest.raises(
        UserError, match=r"the column hat has a value that is no whole number \(.*list.*\); give"
    ) as said:
        read_attributes(path)
    assert "\n" not in str(said.value)
