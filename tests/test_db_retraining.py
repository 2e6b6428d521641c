"""A retraining goes its way once, one at a time, on both databases."""

import asyncio
from typing import Any

import pytest

from db import retraining
from db.models import Retraining, RetrainingStatus
from db.session import Database
from tests.db_helpers import GROUP, OWNER, SOON, Clock, add_model, columns


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of retrainings, which the test moves."""
    clock = Clock()
    monkeypatch.setattr("db.retraining.now", clock)
    return clock


async def request(database: Database, **settings: Any) -> int | None:
    """Ask for a retraining and return its id."""
    async with database.write() as session:
        asked = await retraining.request(
            session, requested_by=OWNER, chat_id=GROUP, language="ru", settings=settings
        )
        return None if asked is None else asked.id


async def claim(database: Database, worker: str = "a") -> Retraining | None:
    async with database.write() as session:
        return await retraining.claim(session, worker)


async def report(
    database: Database, hold: tuple[int, str, int], step: int = 1, phase: str = "sft"
) -> bool:
    async with database.write() as session:
        return await retraining.report(session, *hold, phase=phase, progress={"step": step})


async def finish(database: Database, hold: tuple[int, str, int], version_id: int | None) -> bool:
    async with database.write() as session:
        return await retraining.finish(
            session, *hold, report={"приговор": "лучше"}, version_id=version_id
        )


async def fail(database: Database, hold: tuple[int, str, int]) -> bool:
    async with database.write() as session:
        return await retraining.fail(session, *hold, error="мало голосов")


async def cancel(database: Database, retraining_id: int) -> bool:
    async with database.write() as session:
        return await retraining.cancel(session, retraining_id)


async def mark_delivered(database: Database, retraining_id: int) -> bool:
    async with database.write() as session:
        return await retraining.mark_delivered(session, retraining_id)


async def undelivered(database: Database) -> list[int]:
    async with database.read() as session:
        return [row.id for row in await retraining.undelivered(session)]


async def read(database: Database, retraining_id: int) -> Retraining:
    async with database.read() as session:
        return await session.get_one(Retraining, retraining_id)


async def retraining_in(database: Database, status: RetrainingStatus) -> tuple[int, str, int]:
    """Bring a new retraining into a status; return the hold that worker "a" has or had on it."""
    retraining_id = await request(database)
    assert retraining_id is not None
    hold = retraining_id, "a", 1
    if status != RetrainingStatus.QUEUED:
        assert await claim(database) is not None
    match status:
        case RetrainingStatus.DONE:
            assert await finish(database, hold, None)
        case RetrainingStatus.FAILED:
            assert await fail(database, hold)
        case RetrainingStatus.CANCELLED:
            assert await cancel(database, retraining_id)
    return hold


OVER = [RetrainingStatus.DONE, RetrainingStatus.FAILED, RetrainingStatus.CANCELLED]
UNDER_WAY = [RetrainingStatus.QUEUED, RetrainingStatus.RUNNING]


# Asking


async def test_request_waits_with_all_that_was_asked(database: Database, clock: Clock) -> None:
    retraining_id = await request(database, cap=10)
    assert retraining_id is not None
    row = await read(database, retraining_id)
    assert (row.requested_by, row.chat_id, row.language) == (OWNER, GROUP, "ru")
    assert (row.status, row.settings) == (RetrainingStatus.QUEUED, {"cap": 10})
    assert (row.phase, row.progress, row.report, row.attempts) == ("", {}, None, 0)
    assert row.created_at == clock.moment
    async with database.read() as session:
        latest = await retraining.latest(session)
    assert latest is not None
    assert columns(latest) == columns(row)


@pytest.mark.parametrize("status", UNDER_WAY)
async def test_while_one_is_under_way_there_is_no_second(
    database: Database, status: RetrainingStatus
) -> None:
    hold = await retraining_in(database, status)
    assert await request(database) is None
    assert await undelivered(database) == [hold[0]]


@pytest.mark.parametrize("status", OVER)
async def test_when_one_is_over_the_next_may_come(
    database: Database, status: RetrainingStatus
) -> None:
    hold = await retraining_in(database, status)
    following = await request(database)
    async with database.read() as session:
        latest = await retraining.latest(session)
    assert latest is not None
    assert latest.id == following != hold[0]


async def test_of_admins_who_ask_at_once_one_gets_it(database: Database) -> None:
    ids = await asyncio.gather(*(request(database) for _ in range(5)))
    assert len([found for found in ids if found is not None]) == 1
    assert len(await undelivered(database)) == 1


async def test_second_admin_waits_for_the_firsts_transaction(database: Database) -> None:
    async with asyncio.TaskGroup() as group, database.write() as session:
        values: dict[str, Any] = {
            "requested_by": 1,
            "chat_id": 1,
            "language": "en",
            "settings": {},
        }
        assert await retraining.request(session, **values) is not None
        second = group.create_task(request(database))
        await asyncio.wait({second}, timeout=SOON)
    assert second.result() is None


async def test_before_the_first_there_is_none(database: Database) -> None:
    async with database.read() as session:
        assert await retraining.latest(session) is None
    assert await claim(database) is None


# Running


async def test_claim_gives_a_lease_to_one_worker(database: Database, clock: Clock) -> None:
    retraining_id = await request(database)
    claimed = await asyncio.gather(*(claim(database, worker) for worker in "abcd"))
    (row,) = [found for found in claimed if found is not None]
    assert (row.id, row.status, row.attempts) == (retraining_id, RetrainingStatus.RUNNING, 1)
    assert row.worker in set("abcd")
    assert row.lease_until == clock.moment + retraining.LEASE
    assert row.started_at == clock.moment


async def test_report_is_stored_and_renews_the_lease(database: Database, clock: Clock) -> None:
    hold = await retraining_in(database, RetrainingStatus.RUNNING)
    for step in range(1, 5):
        clock.move(retraining.LEASE * 0.9)
        assert await report(database, hold, step)
        assert await claim(database, "b") is None
    row = await read(database, hold[0])
    assert (row.phase, row.progress) == ("sft", {"step": 4})


async def test_silent_workers_retraining_is_taken_up_where_it_was(
    database: Database, clock: Clock
) -> None:
    hold = await retraining_in(database, RetrainingStatus.RUNNING)
    await report(database, hold, 7, "preference")
    started_at = clock.moment
    clock.move(retraining.LEASE * 1.1)
    row = await claim(database, "b")
    assert row is not None
    assert row.started_at == started_at  # the first attempt's
    assert (row.id, row.worker, row.attempts) == (hold[0], "b", 2)
    assert (row.phase, row.progress) == ("preference", {"step": 7})
    assert not await report(database, hold, 8)
    assert not await finish(database, hold, None)
    assert not await fail(database, hold)
    after = await read(database, hold[0])
    assert columns(after) == columns(row)


async def test_worker_that_takes_it_back_is_held_by_the_new_attempt_only(
    database: Database, clock: Clock
) -> None:
    hold = await retraining_in(database, RetrainingStatus.RUNNING)
    clock.move(retraining.LEASE * 1.1)
    assert await claim(database, "a") is not None
    assert not await report(database, hold)
    assert await report(database, (hold[0], "a", 2))


async def test_retraining_that_was_lost_too_often_fails(database: Database, clock: Clock) -> None:
    hold = await retraining_in(database, RetrainingStatus.RUNNING)
    for _ in range(retraining.MAX_ATTEMPTS - 1):
        clock.move(retraining.LEASE * 1.1)
        assert await claim(database) is not None
    clock.move(retraining.LEASE * 1.1)
    assert await claim(database) is None
    row = await read(database, hold[0])
    assert (row.status, row.error) == (RetrainingStatus.FAILED, "the worker was lost")
    assert (row.finished_at, row.lease_until) == (clock.moment, None)
    assert await request(database) is not None


# Over


async def test_finished_retraining_has_its_report_and_version(
    database: Database, clock: Clock
) -> None:
    version_id = await add_model(database)
    hold = await retraining_in(database, RetrainingStatus.RUNNING)
    assert await finish(database, hold, version_id)
    row = await read(database, hold[0])
    assert (row.status, row.version_id) == (RetrainingStatus.DONE, version_id)
    assert row.report == {"приговор": "лучше"}
    assert (row.finished_at, row.worker, row.lease_until) == (clock.moment, None, None)
    assert not await finish(database, hold, None)


async def test_failed_retraining_says_why_and_is_not_tried_again(database: Database) -> None:
    hold = await retraining_in(database, RetrainingStatus.FAILED)
    row = await read(database, hold[0])
    assert (row.status, row.error) == (RetrainingStatus.FAILED, "мало голосов")
    assert await claim(database) is None


@pytest.mark.parametrize("status", UNDER_WAY)
async def test_cancelled_retraining_is_lost_to_its_worker(
    database: Database, status: RetrainingStatus
) -> None:
    hold = await retraining_in(database, status)
    assert await cancel(database, hold[0])
    assert not await report(database, hold)
    assert not await finish(database, hold, None)
    assert await claim(database) is None
    row = await read(database, hold[0])
    assert (row.status, row.phase, row.worker) == (RetrainingStatus.CANCELLED, "", None)


@pytest.mark.parametrize("status", OVER)
async def test_what_is_over_cannot_be_cancelled(
    database: Database, status: RetrainingStatus
) -> None:
    hold = await retraining_in(database, status)
    assert not await cancel(database, hold[0])
    assert (await read(database, hold[0])).status is status


# Delivery


@pytest.mark.parametrize("status", OVER)
async def test_end_is_delivered_once(database: Database, status: RetrainingStatus) -> None:
    hold = await retraining_in(database, status)
    assert await undelivered(database) == [hold[0]]
    assert await mark_delivered(database, hold[0])
    assert not await mark_delivered(database, hold[0])
    assert await undelivered(database) == []


@pytest.mark.parametrize("status", UNDER_WAY)
async def test_what_is_under_way_has_no_end_to_deliver(
    database: Database, status: RetrainingStatus
) -> None:
    hold = await retraining_in(database, status)
    assert not await mark_delivered(database, hold[0])
    assert await undelivered(database) == [hold[0]]


async def test_message_that_shows_the_progress_is_noted(database: Database) -> None:
    hold = await retraining_in(database, RetrainingStatus.RUNNING)
    async with database.write() as session:
        await retraining.set_message(session, hold[0], 2**40)
    assert (await read(database, hold[0])).message_id == 2**40
    assert await report(database, hold)
