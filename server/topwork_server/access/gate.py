"""The gate that every request passes, through any door: it finds the caller, and checks that the operation is for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from topwork_server.access.caller import OWNER, AccessRole, Caller, Grant, check_role, not_allowed, set_grant
from topwork_server.access.key_file import KeyRing, unauthenticated
from topwork_server.access.operations import UNSCOPED, role_for

#: Headers, or metadata, that hold a key by itself.
KEY_HEADERS = ("api-key", "x-api-key")


class Gate:
    """Lets requests in. Without keys all are let in as the owner's."""

    def __init__(self, home: Path) -> None:
        self._keys = KeyRing(home)

    @property
    def is_open(self) -> bool:
        """Tell whether requests need no key."""
        return not self._keys

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
        return self._keys.caller(secret)


def secret_of(headers: Mapping[str, str]) -> str:
    """The key that a request brought, "" for none. Refused (UNAUTHENTICATED) where it brings two that differ."""
    scheme, _, bearer = headers.get("authorization", "").strip().partition(" ")
    found = [bearer.strip()] if scheme.lower() == "bearer" else []
    found += [headers[name].strip() for name in KEY_HEADERS if name in headers]
    if len(set(found)) > 1:
        raise unauthenticated("the request brings two keys")
    return found[0] if found else ""


def _check(grant: Grant) -> None:
    caller, operation = grant.caller, grant.operation
    check_role(caller, role_for(operation), operation)
    if operation in UNSCOPED and caller.is_scoped:
        raise not_allowed(f"{operation} tells of all sets and encoders, and {caller.name!r} may not use all")
