"""infinity's own command, with two corrections for optimum 2: it names a graph in a folder by its whole path, where names are
compared, and it fuses the graph with an option that was removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infinity_emb.cli import cli  # type: ignore[import-not-found]
from infinity_emb.transformer import utils_optimum  # type: ignore[import-not-found]
from infinity_emb.transformer.embedder import optimum  # type: ignore[import-not-found]

Config = utils_optimum.OptimizationConfig


def config(optimize_with_onnxruntime_only: bool, **options: Any) -> Any:
    return Config(**options)


optimum.get_onnx_files = lambda **asked: Path("model.onnx")
utils_optimum.OptimizationConfig = config

if __name__ == "__main__":
    cli()
