"""Compares this checkout with another one, old beside new: each with its own server and its own client, in turns within one run:

    python -m benchmarks.pairs --other /path/to/other/.venv/bin/topwork [--only text search heads] [--rounds 5] [--json]

Both servers run all the time, on encoders of their own checkout's .topwork, and one is asked at a time. The order turns round
after each round (A B, B A), and ratios are taken within a round. `speed` is how many times faster this checkout is than the
other: the median of the rounds, and the least and the most of them. About five minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from topwork import AsyncClient, Client

from benchmarks.measure import concurrent_loop, loop, median_ratio, medians, table, turns
from benchmarks.processes import Worker, answerer, questions, scratch_home, server

ENCODER = "all-minilm-l6-v2"
ROWS, WRITTEN, LARGE, LABELED = 50_000, 10_000, 30_000, 500
CALLERS, BATCH, K = 64, 64, 10
VECTORS, LEARNT, LARGE_SET, SCRATCH, HEAD = "pairs-vectors", "pairs-texts", "pairs-large", "pairs-scratch", "pairs-head"


class Side:
    """A checkout's client, in a process of that checkout's environment. Each method is a measurement: seconds, or a rate."""

    def __init__(self, address: str, folder: Path, seconds: float) -> None:
        self._address, self._seconds = address, seconds
        self._client = Client(address, timeout=600)
        made = json.loads((folder / "texts.json").read_text())
        self._texts, self._labeled = made["sentences"], made["labeled"]
        self._vectors, self._queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")

    def prepare_text(self) -> Any:
        return str(self._client.embed(ENCODER, self._texts[:256]).numerics)

    def prepare_search(self) -> Any:
        self._client.write(VECTORS, vectors=self._vectors, ids=list(map(str, range(len(self._vectors)))))
        index = self._client.create_index(VECTORS)
        return f"{index.built}, effort {index.effort}, recall {index.recall}"

    def prepare_heads(self) -> Any:
        texts, labels = zip(*self._labeled, strict=True)
        ids = list(map(str, range(len(texts))))
        self._client.write(LEARNT, encoder=ENCODER, items=texts, ids=ids, metadata=[{"label": label} for label in labels])
        classes = [{"label": f"class {i % 50}"} for i in range(LARGE)]
        self._client.write(LARGE_SET, vectors=self._vectors[:LARGE], ids=list(map(str, range(LARGE))), metadata=classes)
        self.train_to_predict()
        return str(self._client.head(HEAD).metrics[0])

    def text_streamed(self) -> float:
        began = time.perf_counter()
        self._client.embed(ENCODER, self._texts[:1000])
        return 1000 / (time.perf_counter() - began)

    def text_many_callers(self) -> float:
        return self._many(lambda client, i: client.embed(ENCODER, [self._texts[i % len(self._texts)]]))

    def text_one_caller(self) -> float:
        return loop(lambda i: self._client.embed(ENCODER, [self._texts[i % len(self._texts)]]), self._seconds)["p50_ms"]

    def write_vectors(self) -> float:
        began = time.perf_counter()
        self._client.write(SCRATCH, vectors=self._vectors[:WRITTEN], ids=list(map(str, range(WRITTEN))))
        took = time.perf_counter() - began
        self._client.drop_set(SCRATCH)
        return WRITTEN / took

    def search_one_caller(self) -> float:
        return loop(partial(self._search, 1), self._seconds)["p50_ms"]

    def search_batches(self) -> float:
        return BATCH * loop(partial(self._search, BATCH), self._seconds)["per_s"]

    def search_many_callers(self) -> float:
        return self._many(lambda client, i: client.search(VECTORS, vectors=self._query(1, i), k=K, columns=()))

    def train_to_predict(self) -> float:
        began = time.perf_counter()
        self._client.train(LEARNT, target="label", name=HEAD, replace=True)
        self._client.predict(HEAD, ["read a header of an e-mail"])
        return time.perf_counter() - began

    def predict_one_caller(self) -> float:
        return loop(lambda i: self._client.predict(HEAD, [self._texts[i % len(self._texts)]]), self._seconds)["p50_ms"]

    def embed_beside_training(self) -> float:
        job = self._client.train(LARGE_SET, target="label", name=f"{HEAD}-large", replace=True, wait=False).job
        assert job is not None, "it was not waited for"
        found = self.text_one_caller()
        self._client.cancel_job(job.id)
        return found

    def _search(self, size: int, number: int) -> Any:
        return self._client.search(VECTORS, vectors=self._query(size, number), k=K, columns=())

    def _query(self, size: int, number: int) -> Any:
        first = number * size % (len(self._queries) - size + 1)
        return self._queries[first : first + size]

    def _many(self, call: Callable[[AsyncClient, int], Any]) -> float:
        async def measured() -> float:
            async with AsyncClient(self._address, timeout=600) as client:
                await call(client, 0)
                return (await concurrent_loop(lambda i: call(client, i), CALLERS, self._seconds))["per_s"]

        return asyncio.run(measured())


#: By what must be prepared: the name of each measurement, its unit, and the method of `Side`.
MEASURES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "text": {
        "embed, streamed": ("texts/s", "text_streamed"),
        f"embed, {CALLERS} callers": ("texts/s", "text_many_callers"),
        "embed, one caller, p50": ("ms", "text_one_caller"),
    },
    "search": {
        "write vectors": ("rows/s", "write_vectors"),
        "search, one caller, p50": ("ms", "search_one_caller"),
        f"search, {BATCH} a request": ("queries/s", "search_batches"),
        f"search, {CALLERS} callers": ("queries/s", "search_many_callers"),
    },
    "heads": {
        "train to first predict": ("s", "train_to_predict"),
        "predict, one caller, p50": ("ms", "predict_one_caller"),
        "embed beside a training, p50": ("ms", "embed_beside_training"),
    },
}


def main() -> int:
    asked = _parsed()
    if asked.client:
        return answer_questions(*asked.client)
    commands = {"other": asked.other.absolute(), "this": asked.this.absolute()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save_inputs(folder)
        workers = {name: stack.enter_context(side(command, folder, asked.seconds)) for name, command in commands.items()}
        for part in asked.only:
            for name, worker in workers.items():
                print(f"{part}, {name}: {worker.ask(f'prepare_{part}', patience=600)}", file=sys.stderr, flush=True)
        report(dict(measured(workers, asked)), asked.json)
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, metavar="TOPWORK", help="the command of the checkout to compare with")
    this = Path(sys.executable).with_name("topwork")
    parser.add_argument("--this", type=Path, default=this, metavar="TOPWORK", help="by default that of this environment")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each loop")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not (asked.other or asked.client):
        parser.error("--other: name the command of another checkout")
    return asked


def save_inputs(folder: Path) -> None:
    """Save texts and vectors for both sides, since their environments may differ."""
    from benchmarks import inputs

    data = inputs.Clustered(ROWS)
    np.save(folder / "vectors.npy", data.vectors)
    np.save(folder / "queries.npy", data.queries)
    texts = {"sentences": inputs.sentences(), "labeled": inputs.labeled_sentences(LABELED)}
    (folder / "texts.json").write_text(json.dumps(texts))


@contextmanager
def side(command: Path, folder: Path, seconds: float) -> Iterator[Worker]:
    """A checkout's server and, in a process of its environment, its client."""
    flags = ("--provider", "cpu", "--feature-cache", "0")
    with scratch_home(command.parents[2] / ".topwork") as home, server(home, *flags, command=[str(command)]) as (address, _):
        arguments = ("--client", address, str(folder), str(seconds))
        with Worker("pairs", *arguments, python=str(command.with_name("python"))) as worker:
            yield worker


def measured(workers: Mapping[str, Worker], asked: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each measurement's values of both sides, a value a round."""
    for part in asked.only:
        for name, (unit, method) in MEASURES[part].items():
            print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
            yield name, {"unit": unit, **turns({s: partial(w.ask, method) for s, w in workers.items()}, asked.rounds)}


def report(found: Mapping[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    lines = []
    for name, values in found.items():
        pair = (values["this"], values["other"])
        fast, slow = pair if values["unit"].endswith("/s") else pair[::-1]
        speeds = [a / b for a, b in zip(fast, slow, strict=True)]
        middle = medians([{"other": other, "this": this} for this, other in zip(*pair, strict=True)])
        spread = f"{min(speeds):.2f} to {max(speeds):.2f}"
        lines.append([f"{name}, {values['unit']}", middle["other"], middle["this"], f"{median_ratio(fast, slow):.3f}", spread])
    print(table(["", "other", "this", "speed", "least to most"], lines))


def answer_questions(address: str, folder: str, seconds: str) -> int:
    """The worker's side: each question names a method of `Side`."""
    answer, side = answerer(), Side(address, Path(folder), float(seconds))
    for asked in questions():
        try:
            answer(getattr(side, asked["question"])())
        except Exception as error:
            answer(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
