"""Options of requests whose items play a role in retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topwork._display.excerpts import excerpt

from topwork_server.errors import InvalidInput
from topwork_server.inference.model_cache import LoadedEncoder
from topwork_server.plugin_api import options as request_options
from topwork_server.plugin_api.chunk_options import CHUNK_OPTIONS
from topwork_server.types import Granularity, Role, Tap


def options_in_role(loaded: LoadedEncoder, role: Role, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a request whose caller set its role and `given`. InvalidInput where an option that was given keeps
    the role from having its effect, or is set otherwise by it."""
    of_role = loaded.role_options(role, {})
    for name, value in _chosen(loaded, given).items():
        alone = {name: value}
        if of_role.get(name, value) != value or loaded.role_options(role, alone) != {**alone, **of_role}:
            raise InvalidInput(
                f"the role {role} and the option {name} = {excerpt(str(value))} contradict each other",
                remedy=f"set one of them: {_told(role, of_role)}",
            )
    return loaded.role_options(role, given)


def options_of_documents(loaded: LoadedEncoder, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of what is written to a set, of those that its caller gave. InvalidInput where one is what the encoder
    has for queries."""
    found = loaded.role_options(Role.DOCUMENT, given)
    for name, value in _chosen(loaded, given).items():
        if found[name] != value:
            raise InvalidInput(
                f"what is written to a set is a document, and the option {name} = {excerpt(str(value))} is not for documents",
                remedy=f"leave it out: {_told(Role.DOCUMENT, found)}",
            )
    return found


def options_of_queries(loaded: LoadedEncoder, given: Mapping[str, Any], tap: Tap) -> Mapping[str, Any]:
    """Return the options of queries to one tap of a set, of those that the set was written with: chunks are of the tap of chunks
    alone."""
    found = loaded.role_options(Role.QUERY, given)
    if tap.granularity is Granularity.CHUNK:
        return found
    return {name: value for name, value in found.items() if name not in CHUNK_OPTIONS}


def _chosen(loaded: LoadedEncoder, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given and are not what they are by default. InvalidInput for what is no option."""
    chosen = request_options.parse(request_options.declared_by(loaded.spec), given)
    return {name: value for name, value in given.items() if value != getattr(type(chosen), name)}


def _told(role: Role, of_role: Mapping[str, Any]) -> str:
    told = ", ".join(f"{name} = {value!r}" for name, value in of_role.items() if value)
    return f"the role {role} sets {told}" if told else f"the encoder has nothing of its own for the role {role}"
