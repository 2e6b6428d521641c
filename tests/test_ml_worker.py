"""The worker against a real queue, with an engine that echoes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from db import jobs, queries, versions
from db.models import Generation, Job, JobStatus, ModelVersion, now
from db.session import Database
from ml.engine import (
    EchoEngine,
    Engine,
    EngineError,
    GenerationError,
    ModelCard,
    Request,
    Stream,
)
from ml.registry import RegistryError
from ml.serving import Served
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
    for _ in range(1200):
        job = await read(database, job_id)
        if found(job):
            return job
        await asyncio.sleep(0.05)
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
    job_id = await add(database)
    with pytest.raises(EngineError, match="thread"):
        await Worker(database, Failing(EngineError("the thread died")), slots=1).run()
    job = await read(database, job_id)  # which another worker may take at once, unharmed
    assert (job.status, job.attempts, job.worker) == (JobStatus.QUEUED, 0, None)


async def test_an_engine_that_dies_lets_the_others_finish(database: Database) -> None:
    class Dying(EchoEngine):
        async def submit(self, request: Request) -> Stream:
            if request.prompt == "смерть":
                raise EngineError("the thread died")
            return await super().submit(request)

    first = await add(database)
    worker = Worker(database, Dying(delay=0.03, words=20), slots=2)
    running = asyncio.create_task(worker.run())
    await until(database, first, lambda job: job.status == JobStatus.RUNNING)
    last = await add(database, number=2, prompt="смерть")
    with pytest.raises(EngineError, match="thread"):
        await running
    assert (await read(database, first)).status == JobStatus.DONE
    assert (await read(database, last)).attempts == 0


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
    monkeypatch.setattr("db.session.PAUSES", (0.0, 0.0, 0.0))
    job_id = await add(sqlite)
    with suppress(TimeoutError):
        await asyncio.wait_for(run_empty(sqlite, EchoEngine(words=3)), 10)
    assert (await read(sqlite, job_id)).status == JobStatus.DONE
    assert not refusals


async def test_a_worker_that_finds_its_leases_run_out_renews_them_before_it_rescues(
    database: Database, monkeypatch: pytest.MonkeyPatch, working: Callable[..., Worker]
) -> None:
    def away() -> Any:
        raise OSError("the database is away")

    monkeypatch.setattr("ml.worker.BEAT", 0.0)
    monkeypatch.setattr("ml.worker.RESCUE_EVERY", 0.0)
    job_id = await add(database)
    working(EchoEngine(delay=0.05, words=40))
    await until(database, job_id, lambda job: job.partial)
    write = database.write
    with monkeypatch.context() as patched:
        patched.setattr(database, "write", away)
        async with write() as session:
            await session.execute(update(Job).values(lease_until=now() - timedelta(seconds=1)))
    job = await until(database, job_id, lambda job: job.status == JobStatus.DONE)
    assert job.attempts == 1


@dataclass
class Table:
    """Versions as retrain and an admin would write them, and engines that say who they are."""

    database: Database
    loaded: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # loading waits for it
    ink: asyncio.Event = field(default_factory=asyncio.Event)  # "first" waits for it

    async def add(self, version: str) -> int:
        async with self.database.write() as session:
            row = await versions.add_candidate(
                session,
                name="pushkin",
                version=version,
                folder=f"models/pushkin/{version}",
                parent_id=None,
                prompt_tokens=300,
                prompt_characters=1000,
                meta={},
            )
        return row.id

    async def activate(self, version_id: int) -> None:
        async with self.database.write() as session:
            await versions.activate(session, version_id)

    async def share(self, version_id: int, share: float) -> None:
        async with self.database.write() as session:
            await versions.set_share(session, version_id, share)

    async def trouble(self, version_id: int) -> str | None:
        async with self.database.read() as session:
            return (await session.get_one(ModelVersion, version_id)).trouble

    async def noted(self, version_id: int, trouble: str | None) -> None:
        async with asyncio.timeout(60):
            while await self.trouble(version_id) != trouble:
                await asyncio.sleep(0.05)

    async def load(self, version: Served) -> Engine:
        await self.gate.wait()
        if version.version in self.broken:
            raise RegistryError(f"{version.folder}/model.safetensors: corrupted")
        self.loaded.append(version.version)
        return Named(version.version, self)


class Named(EchoEngine):
    """Writes its version's name, and notes when it is closed."""

    def __init__(self, version: str, table: Table, delay: float = 0.02, words: int = 10) -> None:
        super().__init__(delay=delay, words=words)
        self.version, self.table = version, table

    @property
    def card(self) -> ModelCard:
        return replace(super().card, name="pushkin", version=self.version)

    async def submit(self, request: Request) -> Stream:
        return await super().submit(replace(request, prompt=self.version, context=""))

    async def _write(self, stream: Stream, words: list[str], limit: int) -> None:
        if self.version == "first":
            await self.table.ink.wait()
        await super()._write(stream, words, limit)

    async def close(self) -> None:
        assert not self._tasks, f"{self.version} was closed while it wrote"
        self.table.closed.append(self.version)


@pytest.fixture
async def table(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr("ml.worker.FOLLOW_EVERY", 0.05)
    monkeypatch.setattr("ml.worker.TICK", 0.02)
    table = Table(sqlite)
    table.gate.set()
    table.ink.set()
    return table


@pytest.fixture
async def serve(table: Table) -> AsyncIterator[Callable[..., Worker]]:
    """Start workers of "first" that follow the table, ended with the test."""
    running: dict[Worker, asyncio.Task[None]] = {}

    def start(slots: int = 4, **engine: Any) -> Worker:
        first = Named("first", table, **engine)
        worker = Worker(table.database, first, slots=slots, load=table.load)
        running[worker] = asyncio.create_task(worker.run())
        return worker

    yield start
    table.gate.set()  # a test that failed may have left them
    table.ink.set()
    for worker, task in running.items():
        worker.drain()
        await task


async def versions_of(database: Database) -> dict[int, str]:
    """Return who is named as each job's writer, and check that he is the one who wrote."""
    async with database.read() as session:
        rows = await session.execute(
            select(Generation.job_id, ModelVersion.version, Generation.text).join(
                Generation.model_version
            )
        )
        found = {job_id: (version, text) for job_id, version, text in rows}
    for version, text in found.values():
        assert set(text.rstrip(".").split()) == {version}
    return {job_id: version for job_id, (version, _) in found.items()}


async def done(database: Database, ids: Sequence[int]) -> None:
    for job_id in ids:
        await until(database, job_id, lambda job: job.status == JobStatus.DONE)


async def eventually(found: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not found():
            await asyncio.sleep(0.05)


async def test_a_swap_between_jobs_drops_none_and_pauses_none(
    table: Table, serve: Callable[..., Worker]
) -> None:
    table.gate.clear()
    serve(slots=50)
    ids = [await add(table.database)]
    await done(table.database, ids)
    await table.activate(await table.add("second"))
    ids += [await add(table.database, number=2 + n) for n in range(5)]
    await done(table.database, ids)  # while the second one is loading
    assert table.loaded == []
    table.ink.clear()
    begun = [await add(table.database, number=10 + n) for n in range(3)]
    for job_id in begun:
        await until(table.database, job_id, lambda job: job.status == JobStatus.RUNNING)
    table.gate.set()
    late: list[int] = []
    async with asyncio.timeout(60):
        while "second" not in (await versions_of(table.database)).values():
            late.append(await add(table.database, number=100 + len(late)))
            await asyncio.sleep(0.1)
    assert table.closed == []  # it has not finished what it began
    table.ink.set()
    await done(table.database, [*begun, *late])
    found = await versions_of(table.database)
    assert {found[job_id] for job_id in [*ids, *begun]} == {"first"}
    assert found[late[-1]] == "second"
    for job_id in found:
        assert (await read(table.database, job_id)).attempts == 1
    await eventually(lambda: table.closed == ["first"])
    assert table.loaded == ["second"]


async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_writing(
    table: Table,
    serve: Callable[..., Worker],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ml.serving.RETRY_AFTER", 0.2)
    table.broken = {"second"}
    serve()
    await done(table.database, [await add(table.database)])
    second = await table.add("second")
    await table.activate(second)
    await eventually(lambda: "is not served" in caplog.text)
    ids = [await add(table.database, number=2 + n) for n in range(3)]
    await done(table.database, ids)
    assert set((await versions_of(table.database)).values()) == {"first"}
    await table.noted(second, "models/pushkin/second/model.safetensors: corrupted")
    table.broken = set()  # mended: it is tried again
    await eventually(lambda: table.closed == ["first"])
    assert table.loaded == ["second"]
    await table.noted(second, None)


async def test_a_version_that_workers_are_started_with_again_is_no_trouble(table: Table) -> None:
    async with table.database.write() as session:
        first = await queries.register_model(session, **vars(Named("first", table).card))
        await versions.set_trouble(session, first, "MODEL is pushkin second now")
    await Worker(table.database, Named("first", table), slots=1).run(until_empty=True)
    assert await table.trouble(first) is None


async def test_a_restarted_worker_begins_with_the_active_version(table: Table) -> None:
    job_id = await add(table.database)
    async with table.database.write() as session:
        card = Named("first", table).card
        await queries.register_model(session, **vars(card))
    await table.activate(await table.add("second"))
    worker = Worker(table.database, Named("first", table), slots=1, load=table.load)
    await worker.run(until_empty=True)
    assert await versions_of(table.database) == {job_id: "second"}
    assert sorted(table.closed) == ["first", "second"]


async def test_a_candidate_writes_its_share_and_the_active_version_the_rest(
    table: Table,
) -> None:
    ids = [await add(table.database, number=n) for n in range(60)]
    async with table.database.write() as session:
        await queries.register_model(session, **vars(Named("first", table).card))
    await table.share(await table.add("trial"), 0.3)
    worker = Worker(table.database, Named("first", table, delay=0.0), slots=20, load=table.load)
    await worker.run(until_empty=True)
    found = await versions_of(table.database)
    assert set(found) == set(ids)
    assert list(found.values()).count("trial") == pytest.approx(18, abs=3)
    assert list(found.values()).count("first") == 60 - list(found.values()).count("trial")


async def test_a_worker_that_opens_no_versions_goes_on_with_its_own(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await add(table.database)
    async with table.database.write() as session:
        await queries.register_model(session, **vars(Named("first", table).card))
    second = await table.add("second")
    await table.activate(second)
    await Worker(table.database, Named("first", table), slots=1).run(until_empty=True)
    assert await versions_of(table.database) == {job_id: "first"}
    trouble = "writes only with what it was started with, not with pushkin second"
    assert trouble in caplog.text
    assert trouble in (await table.trouble(second) or "")


async def test_settings_that_cannot_be_fail_the_job_at_once(database: Database) -> None:
    # It was an exception in a task that nobody looked at: the job ran until its lease's end.
    wrong = await add(database, temperature=-1)
    right = await add(database, number=2)
    await run_empty(database, EchoEngine(words=3))
    job = await read(database, wrong)
    assert (job.status, job.attempts) == (JobStatus.FAILED, 1)
    assert job.error is not None
    assert job.error.startswith("temperature must be")
    assert (await read(database, right)).status == JobStatus.DONE
