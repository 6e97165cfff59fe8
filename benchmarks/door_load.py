"""The load generator of the doors: a process of its own, whose requests are bytes that were made before the clock starts.

Beside the raw callers are the unmodified client packages, which make each request and read each reply as people's programs do.
Those need more than this environment where it lacks them: `python` of `benchmarks.processes.Worker` names another. Run by the
harness (`benchmarks/doors.py`), which asks `open` once and `measure` for each door and round.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from multiprocessing import shared_memory
from typing import Any

from benchmarks.measure import Figures, concurrent_loop
from benchmarks.processes import answerer, questions

Send = Callable[[int], Awaitable[object]]
Headers = dict[str, str]
HEADER = "Inference-Header-Content-Length"
#: Height, width and colors of a picture that is sent as an array.
PICTURE = (224, 224, 3)
REGION = "pictures"
#: Seconds of a load before its clock starts.
WARM = 0.3


class Doors:
    """Prepared requests to the doors of one server: `texts` in requests of `size`, or as many arrays where there are none."""

    def __init__(self, address: str, http: str, encoder: str, texts: Sequence[str], size: int) -> None:
        import aiohttp
        import grpc

        self._channel = grpc.aio.insecure_channel(address)
        self._session = aiohttp.ClientSession(f"http://{http}", connector=aiohttp.TCPConnector(limit=0))
        self._encoder, self._size = encoder, size
        self._batches = [list(texts[i : i + size]) for i in range(0, len(texts), size)]

    async def close(self) -> None:
        if not self._batches:
            await self._post(f"/v2/systemsharedmemory/region/{REGION}/unregister", [b""], {})(0)
        await self._session.close()
        await self._channel.close()

    async def sends(self) -> dict[str, Send]:
        """The doors, by name; native gRPC is the first."""
        return self._of_texts() if self._batches else await self._of_pictures()

    def _of_texts(self) -> dict[str, Send]:
        from topwork.v1 import encoders_pb2, types_pb2
        from topwork_server.doors.protocols import tei_pb2

        name, batches = self._encoder, self._batches
        settings = encoders_pb2.EmbedSettings(encoder=name)
        native = [
            encoders_pb2.EmbedRequest(settings=settings, items=[types_pb2.Item(text=text) for text in batch]).SerializeToString()
            for batch in batches
        ]
        infer = [self._infer("TEXT", "BYTES", [len(batch)], _elements(batch)) for batch in batches]
        embed = "/topwork.v1.Encoders/Embed"

        def as_json(path: str, body: Callable[[list[str]], object], **headers: str) -> Send:
            return self._post(path, [json.dumps(body(batch)).encode() for batch in batches], headers)

        found = {
            "native gRPC": self._call(embed, native),
            "Connect, protobuf": self._post(embed, native, {"content-type": "application/proto"}),
            "Connect, plain JSON": as_json(
                embed, lambda batch: {"settings": {"encoder": name}, "items": [{"text": text} for text in batch]}
            ),
            "OpenAI, base64": as_json(
                "/v1/embeddings", lambda batch: {"model": name, "input": batch, "encoding_format": "base64"}
            ),
            "TEI, HTTP": as_json("/embed", lambda batch: {"inputs": batch}, **{"x-model": name}),
            "Cohere": as_json(
                "/v2/embed", lambda batch: {"model": name, "texts": batch, "input_type": "search_document"}
            ),
            "OIP, HTTP binary": self._post_infer([one[0] for one in infer], [one[1] for one in infer]),
            "OIP, gRPC": self._call_infer([one[2] for one in infer]),
        }  # fmt: skip
        if self._size == 1:  # a message of tei.v1 has one text
            single = [tei_pb2.EmbedRequest(inputs=batch[0]).SerializeToString() for batch in batches]
            found["TEI, gRPC"] = self._call("/tei.v1.Embed/Embed", single, (("x-model", name),))
        return found

    async def _of_pictures(self) -> dict[str, Send]:
        import numpy as np
        from topwork.v1 import encoders_pb2, types_pb2

        shape = [self._size, *PICTURE]
        pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
        items = [
            types_pb2.Item(tensor=types_pb2.Tensor(dtype=types_pb2.DTYPE_UINT8, shape=PICTURE, data=one.tobytes()))
            for one in pixels
        ]
        native = encoders_pb2.EmbedRequest(settings=encoders_pb2.EmbedSettings(encoder=self._encoder), items=items)
        head, body, message = self._infer("IMAGE", "UINT8", shape, pixels.tobytes())
        await self._share(pixels.tobytes())
        place = {"shared_memory_region": REGION, "shared_memory_byte_size": pixels.nbytes}
        shared = {"name": "IMAGE", "datatype": "UINT8", "shape": shape, "parameters": place}
        asked = json.dumps({"inputs": [shared], "parameters": {"binary_data_output": True}}).encode()
        return {
            "native gRPC": self._call("/topwork.v1.Encoders/Embed", [native.SerializeToString()]),
            "OIP, gRPC": self._call_infer([message]),
            "OIP, HTTP binary": self._post_infer([head], [body]),
            "OIP, shared memory": self._post_infer([{HEADER: str(len(asked))}], [asked]),
        }

    async def _share(self, data: bytes) -> None:
        """Register a region that holds the data. The server keeps it open, so that its name can go at once."""
        memory = shared_memory.SharedMemory(create=True, size=len(data))
        try:
            view = memory.buf
            assert view is not None
            view[: len(data)] = data
            register = {"key": memory.name, "byte_size": len(data), "offset": 0}
            await self._post(f"/v2/systemsharedmemory/region/{REGION}/register", [json.dumps(register).encode()], {})(0)
        finally:
            memory.close()
            memory.unlink()

    def _infer(self, name: str, datatype: str, shape: list[int], raw: bytes) -> tuple[Headers, bytes, bytes]:
        """The header and body of a request over HTTP, and the message of the same."""
        from topwork_server.doors.protocols import oip_pb2

        tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        message = oip_pb2.ModelInferRequest(model_name=self._encoder, raw_input_contents=[raw])
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        return {HEADER: str(len(head))}, head + raw, message.SerializeToString()

    def _call_infer(self, messages: Sequence[bytes]) -> Send:
        return self._call("/inference.GRPCInferenceService/ModelInfer", messages)

    def _post_infer(self, headers: Sequence[Headers], bodies: Sequence[bytes]) -> Send:
        path = f"/v2/models/{self._encoder}/infer"

        async def send(number: int) -> object:
            at = number % len(bodies)
            return await self._posted(path, bodies[at], headers[at])

        return send

    def _call(self, method: str, messages: Sequence[bytes], metadata: tuple[tuple[str, str], ...] = ()) -> Send:
        call = self._channel.unary_unary(method)  # bytes in, bytes out

        async def send(number: int) -> object:
            return await call(messages[number % len(messages)], metadata=metadata)

        return send

    def _post(self, path: str, bodies: Sequence[bytes], headers: Headers) -> Send:
        headers = {"content-type": "application/json", **headers}

        async def send(number: int) -> object:
            return await self._posted(path, bodies[number % len(bodies)], headers)

        return send

    async def _posted(self, path: str, body: bytes, headers: Headers) -> bytes:
        async with self._session.post(path, data=body, headers=headers) as reply:
            found: bytes = await reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{path}: {reply.status} {found[:200]!r}")
            return found


class OpenAiClient:
    """The client of the package openai, as it comes."""

    def __init__(self, url: str, model: str, texts: Sequence[str], size: int) -> None:
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        self._model, self._texts, self._size = model, texts, size

    async def sends(self) -> dict[str, Send]:
        return {"client": self._send}

    async def _send(self, number: int) -> object:
        found = await self._client.embeddings.create(model=self._model, input=_slice(self._texts, self._size, number))
        assert len(found.data) == self._size, found
        return found

    async def close(self) -> None:
        await self._client.close()


class TritonClient:
    """The client of the package tritonclient, over HTTP or, where the address has no path, over gRPC; `tensors` are the names of
    the input and the output."""

    def __init__(self, wire: str, address: str, model: str, tensors: Sequence[str], texts: Sequence[str], size: int) -> None:
        import importlib

        self._package = importlib.import_module(f"tritonclient.{wire}.aio")
        many = {"conn_limit": 128} if wire == "http" else {}
        self._client = self._package.InferenceServerClient(address, **many)
        self._model, self._texts, self._size = model, texts, size
        self._input, self._output = tensors

    async def sends(self) -> dict[str, Send]:
        return {"client": self._send}

    async def _send(self, number: int) -> object:
        import numpy as np

        batch = _slice(self._texts, self._size, number)
        tensor = self._package.InferInput(self._input, [self._size, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()] for text in batch], object))
        found = await self._client.infer(self._model, [tensor], outputs=[self._package.InferRequestedOutput(self._output)])
        rows = found.as_numpy(self._output)
        assert len(rows) == self._size, rows
        return rows

    async def close(self) -> None:
        await self._client.close()


KINDS: dict[str, Any] = {"doors": Doors, "openai": OpenAiClient, "tritonclient": TritonClient}


def _slice(texts: Sequence[str], size: int, number: int) -> list[str]:
    """The texts of a request: in turns, so that both servers of a round get the same."""
    return [texts[(number * size + i) % len(texts)] for i in range(size)]


def _elements(texts: Sequence[str]) -> bytes:
    """Texts as a raw tensor of BYTES: each after its length in four bytes."""
    return b"".join(struct.pack("<I", len(data)) + data for data in (text.encode() for text in texts))


async def _measured(send: Send, callers: int, seconds: float) -> Figures:
    """Figures of the time after WARM; `requests` counts those of before too, as the server's CPU time does."""
    warm = await concurrent_loop(send, callers, WARM)
    found = await concurrent_loop(send, callers, seconds)
    return found | {"requests": found["requests"] + warm["requests"]}


async def main() -> None:
    answer, asked = answerer(), questions()
    loop = asyncio.get_running_loop()
    opened: Any = None
    sends: dict[str, Send] = {}
    while (details := await loop.run_in_executor(None, partial(next, asked, None))) is not None:
        try:
            if details.pop("question") == "open":
                if opened is not None:
                    await opened.close()
                opened = KINDS[details.pop("kind")](**details)
                sends = await opened.sends()
                for send in sends.values():
                    await send(0)  # the encoder is loaded, and connections are open
                answer(list(sends))
            else:
                answer(await _measured(sends[details["name"]], details["callers"], details["seconds"]))
        except Exception as error:
            answer(error)
    if opened is not None:
        await opened.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
