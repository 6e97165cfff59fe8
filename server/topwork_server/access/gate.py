"""The gate that every request passes, through any door: it finds the caller, and checks that the operation is for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from topwork_server.access.caller import OWNER, AccessRole, Caller, Grant, not_allowed, set_grant
from topwork_server.access.key_file import KeyRing, unauthenticated
from topwork_server.access.operations import UNSCOPED, role_for

#: Headers, or metadata, that hold a key by itself.
KEY_HEADERS = ("api-key", "x-api-key")
#: A caller by what was sent in the place of a key; None for what is not theirs to read.
TokenReader = Callable[[str], Caller | None]


class Gate:
    """Lets requests in. Without keys, and without readers of tokens, all are let in as the owner's."""

    def __init__(self, home: Path, tokens: TokenReader | None = None) -> None:
        self._keys, self._tokens = KeyRing(home), tokens

    @property
    def is_open(self) -> bool:
        """Tell whether requests need no key."""
        return self._tokens is None and not self._keys

    def let_in(self, operation: str, headers: Mapping[str, str]) -> Grant:
        """Grant an operation to the caller whom the headers name, found by their names in small letters, and make it the grant of
        what runs in this context. Refused: UNAUTHENTICATED without a valid key, PERMISSION_DENIED where the operation is not for
        that caller."""
        grant = Grant(operation, self._caller(operation, headers))
        _check(grant)
        set_grant(grant)
        return grant

    def _caller(self, operation: str, headers: Mapping[str, str]) -> Caller:
        if self.is_open:
            return OWNER
        secret = secret_of(headers)
        if not secret:
            if role_for(operation) is AccessRole.ANYONE:
                return Caller("", AccessRole.ANYONE, (), ())
            raise unauthenticated("there is no key")
        if self._tokens and (caller := self._tokens(secret)):
            return caller
        return self._keys.caller(secret)


def secret_of(headers: Mapping[str, str]) -> str:
    """The key or the token that a request brought, "" for none. Refused (UNAUTHENTICATED) where it brings two that differ."""
    scheme, _, bearer = headers.get("authorization", "").strip().partition(" ")
    found = [bearer.strip()] if scheme.lower() == "bearer" else []
    found += [headers[name].strip() for name in KEY_HEADERS if name in headers]
    if len(set(found)) > 1:
        raise unauthenticated("the request brings two keys")
    return found[0] if found else ""


def _check(grant: Grant) -> None:
    caller, operation, needed = grant.caller, grant.operation, role_for(grant.operation)
    if caller.role < needed:
        raise not_allowed(f"{operation} needs the role {needed.name.lower()}, and {caller.name!r} has {caller.role.name.lower()}")
    if operation in UNSCOPED and caller.is_scoped:
        raise not_allowed(f"{operation} tells of all sets and encoders, and {caller.name!r} may not use all")
