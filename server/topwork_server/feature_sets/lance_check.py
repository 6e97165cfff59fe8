"""Reads a version of a dataset through, in a process of its own: Lance may abort on files that are damaged.

    python -m topwork_server.feature_sets.lance_check PATH VERSION

Of sets and commits that have no checksums: those of older servers, and the last one of a server that was killed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from topwork_server.errors import Unavailable
from topwork_server.jobs.child_processes import ChildProcesses, python

#: Bytes of rows that are read whole; of the rest ids and keys, so that every manifest, file and deletion file is opened.
MOST_BYTES = 1 << 30
SECONDS = 600.0
LONGEST = 500
AGAIN = "try again; the server's log has its last words"

log = logging.getLogger(__name__)


def readable(path: Path, version: int) -> str:
    """Return why that version cannot be read; "" where it can. Unavailable where the process did not come to an answer."""
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    special = next((one for one in found if not one.is_file() and os.path.lexists(one)), None)
    if special:  # to read it would take for ever
        return f"{special} is no regular file"
    ended = ChildProcesses().run([*python("topwork_server.feature_sets.lance_check"), str(path), str(version)], SECONDS)
    answers = [line for line in ended.out.splitlines() if line.startswith("{")]
    if answers:
        fault: str = json.loads(answers[-1])["fault"]
        return fault
    if ended.status in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL):
        return f"the process that read it {ended.how}"
    log.warning("the process that reads %s %s:\n%s", path, ended.how, ended.err)
    raise Unavailable(f"the feature set {path.stem!r} could not be looked at: a process that reads it {ended.how}", remedy=AGAIN)


def main(path: str, version: str) -> None:
    from topwork_server.feature_sets import lance_io

    lance = lance_io.load_lance()  # what fails here is no fault of the set
    try:
        _read(lance, path, int(version))
        fault = ""
    except BaseException as error:
        if isinstance(error, MemoryError) or not (isinstance(error, Exception) or lance_io.is_panic(error)):
            raise  # no fault of the set either
        fault = lance_io.error_text(error)[:LONGEST]
    print(json.dumps({"fault": fault}), flush=True)


def _read(lance: Any, path: str, version: int) -> None:
    dataset = lance.dataset(path, version=version)
    size = sum(file.file_size_bytes or 0 for fragment in dataset.get_fragments() for file in fragment.metadata.files)
    columns = None if size <= MOST_BYTES else ["id", "key"]
    for _ in dataset.scanner(columns=columns, with_row_address=True).to_batches():
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
