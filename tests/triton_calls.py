"""Calls of Triton's own client, of both wires, told in JSON. It runs in a Python of its own, whose protobuf is another:

python triton_calls.py GRPC_ADDRESS HTTP_ADDRESS
"""

from __future__ import annotations

import json
import queue
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

ROLES = ("query", "document")


def input_of(wire, *texts):
    tensor = wire.InferInput("TEXT", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=object))
    return [tensor]


def error_of(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def streamed(client, *texts):
    replies = queue.Queue()
    client.start_stream(callback=lambda result, error: replies.put((result, error)))
    for text in texts:
        client.async_stream_infer("ready", input_of(tritonclient.grpc, text))
    found = [replies.get(timeout=30) for _ in texts]
    client.stop_stream()
    return [str(error) if error else float(result.as_numpy("pooled")[0, 0]) for result, error in found]


def predicted(wire, client):
    """What a head says: its usual outputs, and the likeliest class as the client asks for it."""
    plain = client.infer("mood", input_of(wire, b"hello", b"a"))
    asked = [wire.InferRequestedOutput("probabilities", class_count=1), wire.InferRequestedOutput("labels")]
    ranked = client.infer("mood", input_of(wire, b"hello", b"a"), outputs=asked)
    boxes = client.infer("boxes", input_of(wire, b"hello", b"a"))
    pair = wire.InferInput("TEXT", [1, 2], "BYTES")
    pair.set_data_from_numpy(np.array([[b"who?", b"a bird"]], dtype=object))
    metadata = client.get_model_metadata("mood", **({"as_json": True} if wire is tritonclient.grpc else {}))
    statistics = client.get_inference_statistics("mood", **({"as_json": True} if wire is tritonclient.grpc else {}))
    client.load_model("mood")
    client.unload_model("mood", unload_dependents=True)
    return {
        "probabilities": plain.as_numpy("probabilities").tolist(),
        "labels": [one.decode() for one in plain.as_numpy("labels")],
        "ranked": [one.decode() for one in ranked.as_numpy("probabilities")[:, 0]],
        "counts": boxes.as_numpy("counts").tolist(),
        "value": client.infer("size", input_of(wire, b"hello")).as_numpy("values").tolist(),
        "answer": client.infer("answer", [pair]).as_numpy("spans").tolist(),
        "ready": [client.is_model_ready("mood"), client.is_model_ready("head:ready"), client.is_model_ready("ready/mood")],
        "pretrained": client.infer("ready/mood", input_of(wire, b"hello")).as_numpy("labels")[0].decode(),
        "outputs": [one["name"] for one in metadata["outputs"]],
        "counted": int(statistics["model_stats"][0]["inference_count"]),
        "no output": error_of(lambda: client.infer("mood", input_of(wire, b"a"), outputs=[wire.InferRequestedOutput("pooled")])),
    }


def told(wire, client):
    outputs = [wire.InferRequestedOutput(name) for name in ("cells", "pooled")]
    both = client.infer("ready", input_of(wire, b"hello", b"a"), outputs=outputs, priority=1, timeout=60_000_000)
    client.load_model("ready")
    client.unload_model("ready")
    return {
        "ready": [
            client.is_server_live(),
            client.is_server_ready(),
            client.is_model_ready("ready"),
            client.is_model_ready("nosuch"),
        ],
        "usual": client.infer("ready", input_of(wire, b"hello", "ü".encode()), request_id="1").as_numpy("pooled")[:, 0].tolist(),
        "shapes": [both.as_numpy(name).shape for name in ("cells", "pooled")],
        "no model": error_of(lambda: client.infer("nosuch", input_of(wire, b"a"))),
        "bad": error_of(lambda: client.infer("ready", input_of(wire, b"a", b"bad"))),
        "roles": [
            len(client.infer("ready", input_of(wire, b"a"), parameters={"role": role}).as_numpy("pooled")) for role in ROLES
        ],
        "no role": error_of(lambda: client.infer("ready", input_of(wire, b"a"), parameters={"role": "passage"})),
        "head": predicted(wire, client),
        "classes": error_of(
            lambda: client.infer("ready", input_of(wire, b"a"), outputs=[wire.InferRequestedOutput("pooled", class_count=2)])
        ),
    }


def main(grpc_address, http_address):
    by_grpc = tritonclient.grpc.InferenceServerClient(grpc_address)
    by_http = tritonclient.http.InferenceServerClient(http_address)
    found = {"grpc": told(tritonclient.grpc, by_grpc), "http": told(tritonclient.http, by_http)}
    print(json.dumps({**found, "streamed": streamed(by_grpc, b"abc", b"bad", b"a")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
