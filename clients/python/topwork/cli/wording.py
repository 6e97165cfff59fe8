"""Calls and parameters of the SDK in what is said -> commands and flags, for a person to read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

import click

#: The command for each verb of the SDK; a call's arguments take the places of the words in capitals, in order.
COMMANDS: Mapping[str, str] = {
    "encoders": "encoders",
    "encoder": "encoders ENCODER",
    "embed": "embed ENCODER",
    "embed_stream": "embed ENCODER",
    "nearest_words": "nearest ENCODER WORD",
    "fill": "fill ENCODER TEXT",
    "pretrainers": "pretrain",
    "pretrain": "pretrain KIND",
    "sets": "sets",
    "set": "sets SET",
    "drop_set": "drop SET",
    "write": "write SET",
    "read": "read SET",
    "delete": "delete SET",
    "count": "sets SET count",
    "update": "sets SET update",
    "versions": "versions SET",
    "pin": "versions SET --pin NAME",
    "unpin": "versions SET --unpin NAME",
    "prune": "versions SET --prune AGE",
    "index_kinds": "indexes --kinds",
    "create_index": "index SET",
    "indexes": "indexes SET",
    "index": "indexes SET NAME",
    "rebuild_index": "index SET --name NAME --rebuild",
    "drop_index": "drop SET --index NAME",
    "search": "search SET",
    "trainers": "trainers",
    "train": "train SET",
    "heads": "heads",
    "head": "heads HEAD",
    "drop_head": "heads drop HEAD",
    "report": "report HEAD",
    "probe": "probe SET",
    "predict": "predict HEAD",
    "export_head": "heads export HEAD -o FILE",
    "jobs": "jobs",
    "job": "jobs ID",
    "watch_job": "jobs ID --watch",
    "cancel_job": "jobs ID --cancel",
}
_CALL = re.compile(r"`([a-z_]+)\(([^`]*)\)`")
_ARGUMENT = re.compile(r"(?:([a-z_]+)=)?(?:'([^']*)'|([^\s,']+))")
_PLACE = re.compile(r"\b[A-Z]+\b")
#: A parameter in backquotes, with a value or without, or as it is passed: `encoding='cp1252'`, `where`, where=.
_PARAMETER = re.compile(r"`([a-z_]+)(?:='([^'`]*)')?`|\b([a-z_]+)=(?=[\s,;)]|$)")


def in_commands(text: str) -> str:
    """Write `set('birds')` of a text as `topwork sets birds`, and `where` or where= as the command that runs has it: --where."""
    if "`" not in text and "=" not in text:
        return text
    return _PARAMETER.sub(_flag, _CALL.sub(_command, text))


def _command(found: re.Match[str]) -> str:
    if found[1] not in COMMANDS:
        return found[0]
    words, flags = COMMANDS[found[1]], ""
    for name, quoted, bare in _ARGUMENT.findall(found[2]):
        value = shlex.quote(quoted) if quoted else bare
        if name:
            flags += f" --{name.replace('_', '-')}" + ("" if value == "True" else f" {value}")
        else:
            words = _PLACE.sub(value.replace("\\", r"\\"), words, count=1)
    return f"`topwork {words}{flags}`"


def _flag(found: re.Match[str]) -> str:
    """The longest spelling of the flag; a parameter of several values is a flag that may be repeated."""
    context = click.get_current_context(silent=True)
    name, value = found[1] or found[3], f" {shlex.quote(found[2])}" if found[2] else ""
    for param in context.command.params if context else ():
        if isinstance(param, click.Option) and param.name in (name, name.removesuffix("s")):
            return max(param.opts, key=len) + value
    return found[0]
