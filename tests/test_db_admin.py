"""What admins ask the database, on both kinds: counted votes, the way back, asked once."""

from datetime import timedelta

import pytest

from db import admin, queries, retraining, versions
from db.admin import VoteReport
from db.models import Retraining, RetrainingStatus, now
from db.session import Database
from tests.db_helpers import OWNER, STRANGER, add_model, add_story, add_user


async def vote(database: Database, user_id: int, value: int, *, consent: bool | None) -> None:
    """Let a reader vote on a new story of his."""
    _, (generation_id,) = await add_story(database, user_id=user_id)
    async with database.write() as session:
        await queries.rate(session, generation_id, user_id, value)
        if consent is not None:
            await queries.set_consent(session, user_id, consent)


async def report(database: Database) -> VoteReport:
    async with database.read() as session:
        return await admin.vote_report(session)


async def test_only_votes_with_consent_are_counted(database: Database) -> None:
    assert await report(database) == VoteReport(0, 0, 0, 0, 0)
    for value in (1, 1, -1):
        await vote(database, OWNER, value, consent=True)
    await vote(database, STRANGER, 1, consent=None)
    await vote(database, STRANGER, -1, consent=False)
    assert await report(database) == VoteReport(votes=3, readers=1, liked=2, disliked=1, fresh=3)
    await vote(database, STRANGER, -1, consent=True)
    assert await report(database) == VoteReport(votes=6, readers=2, liked=3, disliked=3, fresh=6)


@pytest.mark.parametrize(
    ("status", "fresh"),
    [(RetrainingStatus.DONE, 1), (RetrainingStatus.FAILED, 2), (RetrainingStatus.RUNNING, 2)],
)
async def test_votes_are_fresh_since_the_last_retraining_that_ended_well(
    database: Database, status: RetrainingStatus, fresh: int
) -> None:
    await vote(database, OWNER, 1, consent=True)
    async with database.write() as session:
        made = await retraining.request(
            session, requested_by=1, chat_id=1, language="ru", settings={}
        )
        assert made is not None
        row = await session.get_one(Retraining, made.id)
        row.status, row.started_at = status, now() + timedelta(microseconds=1)
    await vote(database, OWNER, -1, consent=True)
    found = await report(database)
    assert (found.votes, found.fresh) == (2, fresh)


async def test_votes_that_were_cast_between_two_attempts_are_fresh(database: Database) -> None:
    """They counted as learnt: the second attempt set the moment anew, on the first one's votes."""
    async with database.write() as session:
        await retraining.request(session, requested_by=1, chat_id=1, language="ru", settings={})
        first = await retraining.claim(session, "a")
        assert first is not None
        assert await retraining.release(session, first.id, "a", first.attempts)
    await vote(database, OWNER, 1, consent=True)
    async with database.write() as session:
        last = await retraining.claim(session, "b")
        assert last is not None
        hold = last.id, "b", last.attempts
        assert await retraining.finish(session, *hold, report={}, version_id=None)
    assert (await report(database)).fresh == 1


async def add_child(database: Database, version: str, parent_id: int) -> int:
    async with database.write() as session:
        row = await versions.add_candidate(
            session,
            name="pushkin",
            version=version,
            folder=f"models/pushkin/{version}",
            parent_id=parent_id,
            prompt_tokens=8,
            prompt_characters=30,
            meta={},
        )
        return row.id


async def back(database: Database) -> int | None:
    async with database.read() as session:
        found = await admin.predecessor(session)
        return found.id if found else None


async def activate(database: Database, version_id: int) -> None:
    async with database.write() as session:
        await versions.activate(session, version_id)


async def test_the_way_back_is_the_version_that_answered_before(database: Database) -> None:
    """It was the one that the active one was made from, whatever had answered in between."""
    assert await back(database) is None
    first = await add_model(database)
    second, third = [await add_child(database, version, first) for version in "23"]
    assert await back(database) is None
    await activate(database, second)
    assert await back(database) == first
    await activate(database, third)
    assert await back(database) == second
    await activate(database, third)  # a second tap
    assert await back(database) == second
    await activate(database, second)  # taken back: the way leads to what one has just left
    assert await back(database) == third
    await activate(database, first)
    assert await back(database) == second


async def test_no_way_leads_back_to_what_workers_are_not_started_with_any_more(
    database: Database,
) -> None:
    first = await add_model(database, version="1")
    await add_model(database, version="2")
    assert await back(database) is None
    await add_model(database, version="1")
    await activate(database, await add_child(database, "3", first))
    assert await back(database) == first


async def test_a_version_is_found_with_its_votes(database: Database) -> None:
    await vote(database, OWNER, 1, consent=None)
    version_id = await add_model(database)
    async with database.read() as session:
        found = await admin.version_votes(session, version_id)
        assert await admin.version_votes(session, version_id + 1) is None
    assert found is not None
    assert (found.version.id, found.likes, found.dislikes) == (version_id, 1, 0)


async def test_a_reader_is_asked_once_and_that_is_no_consent(database: Database) -> None:
    await add_user(database)
    async with database.write() as session:
        assert await admin.note_asked(session, OWNER) is True
        assert await admin.note_asked(session, OWNER) is False
        assert await admin.note_asked(session, STRANGER) is False
        await queries.set_consent(session, OWNER, True)
        assert await admin.note_asked(session, OWNER) is False
