"""Calls of a plugin's hooks, and checks of the specs that they give: a fault is reported as the plugin's, by its name."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from topwork_server.errors import PluginError, PluginFault, TopworkError
from topwork_server.names import NAME, RULE
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.pretrainer import Pretrainer, PretrainerSpec
from topwork_server.plugin_api.trainer import FineTuner, Trainer, TrainerSpec
from topwork_server.plugin_api.vector_index import IndexSpec, VectorIndex
from topwork_server.types import EncoderSpec, Modality

#: `sys.stdout` belongs to the process: of two threads that exchanged it, the later one put stderr back for good.
_REDIRECTING = threading.RLock()


@contextmanager
def loading(doing: str, owner: str) -> Iterator[None]:
    """Run plugin code at the start. PluginError names the plugin for all that it raises, an exit of its own too; what it
    prints goes to stderr, since stdout may be read by a program."""
    try:
        with _REDIRECTING, redirect_stdout(sys.stderr):
            yield
    except TopworkError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{doing}: {described(error)}", remedy=f"fix or uninstall {owner}") from error


@contextmanager
def asking(hook: str, owner: str) -> Iterator[None]:
    """Run plugin code that a request or a command needs. PluginFault names the plugin for what is no error of ours."""
    try:
        yield
    except TopworkError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginFault(f"{hook} of {owner} failed: {described(error)}", remedy="fix or uninstall the plugin") from error


def described(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it would end the process (SystemExit: {error.code})"
    return f"{type(error).__name__}: {error}"


def listed(hook: str, owner: str, found: Any) -> list[Any]:
    """Collect what a `register_` hook gives, which may be a generator."""
    if not isinstance(found, Iterable) or isinstance(found, str | bytes):
        raise PluginError(f"{hook} of {owner} gives {found!r}", remedy="give a list of specs, which may be empty")
    return list(found)


def checked_spec(hook: str, owner: str, spec: Any, kind: type[Any]) -> str:
    """The name of a spec whose fields are what they must be. PluginError."""
    if not isinstance(spec, kind):
        raise PluginError(f"{hook} of {owner} yields {spec!r}", remedy=f"yield {kind.__name__}s")
    name, wrong = _faults(spec)
    if wrong:
        raise PluginError(f"{hook} of {owner} yields {name!r}, whose {wrong[0]} is {wrong[1]!r}", remedy=f"give {wrong[2]}")
    return name


def _faults(spec: Any) -> tuple[str, tuple[str, Any, str] | None]:
    """The spec's name, and the first field that is wrong with what it should be."""
    checks: list[tuple[str, Any, bool, str]]
    match spec:
        case EncoderSpec(name=name):
            named = isinstance(name, str) and bool(NAME.fullmatch(name))
            checks = [
                ("name", name, named, RULE),
                ("encoder", spec.encoder, _is(spec.encoder, Encoder), "a class that is an Encoder"),
                ("source", spec.source, isinstance(spec.source, str), "a URI, or none:"),
                ("modality", spec.modality, isinstance(spec.modality, Modality), "a Modality"),
            ]
        case IndexSpec(kind=name):
            checks = [
                ("kind", name, isinstance(name, str) and bool(name), "a name"),
                ("index", spec.index, _is(spec.index, VectorIndex), "a class that is a VectorIndex"),
            ]
        case TrainerSpec(kind=name):
            checks = [
                ("kind", name, isinstance(name, str) and bool(name), "a name"),
                ("trainer", spec.trainer, _is(spec.trainer, Trainer, FineTuner), "a class that is a Trainer or a FineTuner"),
            ]
        case PretrainerSpec(kind=name):
            checks = [
                ("kind", name, isinstance(name, str) and bool(name), "a name"),
                ("pretrainer", spec.pretrainer, _is(spec.pretrainer, Pretrainer), "a class that is a Pretrainer"),
            ]
        case _:
            raise TypeError(f"no spec: {spec!r}")
    return name, next(((field, value, want) for field, value, right, want in checks if not right), None)


def _is(value: Any, *kinds: type[Any]) -> bool:
    return isinstance(value, type) and issubclass(value, kinds)
