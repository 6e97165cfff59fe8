"""Generated code is what protos/ generate with the pinned version, no more and no less."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "clients" / "python" / "topwork" / "v1"


def generated(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.suffix in (".py", ".pyi")}


def test_generated_code_is_not_stale(tmp_path):
    command = ["bash", str(ROOT / "protos" / "generate"), str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable})
    fresh, committed = generated(tmp_path / "topwork" / "v1"), generated(COMMITTED)
    assert list(fresh) == list(committed), "a proto was added or removed: run protos/generate, and commit"
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, "run protos/generate, and commit what it writes"
