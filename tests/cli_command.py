"""The `topwork` command in this process, against a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from topwork import cli


class Command:
    def __init__(self, target: str, capture: pytest.CaptureFixture[str]) -> None:
        self._target, self._capture = target, capture
        self.stdout = self.stderr = ""

    def __call__(self, *words: object) -> int:
        status = cli.main([*map(str, words), "--server", self._target])
        self.stdout, self.stderr = self._capture.readouterr()
        return status

    def json(self, *words: object) -> Any:
        assert self(*words, "--json") == 0, self.stderr
        return json.loads(self.stdout)
