"""The predict verb of both clients. See `embed_ops.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from topwork._codec import messages
from topwork._codec.items import Items
from topwork._ops.head_ops import several
from topwork._ops.progress_bar import Progress
from topwork._transport.calls import ClientState, Steps
from topwork.errors import InvalidInput
from topwork.features import Features
from topwork.predictions import Predictions
from topwork.v1 import heads_pb2


def predict(
    session: ClientState,
    heads: str | Sequence[str],
    items: Items | None = None,
    *,
    vectors: Features | Any = None,
    fingerprint: str = "",
    set: str = "",
    ids: str | int | Iterable[str | int] | None = None,
    top: int = 0,
    features: bool = False,
    options: Mapping[str, Any] | None = None,
    skip_bad_items: bool = False,
    priority: str = "normal",
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[Predictions | dict[str, Predictions]]:
    """What a head says of items, in their order; of a list of heads a dict by their names, from one pass of each trunk.

    items           as in `embed`; any number of them. A lone item is one
    vectors         instead of items: rows (n, dim) of the head's tap, pooled as it reads them; or Features of one row an item
    fingerprint     of the vectors: NotReady where it is not the head's. Features bring theirs along
    set, ids        instead of items: those of a feature set, by their ids; nothing is encoded
    top             so many of the classes, most probable first; 0: all
    features        what the heads have read, too: `Predictions.features`
    options         of the encoder; None: those of the set that the head learnt from
    skip_bad_items  a bad item stands in `failures`; without it the first one raises InvalidInput
    priority        "low", "normal" or "high", as in `embed`
    progress        True for a bar on a terminal, or a function of (items done, items in all or None)
    timeout         seconds to wait for a reply; None is the client's. Many items are sent as a stream of chunks: there it is the
                    longest wait in which nothing moves

    Raises NotFound for a head that is not there, NotReady for one that is not trained yet or whose trunk has changed; the `item`
    of an error is the position of the item to blame.
    """
    from topwork._ops import predict_requests

    if sum(given is not None for given in (items, vectors, ids)) != 1 or bool(set) != (ids is not None):
        raise InvalidInput("predictions are of one kind of input", remedy="pass items, vectors=, or set= with ids=")
    settings = heads_pb2.PredictSettings(
        heads=several(heads),
        top=top,
        features=features,
        options=messages.struct(options),
        skip_bad_items=skip_bad_items,
        priority=messages.priority_of(priority),
    )
    if not settings.heads:
        raise InvalidInput("no head is named", remedy="name one of `heads()`")
    found = yield from predict_requests.predicted(session, settings, items, (vectors, fingerprint), (set, ids), progress, timeout)
    return found[0] if isinstance(heads, str) else dict(zip(heads, found, strict=True))
