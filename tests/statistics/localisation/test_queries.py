"""Whether failed queries look elsewhere, against scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats as scipy_stats

from jobs.errors import UserError
from tests.statistics.localisation.made_masks import (
    MAPS,
    Made,
    expected,
    queries_of,
    shares,
)


def test_failed_queries_against_scipy(made: Made, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ap, right = rng.random(20), rng.random(20) > 0.4
    pq.write_table(queries_of(made.samples, ap, right), tmp_path / "queries.parquet")
    findings = made.find(queries=tmp_path / "queries.parquet", output=tmp_path, seed=2, resamples=100)
    assert findings.queries is not None
    look = next(one for one in findings.queries if (one.map, one.measure) == (MAPS[1], "on_person"))
    keys = [sample.key for sample in made.samples if sample.split == "query"]
    used = [n for n, key in enumerate(keys) if key in made.masks and n != 3]
    on = np.array([expected(made.maps[keys[n]][MAPS[1]], shares(made.masks[keys[n]] > 0))[0] for n in used])
    ap, right, person = ap[used], right[used], np.array([int(keys[n][:4]) for n in used]) - 1
    assert (look.queries_right, look.queries_wrong, look.identities) == (right.sum(), (~right).sum(), 5)
    assert look.right.value == pytest.approx(on[right].mean()) and look.wrong.value == pytest.approx(on[~right].mean())
    assert look.difference.value == pytest.approx(on[~right].mean() - on[right].mean())
    assert look.pearson.value == pytest.approx(scipy_stats.pearsonr(ap, on)[0])
    assert look.spearman.value == pytest.approx(scipy_stats.spearmanr(ap, on)[0])
    draw, drawn = np.random.default_rng(2), []
    for _ in range(100):
        times = np.bincount(draw.integers(5, size=5), minlength=5)[person]
        again = np.repeat(np.arange(len(on)), times)
        x, y, r = ap[again], on[again], right[again]
        drawn.append([y[~r].mean() - y[r].mean(), scipy_stats.spearmanr(x, y)[0]])
    low, high = np.nanpercentile(drawn, (2.5, 97.5), axis=0)
    for v, found in enumerate((look.difference, look.spearman)):
        assert (found.low, found.high) == pytest.approx((low[v], high[v]), rel=1e-6)


def test_queries_are_those_of_the_run(made: Made, tmp_path: Path) -> None:
    table = queries_of(made.samples, np.ones(20), np.ones(20, bool))
    keys = table["key"].to_pylist()
    pq.write_table(table.set_column(1, "key", [keys[1:] + keys[:1]]), tmp_path / "queries.parquet")
    with pytest.raises(UserError, match="is of another run"):
        made.find(queries=tmp_path / "queries.parquet", output=tmp_path)
    (tmp_path / "queries.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="run `promptsg evaluate` again"):
        made.find(queries=tmp_path / "queries.parquet", output=tmp_path)


def test_the_queries_of_the_runs_own_evaluation_are_found(made: Made, tmp_path: Path) -> None:
    folder = made.root / "evaluation"
    folder.mkdir()
    pq.write_table(queries_of(made.samples, np.linspace(0, 1, 20), np.ones(20, bool)), folder / "queries.parquet")
    try:
        findings = made.find(output=tmp_path)
    finally:
        (folder / "queries.parquet").unlink()
        folder.rmdir()
    assert findings.queries is not None and findings.queries[0].wrong.value is None
    assert findings.queries[0].difference.value is None and findings.queries[0].spearman.value is not None
