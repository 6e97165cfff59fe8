"""Makes `import timm` and `import transformers` work beside a torch that torchvision was not built for.

The registry's torchvision wheel is built against CUDA. Beside a CPU build of torch its C library cannot be loaded, which
torchvision forgives; but then it registers fake kernels for `torchvision::nms` and `torchvision::qnms`, operators that
only that library declares, and its own import fails with "operator torchvision::nms does not exist". timm and
transformers import torchvision, so both fail with it. The cure is to declare those two operators when, and only when,
the library that should bring them cannot be loaded. Nothing here calls them: they box detections, we serve features.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def prepare_torchvision() -> None:
    """Call before the first import of torchvision, timm or transformers; cheap, and safe to call again."""
    import torch

    if _loads_its_library():
        return
    for operator, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, operator.removeprefix("torchvision::")):
            torch.library.define(operator, schema)


def _loads_its_library() -> bool:
    """True where torchvision is whole (loading its library again does nothing), or is not there at all."""
    import torch

    found = find_spec("torchvision")
    if found is None or found.origin is None:
        return True
    for library in Path(found.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False
