"""The queue is fair: its order, the places readers are told, and who may pass whom."""

import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from db import jobs
from db.jobs import Claim
from db.models import JobStatus, now
from db.session import Database
from tests.db_helpers import add_job, claim_all, set_job


async def order(database: Database) -> list[int]:
    """Return the queued jobs by the places that readers are told."""
    async with database.read() as session:
        places = await jobs.places(session)
    assert sorted(places.values()) == list(range(1, len(places) + 1))
    return sorted(places, key=places.__getitem__)


async def claimed_one_by_one(database: Database) -> list[int]:
    found: list[int] = []
    while claims := await claim_all(database, limit=1):
        found += [claim.job_id for claim in claims]
    return found


async def test_everybodys_first_job_comes_before_anybodys_second(database: Database) -> None:
    a1, a2, a3 = [await add_job(database, user_id=1) for _ in range(3)]
    b1, b2 = [await add_job(database, user_id=2) for _ in range(2)]
    c1 = await add_job(database, user_id=3)
    a4 = await add_job(database, user_id=1)
    fair = [a1, b1, c1, a2, b2, a3, a4]
    assert await order(database) == fair
    assert await claimed_one_by_one(database) == fair


async def test_claims_of_several_take_what_as_many_claims_of_one_would(database: Database) -> None:
    for user_id in (1, 1, 1, 2, 1, 3, 2):
        await add_job(database, user_id=user_id)
    expected = await order(database)
    for limit in (2, 3, 2):
        claims = await claim_all(database, limit=limit)
        assert {claim.job_id for claim in claims} == set(expected[:limit])
        expected = expected[limit:]
        assert await order(database) == expected


async def test_job_that_runs_counts_before_those_that_its_reader_has_waiting(
    database: Database,
) -> None:
    a1, a2 = [await add_job(database, user_id=1) for _ in range(2)]
    (running,) = await claim_all(database, limit=1)
    b1 = await add_job(database, user_id=2)
    assert running.job_id == a1
    assert await order(database) == [b1, a2]
    async with database.write() as session:
        await jobs.finish(session, running, [])
    # Now it is its reader's first, and older than the other's.
    assert await order(database) == [a2, b1]


async def test_places_count_jobs_that_are_not_due_yet_and_no_others(database: Database) -> None:
    first, second, third, done = [await add_job(database, user_id=n) for n in range(1, 5)]
    await set_job(database, first, available_at=now() + timedelta(days=1))
    await set_job(database, done, status=JobStatus.DONE)
    assert await order(database) == [first, second, third]
    assert await claimed_one_by_one(database) == [second, third]


@pytest.mark.parametrize("seed", [1799, 1837])
async def test_first_job_of_a_reader_is_never_behind_its_place_in_a_plain_queue(
    database: Database, seed: int
) -> None:
    """The number told to him can grow when an older job becomes another's first; so far only."""
    dice = random.Random(seed)
    running: dict[int, int] = {}  # job to reader
    queued: dict[int, int] = {}
    for _ in range(100):
        match dice.choice(["enqueue", "enqueue", "claim", "finish"]):
            case "enqueue":
                reader = dice.randint(1, 6)
                queued[await add_job(database, user_id=reader)] = reader
            case "claim":
                for claim in await claim_all(database, limit=dice.randint(1, 2)):
                    running[claim.job_id] = queued.pop(claim.job_id)
            case "finish" if running:
                job_id = dice.choice(list(running))
                async with database.write() as session:
                    assert await jobs.finish(session, Claim(job_id, "a", 1), [])
                del running[job_id]
        places = {job_id: place for place, job_id in enumerate(await order(database), 1)}
        assert places.keys() == queued.keys()
        for job_id, reader in queued.items():
            older = [other for other in queued if other < job_id]
            if reader not in running.values() and reader not in map(queued.get, older):
                assert places[job_id] <= len(older) + 1


async def test_nobody_starves_though_new_readers_come_as_fast_as_jobs_are_written(
    database: Database,
) -> None:
    """The bound: while a reader has nothing running, only first jobs older than his pass him."""
    crowd = [await add_job(database, user_id=100 + n) for n in range(3)]
    mine = [await add_job(database, user_id=1) for _ in range(4)]
    passed = 0  # claims that went to others since mine had none running
    for number in range(40):
        await add_job(database, user_id=200 + number)  # a new reader before every claim
        (claim,) = await claim_all(database, limit=1)
        passed += 1
        if claim.job_id in mine:
            passed = 0
            mine.remove(claim.job_id)
        assert not mine or passed <= len(crowd), f"{passed} jobs have passed by {mine}"
        async with database.write() as session:
            await jobs.finish(session, claim, [])
    assert not mine


async def test_of_a_flood_only_its_first_is_ahead_of_others(database: Database) -> None:
    flood = [await add_job(database, user_id=1) for _ in range(30)]
    late = await add_job(database, user_id=2)
    assert (await order(database))[:3] == [flood[0], late, flood[1]]


async def test_claim_is_one_statement(database: Database) -> None:
    ids = {await add_job(database, user_id=n) for n in range(1, 4)}
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    assert {claim.job_id for claim in await claim_all(database)} == ids
    assert len(statements) == 1, statements
