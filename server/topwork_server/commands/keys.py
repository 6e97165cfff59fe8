"""`topwork keys`: add, list and revoke the keys of callers. A server that runs sees what changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from topwork_server.access.caller import AccessRole
from topwork_server.access.key_file import KeyFile, KeyRecord
from topwork_server.config import usable_home


def add(arguments: SimpleNamespace) -> int:
    """Make a key and print it: nothing can show it again."""
    keys = KeyFile(usable_home(arguments.home))
    is_first = not keys.read()
    role = AccessRole[arguments.role.upper()]
    key, made = keys.add(arguments.name, role, sets=arguments.sets, encoders=arguments.encoders, seconds=arguments.expires or 0.0)
    if arguments.json:
        print(json.dumps({**_shown(made), "key": key}))
        return 0
    print(key)
    print(f"the key of {made.name} ({_may(made)}): keep it now, it is not shown again")
    print("send it as `authorization: Bearer KEY`, or set $TOPWORK_API_KEY")
    if is_first:
        print("from now on every request to a server of this home needs a key")
    return 0


def list_keys(arguments: SimpleNamespace) -> int:
    """Print all keys, without their secrets."""
    found = KeyFile(usable_home(arguments.home)).read()
    if arguments.json:
        print(json.dumps([_shown(one) for one in found]))
        return 0
    for one in found:
        print(f"{one.id}  {one.state:8}  {one.name:20}  {_may(one)}  (since {_date(one.created)})")
    if not found:
        print("there are no keys: a server of this home listens to loopback alone, and everybody there may do everything")
    return 0


def revoke(arguments: SimpleNamespace) -> int:
    """Revoke a key by its name or its id."""
    for one in KeyFile(usable_home(arguments.home)).revoke(arguments.name):
        print(json.dumps(_shown(one)) if arguments.json else f"revoked the key {one.id} of {one.name}")
    return 0


def _shown(key: KeyRecord) -> dict[str, Any]:
    """Return what may be told of a key."""
    record = {**asdict(key), "state": key.state}
    del record["sha256"]
    return record


def _may(key: KeyRecord) -> str:
    scope = "".join(
        f", {kind} {' '.join(patterns)}"
        for kind, patterns in (("sets", key.sets), ("encoders", key.encoders))
        if "*" not in patterns
    )
    until = f", until {_date(key.expires)}" if key.expires else ""
    return f"{key.role}{scope}{until}"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
