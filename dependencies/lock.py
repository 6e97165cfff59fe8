"""Make the lock of the tested set again: the pins that it has stay while they fit, and the rest is resolved.

`make lock` runs this; `--upgrade` takes the newest of all. uv asks the registry that it is set to use, and the folder of wheels
that `$UV_FIND_LINKS` names, or else `$PIP_FIND_LINKS`: PyTorch's CPU build may come from there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "dependencies" / "tested.txt"
PYTHON = "3.11"
HEADER = """\
# The tested set: all that `make install` installs, with the SHA-256 of each file that the registry has of it.
# Written by `make lock`, for CPython 3.11 on Linux with x86_64 and PyTorch's CPU build. Do not edit it.
"""
#: A pin: its name, its version, and its hashes, one a line.
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+) \\\n(?P<hashes>(?: +--hash=\S+(?: \\)?\n)+)", re.MULTILINE)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "lock.txt"
        made.write_text(kept_pins(), "utf-8")
        folder = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
        client = f"topwork @ {(ROOT / 'clients/python').as_uri()}\n"
        compile_pins(["pyproject.toml", "-", "--extra", "dev", "--extra", "demo", "-o", str(made), *arguments], client, folder)
        text = PIN.sub(public_version, made.read_text("utf-8"))
    if "\nnvidia-" in text:
        print(
            "lock: torch was resolved to its build for CUDA, which the tests do not run with; name the folder of a wheel of"
            " PyTorch's CPU build by $UV_FIND_LINKS, or its index by $UV_INDEX",
            file=sys.stderr,
        )
        return 1
    LOCK.write_text(HEADER + text, "utf-8")
    print(f"lock: {len(PIN.findall(text))} packages in {LOCK.relative_to(ROOT)}")
    return 0


def kept_pins() -> str:
    """The present pins, which uv keeps where it can. Not torch, which pyproject.toml pins: its public build is another."""
    text = LOCK.read_text("utf-8") if LOCK.exists() else ""
    return PIN.sub(lambda pin: "" if pin["name"] == "torch" else pin[0], text)


def compile_pins(arguments: list[str], requirements: str, folder: str) -> str:
    """Run `uv pip compile` with more requirements on its standard input, and return what it prints."""
    common = ["--python-version", PYTHON, "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *arguments, *common, "--no-emit-package", "topwork"]
    environment = {**os.environ, "UV_FIND_LINKS": folder}
    done = subprocess.run(command, input=requirements, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit("lock: uv did not resolve the requirements; what it wrote above says why")
    return done.stdout


def public_version(pin: re.Match[str]) -> str:
    """Write a pin of a local build (2.13.0+cpu) as that of the public version, with the hashes of both."""
    version, _, local = pin["version"].partition("+")
    if not local:
        return pin[0]
    requirement = f"{pin['name']}=={version}"
    published = compile_pins(["-", "--no-deps"], requirement, folder="")
    digests = sorted({*re.findall(r"--hash=\S+", published), *re.findall(r"--hash=\S+", pin["hashes"])})
    return f"{requirement} \\\n" + " \\\n".join(f"    {digest}" for digest in digests) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
