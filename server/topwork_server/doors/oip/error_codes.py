"""The codes of errors as Triton has them, over gRPC and HTTP alike."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from topwork_server.errors import TooLarge, TopworkError
from topwork_server.services.encoders import OtherFingerprint

#: The codes that Triton has in the place of those that it has not: a queue that is full, a deadline that passed in it, and a
#: model that is not ready are unavailable.
CODES: Mapping[grpc.StatusCode, grpc.StatusCode] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION: grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS: grpc.StatusCode.INTERNAL,
}
#: Errors of which the request is to blame, whatever their codes.
OF_REQUESTS = (OtherFingerprint, TooLarge)


def with_code(error: TopworkError) -> TopworkError:
    """A copy of the error with the code that Triton has for its kind."""
    found = error.at(error.item)
    found.code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, OF_REQUESTS) else CODES.get(error.code, error.code)
    return found
