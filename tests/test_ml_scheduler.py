"""Who writes when: slots, steps, a slow database. Time is counted in an engine's steps.

A step of ``StepEngine`` ends when the worker has done all that it can do by then: what takes it
more than one step would take it forever.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from db import jobs, queries
from db.models import Generation, Job, JobStatus
from db.session import Database
from ml.engine import EchoEngine, ModelCard, Request, Stream
from ml.worker import Worker

FOREVER = 1_000_000
TURNS = 30  # of the event loop: from a piece to the transaction it leads to


class Watched(Database):
    """Knows whether a transaction is under way; ``gate`` holds those that write."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.engine)
        self.under_way = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        with self._counted():
            async with super().read() as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        with self._counted():
            async with super().write() as session:
                yield session
                await self.gate.wait()  # before the commit

    def _counted(self) -> "Counted":
        return Counted(self)

    async def quiet(self) -> None:
        """Wait until the worker waits for the engine."""
        turns = 0
        while turns < TURNS:
            turns = 0 if self.under_way else turns + 1
            await asyncio.sleep(0)


@dataclass
class Counted:
    database: Watched

    def __enter__(self) -> None:
        self.database.under_way += 1

    def __exit__(self, *_: object) -> None:
        self.database.under_way -= 1


class StepEngine:
    """A token a step for everybody; keeps a diary of who came and went at which step."""

    def __init__(self, quiet: Callable[[], Awaitable[None]]) -> None:
        self.steps = self.most = 0
        self.joined: dict[str, int] = {}  # by prompt
        self.left: dict[str, int] = {}
        self._quiet = quiet
        self._open: dict[Stream, Request] = {}

    @property
    def card(self) -> ModelCard:
        return ModelCard("steps", "1", prompt_tokens=300, prompt_characters=1000, meta={})

    async def start(self) -> None:
        """Nothing to load."""

    async def submit(self, request: Request) -> Stream:
        stream = Stream(on_cancel=lambda: self._leave(stream))
        self._open[stream] = request
        self.joined[request.prompt] = self.steps
        self.most = max(self.most, len(self._open))
        return stream

    def _leave(self, stream: Stream) -> None:
        self.left[self._open.pop(stream).prompt] = self.steps

    async def step(self) -> None:
        await self._quiet()
        self.steps += 1
        for stream, request in list(self._open.items()):
            stream.tokens += 1
            stream.push(" слово")
            if stream.tokens >= request.sampling.max_tokens:
                self._leave(stream)
                stream.end("length")
        await asyncio.sleep(0)

    async def close(self) -> None:
        for stream in list(self._open):
            stream.cancel()


async def add(database: Database, prompt: str, *, user_id: int = 1, tokens: int = FOREVER) -> int:
    async with database.write() as session:
        await queries.remember_user(session, user_id, "ru")
        number = await session.scalar(select(func.count()).select_from(Job))
        job = await jobs.enqueue(
            session,
            user_id=user_id,
            chat_id=user_id,
            private=True,
            request_message_id=number or 0,
            prompt=prompt,
            settings={"max_tokens": tokens},
        )
    return job.id


async def count(database: Database, status: JobStatus) -> int:
    async with database.read() as session:
        rows = await session.scalar(
            select(func.count()).select_from(Job).where(Job.status == status)
        )
    return rows or 0


@pytest.fixture
def watched(sqlite: Database) -> Watched:
    return Watched(sqlite)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    """Run a worker meanwhile."""
    running = asyncio.create_task(worker.run())
    yield
    await worker.give_back()
    await running


async def test_waiting_job_joins_within_two_steps_of_a_slot_becoming_free(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.worker.TICK", 3600.0)  # nothing but the free slot wakes the worker
    engine = StepEngine(watched.quiet)
    for number in range(12):
        await add(watched, f"{number}", user_id=1 + number, tokens=3 + number % 4)
    async with working(Worker(watched, engine, slots=3)):
        while await count(watched, JobStatus.DONE) < 12:
            await engine.step()
    assert engine.most == 3
    left = sorted(engine.left.values())
    joined = sorted(engine.joined.values())
    for free, taken in zip(left, joined[3:], strict=False):  # the first three found empty slots
        assert free <= taken <= free + 2


async def test_story_that_takes_long_to_store_keeps_no_slot(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.worker.TICK", 3600.0)
    stored, settle = asyncio.Event(), Worker._settle

    async def late(worker: Worker, change: Callable[[AsyncSession], Awaitable[bool]]) -> bool:
        await stored.wait()
        return await settle(worker, change)

    monkeypatch.setattr(Worker, "_settle", late)
    engine = StepEngine(watched.quiet)
    for number in range(3):
        await add(watched, f"{number}", user_id=1 + number, tokens=2)
    async with working(Worker(watched, engine, slots=1)):
        for _ in range(10):
            await engine.step()
        assert engine.joined["1"] <= engine.left["0"] + 2
        assert "2" not in engine.joined  # as many as there are slots may be on their way
        stored.set()
        while await count(watched, JobStatus.DONE) < 3:
            await engine.step()


async def test_cancelled_story_leaves_at_the_next_step_and_the_next_one_takes_its_slot(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.worker.TICK", 0.0)
    monkeypatch.setattr("ml.worker.BEAT", 0.0)
    engine = StepEngine(lambda: asyncio.sleep(0))
    job_id = await add(watched, "cancelled")
    await add(watched, "next", user_id=2)
    async with working(Worker(watched, engine, slots=1)):
        while "cancelled" not in engine.joined:
            await engine.step()
        async with watched.write() as session:
            assert await jobs.cancel(session, job_id, 1)
        while "cancelled" not in engine.left:  # the worker learns it from a beat
            await engine.step()
        monkeypatch.setattr("ml.worker.TICK", 3600.0)
        monkeypatch.setattr("ml.worker.BEAT", 3600.0)
        engine._quiet = watched.quiet
        for _ in range(4):
            await engine.step()
        assert engine.joined["next"] <= engine.left["cancelled"] + 2


async def test_slow_database_does_not_slow_the_steps(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.worker.TICK", 0.0)
    monkeypatch.setattr("ml.worker.BEAT", 0.0)
    engine = StepEngine(lambda: asyncio.sleep(0))
    worker = Worker(watched, engine, slots=2)
    await add(watched, "а")
    await add(watched, "б", user_id=2)
    async with working(worker):
        while len(engine.joined) < 2:
            await engine.step()
        watched.gate.clear()
        while not watched.under_way:
            await asyncio.sleep(0)
        for _ in range(500):  # while one transaction does not end
            await engine.step()
        await asyncio.sleep(0)
        assert watched.under_way
        for writing in worker._writings.values():
            assert writing.text.count("слово") >= 499
        watched.gate.set()


async def test_thousand_long_jobs_wait_in_the_database_not_in_the_worker(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.worker.TICK", 0.0)
    engine = StepEngine(watched.quiet)
    async with watched.write() as session:
        await queries.remember_user(session, 1, "ru")
        for number in range(1000):
            await jobs.enqueue(
                session,
                user_id=1,
                chat_id=1,
                private=True,
                request_message_id=number,
                prompt="Мороз и солнце " * 50,
            )
    worker = Worker(watched, engine, slots=4)
    async with working(worker):
        for _ in range(50):
            await asyncio.sleep(0)
            while watched.under_way:
                await asyncio.sleep(0)
        assert (len(worker._tasks), len(worker._writings), engine.most) == (4, 4, 4)
        assert await count(watched, JobStatus.RUNNING) == 4


async def test_every_story_of_a_full_queue_is_written_with_no_slot_too_many(
    sqlite: Database,
) -> None:
    class Counting(EchoEngine):
        most = 0

        async def submit(self, request: Request) -> Stream:
            stream = await super().submit(request)
            self.most = max(self.most, len(self._tasks))
            return stream

    engine = Counting(words=2)
    for number in range(40):
        await add(sqlite, f"{number}", user_id=number % 7, tokens=2)
    await Worker(sqlite, engine, slots=4).run(until_empty=True)
    async with sqlite.read() as session:
        assert await session.scalar(select(func.count()).select_from(Generation)) == 40
    assert engine.most <= 4
