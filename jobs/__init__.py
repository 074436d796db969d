"""Attention over whole data sets: the commands, and the functions behind them, for use from Python.

Names are imported on first use, so that reading a run starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.benchmark.bench import BenchConfig as BenchConfig
    from jobs.benchmark.bench import bench as bench
    from jobs.comparison.config import DiffConfig as DiffConfig
    from jobs.comparison.diff import diff_runs as diff_runs
    from jobs.faithfulness.measure import measure_faithfulness as measure_faithfulness
    from jobs.faithfulness.plan import FaithfulnessConfig as FaithfulnessConfig
    from jobs.mining.config import MineConfig as MineConfig
    from jobs.mining.config import MineOptions as MineOptions
    from jobs.mining.mine import mine as mine
    from jobs.mining.model_options import ModelOptions as ModelOptions
    from jobs.rendering.compare import CompareConfig as CompareConfig
    from jobs.rendering.compare import compare as compare
    from jobs.rendering.gallery import gallery as gallery
    from jobs.rendering.page.config import GalleryConfig as GalleryConfig
    from jobs.rendering.render import render as render
    from jobs.rendering.render_config import RenderConfig as RenderConfig
    from jobs.rendering.visualize import VisualizeConfig as VisualizeConfig
    from jobs.rendering.visualize import visualize as visualize
    from jobs.retrieval.evaluate import evaluate as evaluate
    from jobs.retrieval.evaluation import EvaluateConfig as EvaluateConfig
    from jobs.runs.finalize import finalize as finalize
    from jobs.runs.query import RowSelection as RowSelection
    from jobs.runs.query import select_rows as select_rows
    from jobs.runs.run import Run as Run
    from jobs.runs.run import open_run as open_run
    from jobs.runs.status import status as status
    from jobs.runs.verify import verify as verify
    from jobs.statistics.config import StatsConfig as StatsConfig
    from jobs.statistics.localisation.config import LocaliseConfig as LocaliseConfig
    from jobs.statistics.localisation.localise import localise as localise
    from jobs.statistics.prompts.stats import prompt_stats as prompt_stats
    from jobs.statistics.stats import stats as stats
    from jobs.submission.options import ArrayOptions as ArrayOptions
    from jobs.submission.submit import SubmitConfig as SubmitConfig
    from jobs.submission.submit import submit as submit
    from jobs.training.config import TrainConfig as TrainConfig
    from jobs.training.train import train as train

_MODULES = {
    "ArrayOptions": "submission.options",
    "BenchConfig": "benchmark.bench",
    "CompareConfig": "rendering.compare",
    "DiffConfig": "comparison.config",
    "EvaluateConfig": "retrieval.evaluation",
    "FaithfulnessConfig": "faithfulness.plan",
    "GalleryConfig": "rendering.page.config",
    "LocaliseConfig": "statistics.localisation.config",
    "MineConfig": "mining.config",
    "MineOptions": "mining.config",
    "ModelOptions": "mining.model_options",
    "RenderConfig": "rendering.render_config",
    "RowSelection": "runs.query",
    "Run": "runs.run",
    "StatsConfig": "statistics.config",
    "SubmitConfig": "submission.submit",
    "TrainConfig": "training.config",
    "VisualizeConfig": "rendering.visualize",
    "bench": "benchmark.bench",
    "compare": "rendering.compare",
    "diff_runs": "comparison.diff",
    "evaluate": "retrieval.evaluate",
    "finalize": "runs.finalize",
    "gallery": "rendering.gallery",
    "localise": "statistics.localisation.localise",
    "measure_faithfulness": "faithfulness.measure",
    "mine": "mining.mine",
    "open_run": "runs.run",
    "prompt_stats": "statistics.prompts.stats",
    "render": "rendering.render",
    "select_rows": "runs.query",
    "stats": "statistics.stats",
    "status": "runs.status",
    "submit": "submission.submit",
    "train": "training.train",
    "verify": "runs.verify",
    "visualize": "rendering.visualize",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
