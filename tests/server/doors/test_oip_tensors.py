"""The graph's own tensors through the Open Inference Protocol, beside our own API, on real weights: a ResNet and a BERT."""

from __future__ import annotations

import io
import json
import shutil

import grpc
import numpy as np
import pytest
import real_server
import topwork
from http_calls import call
from oip_calls import raw_texts
from PIL import Image
from topwork_plugins.bert import plugin as bert_plugin
from topwork_plugins.onnx_file import plugin as onnx_file
from topwork_plugins.resnet import plugin as resnet_plugin
from topwork_server import ImageItem, NoOptions, SourceUri
from topwork_server.doors.protocols import oip_pb2
from topwork_server.models import artifacts
from topwork_server.runtime.export import export_encoder
from toys import FakePlugins

pytestmark = pytest.mark.weights
SPECS = {spec.name: spec for plugin in (bert_plugin, resnet_plugin) for spec in plugin.register_encoders()}
HEADER = "inference-header-content-length"


@pytest.fixture(scope="module")
def served(tmp_path_factory, artifact):
    """A server with a ResNet, the same graph as an encoder of tensors, and a BERT; and the ResNet's artifact."""
    folder, home = tmp_path_factory.mktemp("graph"), tmp_path_factory.mktemp("tensors")
    resnet = artifact(SPECS["resnet50-thin"])
    shutil.copy(resnet / "model.onnx", folder / "thin.onnx")
    (folder / "thin.toml").write_text('modality = "tensor"\n[taps.pooled]\noutput = "pooled"\n')
    graph = onnx_file.resolve_source("thin", SourceUri.parse(f"onnx:{folder / 'thin.onnx'}"))
    artifacts.publish(home, graph, lambda out: export_encoder(graph, folder / "thin.onnx", out))
    specs = [SPECS["resnet50-thin"], SPECS["all-minilm-l6-v2"], graph]
    for one in specs[:2]:
        shutil.copytree(artifact(one), home / "artifacts" / artifact(one).name)
    with real_server.started(home, FakePlugins(specs), http="127.0.0.1:0") as ready:
        yield ready, resnet


@pytest.fixture(scope="module")
def pictures():
    """Two pictures as files."""
    random, found = np.random.default_rng(0), []
    for _ in range(2):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(file, "png")
        found.append(file.getvalue())
    return found


def by_http(ready, model, name, array, datatype):
    """The usual output of raw bytes."""
    raw = array.tobytes()
    tensor = {"name": name, "datatype": datatype, "shape": array.shape, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    reply = call(ready.http, "POST", f"/v2/models/{model}/infer", head + raw, {HEADER: str(len(head))})
    assert reply.status == 200, reply.body
    size = int(reply.headers[HEADER])
    (output,) = json.loads(reply.body[:size])["outputs"]
    return np.frombuffer(reply.body[size:], "<f4").reshape(output["shape"])


def by_grpc(ready, model, name, raw, datatype, shape):
    request = oip_pb2.ModelInferRequest(
        model_name=model, inputs=[{"name": name, "datatype": datatype, "shape": shape}], raw_input_contents=[raw]
    )
    with grpc.insecure_channel(ready.address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, oip_pb2.ModelInferResponse.FromString)
        reply = infer(request.SerializeToString())
    return np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(reply.outputs[0].shape)


def test_pixels_as_the_graph_reads_them(served, pictures):
    ready, resnet = served
    spec = SPECS["resnet50-thin"]
    encoder = spec.encoder(spec, resnet)
    pixels = np.stack([next(iter(encoder.preprocess(ImageItem(one), NoOptions()))).inputs["pictures"] for one in pictures])
    assert (pixels.shape, pixels.dtype) == ((2, 3, 224, 224), np.float32)
    with topwork.Client(ready.address) as client:
        same = np.asarray(client.embed("thin", list(pixels)).rows)
        embedded = np.asarray(client.embed("resnet50-thin", pictures).rows)
    found = by_http(ready, "thin", "TENSOR", pixels, "FP32")
    assert found.shape == (2, 1024)
    np.testing.assert_array_equal(found, same)
    np.testing.assert_array_equal(by_grpc(ready, "thin", "TENSOR", pixels.tobytes(), "FP32", pixels.shape), same)
    np.testing.assert_allclose(found, embedded, rtol=1e-4, atol=1e-5)
    described = call(ready.http, "GET", "/v2/models/thin").json["inputs"]
    assert described == [{"name": "TENSOR", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]
    halves = by_http(ready, "thin", "TENSOR", pixels.astype(np.float16), "FP16")
    np.testing.assert_allclose(halves, found, rtol=0.05, atol=0.05)


def test_pixels_of_another_shape_are_refused(served):
    ready, _ = served
    for model, name, word in (("thin", "TENSOR", "(3, 224, 224)"), ("resnet50-thin", "IMAGE", "uint8")):
        tensor = {"name": name, "datatype": "FP32", "shape": [1, 3, 10, 10], "data": [0.5] * 300}
        reply = call(ready.http, "POST", f"/v2/models/{model}/infer", {"inputs": [tensor]})
        assert (reply.status, "item 0" in reply.json["error"], word in reply.json["error"]) == (400, True, True)


def test_arrays_of_pictures_are_those_of_embed(served):
    ready, _ = served
    arrays = np.random.default_rng(1).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    with topwork.Client(ready.address) as client:
        same = np.asarray(client.embed("resnet50-thin", list(arrays)).rows)
    np.testing.assert_array_equal(by_http(ready, "resnet50-thin", "IMAGE", arrays, "UINT8"), same)
    np.testing.assert_array_equal(by_grpc(ready, "resnet50-thin", "IMAGE", arrays.tobytes(), "UINT8", arrays.shape), same)


def test_token_ids_of_a_bert(served):
    ready, _ = served
    texts = ["hello world", "a bird"]
    told = call(ready.http, "POST", "/tokenize", {"inputs": texts}, {"x-model": "all-minilm-l6-v2"}).json
    ids = np.array([[token["id"] for token in tokens] for tokens in told])
    assert ids.shape == (2, 4)
    same = by_grpc(ready, "all-minilm-l6-v2", "TEXT", raw_texts(*[one.encode() for one in texts]), "BYTES", [2])
    for dtype, name in ((np.int64, "INT64"), (np.int32, "INT32")):
        np.testing.assert_array_equal(by_http(ready, "all-minilm-l6-v2", "TEXT", ids.astype(dtype), name), same)
        np.testing.assert_array_equal(
            by_grpc(ready, "all-minilm-l6-v2", "TEXT", ids.astype(dtype).tobytes(), name, ids.shape), same
        )


def test_a_head_that_came_with_the_net_predicts_of_pictures(served, pictures):
    ready, _ = served
    with topwork.Client(ready.address) as client:
        same = client.predict("resnet50-thin/nsfw", pictures)
    raw = raw_texts(*pictures)
    probabilities = by_grpc(ready, "resnet50-thin/nsfw", "IMAGE", raw, "BYTES", [2])
    np.testing.assert_array_equal(probabilities, np.asarray(same.probabilities))
