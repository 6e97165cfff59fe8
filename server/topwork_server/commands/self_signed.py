"""`topwork keys self-signed`."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from types import SimpleNamespace

from topwork_server.access.certificates import Authority
from topwork_server.errors import AlreadyExists, InvalidInput

#: Names that every certificate is for too, so that it can be tried where the server runs.
LOCAL = ("localhost", "127.0.0.1", "::1")
#: A host name, whose first label may be `*`.
_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def run(arguments: SimpleNamespace) -> int:
    """Make an authority and a certificate of a server, and show how they are used."""
    out, hosts = Path(arguments.out), [host.removeprefix("[").removesuffix("]") for host in arguments.host]
    for host in hosts:
        if not _is_host(host):
            raise InvalidInput(
                f"{host!r} is no name of a host", remedy="write it as clients will, without a port: embed.example.com or 10.0.0.7"
            )
    authority = Authority(days=arguments.days)
    issued = authority.issue([*hosts, *(name for name in LOCAL if name not in hosts)], arguments.days)
    files = {"ca": out / "ca.pem", "certificate": out / "server.pem", "key": out / "server.key"}
    for path in files.values():
        if path.exists():
            raise AlreadyExists(f"{path} is there already", remedy="move it away, or choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    _write(files["key"], issued.key, 0o600)
    _write(files["certificate"], issued.certificate, 0o644)
    _write(files["ca"], authority.certificate, 0o644)
    if arguments.json:
        print(json.dumps({name: str(path) for name, path in files.items()}))
        return 0
    _explain(files, f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0], arguments.days)
    return 0


def _explain(files: Mapping[str, Path], host: str, days: int) -> None:
    width = max(len(str(path)) for path in files.values())
    print(f"{files['ca']!s:{width}}  the authority, for clients; its own key was not kept")
    print(f"{files['certificate']!s:{width}}  the certificate of the server, for {days} days")
    print(f"{files['key']!s:{width}}  its private key, which stays here\n")
    listen = "" if host in ("localhost", "127.0.0.1", "[::1]") else " --listen 0.0.0.0:50051"
    print(f"topwork serve{listen} --tls-cert {quote(str(files['certificate']))} --tls-key {quote(str(files['key']))}")
    print(f"topwork encoders --server https://{host}:50051 --ca {quote(str(files['ca']))}")


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _NAME.fullmatch(text) is not None and not text.replace(".", "").isdecimal()
    return "%" not in text


def _write(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
