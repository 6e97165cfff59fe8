"""Calls of the Open Inference Protocol over gRPC, in messages as its clients send them."""

from __future__ import annotations

import struct

import numpy as np
from topwork_server.doors.protocols import oip_pb2


def called(server, method, request):
    """A call of a method of the service, by its name."""
    return server.channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(oip_pb2, f"{method}Response").FromString,
    )(request)


def raw_texts(*texts):
    return b"".join(struct.pack("<I", len(one)) + one for one in texts)


def asked(*texts, outputs=(), name="TEXT", datatype="BYTES", shape=None, raw=None, **fields):
    """A request as tritonclient sends it: raw contents."""
    tensor = {"name": name, "datatype": datatype, "shape": shape or [len(texts)]}
    return oip_pb2.ModelInferRequest(
        **{"model_name": "ready", **fields},
        inputs=[tensor],
        outputs=[{"name": one} for one in outputs],
        raw_input_contents=[raw_texts(*texts) if raw is None else raw],
    )


def rows_of(reply, position=0):
    return np.frombuffer(reply.raw_output_contents[position], "<f4").reshape(reply.outputs[position].shape)


def streamed(server):
    return server.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=oip_pb2.ModelStreamInferResponse.FromString,
    )()
