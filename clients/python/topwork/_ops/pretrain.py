"""Encoders that are learned from texts without labels."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from topwork._codec import decode_sets, messages
from topwork._codec.items import describe, encodable
from topwork._ops import jobs as jobs_ops
from topwork._ops.item_requests import release
from topwork._ops.overloads import TextSource
from topwork._ops.sets import numbered
from topwork._transport.calls import ClientState, Steps, StreamCall, unary, work
from topwork._transport.methods import LIST_PRETRAINERS, PRETRAIN
from topwork._transport.text_upload import TextUpload
from topwork.errors import InvalidInput, TooLarge
from topwork.jobs import Job, JobProgress
from topwork.pretraining import PretrainerInfo, PretrainReport
from topwork.v1 import encoders_pb2, jobs_pb2

T = TypeVar("T")

#: Texts and letters of one message, and letters of the longest text.
MOST_TEXTS, MOST_LETTERS, LONGEST = 4096, 1 << 18, 8 << 20


def pretrainers(session: ClientState, *, timeout: float | None = None) -> Steps[list[PretrainerInfo]]:
    """The kinds of pretraining that `pretrain` takes, and their options."""
    reply = yield from unary(LIST_PRETRAINERS, encoders_pb2.ListPretrainersRequest(), timeout)
    return [
        messages.of_message(PretrainerInfo, message, options=messages.options_info(message.options))
        for message in reply.pretrainers
    ]


def pretrain(
    session: ClientState,
    kind: str,
    texts: TextSource | None = None,
    *,
    name: str,
    encoder: str = "",
    set: str = "",
    where: str = "",
    version: int | str = 0,
    column: str = "",
    separator: str = "",
    encoding: str = "",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    source: str = "",
    wait: bool = True,
    progress: JobProgress = None,
    timeout: float | None = None,
) -> Steps[PretrainReport | Job]:
    """Learn a new encoder from texts without labels, or train one further on them, and serve it.

    kind        one of `pretrainers()`: "words" (word2vec), "mlm" (masked language model) or "lm" (next token)
    texts       a Path of this machine (.txt with a text a line, .jsonl, .csv, .parquet; .gz too), or an iterable of str
    name        of the new encoder, which no encoder has yet
    encoder     the one that is trained further, for kinds that need one
    set         instead of `texts`: a set that keeps its inputs; `where` is SQL over id and metadata, `version` a number or a pin
    column      of a file that has columns: the one with the texts (default: text, or the only one)
    separator   of a .csv: what is between its columns (default: a comma)
    encoding    of a file's letters (default: UTF-8)
    options     of the kind, such as {"epochs": 3}: see `pretrainers()`
    seed        the same seed and texts give the same encoder, on one machine with one thread
    source      where the texts come from, for a person to read; default: the file's name
    wait        until it has ended; JobFailed where it failed. Else the Job comes back: `PretrainReport.of(job)` once it is done
    progress    True for a bar on a terminal, or a function of the Job at each change
    timeout     seconds, for all of it; None is the client's for the upload, and as long as it takes for the job

    Raises InvalidInput for what cannot be learned, AlreadyExists where the name is taken.
    """
    started = time.monotonic()
    if (where or version) and not set:
        raise InvalidInput("where and version choose from a set, and none is named", remedy="pass set=, or leave them out")
    if not name:
        raise InvalidInput("the encoder has no name", remedy="give it a `name`")
    settings = encoders_pb2.PretrainSettings(
        kind=kind,
        name=name,
        encoder=encoder,
        options=messages.struct(options),
        seed=seed,
        set=set,
        where=where,
        source=source or (Path(texts).name if isinstance(texts, os.PathLike) else ""),
    )
    given = session.blocking(texts) if isinstance(texts, AsyncIterable) else texts
    read = _reader(given, set, column, separator, encoding)
    opened: list[Iterator[encoders_pb2.PretrainRequest] | None] = []
    begun: list[Job] = []

    def requests() -> Iterator[encoders_pb2.PretrainRequest] | None:
        chunks = opened.pop() if opened else _chunked(read(), not set)
        return None if chunks is None else chain([encoders_pb2.PretrainRequest(settings=settings)], chunks)

    def receive(reply: jobs_pb2.Job, _: None) -> None:
        begun.append(decode_sets.job(reply))

    try:
        # What is wrong with the first texts needs no server.
        opened.append((yield from work(lambda: _begun(_chunked(read(), not set)))))
        if set:
            settings.version = yield from numbered(session, set, version, timeout)
        yield StreamCall(PRETRAIN, TextUpload(session, requests, timeout), receive)
    finally:
        release(given)
    session.encoders.pop(name, None)
    if not wait:
        return begun[0]
    return PretrainReport.of((yield from jobs_ops.done(session, begun[0], name, progress, jobs_ops.left(timeout, started))))


def _reader(texts: TextSource | None, set: str, column: str, separator: str, encoding: str) -> Callable[[], Iterator[str] | None]:
    """A function that gives the texts from the first; None where they cannot be had a second time."""
    if (texts is None) == (not set):
        raise InvalidInput("the texts are not clear", remedy="pass texts, or the set that keeps them, and not both")
    if isinstance(texts, os.PathLike):
        path = Path(texts)
        return lambda: texts_of_file(path, column, separator, encoding)
    if column or separator or encoding:
        raise InvalidInput("column, separator and encoding are of files", remedy="pass a Path as texts, or leave them out")
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable | None):
        raise InvalidInput(f"texts are {describe(texts)}", remedy="pass a list of str, or a pathlib.Path of a file")
    given = () if texts is None else texts  # an array of numpy has no truth value
    if iter(given) is texts:
        return _once(iter(texts))
    return lambda: iter(given)


def _once(texts: Iterator[str]) -> Callable[[], Iterator[str] | None]:
    given = [texts]
    return lambda: given.pop() if given else None


def texts_of_file(path: Path, column: str = "", separator: str = "", encoding: str = "") -> Iterator[str]:
    """Read the texts of a file of records. Raises InvalidInput with the place of what is no text."""
    from topwork._files import record_files, record_values

    table = record_files.opened(path, separator or None, encoding or None)
    chosen = record_values.item_column(table, column or None, ["text"])
    for record in table.records([chosen]):
        text = record_values.text_of(table, chosen, record)
        if isinstance(text, bytes):
            raise InvalidInput(f"{table.name(record)} holds bytes, no text", remedy="name the column of texts")
        yield text


def _begun(chunks: Iterator[T] | None) -> Iterator[T] | None:
    """The same, of which the first is made already."""
    return None if chunks is None else chain([next(chunks)], chunks)


def _chunked(texts: Iterator[str] | None, needed: bool) -> Iterator[encoders_pb2.PretrainRequest] | None:
    """The messages of texts, and at last their count. `needed`: InvalidInput where all are blank."""
    return None if texts is None else _chunks(texts, needed)


def _chunks(texts: Iterator[str], needed: bool) -> Iterator[encoders_pb2.PretrainRequest]:
    chunk, letters, position, blank = list[str](), 0, -1, needed
    for position, text in enumerate(texts):
        letters += len(_checked(text, position))
        blank = blank and not text.strip()
        chunk.append(text)
        if len(chunk) >= MOST_TEXTS or letters >= MOST_LETTERS:
            yield encoders_pb2.PretrainRequest(texts=encoders_pb2.Texts(texts=chunk))
            chunk, letters = [], 0
    if blank:
        raise InvalidInput("there are no texts to learn from", remedy="send some that are not blank")
    if chunk:
        yield encoders_pb2.PretrainRequest(texts=encoders_pb2.Texts(texts=chunk))
    yield encoders_pb2.PretrainRequest(count=position + 1)


def _checked(text: Any, position: int) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"{describe(text)} is no text", remedy="pass str", item=position)
    if len(text) > LONGEST:
        raise TooLarge(f"a text of {len(text):,} characters", remedy="cut it into paragraphs", item=position)
    try:
        return encodable(text)
    except InvalidInput as error:
        raise error.at(position) from None
