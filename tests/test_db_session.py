"""Transactions, SQLite's traps, the column types."""

import asyncio
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from db import jobs, queries
from db.models import Generation, Job, JobStatus, ModelVersion, Rating, User
from db.session import BUSY_MILLISECONDS, Database, DatabaseSettings, connect
from tests.db_helpers import (
    OWNER,
    SOON,
    STRANGER,
    add_jobs,
    add_story,
    add_user,
    columns,
    doomed_write,
    is_sqlite,
    read_job,
    set_job,
)

INDIA = timezone(timedelta(hours=5, minutes=30))


async def language(database: Database, user_id: int = OWNER) -> str | None:
    async with database.read() as session:
        found: str | None = await session.scalar(select(User.language).where(User.id == user_id))
        return found


# Transactions


async def test_write_is_kept_at_the_end_of_the_block(database: Database) -> None:
    await add_user(database)
    assert await language(database) == "ru"


async def test_error_undoes_everything_that_was_written(database: Database) -> None:
    await add_user(database)
    async with doomed_write(database) as session:
        await queries.remember_user(session, OWNER, "en")
        await queries.remember_user(session, STRANGER, "en")
    assert await language(database) == "ru"
    assert await language(database, STRANGER) is None


async def test_error_comes_out_of_the_block(database: Database) -> None:
    async def write() -> None:
        async with database.write():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write()


async def test_rollback_undoes_a_claim(database: Database) -> None:
    """SQLite's driver opens no transaction before a statement that begins with WITH."""
    ids = await add_jobs(database, 2)
    before = [columns(await read_job(database, job_id)) for job_id in ids]
    async with doomed_write(database) as session:
        assert len(await jobs.claim(session, "a", 2)) == 2
    assert [columns(await read_job(database, job_id)) for job_id in ids] == before


async def test_rollback_undoes_a_statement_that_the_driver_does_not_know_as_a_write(
    sqlite: Database,
) -> None:
    ids = await add_jobs(sqlite, 1)
    claim = "WITH due AS (SELECT id FROM jobs) UPDATE jobs SET attempts = 1 WHERE id IN due"
    async with doomed_write(sqlite) as session:
        await session.execute(text(claim))
        await session.execute(text("CREATE TABLE later (id INTEGER)"))
    assert (await read_job(sqlite, ids[0])).attempts == 0
    async with sqlite.read() as session:
        tables = await session.scalars(text("SELECT name FROM sqlite_master"))
        assert "later" not in list(tables)


async def test_cancelled_writer_lets_go_of_the_database(database: Database) -> None:
    await add_user(database)
    holds = asyncio.Event()

    async def write_for_ever() -> None:
        async with database.write() as session:
            await queries.remember_user(session, OWNER, "en")
            holds.set()
            await asyncio.Event().wait()

    writer = asyncio.create_task(write_for_ever())
    await holds.wait()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert await language(database) == "ru"
    async with asyncio.timeout(BUSY_MILLISECONDS / 2000):
        await add_user(database, language="en")


async def test_nothing_is_kept_of_what_a_reader_writes(database: Database) -> None:
    async with database.read() as session:
        await queries.remember_user(session, OWNER, "ru")
    assert await language(database) is None


async def test_rows_stay_readable_after_their_session(database: Database) -> None:
    await add_user(database)
    async with database.write() as session:
        written = await session.get_one(User, OWNER)
    async with database.read() as session:
        read = await session.get_one(User, OWNER)
    assert (written.language, read.language) == ("ru", "ru")


# Readers and writers


async def test_reader_does_not_wait_for_a_writer_and_sees_the_state_before(
    database: Database,
) -> None:
    await add_user(database)
    async with database.write() as session:
        await queries.remember_user(session, OWNER, "en")
        async with asyncio.timeout(BUSY_MILLISECONDS / 2000):
            assert await language(database) == "ru"
    assert await language(database) == "en"


async def test_writer_does_not_wait_for_a_reader(database: Database) -> None:
    await add_user(database)
    async with database.read() as session:
        assert await session.scalar(select(User.language)) == "ru"
        async with asyncio.timeout(BUSY_MILLISECONDS / 2000):
            await add_user(database, language="en")
        if is_sqlite(database):  # PostgreSQL shows each statement what is committed by then
            assert await session.scalar(select(User.language)) == "ru"
    assert await language(database) == "en"


async def test_writers_come_one_after_another_and_lose_nothing(sqlite: Database) -> None:
    """A writer that begins as a reader fails half-way: "database is locked", at once."""
    (job_id,) = await add_jobs(sqlite, 1)
    start = asyncio.Barrier(8)

    async def count() -> None:
        await start.wait()
        async with sqlite.write() as session:
            job = await session.get_one(Job, job_id)
            await asyncio.sleep(0)
            job.attempts += 1

    await asyncio.gather(*(count() for _ in range(8)))
    assert (await read_job(sqlite, job_id)).attempts == 8


async def test_writer_holds_the_lock_from_its_first_moment(sqlite: Database) -> None:
    await add_user(sqlite)
    async with asyncio.TaskGroup() as group, sqlite.write() as session:
        assert await session.scalar(select(User.language)) == "ru"  # has only read so far
        second = group.create_task(add_user(sqlite, language="en"))
        await asyncio.wait({second}, timeout=SOON)
        assert not second.done()
    assert await language(sqlite) == "en"


async def test_writers_in_two_processes_wait_for_each_other(sqlite: Database) -> None:
    await add_user(sqlite)
    other = connect(sqlite.engine.url.render_as_string(hide_password=False))
    async with asyncio.TaskGroup() as group, sqlite.write() as session:
        await queries.remember_user(session, OWNER, "en")
        second = group.create_task(add_user(other, language="fr"))
        await asyncio.wait({second}, timeout=SOON)
        assert not second.done()
    await other.close()
    assert await language(sqlite) == "fr"


# SQLite's connections


@pytest.mark.parametrize("writes", [True, False])
async def test_every_connection_has_its_pragmas(sqlite: Database, writes: bool) -> None:
    pragmas = {
        "journal_mode": "wal",
        "busy_timeout": BUSY_MILLISECONDS,
        "foreign_keys": 1,
        "synchronous": 1,  # NORMAL
    }
    await sqlite.close()  # the pool starts anew

    async def check(session: AsyncSession) -> None:
        for name, value in pragmas.items():
            assert await session.scalar(text(f"PRAGMA {name}")) == value, name

    async with sqlite.read() as first, sqlite.read() as second, sqlite.read() as third:
        for session in (first, second, third):
            await check(session)
        if writes:
            async with sqlite.write() as session:
                await check(session)


async def test_connection_that_comes_back_to_the_pool_keeps_its_pragmas(sqlite: Database) -> None:
    for _ in range(3):
        async with sqlite.write() as session:
            assert await session.scalar(text("PRAGMA foreign_keys")) == 1
        async with sqlite.read() as session:
            assert await session.scalar(text("PRAGMA foreign_keys")) == 1


async def test_connect_makes_the_folder_of_the_file(tmp_path: Path) -> None:
    database = connect(f"sqlite+aiosqlite:///{tmp_path}/data/deep/test.db")
    assert (tmp_path / "data" / "deep").is_dir()
    async with database.write() as session:
        assert await session.scalar(text("SELECT 1")) == 1
    await database.close()
    assert (tmp_path / "data" / "deep" / "test.db").is_file()


async def test_connect_makes_no_folder_for_a_database_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite://"):
        database = connect(url)
        async with database.write() as session:
            assert await session.scalar(text("SELECT 1")) == 1
        await database.close()
    assert os.listdir(tmp_path) == []


# Foreign keys


async def test_job_of_an_unknown_user_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            await jobs.enqueue(
                session, user_id=1, chat_id=1, private=True, request_message_id=1, prompt="Я"
            )


async def test_answer_of_an_unknown_model_is_refused_and_the_job_stays_claimed(
    database: Database,
) -> None:
    (job_id,) = await add_jobs(database, 1)
    async with database.write() as session:
        await jobs.claim(session, "a", 1)
    answer = jobs.Answer("Я", 404, 1, {}, 1, "stop", datetime.now(UTC))
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            await jobs.finish(session, jobs.Claim(job_id, "a", 1), [answer])
    assert (await read_job(database, job_id)).status is JobStatus.RUNNING


async def test_user_who_goes_takes_everything_of_his_along(database: Database) -> None:
    kept = {}
    for user_id in (OWNER, STRANGER):
        job_id, (generation_id,) = await add_story(database, user_id=user_id)
        async with database.write() as session:
            await queries.rate(session, generation_id, user_id, 1)
        kept[user_id] = [job_id, generation_id]
    async with database.write() as session:
        await session.execute(delete(User).where(User.id == OWNER))
    async with database.read() as session:
        assert list(await session.scalars(select(Job.id))) == kept[STRANGER][:1]
        assert list(await session.scalars(select(Generation.id))) == kept[STRANGER][1:]
        assert list(await session.scalars(select(Rating.user_id))) == [STRANGER]


async def test_model_that_has_answered_cannot_be_deleted(database: Database) -> None:
    await add_story(database)
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            await session.execute(delete(ModelVersion))


# Times


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2024, 7, 1, 2, 15, 30, 123456, tzinfo=INDIA),  # still June in UTC
        datetime(2024, 12, 31, 23, 59, 59, 999999, tzinfo=ZoneInfo("America/New_York")),
        datetime(2024, 6, 6, tzinfo=UTC),
        datetime(1799, 6, 6, 12, tzinfo=UTC),
    ],
    ids=str,
)
async def test_moment_comes_back_equal_and_in_utc(database: Database, moment: datetime) -> None:
    (job_id,) = await add_jobs(database, 1)
    async with database.write() as session:
        (await session.get_one(Job, job_id)).finished_at = moment
    stored = (await read_job(database, job_id)).finished_at
    assert stored == moment
    assert stored is not None
    assert stored.tzinfo is UTC
    assert stored.utcoffset() == timedelta(0)


async def test_moments_of_different_zones_are_compared_as_moments(database: Database) -> None:
    (job_id,) = await add_jobs(database, 1)
    moment = datetime(2024, 7, 1, 2, 15, tzinfo=INDIA)
    await set_job(database, job_id, finished_at=moment)
    same = moment.astimezone(ZoneInfo("America/New_York"))
    little = timedelta(microseconds=1)
    async with database.read() as session:
        for low, high, found in [
            (same, same, job_id),
            (same - little, same + little, job_id),
            (same + little, same + 2 * little, None),
            (same - 2 * little, same - little, None),
        ]:
            query = select(Job.id).where(Job.finished_at >= low, Job.finished_at <= high)
            assert await session.scalar(query) == found


async def test_no_moment_stays_none(database: Database) -> None:
    (job_id,) = await add_jobs(database, 1)
    await set_job(database, job_id, finished_at=datetime.now(UTC))
    await set_job(database, job_id, finished_at=None)
    assert (await read_job(database, job_id)).finished_at is None


async def test_moment_without_a_zone_is_rejected(database: Database) -> None:
    (job_id,) = await add_jobs(database, 1)
    naive = datetime(2024, 6, 6, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(StatementError, match="a moment without a zone: 2024-06-06"):
        await set_job(database, job_id, finished_at=naive)
    with pytest.raises(StatementError, match="a moment without a zone"):
        async with database.read() as session:
            await session.scalar(select(Job.id).where(Job.available_at <= naive))
    assert (await read_job(database, job_id)).finished_at is None


# Words and numbers


async def test_status_is_stored_as_its_word(database: Database) -> None:
    await add_jobs(database, 1)
    async with database.read() as session:
        assert await session.scalar(text("SELECT status FROM jobs")) == "queued"


# Settings


def test_settings_name_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # away from a developer's .env
    default = "sqlite+aiosqlite:///data/neuropushkin.db"
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert DatabaseSettings().database_url == default
    monkeypatch.setenv("DATABASE_URL", "")
    assert DatabaseSettings().database_url == default
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql+asyncpg://a/b\nBOT_TOKEN=1:other\n")
    monkeypatch.delenv("DATABASE_URL")
    assert DatabaseSettings().database_url == "postgresql+asyncpg://a/b"
