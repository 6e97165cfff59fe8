"""The document of everything on the HTTP port."""

from __future__ import annotations

import fake_engine
from http_calls import get
from openapi_spec_validator import validate


async def test_the_document_is_valid_and_has_every_method_and_route(tmp_path):
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        document = (await get(server.ready.http, "/openapi.json")).json
        validate(document)
        paths = document["paths"]
        assert paths["/topwork.v1.Encoders/Embed"]["post"]["requestBody"]
        assert set(server.app._methods.methods) <= set(paths)
        embeddings = document["components"]["schemas"]["EmbeddingsRequest"]["properties"]
        assert {"input", "model", "dimensions", "encoding_format"} <= set(embeddings)
        assert {parameter["name"] for parameter in paths["/v1/models/{name}"]["get"]["parameters"]} >= {"name", "x-priority"}


async def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        page = (await get(server.ready.http, "/docs")).body.decode()
        assert "openapi.json" in page
        assert "http://" not in page
        assert "https://" not in page


async def test_people_are_led_to_the_page_and_probes_are_not(tmp_path):
    async with fake_engine.served(tmp_path, http="127.0.0.1:0", default_encoder="ready") as server:
        led = await get(server.ready.http, "/", {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert (led.status, led.headers["location"]) == (307, "/docs")
        assert (await get(server.ready.http, "/", {"accept": "*/*"})).status == 200
