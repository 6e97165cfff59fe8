"""Who is measured when, and how long that takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.contest import RATES
from benchmarks.serving.parts import Part
from benchmarks.serving.peers import Library, Peer, found

#: Seconds, as seen, that a server takes to start, be checked and end; and the extra of each load: its warm-up, its last requests.
TOPWORK_START, PEER_START, EXTRA = 8.0, 9.0, 1.2
#: Those rates of the open loop that a peer comes to.
PEER_RATES = 3


@dataclass(frozen=True)
class Turn:
    """One contender in one round."""

    part: Part
    number: int
    contender: type[Peer] | type[Library]
    open_loop: bool

    @property
    def key(self) -> str:
        return f"{self.contender.name} {self.number}"

    def estimate(self, seconds: float) -> float:
        """Seconds."""
        if issubclass(self.contender, Library):
            return PEER_START + 2 * seconds
        long, streams = seconds * self.part.longer, self.contender.streams
        loads = len(self.part.callers) + (self.part.batch > 0 and self.contender.most_items > 1) + streams
        each = long + EXTRA + (0.5 * long + 0.4 if streams else 0)
        rates = (len(RATES) - 0.5 if streams else PEER_RATES) if self.open_loop else 0
        ceilings = 2.3 * long + 4 if streams else 0
        return (TOPWORK_START if streams else PEER_START) + loads * each + rates * (seconds + EXTRA) + ceilings


def contenders(part: Part, named: Sequence[str], say: Any) -> list[type[Peer] | type[Library]]:
    """Those that run here, Topwork first. LookupError for a name that there is none of."""
    known = found()
    if unknown := set(named) - set(known):
        raise LookupError(f"no peer {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    able = []
    for name in sorted(named or known, key=lambda name: (not name.startswith("topwork"), name)):
        kind = known[name]
        missing = kind().missing() if part.name in kind.parts else "skipped"
        if missing is None:
            able.append(kind)
        elif missing != "skipped":
            say(f"without {name}: {missing}")
    return able


def turns(part: Part, able: list[type[Peer] | type[Library]], settings: Mapping[str, Any]) -> list[Turn]:
    """Round by round; each round begins with another contender, so that a machine that slows down slows them alike. Peers, which
    start slowly and are far apart, may have fewer rounds."""
    return [
        Turn(part, number, kind, part.open_loop and number < settings["open_rounds"])
        for number in range(settings["rounds"])
        for kind in able[number % len(able) :] + able[: number % len(able)]
        if kind.name.startswith("topwork") or number < settings["peer_rounds"]
    ]  # fmt: skip


@dataclass
class Progress:
    """Lines on stderr, with the minutes that are left by the estimate, corrected by what the turns so far really took."""

    left: float
    spent: float = 0.0
    expected: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def say(self, words: str) -> None:
        elapsed = time.monotonic() - self.began
        print(f"[{elapsed // 60:2.0f}:{elapsed % 60:02.0f}, {self.minutes()} left] {words}", file=sys.stderr, flush=True)

    def minutes(self) -> str:
        scale = self.spent / self.expected if self.expected else 1.0
        return f"about {max(1, round(self.left * scale / 60))} min"

    def done(self, estimate: float, took: float) -> None:
        self.left -= estimate
        self.expected += estimate
        self.spent += took
