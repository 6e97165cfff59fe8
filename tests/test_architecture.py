"""The map of the code names files and classes that exist, and modules import in no circle. `make lint` checks the layers."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "server/topwork_server"
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
#: Parts of paths that stand for a name of the reader's.
PLACEHOLDERS = ("FAMILY",)
#: Circles of modules, lazy imports included, that are not undone yet. The numbers only fall.
CIRCLES = {"topwork_server": 1, "topwork_plugins": 0, "topwork": 4}


def named(page: str, pattern: str) -> list[str]:
    """The words between backticks that match, outside of fenced blocks."""
    plain = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return sorted({word for word in re.findall(r"`([^`\n]+)`", plain) if re.fullmatch(pattern, word)})


@cache
def classes() -> frozenset[str]:
    files = [file for folder in (SERVER, ROOT / "plugins", ROOT / "clients/python/topwork") for file in folder.rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    return frozenset(node.name for node in nodes if isinstance(node, ast.ClassDef))


def exists(path: str) -> bool:
    return any(place.exists() for place in (ROOT / path, SERVER / path, (ROOT / "server" / path)))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    files = named(page, r"[\w./-]+\.(py|proto|md|toml)|(clients|plugins|server|tests)/[\w/.-]+")
    assert len(files) > 10
    assert [file for file in files if not exists(file) and not any(word in file for word in PLACEHOLDERS)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_class_that_is_named_exists(page: str) -> None:
    assert [name for name in named(page, r"[A-Z][a-z]+\w*") if name not in classes()] == []


def test_every_package_and_module_at_the_top_of_the_server_has_a_room() -> None:
    page = (ROOT / PAGES[0]).read_text("utf-8")
    packages = [path.parent.name for path in SERVER.glob("*/__init__.py")]
    assert len(packages) > 10
    assert [name for name in packages if f"`{name}/`" not in page.split("## Six flows")[0]] == []


def test_every_flow_is_told() -> None:
    page = (ROOT / PAGES[0]).read_text("utf-8")
    flows = ["Embed", "Write", "Create index", "Search", "Train", "Pretrain", "Predict", "Fill"]
    assert re.findall(r"^### (.*)$", page, re.MULTILINE) == flows


def test_every_folder_of_a_home_is_told() -> None:
    page = (ROOT / PAGES[0]).read_text("utf-8").split("## On disk")[1]
    used = {name for file in SERVER.rglob("*.py") for name in re.findall(r"home / \"(\w+)\"", file.read_text("utf-8"))}
    assert used >= {"artifacts", "sets", "heads"}
    assert [name for name in used if f"`{name}/" not in page] == []


@pytest.mark.parametrize("package", CIRCLES)
def test_modules_do_not_import_each_other_in_circles(package: str) -> None:
    grimp = pytest.importorskip("grimp", reason="comes with import-linter: make install")
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    found = circles(imports)
    assert len(found) <= CIRCLES[package], "\n".join(map(str, found))


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d", "a"}}) == [["b", "c"]]


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""
    reached = {module: reachable(module, imports) for module in imports}
    groups = {tuple(sorted(other for other in reached[module] if module in reached[other])) for module in imports}
    return sorted(list(group) for group in groups if len(group) > 1)


def reachable(module: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        following = imports[waiting.pop()] - found
        found |= following
        waiting += following
    return found
