"""`promptsg bench` on the same model and shards: a worker's whole step by batch size, and each stage alone."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.gpu.parts import Kept, environment
from tests.gpu.setting import Setting
from tests.gpu.subjects import SEVEN
from tests.support.imports import REPOSITORY


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps the report of `promptsg bench --json`."""
    words = [sys.executable, "-m", "jobs", "bench", "--shards", str(setting.shards), "--device", setting.device]
    words += ["--checkpoint", str(setting.checkpoint), "--image-size", "x".join(map(str, setting.image_size))]
    words += ["--limit", "64" if setting.small else "512", "--seconds", "0.02" if setting.small else "0.4"]
    words += [word for name in SEVEN for word in ("--maps", name)]
    done = subprocess.run([*words, "--json"], cwd=REPOSITORY, env=environment(), capture_output=True, text=True)
    print(done.stderr, done.stdout)
    if done.returncode:
        raise SystemExit(done.returncode)
    kept.put(json.loads(done.stdout))
