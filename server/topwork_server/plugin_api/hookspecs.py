"""The hooks. They yield frozen data: listing them opens no file and imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from topwork_server.plugin_api.pretrainer import PretrainerSpec
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.plugin_api.trainer import TrainerSpec
from topwork_server.plugin_api.vector_index import IndexSpec
from topwork_server.types import EncoderSpec, Refusal

if TYPE_CHECKING:
    import click

PROJECT = "topwork"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_encoders() -> Iterable[EncoderSpec]:
    """The encoders that this plugin brings, by name. Names are unique over all plugins."""
    raise NotImplementedError


@hookspec(firstresult=True)
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """A spec for weights that no plugin registered (`topwork pull hf:bert-base-uncased`), or None where they are not ours.

    `source.family` is set where the user named one (`topwork pull --family i3d ...`). Plugins that can tell from the scheme
    or the file's suffix answer without it. Nothing may be downloaded here; a local file may be looked at.
    """


@hookspec
def refuse_source(source: SourceUri) -> Refusal | None:
    """Say why `resolve_source` answers None for a source that no plugin reads; None where there is nothing to say. Users see it.

    Nothing may be downloaded here; a local file may be looked at: it is there and can be read.
    """


@hookspec
def register_indexes() -> Iterable[IndexSpec]:
    """The kinds of index that this plugin brings. Names are unique over all plugins; "auto" is the server's."""
    raise NotImplementedError


@hookspec(firstresult=True)
def resolve_index(kind: str) -> IndexSpec | None:
    """A spec for a kind that no plugin registered (a FAISS factory string), or None where it is not ours.

    Raise InvalidInput where it is ours and wrong."""


@hookspec
def register_trainers() -> Iterable[TrainerSpec]:
    """The ways to train a head that this plugin brings. Names are unique over all plugins."""
    raise NotImplementedError


@hookspec
def register_pretrainers() -> Iterable[PretrainerSpec]:
    """The ways to learn an encoder without labels that this plugin brings. Names are unique over all plugins."""
    raise NotImplementedError


@hookspec
def register_commands(commands: click.Group) -> None:
    """Add commands to the `topwork` command line, by `@commands.command()` of click or `commands.add_command(command)`.

    A command returns its exit status; None is 0.
    """
