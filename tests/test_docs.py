"""The pages say what is: commands parse, code is the code, links lead somewhere, lists are whole, the first page runs."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pluggy
import pytest
import sample_videos
import topwork
import topwork_server
from google.protobuf import json_format
from topwork.cli.commands import SERVER_VERBS, all_commands
from topwork.v1 import encoders_pb2
from topwork_server import errors
from topwork_server.cli import add_commands
from topwork_server.commands.demo import ENCODERS, server
from topwork_server.plugin_api import example_inputs, hookspecs, options
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.sources import SCHEMES
from topwork_server.types import Granularity, Modality

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "clients/python/README.md",
]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def plugin_pages() -> str:
    return "\n".join(text(f"docs/{name}.md") for name in ("plugins", "plugin-index", "plugin-trainer"))


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def plain(page: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """What a heading can be linked by."""
    headings = re.findall(r"^#+ (.*)$", plain(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> Iterator[tuple[str, str]]:
    """(page, command line) of every `topwork ...` that is shown: in blocks, indented, or between backticks."""
    for path in PAGES:
        page = path.read_text("utf-8")
        lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"^    (topwork .*)$", plain(page), re.MULTILINE)
        lines += re.findall(r"`(topwork [^`]*)`", plain(page))
        yield from ((path.name, line) for line in lines if line.startswith("topwork "))


def options_of(verb: str) -> set[str]:
    """The long flags of a verb of the server's command line."""
    verbs = click.Group()
    add_commands(verbs)
    return {flag for param in verbs.commands[verb].params for flag in param.opts if flag.startswith("--")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", plain(path.read_text("utf-8"))):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text("utf-8")), target


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_a_command_that_is_shown_parses(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    topwork = all_commands()
    with topwork.make_context("topwork", list(words)) as context:
        name, command, rest = topwork.resolve_command(context, words)
        assert command is not None
        command.make_context(name, rest, parent=context, resilient_parsing=not rest)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_that_is_typed_in_order_makes_no_name_twice(path: Path) -> None:
    made: set[str] = set()
    lines = [line for block in blocks(path.read_text("utf-8"), "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        if not line.startswith(("topwork train ", "topwork pretrain ")) or "--replace" in line:
            continue
        words = shlex.split(line, comments=True)
        given = dict(pairwise(words))
        name = given.get("--name") or f"{words[2]}-{given.get('--target')}"
        assert name not in made, line
        made.add(name)


def test_enough_commands_are_found_to_be_worth_a_test() -> None:
    assert len(set(commands())) > 40
    assert {line.split()[1] for _, line in commands()} >= {*SERVER_VERBS, "embed", "encoders", "nearest"} - {"demo"}


def test_the_makefile_has_what_is_named() -> None:
    targets = set(re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE))
    named = {name for path in PAGES for name in re.findall(r"^    make ([\w-]+)|`make ([\w-]+)`", path.read_text("utf-8"))}
    assert {name for pair in named for name in pair if name} <= targets


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_that_is_shown_is_python(path: Path) -> None:
    for block in blocks(path.read_text("utf-8"), "python"):
        compile(block, str(path), "exec")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_calls_of_the_sdk_that_are_shown_have_its_parameters(path: Path) -> None:
    for block in blocks(path.read_text("utf-8"), "python"):
        if re.search(r"\bclient = (?!topwork\.)", block):  # of another library
            continue
        for call in ast.walk(ast.parse(block)):
            method = call.func if isinstance(call, ast.Call) else None
            if isinstance(method, ast.Attribute) and isinstance(method.value, ast.Name) and method.value.id == "client":
                assert isinstance(call, ast.Call)
                keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
                inspect.signature(getattr(topwork.Client, method.attr)).bind(None, *call.args, **keywords)


def test_every_page_is_on_the_site() -> None:
    shown = set(re.findall(r": ([\w/-]+\.md)$", text("mkdocs.yml"), re.MULTILINE))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert shown == pages | {"index.md", "contributing.md", "reporting.md", "python.md"}


def test_every_hook_is_documented_with_its_arguments() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    page = text("docs/plugins.md")
    hooks = {name: caller for name, caller in vars(manager.hook).items() if not name.startswith("_")}
    assert len(hooks) == 8
    for name, caller in hooks.items():
        [arguments] = re.findall(rf"^\*\*`{name}\((.*?)\)", page, re.MULTILINE)
        assert caller.spec is not None
        assert re.findall(r"(\w+):", arguments) == list(caller.spec.argnames)


def test_every_export_is_listed() -> None:
    listed = text("docs/plugins.md").split("## What you import")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", listed)) >= set(topwork_server.__all__)
    for name in topwork_server.__all__:
        assert hasattr(topwork_server, name)


def test_what_an_author_overrides_is_told() -> None:
    page = plugin_pages()
    kept = [name for name in vars(topwork_server.Encoder) if not name.startswith("_")]
    for name in [*kept, "__init__"]:
        assert re.search(rf"^\| `{name}\b", page, re.MULTILINE), name
    for name in topwork_server.VectorIndex.__abstractmethods__:
        assert re.search(rf"^\| `{name}\b", page, re.MULTILINE), name
    for name in ["fit", "tune", *topwork_server.FittedHead.__abstractmethods__, *topwork_server.FittedHead.__annotations__]:
        assert re.search(rf"^\| `{name}\b", page, re.MULTILINE), name
    specs = (topwork_server.EncoderSpec, topwork_server.Trunk, topwork_server.IndexSpec, topwork_server.TrainerSpec)
    for kind in (
        *specs,
        topwork_server.Examples,
        topwork_server.FineTuneDataset,
        topwork_server.FineTuneResult,
        topwork_server.PretrainedHead,
    ):
        for name in kind.__dataclass_fields__:
            assert re.search(rf"^\| .*`{name}`.* \|", page, re.MULTILINE), f"{kind.__name__}.{name}"
    for word in [
        *(f"Granularity.{member.name}" for member in Granularity),
        *(member.name for member in Modality),
        *(f"Metric.{member.name}" for member in topwork_server.Metric),
        *(f"Target.{member.name}" for member in topwork_server.Target),
    ]:
        assert word in page


@pytest.mark.parametrize("file", ["colors.py", "brute.py", "means.py", "pyproject.toml", "contract.py"])
def test_the_plugin_that_is_shown_is_the_one_that_is_tested(file: str) -> None:
    language = {".py": "python", ".toml": "toml"}[Path(file).suffix]
    assert text(f"tests/outsider/{file}").strip() in [block.strip() for block in blocks(plugin_pages(), language)]


def test_every_encoder_option_and_tap_is_told() -> None:
    page = text("docs/encoders.md")
    for name, registered in PluginRegistry.load().encoders().items():
        assert f"`{name}`" in page
        for choice in options.choices(registered.spec.encoder.options):
            assert re.search(rf"^\| `{choice.name}` \|", page, re.MULTILINE), (name, choice.name)
        for tap in registered.spec.taps:
            family = re.sub(r"\d+", r"\\d+", re.escape(tap.name), count=1)
            assert re.search(f"`{family}`", page), (name, tap.name)


def test_the_readmes_table_is_the_catalog() -> None:
    encoders = PluginRegistry.load().encoders()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", text("README.md"), re.MULTILINE))
    assert set(rows) == set(ENCODERS)
    for name, row in rows.items():
        spec = encoders[name].spec
        assert spec.license.partition(" ")[0] in row
        assert f"`{spec.default_tap}`" in row
        for dim in {tap.dim for tap in spec.taps if "layer" not in tap.name}:
            assert str(dim) in row


def test_every_flag_status_and_counter_of_the_server_is_told() -> None:
    page = text("docs/serving.md")
    for flag in options_of("serve"):
        assert re.search(rf"^\| `{flag}\b", page, re.MULTILINE), flag
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TopworkError) and not issubclass(kind, errors.StartError):
            assert re.search(rf"^\| {kind.code.name} \| .*{kind.__name__}", page, re.MULTILINE), kind
    for counter in ("samples", "batches", "expired", "cancelled", "memory_splits", "restarts"):
        assert f"`{counter}`" in page


def test_the_messages_that_are_shown_are_messages() -> None:
    lines = [line for block in blocks(text("docs/serving.md"), "json") for line in block.splitlines()]
    assert len(lines) == 6
    json_format.Parse(lines[0], encoders_pb2.EmbedRequest())
    for line in lines[1:]:
        json_format.Parse(line, encoders_pb2.EmbedStreamRequest())


def test_every_kind_of_source_is_told() -> None:
    page = text("docs/sources.md")
    for scheme in SCHEMES:
        assert re.search(rf"^\| `{scheme}:", page, re.MULTILINE), scheme


@pytest.mark.weights
def test_the_first_page_runs(weights_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sample_videos.write(tmp_path / "clip.mp4", sample_videos.shades(20))
    shutil.copy(example_inputs.FOLDER / "chelsea.jpg", tmp_path / "cat.jpg")
    shutil.copy(example_inputs.FOLDER / "coffee.jpg", tmp_path / "cup.jpg")
    (tmp_path / "lines.txt").write_text("\n".join(["the cat sat on the mat", "a dog sat on the rug"] * 50))
    page, _ = blocks(text("README.md"), "python")  # the second is of OpenAI's client: tests/server/doors/test_openai.py
    assert "127.0.0.1:50051" in page
    found: dict[str, object] = {}
    for part in ("artifacts", "packages"):  # a home of its own: what the page stores must not stay
        (tmp_path / part).symlink_to(weights_home / part)
    with server(tmp_path, lambda *words: None) as address:
        exec(page.replace("127.0.0.1:50051", address), found)
    assert found["taps"]["layer3"].rows.shape == (14 * 14, 112)  # type: ignore[index]
    assert found["f"].spans.tolist()[0] == pytest.approx([0, 0.64])  # type: ignore[attr-defined]
    assert found["chunk"].start == 64  # type: ignore[attr-defined]
    assert found["hits"].ids == ["cat.jpg"]  # type: ignore[attr-defined]
