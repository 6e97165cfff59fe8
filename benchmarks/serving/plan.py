"""The order in which contenders are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.parts import Part
from benchmarks.serving.peers import Library, Peer, found

Contender = type[Peer] | type[Library]


@dataclass(frozen=True)
class Turn:
    """A contender in a round."""

    part: Part
    number: int
    contender: Contender
    open_loop: bool

    @property
    def key(self) -> str:
        return f"{self.contender.name} {self.number}"


def contenders(part: Part, named: Sequence[str], say: Callable[[str], None]) -> list[Contender]:
    """List the contenders that run here, Topwork first. LookupError for an unknown name."""
    known = found()
    if unknown := set(named) - set(known):
        raise LookupError(f"no peer {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    able = []
    for name in sorted(named or known, key=lambda name: (not name.startswith("topwork"), name)):
        kind = known[name]
        if part.name in kind.parts:
            if missing := kind().missing():
                say(f"without {name}: {missing}")
            else:
                able.append(kind)
    return able


def turns(part: Part, able: list[Contender], settings: Mapping[str, Any]) -> list[Turn]:
    """Round by round; each round begins with another contender, so that a machine that slows down slows them alike. Peers, which
    start slowly and are far apart, may have fewer rounds."""
    return [
        Turn(part, number, kind, part.open_loop and number < settings["open_rounds"])
        for number in range(settings["rounds"])
        for kind in able[number % len(able) :] + able[: number % len(able)]
        if kind.name.startswith("topwork") or number < settings["peer_rounds"]
    ]  # fmt: skip
