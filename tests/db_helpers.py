"""What the tests of the database share: rows to start from, ways to look at them, a clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import delete, inspect, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from db import jobs, queries
from db.jobs import Answer, Claim
from db.models import Generation, Job, JobStatus, now
from db.session import Database

OWNER, STRANGER = 5_000_000_001, 5_000_000_002  # Telegram's ids outgrow 32 bits
GROUP = -1_001_234_567_890
SOON = 0.05  # seconds in which another task gets as far as it can

_messages = count(1)


class Clock:
    """A clock that stands still until it is moved; put in place of a module's ``now``."""

    def __init__(self) -> None:
        self.moment = datetime(2030, 6, 6, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def move(self, by: timedelta) -> None:
        self.moment += by


def is_sqlite(database: Database) -> bool:
    return database.engine.dialect.name == "sqlite"


def columns(row: Any) -> dict[str, Any]:
    """Return a row's columns as a dict, to compare with another time's."""
    return {column.key: getattr(row, column.key) for column in inspect(type(row)).column_attrs}


@asynccontextmanager
async def doomed_write(database: Database) -> AsyncIterator[AsyncSession]:
    """Open a transaction that ends in an error."""
    with suppress(ZeroDivisionError):
        async with database.write() as session:
            yield session
            raise ZeroDivisionError


async def add_user(database: Database, user_id: int = OWNER, language: str = "ru") -> None:
    async with database.write() as session:
        await queries.remember_user(session, user_id, language)


async def add_model(database: Database, name: str = "pushkin", version: str = "1") -> int:
    async with database.write() as session:
        return await queries.register_model(
            session, name=name, version=version, prompt_tokens=8, prompt_characters=30, meta={}
        )


async def add_job(database: Database, *, user_id: int = OWNER, chat_id: int | None = None) -> int:
    """Enqueue a job of its own request message, and its user."""
    message_id = next(_messages)
    async with database.write() as session:
        await queries.remember_user(session, user_id, "ru")
        job = await jobs.enqueue(
            session,
            user_id=user_id,
            chat_id=chat_id or user_id,
            private=chat_id is None,
            request_message_id=message_id,
            prompt=f"Глава {message_id}",
        )
        return job.id


async def add_jobs(database: Database, number: int) -> list[int]:
    return [await add_job(database) for _ in range(number)]


async def read_job(database: Database, job_id: int) -> Job:
    async with database.read() as session:
        return await session.get_one(Job, job_id)


async def set_job(database: Database, job_id: int, **values: Any) -> None:
    """Change a row behind the queue's back."""
    async with database.write() as session:
        await session.execute(update(Job).where(Job.id == job_id).values(**values))


async def silence(database: Database, job_id: int) -> None:
    """Let the lease of a running job run out."""
    await set_job(database, job_id, lease_until=now() - timedelta(seconds=1))


async def claim_all(database: Database, worker: str = "a", limit: int = 100) -> list[Claim]:
    """Claim what is due, oldest first."""
    async with database.write() as session:
        claimed = await jobs.claim(session, worker, limit)
        found = [Claim(job.id, worker, job.attempts) for job in claimed]
        return sorted(found, key=lambda claim: claim.job_id)


async def rescue(database: Database) -> int:
    async with database.write() as session:
        return await jobs.rescue(session)


def an_answer(model_version_id: int, text: str = "Все счастливы.", **changes: Any) -> Answer:
    values: dict[str, Any] = {
        "text": text,
        "model_version_id": model_version_id,
        "seed": 7,
        "settings": {},
        "tokens": 3,
        "finish_reason": "stop",
        "started_at": now(),
    }
    return Answer(**values | changes)


async def add_story(
    database: Database, *, user_id: int = OWNER, texts: tuple[str, ...] = ("Все счастливы.",)
) -> tuple[int, list[int]]:
    """Bring a job to its end; return its id and its generations' ids."""
    model = await add_model(database)
    job_id = await add_job(database, user_id=user_id)
    async with database.write() as session:
        claimed = await jobs.claim(session, "storyteller", 100)
        assert [job.id for job in claimed] == [job_id], "other jobs were in the queue"
        claim = Claim(job_id, "storyteller", claimed[0].attempts)
        assert await jobs.finish(session, claim, [an_answer(model, text) for text in texts])
    async with database.read() as session:
        ids = await session.scalars(
            select(Generation.id).where(Generation.job_id == job_id).order_by(Generation.variant)
        )
        return job_id, list(ids)


async def clear_jobs(database: Database) -> None:
    async with database.write() as session:
        await session.execute(delete(Job))


async def job_in(database: Database, status: JobStatus) -> Claim:
    """Bring a new job into a status; return the hold that worker "a" has or had on it.

    No other job may be queued.
    """
    job_id = await add_job(database)
    claim = Claim(job_id, "a", 1)
    assert await claim_all(database) == [claim], "other jobs were in the queue"
    async with database.write() as session:
        match status:
            case JobStatus.DONE:
                assert await jobs.finish(session, claim, [])
            case JobStatus.FAILED:
                assert await jobs.fail(session, claim, "чернила высохли", retry=False)
            case JobStatus.CANCELLED:
                assert await jobs.cancel(session, job_id, OWNER)
    if status == JobStatus.QUEUED:
        await silence(database, job_id)
        assert await rescue(database) == 1
    return claim
