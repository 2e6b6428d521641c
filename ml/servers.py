"""Several servers that hold one model: the least busy is asked first, one that fails rests.

    servers = Servers([Server(url, client), ...])
    async with servers.take() as server: ...     # waits while all of them rest
    servers.rest(server, seconds=2.0)            # seconds: what it asked for, or None
    servers.praise(server)                       # it answered: its next rest is a short one

What a server speaks is its client's affair.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

ClientT = TypeVar("ClientT")


@dataclass(frozen=True)
class Pauses:
    """How long a server rests: doubling from ``first`` to ``longest``, in seconds."""

    first: float = 0.5
    longest: float = 30.0
    asked: float = 60.0  # the longest rest that a server may ask for

    def of(self, failures: int, asked: float | None) -> float:
        """Return the rest after so many failures in a row, cut by up to a half."""
        own = min(self.first * 2.0 ** (failures - 1), self.longest) * random.uniform(0.5, 1.0)
        return own if asked is None else max(own, min(asked, self.asked))


@dataclass(eq=False)
class Server(Generic[ClientT]):
    """One of them, and what is known about it."""

    url: str
    client: ClientT
    known: bool = False  # it has said what it holds since it last failed
    busy: int = 0  # answers under way
    failures: int = 0  # in a row
    rests_until: float = 0.0


class Servers(Generic[ClientT]):
    """Chooses who writes next. ``clock`` gives seconds, as the event loop does."""

    def __init__(
        self,
        servers: Sequence[Server[ClientT]],
        pauses: Pauses,
        clock: Callable[[], float] | None = None,
    ) -> None:
        assert servers, "no servers"
        self.all = list(servers)
        self._pauses, self._clock = pauses, clock

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Server[ClientT]]:
        """Yield the least busy server that does not rest; wait for one if need be.

        One that comes out of a rest is tried with a single answer while there are others.
        """
        while not (awake := [s for s in self.all if s.rests_until <= self._now()]):
            await asyncio.sleep(min(s.rests_until for s in self.all) - self._now())
        server = min(awake, key=lambda s: (s.failures > 0 and s.busy > 0, s.busy))
        server.busy += 1
        try:
            yield server
        finally:
            server.busy -= 1

    def rest(self, server: Server[ClientT], asked: float | None = None) -> None:
        """Leave a server alone for a while.

        All answers under way fail together when a server does: that is one failure.
        """
        server.known = False
        if server.rests_until <= self._now():
            server.failures += 1
            server.rests_until = self._now() + self._pauses.of(server.failures, asked)

    def praise(self, server: Server[ClientT]) -> None:
        """Forget a server's failures."""
        server.failures = 0
