"""Writing to feature sets. See `embed_ops.py`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from topwork._codec.items import Items
from topwork._ops.progress_bar import Progress
from topwork._transport.calls import ClientState, Steps, StreamCall
from topwork._transport.methods import WRITE
from topwork.features import Features
from topwork.sets import Acknowledged, WriteReport

#: A str or int an item.
Ids: TypeAlias = str | int | Iterable[str | int] | AsyncIterable[str | int]
#: A dict an item; or a dict of columns, a data frame, an Arrow table.
Metadata: TypeAlias = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]] | Mapping[str, Sequence[Any]] | Any
#: An array (n, dim); Features; a dict of either by tap; or an iterable of such.
Vectors: TypeAlias = Features | Mapping[str, Any] | Iterable[Any] | AsyncIterable[Any] | Any


def write(
    session: ClientState,
    set: str,
    items: Items | None = None,
    ids: Ids | None = None,
    metadata: Metadata | None = None,
    *,
    encoder: str | None = None,
    taps: Sequence[str] | None = None,
    vectors: Vectors | None = None,
    fingerprint: str | Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    keep_inputs: bool = False,
    skip_bad_items: bool = False,
    priority: str = "normal",
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[WriteReport]:
    """Upsert by id: items that the server embeds, or vectors that are ready. A set that is not there is made.

    What is acknowledged (see `progress`) survives the end of the server; one that restarts meanwhile is met with retries.

    items           as in `embed`. Pictures and videos that are paths have these as their ids where no `ids` are passed
    ids             a str or int an item, none of them twice
    metadata        a dict an item; or a dict of columns, a data frame, an Arrow table. Values are bool, int, float, str,
                    datetime (or date; without a zone it is UTC) or lists of str; None, NaN and absent ones are missing. A column
                    keeps its type: that of the set, or of the values that are passed (of an iterator: the first ones)
    encoder, taps   what the set is made of; where the set is there, they may be left out
    vectors         instead of items: an array (n, dim), Features, a dict of either by tap, or an iterable of such
    fingerprint     of bare arrays (by tap, where there are several): a set of an encoder takes no vectors without it
    options         what the encoder declares, as in `embed`; part of the set
    dtype           "float32" (the default of a new set) or "float16", as stored
    keep_inputs     keep the items themselves, too
    skip_bad_items  a bad item is reported in `failures` and the rest goes on; without it the first one ends the write, after
                    what came before it
    priority        "low", "normal" or "high", as in `embed`
    progress        True for a bar on a terminal, or a function of (items done, items in all or None)
    timeout         seconds: the longest wait in which nothing moves, here or in the encoder; None is the client's

    Raises a TopworkError; its `item` is the position of the item to blame.
    """
    from topwork._ops import write_request

    settings = encoder, taps, options, dtype, keep_inputs, skip_bad_items, priority
    asked = write_request.WriteArguments(set, items, ids, metadata, vectors, fingerprint, *settings)
    return (yield from write_request.written(session, asked, progress, timeout))


def write_stream(
    session: ClientState,
    set: str,
    items: Items | None = None,
    ids: Ids | None = None,
    metadata: Metadata | None = None,
    *,
    encoder: str | None = None,
    taps: Sequence[str] | None = None,
    vectors: Vectors | None = None,
    fingerprint: str | Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    keep_inputs: bool = False,
    skip_bad_items: bool = False,
    priority: str = "normal",
    timeout: float | None = None,
) -> Steps[StreamCall[Acknowledged]]:
    """As `write`, for any number of items, even endless: an `Acknowledged` for each chunk, as soon as it is on disk.

    `items`, `ids`, `metadata` and `vectors` may be iterators; they are read a few chunks ahead and no further.
    """
    from topwork._ops import write_request

    settings = encoder, taps, options, dtype, keep_inputs, skip_bad_items, priority
    asked = write_request.WriteArguments(set, items, ids, metadata, vectors, fingerprint, *settings)
    plan = yield from write_request.planned(session, asked, timeout)
    return StreamCall(WRITE, plan.feed, write_request.acknowledged)
