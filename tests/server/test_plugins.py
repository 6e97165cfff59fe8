from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
from topwork_server import plugins
from topwork_server.errors import PluginError
from topwork_server.plugins import Plugins
from topwork_server.sources import Source

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
        monkeypatch.setattr(plugins, "entry_points", lambda group: found)
        monkeypatch.syspath_prepend(str(tmp_path))

    return installed


REGISTERS = """
from toys import letters_spec

@hookimpl
def register_encoders():
    return [letters_spec({name!r})]
"""


def test_our_own_encoders_come_by_the_same_door() -> None:
    found = {plugin.name: plugin for plugin in Plugins.load().found()}
    assert {"resnet", "i3d", "word2vec", "bert", "onnx"} <= set(found)
    assert found["bert"].distribution == "topwork-server"
    assert "register_encoders" in found["bert"].hooks
    encoders = Plugins.load().encoders()
    assert {"all-minilm-l6-v2", "resnet50-thin", "efficientnet-lite0", "i3d-resnet50-thin", "glove-6b-50d"} <= set(encoders)


def test_listing_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys; from topwork_server.plugins import Plugins; Plugins.load().found();"
        "print([n for n in ('torch', 'timm', 'transformers', 'onnxruntime', 'onnx', 'cv2', 'av', 'pyarrow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plugin_is_found_with_what_it_brings(install: Install) -> None:
    install(one=REGISTERS.format(name="first"), two=REGISTERS.format(name="second"))
    loaded = Plugins.load()
    assert [(p.name, p.distribution, p.version, p.encoders) for p in loaded.found()] == [
        ("one", "one-dist", "1.0", ("first",)),
        ("two", "two-dist", "1.0", ("second",)),
    ]
    assert loaded.encoders()["second"].owner == "two (two-dist 1.0)"


def test_a_misspelt_hook_stops_the_start(install: Install) -> None:
    install(one="@hookimpl\ndef register_encoder():\n    return []\n")
    with pytest.raises(PluginError, match="register_encoder") as caught:
        Plugins.load()
    assert "one-dist 1.0" in str(caught.value)
    assert "the hooks are adopt_source, register_commands, register_encoders: " in caught.value.remedy


def test_a_clash_names_both_owners(install: Install) -> None:
    install(one=REGISTERS.format(name="same"), two=REGISTERS.format(name="same"))
    with pytest.raises(PluginError, match="same") as caught:
        Plugins.load()
    assert "one-dist 1.0" in str(caught.value)
    assert "two-dist 1.0" in str(caught.value)


def test_two_plugins_of_one_name_are_both_named(install: Install) -> None:
    install(one=REGISTERS.format(name="a"), one__again=REGISTERS.format(name="b"))
    with pytest.raises(PluginError, match=r"one-dist 1\.0 and one__again-dist 1\.0"):
        Plugins.load()


def test_a_plugin_that_cannot_be_imported_is_named(install: Install) -> None:
    install(one="import no_such_library\n")
    with pytest.raises(PluginError, match=r"'one' of one-dist 1\.0 .*no_such_library"):
        Plugins.load()


ADOPTS = """
from toys import letters_spec

@hookimpl
def adopt_source(name, source):
    return letters_spec(name) if source.location.endswith({suffix!r}) else None
"""


def test_the_plugin_that_knows_a_source_adopts_it(install: Install) -> None:
    install(one=ADOPTS.format(suffix=".one"), two=ADOPTS.format(suffix=""))
    loaded = Plugins.load()
    adopted = loaded.adopt("mine", Source.parse("file:/weights.one"))
    assert adopted is not None
    assert adopted.spec.name == "mine"
    named = loaded.adopt("mine", Source.parse("file:/weights.one", family="two"))
    assert named is not None
    assert named.owner == "two (two-dist 1.0)"
    assert loaded.adopt("mine", Source.parse("file:/weights.other", family="one")) is None
