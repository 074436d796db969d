"""Packages that a bare machine lacks, from wheels that were carried there: installed beside its own Python."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path


def install_wheels(wheels: Path, site: Path) -> str:
    """Installs every wheel of a folder into `site`, which this process then imports from; says what was done.

    Nothing is downloaded, and nothing else is installed. Where pip cannot do it, the words say why.
    """
    files = sorted(wheels.glob("*.whl"))
    if not files:
        return f"no wheels in {wheels}"
    words = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target", str(site)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", *words, *map(str, files)], capture_output=True, text=True
    )
    if done.returncode:
        return f"the wheels in {wheels} were not installed: {(done.stderr + done.stdout).strip()[-600:]}"
    sys.path.insert(0, str(site))  # before the machine's own: an older version there need not do
    importlib.invalidate_caches()
    return f"installed {len(files)} wheels from {wheels}"
