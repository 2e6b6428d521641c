"""The worker against a real queue, with an engine that echoes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from db import jobs, queries
from db.models import Generation, Job, JobStatus, ModelVersion, now
from db.session import Database
from ml.engine import EchoEngine, EngineError, GenerationError, Request, Stream
from ml.worker import Worker


async def add(database: Database, prompt: str = "Кот", number: int = 1, **settings: object) -> int:
    async with database.write() as session:
        await queries.remember_user(session, 1, "ru")
        job = await jobs.enqueue(
            session,
            user_id=1,
            chat_id=1,
            private=True,
            request_message_id=number,
            prompt=prompt,
            settings=settings,
        )
    return job.id


async def read(database: Database, job_id: int) -> Job:
    async with database.read() as session:
        return await session.get_one(Job, job_id)


async def until(database: Database, job_id: int, found: Callable[[Job], object]) -> Job:
    for _ in range(500):
        job = await read(database, job_id)
        if found(job):
            return job
        await asyncio.sleep(0.02)
    raise AssertionError(f"job {job_id} stays {job.status}: {job.partial!r} {job.error!r}")


async def run_empty(database: Database, engine: EchoEngine, slots: int = 4) -> None:
    await Worker(database, engine, slots=slots).run(until_empty=True)


@pytest.fixture
async def working(database: Database) -> AsyncIterator[Callable[..., Worker]]:
    """Start workers that are ended with the test."""
    workers: dict[Worker, asyncio.Task[None]] = {}

    def start(engine: EchoEngine, slots: int = 4) -> Worker:
        worker = Worker(database, engine, slots=slots)
        workers[worker] = asyncio.create_task(worker.run())
        return worker

    yield start
    for worker, task in workers.items():
        await worker.give_back()
        await task


async def test_a_job_becomes_a_generation(database: Database) -> None:
    job_id = await add(database, max_tokens=5)
    await run_empty(database, EchoEngine(words=10))
    async with database.read() as session:
        generation = (await session.scalars(select(Generation))).one()
        version = (await session.scalars(select(ModelVersion))).one()
    assert (generation.job_id, generation.variant) == (job_id, 0)
    assert generation.text == " Кот Кот Кот Кот Кот."
    assert generation.tokens == 5
    assert generation.finish_reason == "length"
    assert generation.settings["max_tokens"] == 5
    assert (version.name, version.id) == ("echo", generation.model_version_id)
    assert (await read(database, job_id)).status == JobStatus.DONE


async def test_stories_are_written_together_as_far_as_slots_reach(
    database: Database, working: Callable[..., Worker]
) -> None:
    ids = [await add(database, number=i) for i in range(3)]
    working(EchoEngine(delay=0.05, words=1000), slots=2)
    await until(database, ids[0], lambda job: job.partial)
    await until(database, ids[1], lambda job: job.partial)
    assert (await read(database, ids[2])).status == JobStatus.QUEUED


async def test_partial_text_is_streamed_and_the_lease_renewed(
    database: Database, working: Callable[..., Worker]
) -> None:
    job_id = await add(database)
    working(EchoEngine(delay=0.05, words=1000))
    first = await until(database, job_id, lambda job: job.partial)
    second = await until(database, job_id, lambda job: len(job.partial) > len(first.partial))
    assert second.partial.startswith(first.partial)
    assert first.lease_until is not None
    assert second.lease_until is not None
    assert second.lease_until > first.lease_until


async def test_a_cancelled_job_stops_being_written_within_a_second(
    database: Database, working: Callable[..., Worker]
) -> None:
    job_id = await add(database)
    engine = EchoEngine(delay=0.05, words=10_000)
    working(engine)
    await until(database, job_id, lambda job: job.partial)
    async with database.write() as session:
        assert await jobs.cancel(session, job_id, 1)
    loop = asyncio.get_running_loop()
    started = loop.time()
    while engine._tasks:
        await asyncio.sleep(0.01)
    # The engine's own bound is one beat; the rest is for a busy machine.
    assert loop.time() - started < 3
    assert (await read(database, job_id)).status == JobStatus.CANCELLED


async def test_a_worker_that_lost_its_lease_stores_nothing(
    database: Database, working: Callable[..., Worker]
) -> None:
    job_id = await add(database)
    engine = EchoEngine(delay=0.05, words=10_000)
    working(engine)
    await until(database, job_id, lambda job: job.partial)
    async with database.write() as session:
        await session.execute(update(Job).values(worker="another", partial="чужое"))
    while engine._tasks:
        await asyncio.sleep(0.01)
    job = await read(database, job_id)
    assert (job.worker, job.partial, job.status) == ("another", "чужое", JobStatus.RUNNING)


async def test_a_dead_workers_job_is_taken_over(database: Database) -> None:
    job_id = await add(database)
    async with database.write() as session:
        await jobs.claim(session, "dead", 1)
        await session.execute(update(Job).values(lease_until=now() - timedelta(seconds=1)))
    await run_empty(database, EchoEngine(words=3))
    job = await read(database, job_id)
    assert (job.status, job.attempts) == (JobStatus.DONE, 2)


async def test_draining_finishes_what_was_begun_and_takes_nothing_new(
    database: Database,
) -> None:
    job_id = await add(database)
    worker = Worker(database, EchoEngine(delay=0.03, words=30), slots=4)
    running = asyncio.create_task(worker.run())
    await until(database, job_id, lambda job: job.status == JobStatus.RUNNING)
    worker.drain()
    late = await add(database, number=2)
    await running
    assert (await read(database, job_id)).status == JobStatus.DONE
    assert (await read(database, late)).status == JobStatus.QUEUED


async def test_giving_back_leaves_the_jobs_as_if_never_tried(database: Database) -> None:
    job_id = await add(database)
    worker = Worker(database, EchoEngine(delay=0.05, words=1000), slots=4)
    running = asyncio.create_task(worker.run())
    await until(database, job_id, lambda job: job.status == JobStatus.RUNNING)
    await worker.give_back()
    await running
    job = await read(database, job_id)
    assert (job.status, job.attempts, job.worker) == (JobStatus.QUEUED, 0, None)


class Failing(EchoEngine):
    """Fails the first requests, each with the given error."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(words=3)
        self.errors = list(errors)

    async def submit(self, request: Request) -> Stream:
        if self.errors:
            error = self.errors.pop(0)
            if isinstance(error, EngineError):
                raise error
            stream = Stream(on_cancel=lambda: None)
            stream.push(" начало")
            stream.end("error", GenerationError(str(error)))
            return stream
        return await super().submit(request)


async def test_a_failed_story_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, working: Callable[..., Worker]
) -> None:
    monkeypatch.setattr(jobs, "RETRY_AFTER", timedelta(0))
    job_id = await add(database)
    working(Failing(GenerationError("overflow")))
    job = await until(database, job_id, lambda job: job.status == JobStatus.DONE)
    assert job.attempts == 2


async def test_a_story_that_always_fails_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch, working: Callable[..., Worker]
) -> None:
    monkeypatch.setattr(jobs, "RETRY_AFTER", timedelta(0))
    job_id = await add(database)
    working(Failing(*[GenerationError("overflow")] * 9))
    job = await until(database, job_id, lambda job: job.status == JobStatus.FAILED)
    assert (job.attempts, job.error) == (jobs.MAX_ATTEMPTS, "overflow")


async def test_a_dead_engine_ends_the_worker(database: Database) -> None:
    await add(database)
    with pytest.raises(EngineError, match="thread"):
        await Worker(database, Failing(EngineError("the thread died")), slots=1).run()


async def test_a_story_without_words_is_not_delivered(
    database: Database, monkeypatch: pytest.MonkeyPatch, working: Callable[..., Worker]
) -> None:
    monkeypatch.setattr(jobs, "RETRY_AFTER", timedelta(0))

    class Silent(EchoEngine):
        async def submit(self, request: Request) -> Stream:  # noqa: ARG002 (it says nothing)
            stream = Stream(on_cancel=lambda: None)
            stream.push(" \n")
            stream.end("stop")
            return stream

    job_id = await add(database)
    working(Silent())
    job = await until(database, job_id, lambda job: job.status == JobStatus.FAILED)
    assert job.error == "the model wrote nothing"


async def test_a_database_that_is_away_for_a_while_costs_no_story(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    finish, refusals = jobs.finish, [1, 2]

    async def away(*arguments: object) -> bool:
        if refusals:
            refusals.pop()
            raise OperationalError("UPDATE", {}, Exception("database is locked"))
        return await finish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "finish", away)
    monkeypatch.setattr("ml.worker.SETTLE_PAUSES", (0.0, 0.0, 0.0))
    job_id = await add(sqlite)
    with suppress(TimeoutError):
        await asyncio.wait_for(run_empty(sqlite, EchoEngine(words=3)), 10)
    assert (await read(sqlite, job_id)).status == JobStatus.DONE
    assert not refusals
