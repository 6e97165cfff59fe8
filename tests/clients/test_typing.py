"""What an editor and a type checker know of the SDK: a user's program over every verb, under strict mypy and strict pyright."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import topwork

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".mypy_cache" / "sdk"
PROGRAM, WRONG = HERE / "typed_program.py", HERE / "wrong_program.py"
#: Lines of the second that hold a mistake.
MISTAKES = [number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if "client." in line]


def mypy(folder: Path) -> dict[str, list[int]]:
    """Lines with an error, by the program's name. The cache outlives the run: numpy alone takes 10 s to be read."""
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={CACHE}", "--config-file=", *map(str, (PROGRAM, WRONG))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(ROOT / "clients/python")})
    found = re.findall(r"(\w+\.py):(\d+): error", done.stdout)
    assert found, done.stdout + done.stderr
    return {name: sorted({int(line) for file, line in found if file == name}) for name in (PROGRAM.name, WRONG.name)}


def pyright(folder: Path) -> dict[str, list[int]]:
    """Of basedpyright, which is pyright in a package of its own, with pyright's strict rules."""
    settings: dict[str, Any] = {"include": [str(PROGRAM), str(WRONG)], "typeCheckingMode": "strict"}
    settings |= {"extraPaths": [str(ROOT / "clients/python")], "pythonPath": sys.executable, "reportUnusedExpression": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(folder)]
    done = subprocess.run([*command, "--pythonpath", sys.executable], capture_output=True, text=True)
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    found = [(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in diagnostics if one["severity"] == "error"]
    return {name: sorted({line for file, line in found if file == name}) for name in (PROGRAM.name, WRONG.name)}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_program_over_every_verb_is_typed(checker: Any, tmp_path: Path) -> None:
    assert checker(tmp_path) == {PROGRAM.name: [], WRONG.name: MISTAKES}


@pytest.mark.parametrize(("kind", "function"), [(topwork.Client, "blocking"), (topwork.AsyncClient, "asynchronous")])
def test_the_program_calls_every_verb(kind: type, function: str) -> None:
    functions = [node for node in ast.parse(PROGRAM.read_text()).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    mine = [node for node in functions if node.name in (function, "searches")]
    called = {node.attr for of in mine for node in ast.walk(of) if isinstance(node, ast.Attribute)}
    verbs = {name for name in vars(kind) if not name.startswith("_") and name != "close"}
    assert verbs - called == set()
