"""`topwork doctor`: tries what a server needs on this machine, and says how to fix what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

from topwork_server.commands import doctor_checks as checks
from topwork_server.commands.doctor_checks import Finding, Grade
from topwork_server.commands.doctor_files import files
from topwork_server.commands.doctor_provider import provider
from topwork_server.config import Config, default_home

_MARKS = {Grade.OK: "[green]ok  [/]", Grade.WARN: "[yellow]warn[/]", Grade.FAIL: "[red]fail[/]"}


def run(arguments: SimpleNamespace) -> int:
    home = (arguments.home or default_home()).absolute()
    findings = examine(
        {
            "python": checks.python,
            "packages": checks.packages,
            "onnxruntime": checks.one_onnxruntime,
            "export": checks.export_libraries,
            "provider": partial(provider, arguments.provider),
            "video": checks.video,
            "sound": checks.sound,
            "pictures": checks.pictures,
            "plugins": checks.plugins,
            "home": partial(checks.home, home),
            "lock": partial(checks.lock, home),
            "files": partial(files, home),
            "lance": partial(checks.lance, home),
            "faiss": checks.faiss,
            "weights": partial(checks.weights, home),
            "hub": checks.hub,
            "memory": checks.memory,
            "address": _address(arguments.listen),
            "http": partial(checks.http_address, Config().http),
        }
    )
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        _show(findings)
    return int(any(finding.grade is Grade.FAIL for finding in findings))


def _address(listen: str | None) -> Callable[[], Finding]:
    """The check of --listen, else of the server that clients are sent to, else of the default."""
    server = os.environ.get("TOPWORK_SERVER")
    if server and not listen:
        return partial(checks.server, server)
    return partial(checks.address, listen or Config.listen)


def examine(questions: dict[str, Callable[[], Finding]]) -> list[Finding]:
    """Run all checks at once: some wait for a network, some for a process. A check that breaks is a finding, not a traceback."""
    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(_ask, questions, questions.values()))


def _ask(name: str, question: Callable[[], Finding]) -> Finding:
    try:
        return replace(question(), name=name)
    except Exception as error:
        return Finding(Grade.FAIL, f"{type(error).__name__}: {error}", name=name)


def _show(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        remedy = f"\n[dim]{escape(finding.remedy)}[/]" if finding.remedy else ""
        table.add_row(_MARKS[finding.grade], finding.name, escape(finding.detail) + remedy)
    Console().print(table)
