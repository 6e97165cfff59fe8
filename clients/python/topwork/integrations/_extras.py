"""What a module of this package says where the library that it is for is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(library: str, extra: str) -> Iterator[None]:
    """Turn a failed import of the library into an ImportError that names the extra of `topwork` which installs it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{library} cannot be imported: {error}; install it with: pip install 'topwork[{extra}]'", name=error.name
        ) from error
