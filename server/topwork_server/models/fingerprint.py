"""SHA-256 of what a feature means: weights, definition, preprocessing, tap. Not of the graph's bytes, which change with the
exporter's version; the definition carries the encoder class and its revision instead, so that equal weights read by equal
code have one fingerprint on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topwork_server.models import onnx_files

if TYPE_CHECKING:
    import torch


def fingerprint(weights: str, definition: Mapping[str, Any], preprocessing: Mapping[str, Any], tap: str) -> str:
    """64 hex digits. `weights` is a digest by one of the functions below."""
    meaning = {"weights": weights, "definition": definition, "preprocessing": preprocessing, "tap": tap}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def space_fingerprint(towers: Mapping[str, str]) -> str:
    """The fingerprint of the tap that all towers of an encoder share, of what each tower's own is, by modality: rows of either
    tower compare, and only while no tower changes."""
    return hashlib.sha256(json.dumps({"towers": dict(towers)}, sort_keys=True).encode()).hexdigest()


def chunk_fingerprint(tokens: str) -> str:
    """The fingerprint of chunks: means of the rows of a TOKEN tap with that one."""
    return hashlib.sha256(json.dumps({"mean_of_tokens": tokens}).encode()).hexdigest()


def module_digest(module: torch.nn.Module) -> str:
    """Hash a torch module's parameters and buffers, by name; BatchNorm's step counters mean nothing and are left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            _add(digest, name, tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def graph_digest(path: Path) -> str:
    """Hash an ONNX file's constants and nodes; nothing else that it may carry (producer, documentation)."""
    from onnx import numpy_helper

    graph = onnx_files.load_structure(path).graph
    digest = hashlib.sha256()
    for tensor in sorted(graph.initializer, key=lambda t: str(t.name)):
        _add(digest, tensor.name, numpy_helper.to_array(tensor, str(path.parent)))
    for node in graph.node:
        digest.update(json.dumps([node.domain, node.op_type, list(node.input), list(node.output)]).encode())
        for attribute in sorted(node.attribute, key=lambda a: str(a.name)):
            digest.update(attribute.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, array: np.ndarray[Any, Any]) -> None:
    digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
