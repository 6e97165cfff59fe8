"""Triton by pytriton, its Python backend, with onnxruntime: the model `embed` takes items (BYTES) and gives rows (FP32)."""

from __future__ import annotations

import numpy as np
from pytriton.decorators import batch  # type: ignore[import-not-found]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found]

from benchmarks.serving.peers.servers.handler import Array, arguments, handler

MOST = 64
"""Items of a request, where requests are not put together."""


def main() -> None:
    parsed = arguments().parse_args()
    compute = handler(parsed)

    @batch  # type: ignore[untyped-decorator]
    def embed(item: Array) -> dict[str, Array]:
        return {"row": compute(item[:, 0].tolist())}

    alone = parsed.batch == 1
    batcher = None if alone else DynamicBatcher()
    config = TritonConfig(
        http_address="127.0.0.1", http_port=parsed.port, grpc_address="127.0.0.1", allow_grpc=False, allow_metrics=False,
    )  # fmt: skip
    with Triton(config=config) as server:
        server.bind(
            "embed", embed,
            inputs=[Tensor(name="item", dtype=np.bytes_, shape=(1,))],
            outputs=[Tensor(name="row", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MOST if alone else parsed.batch, batching=True, batcher=batcher),
        )  # fmt: skip
        server.serve()


if __name__ == "__main__":
    main()
