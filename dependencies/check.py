"""Check the lock of the tested set, without a network: it fits pyproject.toml, and what is installed is what it says.

`make lint` runs this. What else is installed, as of the benchmarks, is listed and no failure.
"""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCK = Path("dependencies/tested.txt")
#: The files of our own packages, each with the extras that `make install` installs.
OWN = {"pyproject.toml": ("dev", "demo"), "clients/python/pyproject.toml": ()}
OURS = {"topwork", "topwork-server"}
#: What the lock is made for: elsewhere fewer or other packages may be needed.
HERE = (platform.system(), platform.machine(), ".".join(platform.python_version_tuple()[:2])) == ("Linux", "x86_64", "3.11")


def main() -> int:
    found = sorted(set(problems(ROOT)))
    for problem in found:
        print(f"dependencies: {problem}", file=sys.stderr)
    if found:
        return 1
    beside = ", ".join(sorted(others(ROOT)))
    print("dependencies: what is installed is the tested set" + (f", and beside it {beside}" if beside else ""))
    return 0


def pins(root: Path) -> dict[NormalizedName, Version]:
    """The version of each package in the lock. ValueError names a line without a hash, or that is no pin."""
    found = {}
    for entry in (root / LOCK).read_text("utf-8").replace("\\\n", " ").splitlines():
        if not entry or entry.startswith("#"):
            continue
        pin = re.fullmatch(r"([\w.-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+) *", entry)
        if pin is None:
            raise ValueError(f"{LOCK}: {entry[:60]!r} is no pin with hashes: run `make lock`")
        found[canonical(pin[1])] = Version(pin[2])
    return found


def requirements(root: Path, only_runtime: bool = False) -> list[Requirement]:
    """List what our own packages require of others, with the extras that `make install` installs unless `only_runtime`."""
    found: list[str] = []
    for file, extras in OWN.items():
        project: Mapping[str, Any] = tomllib.loads((root / file).read_text("utf-8"))["project"]
        found += project["dependencies"]
        found += [one for extra in extras if not only_runtime for one in project["optional-dependencies"][extra]]
    needed = [Requirement(one) for one in found]
    return [one for one in needed if canonical(one.name) not in OURS and applies(one)]


def applies(requirement: Requirement, extras: tuple[str, ...] = ("",)) -> bool:
    """Tell whether a requirement holds on this machine, for one of the extras that were asked for."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def needed(root: Path, only_runtime: bool = False) -> Iterator[tuple[str, Requirement, Distribution | None]]:
    """Follow the requirements to all that is needed: who requires it, the requirement, and what is installed of it."""
    waiting, seen = [("pyproject.toml", one) for one in requirements(root, only_runtime)], set[str]()
    while waiting:
        owner, requirement = waiting.pop()
        if f"{owner} {requirement}" in seen:
            continue
        seen.add(f"{owner} {requirement}")
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError:
            yield owner, requirement, None
            continue
        yield owner, requirement, installed
        extras = ("", *sorted(requirement.extras))
        further = (Requirement(one) for one in installed.requires or ())
        waiting += [(requirement.name, one) for one in further if applies(one, extras)]


def problems(root: Path) -> Iterator[str]:
    """Say what of the lock does not fit the requirements, or what is installed, and what to do."""
    try:
        locked = pins(root)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    names, whole = set[NormalizedName](), HERE
    for owner, requirement, installed in needed(root):
        name = canonical(requirement.name)
        if owner == "torch" and name not in locked:
            continue  # what its build for CUDA brings: the tests run with the CPU's
        names.add(name)
        whole &= installed is not None  # else what it requires is not known
        if name not in locked:
            yield f"{owner} requires {requirement}, which {LOCK} lacks: run `make lock`"
        elif not requirement.specifier.contains(locked[name], prereleases=True):
            yield f"{owner} requires {requirement}, and {LOCK} has {locked[name]}: run `make lock`"
        elif installed is None:
            yield f"{name} is not installed: run `make install`"
        elif Version(Version(installed.version).public) != locked[name]:
            yield f"{name} {installed.version} is installed, and {LOCK} has {locked[name]}: run `make install`"
    if whole:
        yield from (f"{LOCK} has {name}, which nothing requires: run `make lock`" for name in sorted(locked.keys() - names))


def others(root: Path) -> set[NormalizedName]:
    """Name what is installed and neither ours nor in the lock."""
    installed = {canonical(one.metadata["Name"]) for one in distributions()}
    return installed - pins(root).keys() - {canonical(name) for name in OURS}


if __name__ == "__main__":
    sys.exit(main())
