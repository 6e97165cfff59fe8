"""A failed gRPC call -> the error that its server meant."""

from __future__ import annotations

from typing import Any

import grpc

from topwork import errors
from topwork._transport import channel, tls
from topwork._transport.wording import in_calls
from topwork.errors import TopworkError

DETAILS_KEY = "grpc-status-details-bin"

#: The classes that a server names in its ErrorInfo.
REASONS: dict[str, type[TopworkError]] = {
    kind.__name__: kind
    for kind in (
        errors.InvalidInput,
        errors.NotFound,
        errors.NotReady,
        errors.AlreadyExists,
        errors.Overloaded,
        errors.TooLarge,
        errors.DiskFull,
        errors.DataLoss,
        errors.DeadlineExceeded,
        errors.Unavailable,
        errors.Cancelled,
        errors.Unsupported,
        errors.Refused,
        errors.PluginFault,
        errors.ExportFailed,
    )
}
#: What a status means that comes without an ErrorInfo: from gRPC itself, from a proxy, or in the failures of a reply.
STATUSES: dict[grpc.StatusCode, type[TopworkError]] = {
    **{kind.code: kind for kind in reversed(REASONS.values()) if kind not in (errors.PluginFault, errors.ExportFailed)},
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidInput,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.UNAUTHENTICATED: errors.Refused,
    grpc.StatusCode.PERMISSION_DENIED: errors.Refused,
}
#: How gRPC's core ends, unread, what more than about a thousand others wait before; what is cancelled here has other words.
SHED = "CANCELLED"
#: How gRPC begins the details of a call that found no connection.
UNCONNECTED = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
#: Remedies for a call that ran out of time, by the name of the method.
LONGER = "pass a longer `timeout`"
_ENCODES = f"{LONGER}: the first use of an encoder exports, measures and loads it, and `encoder(NAME)` says how far it is"
_BEGINS = f"it may have begun: `jobs()` lists what runs, under its name; else {LONGER}"
_PATIENT = {
    **dict.fromkeys(("Embed", "EmbedStream", "NearestWords", "Predict", "PredictStream", "Search", "Write"), _ENCODES),
    **dict.fromkeys(("Train", "Probe", "CreateIndex", "RebuildIndex", "Pretrain"), _BEGINS),
}
CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def translate(error: Any, target: str, timeout: float | None, method: str = "") -> TopworkError:
    """The error to raise for a grpc.RpcError of either API. `item` counts from the start of the message."""
    code: grpc.StatusCode = error.code() or grpc.StatusCode.UNKNOWN
    server_error = _details(error.trailing_metadata())
    if server_error is None:
        return _bare(code, error.details() or "", target, timeout, method)
    info, retry_after = server_error
    kind = REASONS.get(info.reason) or STATUSES.get(code, TopworkError)
    item = info.metadata.get("item", "")
    found = kind(
        error.details() or code.name,
        remedy=in_calls(info.metadata.get("remedy", "")),
        item=int(item) if item.isdecimal() else None,
        code=code,
    )
    found.retry_after = retry_after
    found.untouched = retry_after is not None
    return found


def named(method: str, request: Any) -> str:
    """The method as messages about time have it: "" where it is one of those that encode and the request brings nothing to be
    encoded."""
    brings = (
        request.WhichOneof("query") if method == "Search" else request.WhichOneof("input") if method == "Predict" else "items"
    )
    return method if brings == "items" else ""


def failure(code: int, message: str, remedy: str, item: int) -> TopworkError:
    """The error of one item that was skipped."""
    status = CODES.get(code, grpc.StatusCode.UNKNOWN)
    return STATUSES.get(status, TopworkError)(message, remedy=in_calls(remedy), item=item, code=status)


def _details(metadata: Any) -> tuple[Any, float | None] | None:
    """The google.rpc.ErrorInfo of domain "topwork" in the trailing metadata, if any, and the seconds of a RetryInfo beside it."""
    packed = [value for key, value in metadata or () if key == DETAILS_KEY]
    if not packed:
        return None
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    try:
        details = status_pb2.Status.FromString(packed[0]).details
        if not any(detail.Unpack(info) and info.domain == "topwork" for detail in details):
            return None
        again = any(detail.Unpack(retry) for detail in details)
    except DecodeError:
        return None
    return info, (max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9) if again else None)


def _bare(code: grpc.StatusCode, details: str, target: str, timeout: float | None, method: str) -> TopworkError:
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unreachable(details, target)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return late(target, timeout, method)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return errors.TooLarge(details, remedy="pass fewer or smaller items at a time")
    if code is grpc.StatusCode.CANCELLED and details in ("", SHED):
        return errors.Overloaded(
            f"{target} gets more requests than it can even refuse", remedy="try again with back-off", code=code
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.Unsupported(
            f"{target} does not know this call: {details}",
            remedy="is it a Topwork server? bring both to the same version",
        )
    return STATUSES.get(code, TopworkError)(details or code.name, code=code)


def _unreachable(details: str, target: str) -> errors.Unavailable:
    """Make the error of a server that cannot be reached. Where no connection was made, nothing was sent."""
    unconnected = details.startswith(UNCONNECTED)
    refused = tls.failure(details, target) if unconnected else None
    reason, remedy = refused or (channel.unreached_reason(details), channel.unreached_remedy(target))
    found = errors.Unavailable(f"no answer from {target}: {reason}", remedy=remedy)
    found.untouched = found.unconnected = unconnected
    found.lasting = refused is not None
    return found


def late(target: str, timeout: float | None, method: str = "") -> errors.DeadlineExceeded:
    """Make the error of an answer that did not come in time."""
    within = "in time" if timeout is None else f"within {timeout:g} s"
    if method == "WatchJob":
        return errors.DeadlineExceeded(
            f"the job has not ended {within}", remedy="it goes on: `jobs()` lists it; watch it again, with a longer `timeout`"
        )
    return errors.DeadlineExceeded(f"no answer from {target} {within}", remedy=_PATIENT.get(method, LONGER))
