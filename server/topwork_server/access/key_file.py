"""Keys of callers: a file under the home that holds what each may do and the hash of its secret.

A key is `tw_ID_SECRET`. The secret has 256 random bits, so that one SHA-256 of it is as safe as a slow hash of a password would
be. As soon as the file holds one key, also one that has expired or was revoked, every request needs a key: the last one that goes
must not open the server.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import grpc
from topwork._display.excerpts import excerpt

from topwork_server import atomic_store, json_records
from topwork_server.access.caller import EVERY, AccessRole, Caller
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound, Refused, TopworkError
from topwork_server.names import instead

NAME = "keys.json"
_KEY = re.compile(r"tw_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_CALLER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Seconds after which a server looks again whether the file has changed.
LOOK = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The record of a key. `sha256` is that of the whole key, in hexadecimal; times are seconds since 1970, 0 for never."""

    id: str
    name: str
    role: str
    sha256: str
    created: float
    sets: tuple[str, ...] = EVERY
    encoders: tuple[str, ...] = EVERY
    expires: float = 0.0
    revoked: float = 0.0

    @property
    def state(self) -> str:
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= time.time() else "valid"

    def caller(self) -> Caller:
        return Caller(self.name, AccessRole[self.role.upper()], self.sets, self.encoders)


@dataclass(frozen=True, slots=True)
class KeyRecords:
    """The content of the file."""

    keys: Sequence[KeyRecord] = field(default_factory=tuple)


class KeyFile:
    """Adds, lists and revokes keys. Several processes may do so: servers see what is new within LOOK seconds."""

    def __init__(self, home: Path) -> None:
        self.path = home / NAME

    def read(self) -> list[KeyRecord]:
        """Read all keys, the oldest first; none where there is no file. DataLoss where it is damaged."""
        try:
            found = json_records.read(self.path, KeyRecords, "put the file back from a copy, or move it away and add keys anew")
        except FileNotFoundError:
            return []
        return list(found.keys)

    def add(
        self, name: str, role: AccessRole, *, sets: Sequence[str] = (), encoders: Sequence[str] = (), seconds: float = 0.0
    ) -> tuple[str, KeyRecord]:
        """Make a key, valid for so many seconds or, for 0, until it is revoked. Returns the key, which nothing keeps.
        AlreadyExists where a valid key has that name; InvalidInput for what cannot be a name or a pattern."""
        if not _CALLER.fullmatch(name):
            raise InvalidInput(f"{excerpt(name)} is no name of a key", remedy="use up to 64 letters, digits, '.', '_' and '-'")
        if role not in (AccessRole.READER, AccessRole.WRITER, AccessRole.TRAINER, AccessRole.ADMIN):
            raise InvalidInput(f"no key has the role {role.name.lower()}", remedy="choose reader, writer, trainer or admin")
        id, now = secrets.token_hex(6), time.time()
        key = f"tw_{id}_{secrets.token_urlsafe(32)}"
        expires = now + seconds if seconds else 0.0
        made = KeyRecord(id, name, role.name.lower(), _sha256(key), now, tuple(sets) or EVERY, tuple(encoders) or EVERY, expires)
        with self._locked():
            known = self.read()
            if any(one.name == name and one.state == "valid" for one in known):
                raise AlreadyExists(f"there is a key named {name!r}", remedy="choose another name, or revoke it first")
            self._write([*known, made])
        return key, made

    def revoke(self, name: str) -> list[KeyRecord]:
        """Revoke the valid keys of that name, or the one of that id. NotFound where there is none."""
        with self._locked():
            known = self.read()
            found = [one for one in known if name in (one.name, one.id) and one.state == "valid"]
            if not found:
                valid = [one.name for one in known if one.state == "valid"]
                raise NotFound(f"there is no valid key named {excerpt(name)}", remedy=instead(name, valid, "list the keys"))
            now = time.time()
            self._write([replace(one, revoked=now) if one in found else one for one in known])
        return found

    def _locked(self) -> AbstractContextManager[bool]:
        atomic_store.make_folder(self.path.parent)
        return atomic_store.lock(self.path.with_name(f".{NAME}.lock"))

    def _write(self, keys: Sequence[KeyRecord]) -> None:
        json_records.write(self.path, asdict(KeyRecords(keys)), indent=1, mode=0o600)


class KeyRing:
    """The keys of a running server, read again when the file changes."""

    def __init__(self, home: Path) -> None:
        """Read the file. DataLoss where it is damaged: without its keys no server may start."""
        self._file = KeyFile(home)
        self._seen = self._mark()
        self._keys = self._by_id(self._file.read())
        self._next_look = time.monotonic() + LOOK

    def __bool__(self) -> bool:
        """Tell whether there are keys, valid or not: then every request needs one."""
        self._look()
        return bool(self._keys)

    def caller(self, key: str) -> Caller:
        """The caller that a key is of. Refused (UNAUTHENTICATED) where it is unknown, has expired or was revoked: in the same
        words, and in the same time."""
        self._look()
        shape = _KEY.fullmatch(key)
        found = self._keys.get(shape[1]) if shape else None
        is_same = hmac.compare_digest(_sha256(key), found.sha256 if found else _sha256(""))
        if not found or not is_same or found.state != "valid":
            raise unauthenticated("the key is not valid: it is unknown, has expired or was revoked")
        return found.caller()

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        mark = self._mark()
        if mark == self._seen:
            return
        self._seen = mark
        try:
            keys = self._by_id(self._file.read())
        except TopworkError as error:
            log.error("the keys stay as they were: %s", error)
            return
        if self._keys and not keys:
            log.error("%s is gone: its keys hold until the server ends", self._file.path)
            return
        self._keys = keys
        log.info("the keys were read again: %d, of which %d are valid", len(keys), sum(k.state == "valid" for k in keys.values()))

    def _mark(self) -> tuple[int, int, int] | None:
        """Return what changes when the file does."""
        try:
            found = self._file.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    @staticmethod
    def _by_id(keys: Sequence[KeyRecord]) -> Mapping[str, KeyRecord]:
        return {one.id: one for one in keys}


def unauthenticated(message: str) -> Refused:
    return Refused(
        message,
        remedy="send a valid key as `authorization: Bearer KEY`; `topwork keys add` makes one",
        code=grpc.StatusCode.UNAUTHENTICATED,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
