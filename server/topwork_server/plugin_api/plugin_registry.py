"""The installed plugins: entry points of the group `topwork`, through Pluggy. Ours are found like all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pluggy
from topwork._display.excerpts import excerpt

from topwork_server.errors import InvalidInput, PluginError
from topwork_server.plugin_api import hookspecs
from topwork_server.plugin_api.hook_checks import asking, checked_spec, listed, loading
from topwork_server.plugin_api.pretrainer import PretrainerSpec
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.plugin_api.trainer import TrainerSpec
from topwork_server.plugin_api.vector_index import IndexSpec
from topwork_server.types import EncoderSpec, Refusal

if TYPE_CHECKING:
    import click

S = TypeVar("S")
R = TypeVar("R", bound="_Owned[Any]")
#: The kind that the server itself chooses for: no plugin may bring one of that name.
AUTO = "auto"


@dataclass(frozen=True)
class _Owned(Generic[S]):
    """A spec, the plugin that brought it, and whose that is: "bert (topwork-server 0.1.0)"."""

    spec: S
    plugin: str
    owner: str


class Registered(_Owned[EncoderSpec]):
    """An encoder and its owner."""


class RegisteredIndex(_Owned[IndexSpec]):
    """A kind of index and its owner."""


class RegisteredTrainer(_Owned[TrainerSpec]):
    """A way to train and its owner."""


class RegisteredPretrainer(_Owned[PretrainerSpec]):
    """A way to learn without labels and its owner."""


@dataclass(frozen=True)
class PluginInfo:
    """One plugin: its entry point's name, the distribution that brought it, and what it hooks into."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    encoders: tuple[str, ...]
    indexes: tuple[str, ...]
    trainers: tuple[str, ...]
    pretrainers: tuple[str, ...] = ()


class PluginRegistry:
    """The plugins of one process. Nothing is loaded twice, no file of an encoder is opened, neither torch nor faiss imported."""

    def __init__(self, manager: pluggy.PluginManager, sources: dict[str, tuple[str, str]]) -> None:
        self._manager = manager
        self._sources = sources
        hook = manager.hook
        self._encoders = self._unique(hook.register_encoders, Registered, EncoderSpec, "an encoder named")
        self._indexes = self._unique(hook.register_indexes, RegisteredIndex, IndexSpec, "an index of the kind")
        self._trainers = self._unique(hook.register_trainers, RegisteredTrainer, TrainerSpec, "a trainer")
        self._pretrainers = self._unique(hook.register_pretrainers, RegisteredPretrainer, PretrainerSpec, "a pretrainer")
        if AUTO in self._indexes:
            raise PluginError(
                f"{self._indexes[AUTO].owner} registers an index of the kind {AUTO!r}",
                remedy="that name is the server's: take another",
            )

    @classmethod
    def load(cls) -> PluginRegistry:
        """Load the plugins. PluginError where a plugin cannot be imported, misspells a hook, or claims another's name."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        sources: dict[str, tuple[str, str]] = {}
        for entry in sorted(entry_points(group=hookspecs.PROJECT), key=lambda e: e.name):
            _register(manager, entry, sources)
        _check(manager, sources)
        return cls(manager, sources)

    def encoders(self) -> dict[str, Registered]:
        return dict(self._encoders)

    def indexes(self) -> dict[str, RegisteredIndex]:
        """List the kinds of index by name; those that a plugin resolves (FAISS factory strings) are not among them."""
        return dict(self._indexes)

    def trainers(self) -> dict[str, RegisteredTrainer]:
        """Return the trainers by kind."""
        return dict(self._trainers)

    def trainer(self, kind: str) -> TrainerSpec:
        """Return the trainer of a kind. InvalidInput names the kinds that there are."""
        return _spec_of(self._trainers, kind, "trainer")

    def pretrainers(self) -> dict[str, RegisteredPretrainer]:
        """Return the pretrainers by kind."""
        return dict(self._pretrainers)

    def pretrainer(self, kind: str) -> PretrainerSpec:
        """Return the pretrainer of a kind. InvalidInput names the kinds that there are."""
        return _spec_of(self._pretrainers, kind, "pretrainer")

    def found(self) -> list[PluginInfo]:
        return [self._describe(name) for name in self._sources]

    def resolve_source(self, name: str, source: SourceUri) -> Registered | None:
        """Return the first plugin that can read such a source, with its spec."""
        for impl in reversed(self._manager.hook.resolve_source.get_hookimpls()):
            if source.family and source.family != impl.plugin_name:
                continue
            given = {k: v for k, v in {"name": name, "source": source}.items() if k in impl.argnames}
            with asking("resolve_source", self._owner(impl.plugin_name)):
                spec: Any = impl.function(**given)
            if spec is not None:
                checked_spec("resolve_source", self._owner(impl.plugin_name), spec, EncoderSpec)
                return Registered(spec, impl.plugin_name, self._owner(impl.plugin_name))
        return None

    def refusals(self, source: SourceUri) -> list[tuple[str, Refusal]]:
        """Tell why the plugins that could read such a source do not: the plugin's name, and its reason."""
        found = []
        for impl in self._manager.hook.refuse_source.get_hookimpls():
            if source.family in ("", impl.plugin_name):
                with asking("refuse_source", self._owner(impl.plugin_name)):
                    refusal: Any = impl.function(**({"source": source} if "source" in impl.argnames else {}))
                found += [(impl.plugin_name, refusal)] if isinstance(refusal, Refusal) else []
        return found

    def index(self, kind: str) -> IndexSpec:
        """The registered kind, or one that a plugin resolves. InvalidInput names the kinds that there are."""
        if kind in self._indexes:
            return self._indexes[kind].spec
        for impl in reversed(self._manager.hook.resolve_index.get_hookimpls()):
            with asking("resolve_index", self._owner(impl.plugin_name)):
                resolved: Any = impl.function(kind=kind)
            if resolved is not None:
                checked_spec("resolve_index", self._owner(impl.plugin_name), resolved, IndexSpec)
                return cast(IndexSpec, resolved)
        kinds = ", ".join([AUTO, *self._indexes])
        raise InvalidInput(
            f"there is no kind of index named {kind!r}",
            remedy=f"the kinds are {kinds}; FAISS factory strings such as 'IVF1024,Flat' work too",
        )

    def add_commands(self, commands: click.Group) -> list[PluginError]:
        """Let each plugin add its commands. The errors are of those that fail: one must not take the others with it."""
        errors = []
        for impl in self._manager.hook.register_commands.get_hookimpls():
            owner = self._owner(impl.plugin_name)
            try:
                with loading(f"register_commands of {owner} failed", owner):
                    impl.function(commands=commands)
            except PluginError as error:
                errors.append(error)
        return errors

    def _owner(self, plugin: str) -> str:
        return f"{plugin} ({' '.join(self._sources[plugin]).strip()})"

    def _describe(self, plugin: str) -> PluginInfo:
        callers = self._manager.get_hookcallers(self._manager.get_plugin(plugin)) or []
        return PluginInfo(
            plugin,
            *self._sources[plugin],
            hooks=tuple(caller.name for caller in callers),
            encoders=_brought(self._encoders, plugin),
            indexes=_brought(self._indexes, plugin),
            trainers=_brought(self._trainers, plugin),
            pretrainers=_brought(self._pretrainers, plugin),
        )

    def _unique(self, hook: pluggy.HookCaller, kind: type[R], declared: type[Any], noun: str) -> dict[str, R]:
        """Collect by name what all plugins yield from a hook. PluginError where two claim a name."""
        found: dict[str, R] = {}
        for spec, plugin in self._yielded(hook):
            owner = self._owner(plugin)
            name = checked_spec(hook.name, owner, spec, declared)
            if name in found:
                raise PluginError(
                    f"two plugins register {noun} {name!r}: {found[name].owner} and {owner}",
                    remedy="rename one, or uninstall one of the two distributions",
                )
            found[name] = kind(spec, plugin, owner)
        return dict(sorted(found.items()))

    def _yielded(self, hook: pluggy.HookCaller) -> Iterator[tuple[Any, str]]:
        """Yield what each plugin gives from a hook, with the plugin's name."""
        for impl in hook.get_hookimpls():
            owner = self._owner(impl.plugin_name)
            with loading(f"{hook.name} of {owner} failed", owner):
                specs = listed(hook.name, owner, impl.function())
            yield from ((spec, impl.plugin_name) for spec in specs)


def _spec_of(registered: Mapping[str, _Owned[S]], kind: str, noun: str) -> S:
    if kind not in registered:
        raise InvalidInput(f"there is no {noun} {excerpt(kind)}", remedy=f"there are {', '.join(registered)}")
    return registered[kind].spec


def _brought(registered: Mapping[str, _Owned[Any]], plugin: str) -> tuple[str, ...]:
    return tuple(name for name, one in registered.items() if one.plugin == plugin)


def _register(manager: pluggy.PluginManager, entry: EntryPoint, sources: dict[str, tuple[str, str]]) -> None:
    owner = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
    with loading(f"the plugin {entry.name!r} of {' '.join(owner)} cannot be imported", owner[0]):
        plugin = entry.load()
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
            f"{error} (from {owner})", remedy=f"the hooks are {', '.join(_hook_names(manager))}: correct the name"
        ) from error


def _hook_names(manager: pluggy.PluginManager) -> list[str]:
    """List the hooks that exist, without those that a plugin only thinks of: Pluggy keeps them beside ours."""
    return sorted(name for name, caller in vars(manager.hook).items() if not name.startswith("_") and caller.has_spec())
