from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from topwork import errors as of_client
from topwork_server import errors
from topwork_server.errors import ExportFailed, InvalidInput, NotFound, NotReady
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.plugin_api.plugin_registry import Registered
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.runtime.export import export_encoder
from toys import FakePlugins, letters_spec


class Adopting(FakePlugins):
    """Reads any file whose name ends in .letters."""

    def resolve_source(self, name: str, source: SourceUri) -> Registered | None:
        if not source.location.endswith(".letters") or source.family not in ("", "letters"):
            return None
        return Registered(replace(letters_spec(name), source=str(source)), "letters", "tests")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    absent = replace(letters_spec("absent"), source="file:/nowhere/at/all")
    return Catalog(Adopting([letters_spec(), absent]), tmp_path)  # type: ignore[arg-type]


def test_states_follow_the_disk(catalog: Catalog) -> None:
    assert catalog.entry("absent").state is EncoderState.ABSENT
    assert "topwork pull absent" in catalog.entry("absent").detail
    assert catalog.entry("letters").state is EncoderState.FETCHED
    spec = catalog.spec("letters")
    artifacts.publish(catalog.home, spec, lambda folder: export_encoder(spec, Path(), folder))
    entry = catalog.entry("letters")
    assert entry.state is EncoderState.READY
    assert entry.manifest is not None
    assert entry.manifest.parameters == 1024


def test_weights_that_are_not_here_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that is ready says nothing of the weights that a training needs."""
    spec = replace(letters_spec(), source="package:letters==1.0.0#weights")
    catalog = Catalog(FakePlugins([spec]), tmp_path)  # type: ignore[arg-type]
    artifacts.publish(tmp_path, spec, lambda folder: export_encoder(spec, Path(), folder))
    monkeypatch.setattr("topwork_server.plugin_api.sources.run_pip", lambda *_: pytest.fail("it downloads"))
    assert catalog.entry("letters").state is EncoderState.READY
    with pytest.raises(NotReady, match="weights of letters") as refused:
        catalog.weights("letters", spec)
    assert "topwork pull letters" in refused.value.remedy


def test_an_unknown_name_gets_what_is_near(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="did you mean letters"):
        catalog.spec("leters")
    with pytest.raises(NotFound, match="there are: letters, absent"):
        catalog.spec("zzz")


def test_weights_are_adopted_by_uri_and_remembered(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.letters").write_text("weights")
    monkeypatch.chdir(tmp_path)
    spec = catalog.add("file:my.letters", settings={"seed": 3})
    monkeypatch.chdir("/")
    assert spec.name == "my.letters"
    again = Catalog(Adopting([letters_spec()]), tmp_path)  # type: ignore[arg-type]
    assert again.names() == ["letters", "my.letters"]
    assert again.spec("my.letters").settings == {"seed": 3}
    assert again.entry("my.letters").state is EncoderState.FETCHED
    assert again.source("my.letters") == SourceUri("file", str(tmp_path / "my.letters"), family="letters")
    again.remove("my.letters")
    assert again.names() == ["letters"]


def test_what_no_plugin_reads_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"file:/weights.other cannot be read: No such file"):
        catalog.add("file:/weights.other")
    (tmp_path / "weights.letters").touch()
    with pytest.raises(InvalidInput, match="bert"):
        catalog.add(f"file:{tmp_path}/weights.letters", family="bert")
    with pytest.raises(InvalidInput, match="registered encoder"):
        catalog.add("file:/weights.letters", name="letters")
    assert catalog.names() == ["letters", "absent"]


def test_an_export_of_absent_weights_says_what_fetches_them(catalog: Catalog) -> None:
    with pytest.raises(NotReady, match="topwork pull absent"):
        catalog.export("absent")


def test_an_export_that_dies_says_how(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nprintf '1\\n2\\n3\\nout of luck\\n' >&2\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(ExportFailed, match=r"killed by signal 9: 2 \| 3 \| out of luck"):
        catalog.export("letters")
    assert "1\n2\n3\nout of luck" in caplog.text, "the log has all of it"


def test_an_export_that_refuses_keeps_its_error_and_remedy(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "python"
    script.write_text(
        """#!/bin/sh\necho '{"error": "keys are missing", "remedy": "try others", "kind": "InvalidInput"}'\nexit 1\n"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(InvalidInput, match="keys are missing") as caught:
        catalog.export("letters")
    assert caught.value.remedy == "try others"


def test_every_error_of_the_tree_can_come_back_from_an_export() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TopworkError)]
    assert set(tree) >= {errors.InvalidInput, errors.DataLoss, errors.PluginFault, errors.ExportFailed}
    for kind in tree:
        error = kind("said", remedy="do", item=3)
        assert str(error) == "item 3: said (do)"
        assert type(error.at(4)) is kind
        drawn = f"{errors.__doc__}{of_client.__doc__}"
        assert kind.__name__ in drawn, "the tree is drawn whole"


def test_a_file_whose_name_is_no_name_is_to_be_given_one(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "a b.letters").write_text("weights")
    with pytest.raises(InvalidInput, match="cannot name an encoder") as refused:
        catalog.add(f"file:{tmp_path}/a b.letters")
    assert "--name" in refused.value.remedy
    with pytest.raises(InvalidInput) as refused:
        catalog.add(f"file:{tmp_path}/a b.letters", "a b")
    assert "--name" not in refused.value.remedy
    assert catalog.add(f"file:{tmp_path}/a b.letters", "ab").name == "ab"
