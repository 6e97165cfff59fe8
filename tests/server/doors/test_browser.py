"""The HTTP port in a real browser, where there is Chromium: the page that describes it, and web pages of other origins."""

from __future__ import annotations

import asyncio
import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fake_engine
import pytest
from http_calls import get

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")

#: Asks a server as web pages do, and writes down what it may read of the replies.
PAGE = """<!doctype html><pre id="told">nothing</pre><script type="module">
  const url = "http://SERVER";
  const json = { "content-type": "application/json", authorization: "Bearer none", "x-model": "ready" };
  const asked = {
    embeddings: ["/v1/embeddings", { method: "POST", headers: json, body: '{"input": "hello"}' }],
    method: ["/topwork.v1.Encoders/ListEncoders", { method: "POST", headers: json, body: "{}" }],
    models: ["/v1/models", {}],
    refused: ["/v1/embeddings", { method: "POST", headers: json, body: "{}" }],
  };
  const told = {};
  for (const [name, [path, options]] of Object.entries(asked)) {
    try {
      const reply = await fetch(url + path, options);
      await reply.text();
      told[name] = [reply.status, (reply.headers.get("x-fingerprint") ?? "").length];
    } catch (error) { told[name] = String(error); }
  }
  document.getElementById("told").textContent = JSON.stringify(told);
</script>"""


def dom(url: str, folder: str) -> str:
    """The page as it is once its scripts have run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", f"--user-data-dir={folder}"]
    command = [str(CHROMIUM), *flags, "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@contextmanager
def site(page: str) -> Iterator[str]:
    """A web site of one page; its origin."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_the_page_shows_every_operation_to_whoever_opens_the_address(tmp_path):
    async with fake_engine.served(tmp_path / "home", http="127.0.0.1:0") as server:
        paths = (await get(server.ready.http, "/openapi.json")).json["paths"]
        shown = html.unescape(await asyncio.to_thread(dom, f"http://{server.ready.http}/", str(tmp_path / "profile")))
    found = re.findall(r"<summary><code>(GET|POST) (.*?)</code>", shown)
    assert sorted(found) == sorted((method.upper(), path) for path, methods in paths.items() for method in methods)
    assert shown.count(">send</button>") > len(found) / 2


@pytest.mark.parametrize("allowed", [True, False])
async def test_pages_of_other_origins_read_replies_where_they_are_allowed(allowed, tmp_path):
    with site("") as elsewhere:
        async with fake_engine.served(
            tmp_path / "home", http="127.0.0.1:0", allow_origin=(elsewhere if not allowed else "*",)
        ) as server:
            with site(PAGE.replace("SERVER", server.ready.http)) as origin:
                shown = html.unescape(await asyncio.to_thread(dom, origin, str(tmp_path / "profile")))
    [told] = re.findall(r'<pre id="told">(.*?)</pre>', shown)
    if allowed:
        assert json.loads(told) == {"embeddings": [200, 64], "method": [200, 0], "models": [200, 0], "refused": [400, 0]}
    else:
        assert json.loads(told) == dict.fromkeys(("embeddings", "method", "models", "refused"), "TypeError: Failed to fetch")
