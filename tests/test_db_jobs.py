"""The queue keeps its contract, on both databases."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from db import jobs
from db.jobs import FINISHED, LEASE, MAX_ATTEMPTS, RETRY_AFTER, Answer, Claim
from db.models import Generation, Job, JobStatus
from db.session import Database
from tests.db_helpers import (
    GROUP,
    OWNER,
    SOON,
    STRANGER,
    Clock,
    add_job,
    add_jobs,
    add_model,
    add_user,
    an_answer,
    claim_all,
    clear_jobs,
    columns,
    doomed_write,
    is_sqlite,
    job_in,
    read_job,
    rescue,
    set_job,
    silence,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The queue's time, which the test moves."""
    clock = Clock()
    monkeypatch.setattr("db.jobs.now", clock)
    return clock


async def generations(database: Database, job_id: int) -> list[Generation]:
    async with database.read() as session:
        rows = await session.scalars(
            select(Generation).where(Generation.job_id == job_id).order_by(Generation.variant)
        )
        return list(rows)


async def enqueue(session: AsyncSession, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "user_id": OWNER,
        "chat_id": OWNER,
        "private": True,
        "request_message_id": 17,
        "prompt": "Мороз и солнце;",
    }
    return await jobs.enqueue(session, **values | changes)


async def stream(database: Database, *claims: Claim, text: str = "текст") -> set[Claim]:
    async with database.write() as session:
        return await jobs.stream(session, dict.fromkeys(claims, text))


# The state machine: from where, by what, to where. What is not listed must change nothing.

Operation = Callable[[AsyncSession, Claim], Awaitable[Any]]

OPERATIONS: dict[str, Operation] = {
    "claim": lambda session, _claim: jobs.claim(session, "b", 10),
    "stream": lambda session, claim: jobs.stream(session, {claim: "текст"}),
    "finish": lambda session, claim: jobs.finish(session, claim, []),
    "fail and retry": lambda session, claim: jobs.fail(session, claim, "oops", retry=True),
    "fail": lambda session, claim: jobs.fail(session, claim, "oops", retry=False),
    "release": lambda session, claim: jobs.release(session, claim),
    "cancel": lambda session, claim: jobs.cancel(session, claim.job_id, OWNER),
    "a stranger's cancel": lambda session, claim: jobs.cancel(session, claim.job_id, STRANGER),
    "rescue": lambda session, _claim: jobs.rescue(session),
    "rescue after silence": lambda session, _claim: jobs.rescue(session),
    "deliver": lambda session, claim: jobs.mark_delivered(session, claim.job_id, 5),
}

QUEUED, RUNNING, DONE = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.DONE
FAILED, CANCELLED = JobStatus.FAILED, JobStatus.CANCELLED

ARROWS: dict[tuple[JobStatus, str], JobStatus] = {
    (QUEUED, "claim"): RUNNING,
    (QUEUED, "cancel"): CANCELLED,
    (RUNNING, "stream"): RUNNING,
    (RUNNING, "finish"): DONE,
    (RUNNING, "fail and retry"): QUEUED,
    (RUNNING, "fail"): FAILED,
    (RUNNING, "release"): QUEUED,
    (RUNNING, "cancel"): CANCELLED,
    (RUNNING, "rescue after silence"): QUEUED,
    (DONE, "deliver"): DONE,
    (FAILED, "deliver"): FAILED,
    (CANCELLED, "deliver"): CANCELLED,
}


@pytest.mark.parametrize("status", JobStatus)
async def test_job_goes_along_the_arrows_and_nowhere_else(
    database: Database, status: JobStatus
) -> None:
    await add_user(database, STRANGER)
    for name, operation in OPERATIONS.items():
        await clear_jobs(database)
        claim = await job_in(database, status)
        if name == "rescue after silence":
            if status != RUNNING:
                continue
            await silence(database, claim.job_id)
        before = columns(await read_job(database, claim.job_id))
        assert before["status"] is status
        async with database.write() as session:
            result = await operation(session, claim)
        after = columns(await read_job(database, claim.job_id))
        target = ARROWS.get((status, name))
        if target is None:
            assert after == before, f"{name} touched a {status} job"
            assert not result, f"{name} claims success on a {status} job"
        else:
            assert after != before, f"{name} did nothing to a {status} job"
            assert result, f"{name} denies its success on a {status} job"
            assert after["status"] is target, f"{name} of a {status} job"


# Enqueue


async def test_enqueued_job_keeps_what_was_asked_and_is_due_at_once(
    database: Database, clock: Clock
) -> None:
    await add_user(database)
    async with database.write() as session:
        job = await enqueue(
            session,
            chat_id=GROUP,
            private=False,
            prompt="«Ёж» & 100% 'цитата' 🪶",
            context="Прежде…",
            settings={"temperature": 0.5, "имя": ["а", None]},
        )
    assert columns(await read_job(database, job.id)) == {
        "id": job.id,
        "user_id": OWNER,
        "chat_id": GROUP,
        "private": False,
        "request_message_id": 17,
        "placeholder_id": None,
        "message_id": None,
        "prompt": "«Ёж» & 100% 'цитата' 🪶",
        "context": "Прежде…",
        "settings": {"temperature": 0.5, "имя": ["а", None]},
        "status": QUEUED,
        "attempts": 0,
        "partial": "",
        "worker": None,
        "lease_until": None,
        "error": None,
        "available_at": clock.moment,
        "created_at": clock.moment,
        "started_at": None,
        "finished_at": None,
        "delivered_at": None,
    }
    assert [claim.job_id for claim in await claim_all(database)] == [job.id]


async def test_request_that_comes_twice_gives_the_same_job(database: Database) -> None:
    await add_user(database)
    async with database.write() as session:
        first = await enqueue(session)
    async with database.write() as session:
        second = await enqueue(session, prompt="Другое")
    assert second.id == first.id
    assert (await read_job(database, first.id)).prompt == "Мороз и солнце;"


async def test_request_that_comes_again_after_its_end_does_not_start_anew(
    database: Database,
) -> None:
    await add_user(database)
    async with database.write() as session:
        first = await enqueue(session)
        await jobs.cancel(session, first.id, OWNER)
    async with database.write() as session:
        second = await enqueue(session)
    assert second.id == first.id
    assert second.status is CANCELLED


async def test_request_that_comes_twice_at_once_gives_the_same_job(database: Database) -> None:
    """A bot that is still leaving and the one that follows it may hold the same update."""
    await add_user(database)

    async def again() -> int:
        async with database.write() as session:
            return (await enqueue(session)).id

    async with asyncio.TaskGroup() as group, database.write() as session:
        first = await enqueue(session)
        second = group.create_task(again())
        await asyncio.wait({second}, timeout=SOON)
    assert second.result() == first.id


async def test_same_message_number_in_two_chats_is_two_jobs(database: Database) -> None:
    await add_user(database)
    async with database.write() as session:
        mine = await enqueue(session)
        ours = await enqueue(session, chat_id=GROUP, private=False)
    assert mine.id != ours.id


# Claim


async def test_claim_takes_a_readers_oldest_due_jobs_up_to_its_limit(database: Database) -> None:
    ids = await add_jobs(database, 5)
    # The later it is due, the older it is: the order is that of the queue, not of the times.
    for age, job_id in enumerate(ids):
        await set_job(database, job_id, available_at=datetime(2020, 1, 28 - age, tzinfo=UTC))
    assert await claim_all(database, "a", limit=2) == [Claim(i, "a", 1) for i in ids[:2]]
    assert await claim_all(database, "b", limit=2) == [Claim(i, "b", 1) for i in ids[2:4]]
    assert await claim_all(database, "a", limit=2) == [Claim(ids[4], "a", 1)]
    assert await claim_all(database, "a", limit=2) == []


async def test_claimed_job_comes_with_its_lease_and_without_traces_of_the_last_attempt(
    database: Database, clock: Clock
) -> None:
    (job_id,) = await add_jobs(database, 1)
    (claim,) = await claim_all(database)
    async with database.write() as session:
        await jobs.stream(session, {claim: "старое"})
        await jobs.fail(session, claim, "oops", retry=True)
    clock.move(RETRY_AFTER)
    async with database.write() as session:
        (job,) = await jobs.claim(session, "b", 1)
    assert columns(job) == columns(await read_job(database, job_id))
    assert (job.status, job.worker, job.attempts) == (RUNNING, "b", 2)
    assert (job.partial, job.error) == ("", None)
    assert (job.lease_until, job.started_at) == (clock.moment + LEASE, clock.moment)


async def test_claim_shows_the_row_as_it_is_though_the_session_has_seen_it_before(
    database: Database,
) -> None:
    (job_id,) = await add_jobs(database, 1)
    async with database.write() as session:
        seen = await session.get_one(Job, job_id)
        (job,) = await jobs.claim(session, "a", 1)
        assert job is seen
        assert (job.status, job.worker, job.attempts) == (RUNNING, "a", 1)


async def test_job_is_not_claimed_before_its_time(database: Database, clock: Clock) -> None:
    later, due = await add_jobs(database, 2)
    await set_job(database, later, available_at=clock.moment + timedelta(microseconds=1))
    assert [claim.job_id for claim in await claim_all(database)] == [due]
    clock.move(timedelta(microseconds=1))
    assert [claim.job_id for claim in await claim_all(database)] == [later]


@pytest.mark.parametrize("claimers", [2, 8])
async def test_claimers_at_once_share_the_jobs_without_any_twice(
    database: Database, claimers: int
) -> None:
    ids = await add_jobs(database, 40)
    start = asyncio.Barrier(claimers)

    async def work(name: str) -> list[int]:
        taken: list[int] = []
        await start.wait()
        while claimed := await claim_all(database, name, limit=3):
            taken += [claim.job_id for claim in claimed]
        return taken

    shares = await asyncio.gather(*(work(f"worker-{i}") for i in range(claimers)))
    assert sorted(chain.from_iterable(shares)) == ids
    for i, share in enumerate(shares):
        for job_id in share:
            job = await read_job(database, job_id)
            assert (job.worker, job.attempts) == (f"worker-{i}", 1)


async def test_claim_passes_by_the_jobs_that_another_is_just_claiming(database: Database) -> None:
    ids = await add_jobs(database, 3)
    async with asyncio.TaskGroup() as group, database.write() as session:
        first = [job.id for job in await jobs.claim(session, "a", 2)]
        second = group.create_task(claim_all(database, "b", limit=2))
        await asyncio.wait({second}, timeout=SOON if is_sqlite(database) else 5)
        # SQLite knows one writer at a time; PostgreSQL need not wait, and does not.
        assert second.done() is not is_sqlite(database)
    assert sorted(first) == ids[:2]
    assert second.result() == [Claim(ids[2], "b", 1)]


# Stream

AWKWARD = ["", "'); DROP TABLE jobs; --", "100% :id \\ \n\t", "«Ёлка» 🪶", "$1 {0} ?", "я" * 5000]


async def test_stream_stores_every_text_and_renews_the_leases(
    database: Database, clock: Clock
) -> None:
    await add_jobs(database, len(AWKWARD))
    claims = await claim_all(database)
    clock.move(timedelta(seconds=10))
    texts = dict(zip(claims, AWKWARD, strict=True))
    async with database.write() as session:
        assert await jobs.stream(session, texts) == set(claims)
    for claim, text in texts.items():
        job = await read_job(database, claim.job_id)
        assert (job.status, job.partial) == (RUNNING, text)
        assert job.lease_until == clock.moment + LEASE


async def test_stream_leaves_the_jobs_alone_that_it_does_not_name(database: Database) -> None:
    await add_jobs(database, 2)
    mine, other = await claim_all(database)
    before = columns(await read_job(database, other.job_id))
    assert await stream(database, mine) == {mine}
    assert columns(await read_job(database, other.job_id)) == before


async def test_stream_of_nothing_is_nothing(database: Database) -> None:
    assert await stream(database) == set()


async def test_stream_returns_exactly_those_alive_and_writes_no_other(database: Database) -> None:
    await add_jobs(database, 6)
    claims = await claim_all(database)
    alive, cancelled, lost, taken, again, finished = claims
    async with database.write() as session:
        await jobs.cancel(session, cancelled.job_id, OWNER)
        await jobs.finish(session, finished, [])
    for claim in (taken, again):
        await silence(database, claim.job_id)
    await rescue(database)
    assert await claim_all(database, "b", limit=1) == [replace(taken, worker="b", attempt=2)]
    assert await claim_all(database, "a", limit=1) == [replace(again, attempt=2)]
    await silence(database, lost.job_id)
    await rescue(database)
    before = {claim: columns(await read_job(database, claim.job_id)) for claim in claims}

    assert await stream(database, *claims, text="новое") == {alive}

    assert (await read_job(database, alive.job_id)).partial == "новое"
    for claim in claims[1:]:
        assert columns(await read_job(database, claim.job_id)) == before[claim]


@pytest.mark.parametrize("old_first", [True, False])
async def test_worker_that_took_back_its_own_job_streams_only_the_new_attempt(
    database: Database, old_first: bool
) -> None:
    """After the database was away, a worker rescues and claims what it is still writing."""
    await add_jobs(database, 1)
    (old,) = await claim_all(database)
    await silence(database, old.job_id)
    await rescue(database)
    (new,) = await claim_all(database)
    assert new == replace(old, attempt=2)
    texts = {old: "старое", new: "новое"}
    if not old_first:
        texts = dict(reversed(texts.items()))
    async with database.write() as session:
        alive = await jobs.stream(session, texts)
    assert alive == {new}
    assert (await read_job(database, new.job_id)).partial == "новое"


# Losing a job

LAST_ACTS: dict[str, Operation] = {
    "stream": OPERATIONS["stream"],
    "finish": lambda session, claim: jobs.finish(session, claim, [an_answer(1)]),
    "fail and retry": OPERATIONS["fail and retry"],
    "fail": OPERATIONS["fail"],
    "release": OPERATIONS["release"],
}


@pytest.mark.parametrize("heir", [None, "a", "b"])
async def test_worker_that_lost_its_job_can_do_nothing_to_it(
    database: Database, heir: str | None
) -> None:
    model = await add_model(database)
    claim = await job_in(database, QUEUED)  # was held, was taken back
    if heir:
        assert await claim_all(database, heir) == [Claim(claim.job_id, heir, 2)]
    before = columns(await read_job(database, claim.job_id))
    for name, act in LAST_ACTS.items():
        async with database.write() as session:
            assert not await act(session, claim), name
        assert columns(await read_job(database, claim.job_id)) == before, name
    assert await generations(database, claim.job_id) == []
    if heir:
        async with database.write() as session:
            held = Claim(claim.job_id, heir, 2)
            assert await jobs.finish(session, held, [an_answer(model)])


async def test_job_can_be_finished_by_its_holder_only(database: Database) -> None:
    await add_jobs(database, 1)
    (claim,) = await claim_all(database)
    async with database.write() as session:
        assert not await jobs.finish(session, replace(claim, worker="b"), [])
        assert not await jobs.finish(session, replace(claim, attempt=2), [])
        assert not await jobs.finish(session, replace(claim, job_id=claim.job_id + 1), [])
        assert await jobs.finish(session, claim, [])


async def test_cancel_that_comes_while_the_story_is_being_stored_comes_too_late(
    database: Database,
) -> None:
    model = await add_model(database)
    claim = await job_in(database, RUNNING)

    async def cancel() -> bool:
        async with database.write() as session:
            return await jobs.cancel(session, claim.job_id, OWNER)

    async with asyncio.TaskGroup() as group, database.write() as session:
        assert await jobs.finish(session, claim, [an_answer(model)])
        cancelled = group.create_task(cancel())
        await asyncio.wait({cancelled}, timeout=SOON)
    assert cancelled.result() is False
    assert (await read_job(database, claim.job_id)).status is DONE


# Finish


async def test_finish_closes_the_job_and_stores_every_column_of_the_answers(
    database: Database, clock: Clock
) -> None:
    model = await add_model(database)
    claim = await job_in(database, RUNNING)
    clock.move(timedelta(seconds=3))
    first = Answer(
        text="Ветер, ветер!\nТы могуч",
        model_version_id=model,
        seed=2**40,
        settings={"temperature": 0.8, "стоп": ["\n"]},
        tokens=11,
        finish_reason="length",
        started_at=datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )
    second = replace(first, text="", seed=0, settings={}, tokens=0, finish_reason="stop")
    async with database.write() as session:
        assert await jobs.finish(session, claim, [first, second])
    rows = await generations(database, claim.job_id)
    assert [columns(row) for row in rows] == [
        {
            "id": row.id,
            "job_id": claim.job_id,
            "variant": variant,
            "finished_at": clock.moment,
            **vars(answer),
        }
        for variant, (row, answer) in enumerate(zip(rows, [first, second], strict=True))
    ]
    job = await read_job(database, claim.job_id)
    assert (job.status, job.finished_at) == (DONE, clock.moment)
    assert (job.worker, job.lease_until, job.delivered_at) == (None, None, None)


async def test_job_is_finished_once(database: Database) -> None:
    model = await add_model(database)
    claim = await job_in(database, RUNNING)
    answers = [an_answer(model)]
    async with database.write() as session:
        assert await jobs.finish(session, claim, answers)
        assert not await jobs.finish(session, claim, answers)
    async with database.write() as session:
        assert not await jobs.finish(session, claim, answers)
    assert len(await generations(database, claim.job_id)) == 1


async def test_story_that_cannot_be_stored_leaves_the_job_running(database: Database) -> None:
    claim = await job_in(database, RUNNING)
    before = columns(await read_job(database, claim.job_id))
    async with doomed_write(database) as session:
        assert await jobs.finish(session, claim, [])
    assert columns(await read_job(database, claim.job_id)) == before


# Fail, rescue, release


async def test_failed_attempt_is_tried_again_later_each_time_and_at_last_ends_the_job(
    database: Database, clock: Clock
) -> None:
    (job_id,) = await add_jobs(database, 1)
    for attempt in range(1, MAX_ATTEMPTS):
        (claim,) = await claim_all(database)
        assert claim == Claim(job_id, "a", attempt)
        async with database.write() as session:
            assert await jobs.fail(session, claim, f"беда {attempt}", retry=True)
        job = await read_job(database, job_id)
        assert (job.status, job.error, job.attempts) == (QUEUED, f"беда {attempt}", attempt)
        assert (job.worker, job.lease_until, job.finished_at) == (None, None, None)
        assert job.available_at == clock.moment + RETRY_AFTER * attempt
        clock.move(RETRY_AFTER * attempt - timedelta(microseconds=1))
        assert await claim_all(database) == []
        clock.move(timedelta(microseconds=1))
    (claim,) = await claim_all(database)
    async with database.write() as session:
        assert await jobs.fail(session, claim, "всё", retry=True)
    job = await read_job(database, job_id)
    assert (job.status, job.error, job.attempts) == (FAILED, "всё", MAX_ATTEMPTS)
    assert (job.worker, job.lease_until, job.finished_at) == (None, None, clock.moment)


async def test_failure_that_would_repeat_itself_ends_the_job_at_once(
    database: Database, clock: Clock
) -> None:
    (job_id,) = await add_jobs(database, 1)
    (claim,) = await claim_all(database)
    async with database.write() as session:
        assert await jobs.fail(session, claim, "слишком длинно", retry=False)
    job = await read_job(database, job_id)
    assert (job.status, job.error) == (FAILED, "слишком длинно")
    assert (job.attempts, job.finished_at) == (1, clock.moment)


async def test_rescue_takes_only_what_a_silent_worker_holds(
    database: Database, clock: Clock
) -> None:
    await add_jobs(database, 4)
    alive, just_alive, silent, spent = await claim_all(database)
    waiting = await add_job(database)
    await set_job(database, spent.job_id, attempts=MAX_ATTEMPTS)
    clock.move(LEASE + timedelta(microseconds=1))
    assert await stream(database, alive) == {alive}
    await set_job(database, just_alive.job_id, lease_until=clock.moment)
    untouched = [alive.job_id, just_alive.job_id, waiting]
    before = [columns(await read_job(database, job_id)) for job_id in untouched]

    assert await rescue(database) == 2

    assert [columns(await read_job(database, job_id)) for job_id in untouched] == before
    job = await read_job(database, silent.job_id)
    assert (job.status, job.attempts, job.error) == (QUEUED, 1, None)
    assert (job.worker, job.lease_until, job.finished_at) == (None, None, None)
    assert job.available_at == clock.moment
    job = await read_job(database, spent.job_id)
    assert (job.status, job.attempts) == (FAILED, MAX_ATTEMPTS)
    assert (job.worker, job.lease_until, job.finished_at) == (None, None, clock.moment)
    assert job.error == "the worker was lost"
    assert await rescue(database) == 0


async def test_job_whose_workers_die_one_after_another_is_given_up(database: Database) -> None:
    (job_id,) = await add_jobs(database, 1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert await claim_all(database) == [Claim(job_id, "a", attempt)]
        await silence(database, job_id)
        assert await rescue(database) == 1
    assert (await read_job(database, job_id)).status is FAILED
    assert await claim_all(database) == []


async def test_two_rescuers_count_a_job_once(database: Database) -> None:
    await add_jobs(database, 10)
    for claim in await claim_all(database):
        await silence(database, claim.job_id)
    assert sum(await asyncio.gather(*(rescue(database) for _ in range(4)))) == 10


async def test_released_job_can_be_claimed_at_once_and_the_attempt_does_not_count(
    database: Database,
) -> None:
    (job_id,) = await add_jobs(database, 1)
    for _ in range(MAX_ATTEMPTS + 1):
        (claim,) = await claim_all(database)
        assert claim == Claim(job_id, "a", 1)
        async with database.write() as session:
            assert await jobs.release(session, claim)
        job = await read_job(database, job_id)
        assert (job.status, job.attempts) == (QUEUED, 0)
        assert (job.worker, job.lease_until, job.finished_at) == (None, None, None)


# Cancel, deliver


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_owner_cancels_what_is_not_over(
    database: Database, clock: Clock, status: JobStatus
) -> None:
    claim = await job_in(database, status)
    async with database.write() as session:
        assert not await jobs.cancel(session, claim.job_id, STRANGER)
        assert await jobs.cancel(session, claim.job_id, OWNER)
        assert not await jobs.cancel(session, claim.job_id, OWNER)
    job = await read_job(database, claim.job_id)
    assert (job.status, job.finished_at) == (CANCELLED, clock.moment)
    assert (job.worker, job.lease_until, job.error) == (None, None, None)


async def test_cancelled_job_is_not_claimed_and_not_rescued(database: Database) -> None:
    await job_in(database, CANCELLED)
    assert await claim_all(database) == []
    assert await rescue(database) == 0


@pytest.mark.parametrize("status", FINISHED)
async def test_job_is_delivered_once(database: Database, clock: Clock, status: JobStatus) -> None:
    claim = await job_in(database, status)
    moment = clock.moment
    async with database.write() as session:
        assert await jobs.mark_delivered(session, claim.job_id, 2**40)
    clock.move(timedelta(seconds=1))
    async with database.write() as session:
        assert not await jobs.mark_delivered(session, claim.job_id, 6)
    job = await read_job(database, claim.job_id)
    assert (job.status, job.message_id, job.delivered_at) == (status, 2**40, moment)


async def test_job_may_be_delivered_without_a_message(database: Database) -> None:
    claim = await job_in(database, CANCELLED)
    async with database.write() as session:
        assert await jobs.mark_delivered(session, claim.job_id, None)
        assert not await jobs.mark_delivered(session, claim.job_id, 6)
    job = await read_job(database, claim.job_id)
    assert job.delivered_at is not None
    assert job.message_id is None


async def test_of_two_that_deliver_at_once_one_may(database: Database) -> None:
    claim = await job_in(database, DONE)

    async def deliver(message_id: int) -> bool:
        async with database.write() as session:
            return await jobs.mark_delivered(session, claim.job_id, message_id)

    async with asyncio.TaskGroup() as group, database.write() as session:
        assert await jobs.mark_delivered(session, claim.job_id, 100)
        others = [group.create_task(deliver(i)) for i in range(3)]
        await asyncio.wait(others, timeout=SOON)
    assert [other.result() for other in others] == [False, False, False]
    assert (await read_job(database, claim.job_id)).message_id == 100


# A random walk beside a plain model of the contract


@dataclass
class Row:
    """What the contract says of a job."""

    available_at: datetime
    user_id: int = OWNER
    status: JobStatus = QUEUED
    attempts: int = 0
    partial: str = ""
    worker: str | None = None
    lease_until: datetime | None = None
    error: str | None = None
    finished_at: datetime | None = None
    delivered_at: datetime | None = None
    message_id: int | None = None

    def leave(self, status: JobStatus, **values: Any) -> None:
        self.status, self.worker, self.lease_until = status, None, None
        for name, value in values.items():
            setattr(self, name, value)

    def check(self) -> None:
        """What holds after any operation."""
        assert (
            (self.status == RUNNING) == (self.worker is not None) == (self.lease_until is not None)
        )
        assert (self.status in FINISHED) == (self.finished_at is not None)
        assert self.delivered_at is None or self.status in FINISHED
        assert 0 <= self.attempts <= MAX_ATTEMPTS
        assert self.status != RUNNING or self.attempts > 0


@dataclass
class Reference:
    """The queue as a dict."""

    clock: Clock
    rows: dict[int, Row] = field(default_factory=dict)

    def holds(self, claim: Claim) -> bool:
        row = self.rows[claim.job_id]
        held = (row.status, row.worker, row.attempts)
        return held == (RUNNING, claim.worker, claim.attempt)

    def queue(self) -> list[int]:
        ranks = {}
        for job_id, row in self.rows.items():
            others = [(i, o) for i, o in self.rows.items() if o.user_id == row.user_id]
            running = [i for i, other in others if other.status == RUNNING]
            older = [i for i, other in others if other.status == QUEUED and i < job_id]
            ranks[job_id] = len(running) + len(older)
        queued = [i for i, row in self.rows.items() if row.status == QUEUED]
        return sorted(queued, key=lambda i: (ranks[i], i))

    def places(self) -> dict[int, int]:
        return {job_id: place for place, job_id in enumerate(self.queue(), 1)}

    def claim(self, worker: str, limit: int) -> set[Claim]:
        now = self.clock()
        due = [i for i in self.queue() if self.rows[i].available_at <= now]
        taken = set()
        for job_id in due[:limit]:
            row = self.rows[job_id]
            row.status, row.worker, row.lease_until = RUNNING, worker, now + LEASE
            row.attempts, row.partial, row.error = row.attempts + 1, "", None
            taken.add(Claim(job_id, worker, row.attempts))
        return taken

    def stream(self, texts: dict[Claim, str]) -> set[Claim]:
        alive = set(filter(self.holds, texts))
        for claim in alive:
            row = self.rows[claim.job_id]
            row.partial, row.lease_until = texts[claim], self.clock() + LEASE
        return alive

    def finish(self, claim: Claim) -> bool:
        held = self.holds(claim)
        if held:
            self.rows[claim.job_id].leave(DONE, finished_at=self.clock())
        return held

    def fail(self, claim: Claim, error: str, retry: bool) -> bool:
        held = self.holds(claim)
        if held:
            row, now = self.rows[claim.job_id], self.clock()
            if retry and row.attempts < MAX_ATTEMPTS:
                row.leave(QUEUED, error=error, available_at=now + RETRY_AFTER * row.attempts)
            else:
                row.leave(FAILED, error=error, finished_at=now)
        return held

    def release(self, claim: Claim) -> bool:
        held = self.holds(claim)
        if held:
            self.rows[claim.job_id].leave(QUEUED, attempts=claim.attempt - 1)
        return held

    def cancel(self, job_id: int, user_id: int) -> bool:
        row = self.rows[job_id]
        may = user_id == row.user_id and row.status in (QUEUED, RUNNING)
        if may:
            row.leave(CANCELLED, error=None, finished_at=self.clock())
        return may

    def rescue(self) -> int:
        now = self.clock()
        lost = [row for row in self.rows.values() if row.lease_until and row.lease_until < now]
        for row in lost:
            if row.attempts < MAX_ATTEMPTS:
                row.leave(QUEUED, error=None, available_at=now)
            else:
                row.leave(FAILED, error="the worker was lost", available_at=now, finished_at=now)
        return len(lost)

    def deliver(self, job_id: int, message_id: int) -> bool:
        row = self.rows[job_id]
        may = row.status in FINISHED and row.delivered_at is None
        if may:
            row.delivered_at, row.message_id = self.clock(), message_id
        return may


STEPS = {
    "enqueue": 6,
    "claim": 12,
    "stream": 12,
    "finish": 5,
    "fail": 7,
    "release": 3,
    "cancel": 2,
    "rescue": 5,
    "deliver": 5,
    "places": 4,
    "wait": 10,
}


@pytest.mark.parametrize("seed", [1799, 1837])
async def test_random_walk_agrees_with_the_model_at_every_step(
    database: Database, clock: Clock, seed: int
) -> None:
    dice = random.Random(seed)
    model = await add_model(database)
    reference = Reference(clock)
    history: list[Claim] = []  # all the holds there ever were, most of them lost by now
    seen: set[str] = set()

    async def step(session: AsyncSession, name: str) -> tuple[Any, Any]:
        """Do the same to the queue and to the model; return what each answered."""
        job_id = dice.choice(list(reference.rows) or [0])
        claim = dice.choice(history[-12:] or [Claim(job_id, "a", 1)])
        match name:
            case "claim":
                worker, limit = dice.choice("ab"), dice.randint(1, 4)
                jobs_ = await jobs.claim(session, worker, limit)
                claimed = {Claim(job.id, worker, job.attempts) for job in jobs_}
                history.extend(sorted(claimed, key=lambda c: c.job_id))
                return claimed, reference.claim(worker, limit)
            case "stream":
                own = [c for c in dict.fromkeys(history[-20:]) if c.worker == claim.worker]
                texts = {c: str(dice.random()) for c in dice.sample(own, dice.randint(0, len(own)))}
                return await jobs.stream(session, texts), reference.stream(texts)
            case "finish":
                done = await jobs.finish(session, claim, [an_answer(model)])
                return done, reference.finish(claim)
            case "fail":
                error, retry = str(dice.random()), dice.random() < 0.8
                failed = await jobs.fail(session, claim, error, retry=retry)
                return failed, reference.fail(claim, error, retry)
            case "release":
                return await jobs.release(session, claim), reference.release(claim)
            case "cancel":
                user_id = dice.choice([reference.rows[job_id].user_id] * 2 + [STRANGER])
                cancelled = await jobs.cancel(session, job_id, user_id)
                return cancelled, reference.cancel(job_id, user_id)
            case "rescue":
                return await jobs.rescue(session), reference.rescue()
            case "deliver":
                message_id = dice.randint(1, 10**12)
                delivered = await jobs.mark_delivered(session, job_id, message_id)
                return delivered, reference.deliver(job_id, message_id)
            case _:
                return await jobs.places(session), reference.places()

    names = list(vars(Row(clock.moment)))
    for number in range(300):
        name = "enqueue" if number < 5 else dice.choices(*zip(*STEPS.items(), strict=True))[0]
        if name == "wait":
            clock.move(timedelta(seconds=dice.choice([0.5, 2, 5, 12])))
            continue
        if name == "enqueue":
            reader = dice.choice([OWNER, OWNER, OWNER + 7])
            job_id = await add_job(database, user_id=reader)
            reference.rows[job_id] = Row(clock.moment, reader)
            continue
        async with database.write() as session:
            got, expected = await step(session, name)
        assert got == expected, f"step {number}: {name}"
        if got:
            seen.add(name)
        async with database.read() as session:
            stored = {
                job.id: {name: getattr(job, name) for name in names}
                for job in await session.scalars(select(Job))
            }
        assert stored == {i: vars(row) for i, row in reference.rows.items()}, f"{number}: {name}"
        for row in reference.rows.values():
            row.check()

    assert seen == STEPS.keys() - {"enqueue", "wait"}, "an operation never succeeded"
    statuses = {row.status for row in reference.rows.values()}
    assert statuses >= set(FINISHED), "the walk never came to an end of this kind"
    async with database.read() as session:
        told = await session.scalars(select(Generation.job_id).order_by(Generation.job_id))
        assert list(told) == sorted(i for i, row in reference.rows.items() if row.status == DONE)
        assert await session.scalar(select(func.count()).select_from(Job)) == len(reference.rows)
