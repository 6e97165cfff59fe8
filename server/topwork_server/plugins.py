"""Who was found: entry points of the group `topwork`, through Pluggy. Ours come by the same door as anyone's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from topwork_server import hookspecs
from topwork_server.errors import PluginError
from topwork_server.sources import Source
from topwork_server.types import EncoderSpec


@dataclass(frozen=True)
class Registered:
    """A spec, the plugin that brought it, and whose that is: "bert (topwork-server 0.1.0)"."""

    spec: EncoderSpec
    plugin: str
    owner: str


@dataclass(frozen=True)
class Found:
    """One plugin: its entry point's name, the distribution that brought it, and what it hooks into."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    encoders: tuple[str, ...]


class Plugins:
    """All plugins of one process. Nothing is loaded twice and no file of an encoder is opened."""

    def __init__(self, manager: pluggy.PluginManager, sources: dict[str, tuple[str, str]]) -> None:
        self._manager = manager
        self._sources = sources
        self._encoders = self._collect()

    @classmethod
    def load(cls) -> Plugins:
        """PluginError where a plugin cannot be imported, misspells a hook, or claims another's name."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        sources: dict[str, tuple[str, str]] = {}
        for entry in sorted(entry_points(group=hookspecs.PROJECT), key=lambda e: e.name):
            _register(manager, entry, sources)
        _check(manager, sources)
        return cls(manager, sources)

    def encoders(self) -> dict[str, Registered]:
        return dict(self._encoders)

    def found(self) -> list[Found]:
        return [self._describe(name) for name in self._sources]

    def adopt(self, name: str, source: Source) -> Registered | None:
        """The first plugin that can read such a source, with its spec."""
        for impl in reversed(self._manager.hook.adopt_source.get_hookimpls()):
            if source.family and source.family != impl.plugin_name:
                continue
            spec: Any = impl.function(**{k: v for k, v in {"name": name, "source": source}.items() if k in impl.argnames})
            if isinstance(spec, EncoderSpec):
                return Registered(spec, impl.plugin_name, self._owner(impl.plugin_name))
        return None

    @property
    def hook(self) -> pluggy.HookRelay:
        return self._manager.hook

    def _owner(self, plugin: str) -> str:
        return f"{plugin} ({' '.join(self._sources[plugin]).strip()})"

    def _describe(self, plugin: str) -> Found:
        callers = self._manager.get_hookcallers(self._manager.get_plugin(plugin)) or []
        return Found(
            plugin,
            *self._sources[plugin],
            hooks=tuple(caller.name for caller in callers),
            encoders=tuple(spec.name for spec, of in self._specs() if of == plugin),
        )

    def _specs(self) -> Iterator[tuple[EncoderSpec, str]]:
        for impl in self._manager.hook.register_encoders.get_hookimpls():
            specs: Iterable[EncoderSpec] = impl.function()  # type: ignore[assignment]
            for spec in specs:
                yield spec, impl.plugin_name

    def _collect(self) -> dict[str, Registered]:
        encoders: dict[str, Registered] = {}
        for spec, plugin in self._specs():
            owner = self._owner(plugin)
            if spec.name in encoders:
                raise PluginError(
                    f"two plugins register an encoder named {spec.name!r}: {encoders[spec.name].owner} and {owner}",
                    remedy="rename one, or uninstall one of the two distributions",
                )
            encoders[spec.name] = Registered(spec, plugin, owner)
        return dict(sorted(encoders.items()))


def _register(manager: pluggy.PluginManager, entry: EntryPoint, sources: dict[str, tuple[str, str]]) -> None:
    owner = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
    try:
        plugin = entry.load()
    except Exception as error:
        raise PluginError(
            f"the plugin {entry.name!r} of {' '.join(owner)} cannot be imported: {type(error).__name__}: {error}",
            remedy=f"mend or uninstall {owner[0]}",
        ) from error
    if entry.name in sources:
        raise PluginError(
            f"two distributions bring a plugin named {entry.name!r}: {' '.join(sources[entry.name])} and {' '.join(owner)}",
            remedy="uninstall one of the two",
        )
    sources[entry.name] = owner
    manager.register(plugin, name=entry.name)


def _check(manager: pluggy.PluginManager, sources: dict[str, tuple[str, str]]) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        names = {manager.get_name(error.plugin) or ""}
        owner = " ".join(" ".join(sources.get(name, ("unknown", ""))) for name in names)
        raise PluginError(
            f"{error} (from {owner})", remedy=f"the hooks are {', '.join(_hook_names(manager))}: mend the name"
        ) from error


def _hook_names(manager: pluggy.PluginManager) -> list[str]:
    """Not those that a plugin only thinks of: Pluggy keeps them beside ours."""
    return sorted(name for name, caller in vars(manager.hook).items() if not name.startswith("_") and caller.has_spec())
