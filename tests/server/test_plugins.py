from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from topwork_server.errors import InvalidInput, PluginError, PluginFault
from topwork_server.plugin_api import options, plugin_registry
from topwork_server.plugin_api.hook_checks import loading
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.sources import SourceUri

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(name=code, ...): as if distributions named "NAME-dist" had brought these modules as plugins."""

    def installed(**modules: str) -> None:
        found = []
        for name, code in modules.items():
            module = f"plugin_{name}_{tmp_path.name}".replace("-", "_")
            (tmp_path / f"{module}.py").write_text("from topwork_server import *\nfrom pathlib import Path\n" + code)
            entry = EntryPoint(name.partition("__")[0], module, "topwork")
            vars(entry).update(dist=SimpleNamespace(name=f"{name}-dist", version="1.0"))
            found.append(entry)
        monkeypatch.setattr(plugin_registry, "entry_points", lambda group: found)
        monkeypatch.syspath_prepend(str(tmp_path))

    return installed


REGISTERS = """
from toys import letters_spec

@hookimpl
def register_encoders():
    return [letters_spec({name!r})]
"""


def test_our_own_encoders_come_by_the_same_door() -> None:
    found = {plugin.name: plugin for plugin in PluginRegistry.load().found()}
    assert {"resnet", "i3d", "word2vec", "bert", "onnx"} <= set(found)
    assert found["bert"].distribution == "topwork-server"
    assert "register_encoders" in found["bert"].hooks
    encoders = PluginRegistry.load().encoders()
    assert {"all-minilm-l6-v2", "resnet50-thin", "efficientnet-lite0", "i3d-resnet50-thin", "glove-6b-50d"} <= set(encoders)


def test_our_own_trainers_come_by_the_same_door() -> None:
    trainers = PluginRegistry.load().trainers()
    assert {"mlp", "prototype", "knn", "zero-shot"} <= set(trainers)
    assert trainers["knn"].plugin == "few_shot"
    assert trainers["zero-shot"].spec.needs_descriptions
    assert all(trainer.spec.description for trainer in trainers.values())
    for trainer in trainers.values():
        assert options.parse(trainer.spec.trainer.options, {}) == trainer.spec.trainer.options()
        assert all(choice.description for choice in options.choices(trainer.spec.trainer.options))


def test_listing_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys; from topwork_server.plugin_api.plugin_registry import PluginRegistry; PluginRegistry.load().found();"
        "heavy = 'torch timm transformers onnxruntime onnx cv2 av pyarrow faiss lance'.split();"
        "print([n for n in heavy if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plugin_is_found_with_what_it_brings(install: Install) -> None:
    install(one=REGISTERS.format(name="first"), two=REGISTERS.format(name="second"))
    loaded = PluginRegistry.load()
    assert [(p.name, p.distribution, p.version, p.encoders) for p in loaded.found()] == [
        ("one", "one-dist", "1.0", ("first",)),
        ("two", "two-dist", "1.0", ("second",)),
    ]
    assert loaded.encoders()["second"].owner == "two (two-dist 1.0)"


def test_a_misspelled_hook_stops_the_start(install: Install) -> None:
    install(one="@hookimpl\ndef register_encoder():\n    return []\n")
    with pytest.raises(PluginError, match="register_encoder") as caught:
        PluginRegistry.load()
    assert "one-dist 1.0" in str(caught.value)
    hooks = (
        "refuse_source, register_commands, register_encoders, register_indexes, register_pretrainers, register_trainers,"
        " resolve_index, resolve_source"
    )
    assert f"the hooks are {hooks}: " in caught.value.remedy


def test_a_clash_names_both_owners(install: Install) -> None:
    install(one=REGISTERS.format(name="same"), two=REGISTERS.format(name="same"))
    with pytest.raises(PluginError, match="same") as caught:
        PluginRegistry.load()
    assert "one-dist 1.0" in str(caught.value)
    assert "two-dist 1.0" in str(caught.value)


def test_two_plugins_of_one_name_are_both_named(install: Install) -> None:
    install(one=REGISTERS.format(name="a"), one__again=REGISTERS.format(name="b"))
    with pytest.raises(PluginError, match=r"one-dist 1\.0 and one__again-dist 1\.0"):
        PluginRegistry.load()


def test_a_plugin_that_cannot_be_imported_is_named(install: Install) -> None:
    install(one="import no_such_library\n")
    with pytest.raises(PluginError, match=r"'one' of one-dist 1\.0 .*no_such_library"):
        PluginRegistry.load()


ADOPTS = """
from toys import letters_spec

@hookimpl
def resolve_source(name, source):
    return letters_spec(name) if source.location.endswith({suffix!r}) else None
"""


def test_the_plugin_that_knows_a_source_adopts_it(install: Install) -> None:
    install(one=ADOPTS.format(suffix=".one"), two=ADOPTS.format(suffix=""))
    loaded = PluginRegistry.load()
    adopted = loaded.resolve_source("mine", SourceUri.parse("file:/weights.one"))
    assert adopted is not None
    assert adopted.spec.name == "mine"
    named = loaded.resolve_source("mine", SourceUri.parse("file:/weights.one", family="two"))
    assert named is not None
    assert named.owner == "two (two-dist 1.0)"
    assert loaded.resolve_source("mine", SourceUri.parse("file:/weights.other", family="one")) is None


INDEXES = """
from toys_index import spec

@hookimpl
def register_indexes():
    return [spec({kind!r})]
"""


def test_indexes_are_found_beside_encoders(install: Install) -> None:
    install(one=INDEXES.format(kind="first"), two=REGISTERS.format(name="letters") + INDEXES.format(kind="second"))
    loaded = PluginRegistry.load()
    assert [(p.name, p.encoders, p.indexes) for p in loaded.found()] == [
        ("one", (), ("first",)),
        ("two", ("letters",), ("second",)),
    ]
    assert loaded.indexes()["second"].owner == "two (two-dist 1.0)"
    assert loaded.index("first") is loaded.indexes()["first"].spec


def test_a_clash_of_kinds_names_both_owners(install: Install) -> None:
    install(one=INDEXES.format(kind="same"), two=INDEXES.format(kind="same"))
    with pytest.raises(PluginError, match=r"'same': one \(one-dist 1\.0\) and two \(two-dist 1\.0\)"):
        PluginRegistry.load()


def test_the_servers_own_kind_is_refused(install: Install) -> None:
    install(one=INDEXES.format(kind="auto"))
    with pytest.raises(PluginError, match=r"one-dist 1\.0.*'auto'"):
        PluginRegistry.load()


def test_a_hook_that_yields_something_else_is_named(install: Install) -> None:
    install(one="from toys import letters_spec\n@hookimpl\ndef register_indexes():\n    return [letters_spec()]\n")
    with pytest.raises(PluginError, match=r"register_indexes of one \(one-dist 1\.0\) yields"):
        PluginRegistry.load()


ADOPTS_KINDS = """
from toys_index import spec

@hookimpl
def resolve_index(kind):
    if kind.startswith("Mine0"):
        raise InvalidInput("Mine0 is not an index of mine")
    return spec(kind) if kind.startswith("Mine") else None
"""


def test_the_plugin_that_knows_a_kind_adopts_it(install: Install) -> None:
    install(one=INDEXES.format(kind="first"), two=ADOPTS_KINDS)
    loaded = PluginRegistry.load()
    assert loaded.index("Mine16").kind == "Mine16"
    assert set(loaded.indexes()) == {"first"}
    with pytest.raises(InvalidInput, match="Mine0 is not an index of mine"):
        loaded.index("Mine0")


def test_an_unknown_kind_is_refused_with_those_there_are(install: Install) -> None:
    install(one=INDEXES.format(kind="first"), two=INDEXES.format(kind="second"))
    with pytest.raises(InvalidInput, match="'frist'") as caught:
        PluginRegistry.load().index("frist")
    assert "auto, first, second" in caught.value.remedy
    assert "factory strings" in caught.value.remedy


TRAINERS = """
from toys_trainers import spec

@hookimpl
def register_trainers():
    return [spec({kind!r})]
"""


def test_trainers_are_found_beside_encoders(install: Install) -> None:
    install(one=TRAINERS.format(kind="first"), two=REGISTERS.format(name="letters") + TRAINERS.format(kind="second"))
    loaded = PluginRegistry.load()
    assert [(p.name, p.hooks, p.trainers) for p in loaded.found()] == [
        ("one", ("register_trainers",), ("first",)),
        ("two", ("register_encoders", "register_trainers"), ("second",)),
    ]
    assert loaded.trainers()["second"].owner == "two (two-dist 1.0)"
    assert loaded.trainer("first") is loaded.trainers()["first"].spec
    assert not loaded.trainer("first").tunes


def test_a_clash_of_trainers_names_both_owners(install: Install) -> None:
    install(one=TRAINERS.format(kind="same"), two=TRAINERS.format(kind="same"))
    with pytest.raises(PluginError, match=r"a trainer 'same': one \(one-dist 1\.0\) and two \(two-dist 1\.0\)"):
        PluginRegistry.load()


def test_an_unknown_trainer_is_refused_with_those_there_are(install: Install) -> None:
    install(one=TRAINERS.format(kind="second"), two=TRAINERS.format(kind="first"))
    with pytest.raises(InvalidInput, match="'frist'") as caught:
        PluginRegistry.load().trainer("frist")
    assert "there are first, second" in caught.value.remedy


def test_a_trainers_hook_that_yields_something_else_is_named(install: Install) -> None:
    install(one="from toys_index import spec\n@hookimpl\ndef register_trainers():\n    return [spec()]\n")
    with pytest.raises(PluginError, match=r"register_trainers of one \(one-dist 1\.0\) yields .*IndexSpec"):
        PluginRegistry.load()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys\nsys.exit(3)", "cannot be imported: it would end the process"),
        ("@hookimpl\ndef register_encoders():\n    raise RuntimeError('boom')", r"register_encoders .* failed: RuntimeError"),
        ("@hookimpl\ndef register_indexes():\n    yield exit(4)", "register_indexes .* would end the process"),
        ("@hookimpl\ndef register_trainers():\n    return None", "register_trainers .* gives None"),
        ("@hookimpl\ndef register_encoders():\n    return 'abc'", "register_encoders .* gives 'abc'"),
        (REGISTERS.format(name="../x"), r"register_encoders .* yields '\.\./x', whose name is"),
        (
            "@hookimpl\ndef register_encoders():\n    return [EncoderSpec('x', 'Letters', 'none:', Modality.TEXT)]",
            "'x', whose encoder is 'Letters'",
        ),
        (
            "@hookimpl\ndef register_encoders():\n    return [EncoderSpec('x', Encoder, 'none:', 'image')]",
            "'x', whose modality is 'image'",
        ),
    ],
)
def test_any_fault_of_a_plugin_at_the_start_is_reported_as_its_own(install: Install, code: str, words: str) -> None:
    install(one=code)
    with pytest.raises(PluginError, match=words) as caught:
        PluginRegistry.load()
    assert "one-dist 1.0" in caught.value.message


def test_what_a_plugin_prints_at_the_start_stays_out_of_standard_output(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(one="print('imported')\n" + REGISTERS.format(name="first").replace("return", "print('asked')\n    return"))
    PluginRegistry.load()
    assert capsys.readouterr() == ("", "imported\nasked\n")


FAILS_LATER = """
@hookimpl
def resolve_source(name, source):
    raise RuntimeError("boom")

@hookimpl
def refuse_source(source):
    exit(3)

@hookimpl
def resolve_index(kind):
    return kind
"""


def test_a_hook_that_fails_later_is_told_as_the_plugins_own(install: Install) -> None:
    install(one=FAILS_LATER)
    loaded, source = PluginRegistry.load(), SourceUri.parse("file:/x")
    with pytest.raises(PluginFault, match=r"resolve_source of one \(one-dist 1\.0\) failed: RuntimeError: boom"):
        loaded.resolve_source("x", source)
    with pytest.raises(PluginFault, match=r"refuse_source of one .* would end the process"):
        loaded.refusals(source)
    with pytest.raises(PluginError, match=r"resolve_index of one .* yields 'Mine'"):
        loaded.index("Mine")


def test_commands_of_a_plugin_that_fails_cost_only_these(install: Install) -> None:
    adds = "@hookimpl\ndef register_commands(commands):\n    {}\n"
    install(one=adds.format("exit(3)"), two=adds.format("commands.command('mine')(print)"))
    commands = click.Group()
    (error,) = PluginRegistry.load().add_commands(commands)
    assert "register_commands of one (one-dist 1.0)" in error.message
    assert list(commands.commands) == ["mine"]


def test_threads_that_load_plugins_at_once_leave_standard_output_alone() -> None:
    """`topwork doctor --json` loads them for two of its questions, and wrote its answer to stderr."""
    before, first_in, second_in = sys.stdout, threading.Event(), threading.Event()

    def load_first() -> None:
        with loading("loading", "toys"):
            first_in.set()
            second_in.wait(0.2)  # it waits for this one to end

    def load_second() -> None:
        assert first_in.wait(30)
        with loading("loading", "toys"):
            second_in.set()
            first.join()

    first, second = threading.Thread(target=load_first), threading.Thread(target=load_second)
    first.start()
    second.start()
    second.join()
    assert sys.stdout is before
