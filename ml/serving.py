"""The engines of the versions that the table serves: loaded beside each other, swapped, closed.

    serving = Serving(load, note)
    serving.add(version, engine)              # what the worker was started with
    await serving.follow([active, candidate])  # what the table says now; again and again
    held = serving.take(job_id)               # held.engine writes it, held.version is named
    serving.give_back(held)

A version is loaded in the background while the others write; from then on new jobs go to it, and
the former one's engine is closed after its last job. One that cannot be loaded is noted and tried
again after a minute, or when the table has served something else in between; the former goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ml.engine import Engine, EngineError
from ml.registry import RegistryError

# Versions that write at a time: the active one and a candidate. With one that is loaded or still
# finishes its jobs, three engines are the most in memory.
WRITING = 2
RETRY_AFTER = 60.0  # seconds: what a version lacks may be put there
# Multiples of the golden ratio, less their whole part, fill 0..1 evenly (D. Knuth, "The Art of
# Computer Programming", volume 3, section 6.4): of any jobs in a row a share gets its part.
_GOLDEN = 0.6180339887498949

log = logging.getLogger("worker")


@dataclass(frozen=True)
class Served:
    """A version as the table serves it; ``share`` (0..1) is a candidate's part of the jobs."""

    id: int
    name: str
    version: str
    folder: str | None  # None: what a worker was started with
    share: float

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass
class Open:
    """A version in memory and how many jobs it writes."""

    version: Served
    engine: Engine
    jobs: int = 0


Load = Callable[[Served], Awaitable[Engine]]  # raises EngineError or RegistryError
Note = Callable[[Served, str | None], Awaitable[None]]  # why it cannot be loaded; None: it is


class Serving:
    """Knows the engines by their version's id; ``_active`` writes what no candidate does."""

    def __init__(self, load: Load, note: Note) -> None:
        self._load, self._note = load, note
        self._wanted: dict[int, Served] = {}
        self._open: dict[int, Open] = {}
        self._active = 0
        self._failed: dict[int, float] = {}  # when to try again, by the loop's clock
        self._loading: asyncio.Task[None] | None = None

    def add(self, version: Served, engine: Engine) -> None:
        """Let a started engine write until the table's own versions do."""
        self._open[version.id] = Open(version, engine)
        self._active = version.id

    async def follow(self, versions: Sequence[Served]) -> None:
        """Take over what the table serves: the active version first, then a candidate, if any."""
        self._wanted = {version.id: version for version in versions}
        moment = asyncio.get_running_loop().time()
        self._failed = {
            version_id: again
            for version_id, again in self._failed.items()
            if version_id in self._wanted and again > moment
        }
        if self._loading and self._loading.done():
            loading, self._loading = self._loading, None
            loading.result()  # a mistake of ours ends the worker
        if versions and versions[0].id in self._open and versions[0].id != self._active:
            self._active = versions[0].id
            log.info("new stories are written by %s", versions[0])
        for held in list(self._open.values()):
            kept = held.version.id == self._active or held.version.id in self._wanted
            if not kept and not held.jobs:
                del self._open[held.version.id]
                await held.engine.close()
                log.info("closed %s", held.version)
        away = self._wanted.keys() - self._open.keys() - self._failed.keys()
        if away and self._loading is None and len(self._open) <= WRITING:
            coming = next(version for version in versions if version.id in away)
            self._loading = asyncio.create_task(self._bring(coming))

    async def settle(self, versions: Sequence[Served]) -> None:
        """Follow the table and wait until all that can be loaded is."""
        await self.follow(versions)
        while self._loading:
            await asyncio.wait([self._loading])
            await self.follow(versions)

    async def _bring(self, version: Served) -> None:
        try:
            engine = await self._load(version)
        except (EngineError, RegistryError) as error:
            self._failed[version.id] = asyncio.get_running_loop().time() + RETRY_AFTER
            log.error("%s is not served: %s", version, error)
            await self._note(version, str(error))
            return
        self._open[version.id] = Open(version, engine)
        log.info("loaded %s", version)
        await self._note(version, None)

    def take(self, job_id: int) -> Open:
        """Return what writes this job, the same for its every attempt while the table stays so."""
        chosen, point = self._active, job_id * _GOLDEN % 1
        for version in self._wanted.values():
            if point < version.share and version.id in self._open:
                chosen = version.id
        held = self._open[chosen]
        held.jobs += 1
        return held

    def give_back(self, held: Open) -> None:
        """Note that a job taken here has ended."""
        held.jobs -= 1

    async def close(self) -> None:
        """Close all engines, one that is loading after it has loaded."""
        if self._loading:
            await asyncio.wait([self._loading])  # a thread that loads cannot be stopped
        for held in self._open.values():
            await held.engine.close()
