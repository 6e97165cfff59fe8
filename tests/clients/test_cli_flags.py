"""Flags that would do nothing beside what else is said are refused before anything is sent, by one rule for all commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_stub import StubCommand


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    return StubCommand(capsys, monkeypatch)


@pytest.mark.parametrize(
    ("words", "flag", "other"),
    [
        ("embed letters owl --column body", "--column", "--from"),
        ("embed letters owl --encoding latin-1", "--encoding", "--from"),
        ("fill letters a[MASK] --separator ;", "--separator", "--from"),
        ("search birds owl --column body", "--column", "--from"),
        ("search birds owl --exact --effort 8", "--effort", "--exact"),
        ("predict birds-label owl --where n>1", "--where", "--set"),
        ("predict birds-label owl --id one", "--id", "--set"),
        ("predict birds-label owl --keep date", "--keep", "--from"),
        ("predict birds-label --set birds --id a --where n>1", "--where", "--id"),
        ("predict birds-label --set birds --skip-bad-items", "--skip-bad-items", "--set"),
        ("predict birds-label --vector rows.npy --option truncate=true", "--option", "--vector"),
        ("predict birds-label --set birds --priority high", "--priority", "--set"),
        ("write birds owl --encoder letters --fingerprint ab", "--fingerprint", "--vectors"),
        ("write birds --vectors rows.npy --keep-inputs", "--keep-inputs", "--vectors"),
        ("write birds --vectors rows.npy --tap pooled", "--tap", "--vectors"),
        ("write birds --vectors rows.npy --type year=int", "--type", "--from"),
        ("write birds --vectors rows.npy --id name", "--id", "--from"),
        ("write birds owl --metadata a --no-metadata", "--no-metadata", "--metadata"),
        ("index birds --column body", "--column", "--queries"),
        ("index birds --rebuild --kind hnsw", "--kind", "--rebuild"),
        ("indexes birds --kinds", "SET", "--kinds"),
        ("versions birds --version 3", "--version", "--pin"),
        ("sets birds --where n>1", "--where", "count or update"),
        ("sets birds update a --set x=1 --version 3", "--version", "count"),
        ("sets birds count --set x=1", "--set", "update"),
        ("sets birds update --where n>1 --set x=1 --id path", "--id", "--from"),
        ("jobs --watch", "--watch", "ID"),
        ("jobs 7c41 --watch --cancel", "--watch", "--cancel"),
        ("heads --yes", "--yes", "drop"),
        ("delete birds a --yes", "--yes", "--where"),
        ("versions birds --pin a --yes", "--yes", "--prune"),
        ("prune --dry-run --yes", "--yes", "--dry-run"),
        ("heads birds-label --encoder letters", "--encoder", "named"),
        ("pretrain words --from a.txt --where n>1 --name mine", "--where", "--from-set"),
        ("pretrain words --from a.txt --version 3 --name mine", "--version", "--from-set"),
        ("pretrain words --from-set birds --column body --name mine", "--column", "--from"),
        ("pretrain words --from-set birds --from a.txt --name mine", "--from-set", "--from"),
        ("pretrain words --from - --encoding latin-1 --name mine", "--encoding", "stdin"),
        ("pretrain words --from - --separator ; --name mine", "--separator", "stdin"),
        ("pretrain words --option dim=8", "--name", "kind"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(topwork: StubCommand, words: str, flag: str, other: str) -> None:
    assert topwork(*words.split()) == 2
    reason = topwork.stderr.splitlines()[-1]
    assert flag in reason
    assert other in reason
    assert not topwork.stdout


def test_flags_of_files_do_nothing_of_a_folder(topwork: StubCommand, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("owl")
    for flag in ("--column", "--separator"):
        assert topwork("embed", "letters", "--from", tmp_path, flag, "x") == 1
        assert f"leave {flag} out" in topwork.stderr
