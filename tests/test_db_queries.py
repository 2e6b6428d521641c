"""The queries answer what they promise, on both databases."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from db import jobs, queries, versions
from db.models import Generation, JobStatus, ModelVersion, Rating, User, VersionStatus
from db.queries import Rated
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
    add_story,
    add_user,
    an_answer,
    columns,
    job_in,
    read_job,
    set_job,
)

MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of jobs and queries, which the test moves."""
    clock = Clock()
    monkeypatch.setattr("db.jobs.now", clock)
    monkeypatch.setattr("db.queries.now", clock)
    return clock


async def rows_of(database: Database, table: type[Any]) -> list[dict[str, Any]]:
    async with database.read() as session:
        return [columns(row) for row in await session.scalars(select(table).order_by(table.id))]


async def deliver(database: Database, job_id: int, message_id: int | None) -> None:
    async with database.write() as session:
        assert await jobs.mark_delivered(session, job_id, message_id)


# Users


async def test_user_is_remembered_once_with_his_last_language(
    database: Database, clock: Clock
) -> None:
    born = clock.moment
    await add_user(database, STRANGER, "ru")
    await add_user(database, OWNER, "ru")
    clock.move(MINUTE)
    await add_user(database, OWNER, "en")
    assert await rows_of(database, User) == [
        {"id": OWNER, "language": "en", "consent": None, "created_at": born},
        {"id": STRANGER, "language": "ru", "consent": None, "created_at": born},
    ]


async def test_consent_is_the_users_own_and_outlives_his_next_message(database: Database) -> None:
    await add_user(database, OWNER)
    await add_user(database, STRANGER)
    for consent in (True, False):
        async with database.write() as session:
            await queries.set_consent(session, OWNER, consent)
        await add_user(database, OWNER, "en")
        rows = await rows_of(database, User)
        assert [(row["id"], row["consent"]) for row in rows] == [(OWNER, consent), (STRANGER, None)]


async def test_user_who_writes_twice_at_once_is_remembered_once(database: Database) -> None:
    async with asyncio.TaskGroup() as group, database.write() as session:
        await queries.remember_user(session, OWNER, "ru")
        second = group.create_task(add_user(database, OWNER, "en"))
        await asyncio.wait({second}, timeout=SOON)
    assert [row["language"] for row in await rows_of(database, User)] == ["en"]


# Delivery


async def test_placeholder_is_noted_on_its_job_alone(database: Database) -> None:
    job_id, other_id = await add_jobs(database, 2)
    before = columns(await read_job(database, job_id))
    other = columns(await read_job(database, other_id))
    async with database.write() as session:
        await queries.set_placeholder(session, job_id, 2**40)
    assert columns(await read_job(database, job_id)) == before | {"placeholder_id": 2**40}
    assert columns(await read_job(database, other_id)) == other


async def test_undelivered_are_all_whose_reader_waits_oldest_first(database: Database) -> None:
    statuses = [JobStatus.CANCELLED, JobStatus.DONE, JobStatus.FAILED, JobStatus.RUNNING]
    waiting = [(await job_in(database, status)).job_id for status in statuses]
    delivered = (await job_in(database, JobStatus.DONE)).job_id
    await deliver(database, delivered, 5)
    waiting.append(await add_job(database))
    async with database.read() as session:
        assert [job.id for job in await queries.undelivered(session)] == waiting


async def test_undelivered_can_be_used_after_their_session(database: Database) -> None:
    await add_story(database, user_id=STRANGER, texts=("первый", "второй", "третий"))
    await add_story(database, user_id=OWNER)
    async with database.read() as session:
        first, second = await queries.undelivered(session)
    assert (first.user.id, first.user.language) == (STRANGER, "ru")
    assert [answer.text for answer in first.generations] == ["первый", "второй", "третий"]
    assert second.user.id == OWNER
    assert [answer.variant for answer in second.generations] == [0]


async def test_generations_come_in_the_order_of_their_variants(database: Database) -> None:
    job_id, _ = await add_story(database, texts=())
    model = await add_model(database)
    for variant in (2, 0, 1):
        async with database.write() as session:
            values = vars(an_answer(model)) | {"variant": variant, "job_id": job_id}
            session.add(Generation(**values, finished_at=values["started_at"]))
    async with database.read() as session:
        (job,) = await queries.undelivered(session)
    assert [answer.variant for answer in job.generations] == [0, 1, 2]


async def test_job_is_found_at_the_message_of_its_story(database: Database) -> None:
    job_id, _ = await add_story(database, texts=("первый", "второй"))
    other_id, _ = await add_story(database)
    await deliver(database, job_id, 77)
    await deliver(database, other_id, 78)
    async with database.read() as session:
        job = await queries.job_at(session, OWNER, 77)
        assert await queries.job_at(session, OWNER, 79) is None
        assert await queries.job_at(session, GROUP, 77) is None
    assert job is not None
    assert job.id == job_id
    assert [answer.text for answer in job.generations] == ["первый", "второй"]


async def test_same_message_number_in_another_chat_is_another_story(database: Database) -> None:
    mine = await job_in(database, JobStatus.DONE)
    ours = await add_job(database, chat_id=GROUP)
    async with database.write() as session:
        await jobs.cancel(session, ours, OWNER)
    await deliver(database, mine.job_id, 77)
    await deliver(database, ours, 77)
    async with database.read() as session:
        here = await queries.job_at(session, OWNER, 77)
        there = await queries.job_at(session, GROUP, 77)
    assert here is not None
    assert there is not None
    assert (here.id, there.id) == (mine.job_id, ours)


async def test_waiting_jobs_are_the_users_own_not_yet_delivered(database: Database) -> None:
    await add_user(database)
    delivered = (await job_in(database, JobStatus.DONE)).job_id
    await deliver(database, delivered, None)
    for status in (JobStatus.DONE, JobStatus.CANCELLED, JobStatus.RUNNING):
        await job_in(database, status)
    await add_jobs(database, 2)
    await add_job(database, user_id=STRANGER)
    async with database.read() as session:
        assert await queries.waiting_jobs(session, OWNER) == 5
        assert await queries.waiting_jobs(session, STRANGER) == 1
        assert await queries.waiting_jobs(session, 404) == 0


# Ratings


async def vote(
    database: Database, generation_id: int, value: int, user_id: int = OWNER
) -> Rated | None:
    async with database.write() as session:
        return await queries.rate(session, generation_id, user_id, value)


async def test_first_vote_is_stored(database: Database, clock: Clock) -> None:
    _, (_, second) = await add_story(database, texts=("а", "б"))
    assert await vote(database, second, -1) == Rated(OWNER, changed=True)
    (row,) = await rows_of(database, Rating)
    assert row == {
        "id": row["id"],
        "generation_id": second,
        "user_id": OWNER,
        "value": -1,
        "created_at": clock.moment,
        "updated_at": clock.moment,
    }


async def test_variants_of_one_story_are_voted_on_apart(database: Database) -> None:
    _, (first, second) = await add_story(database, texts=("а", "б"))
    assert await vote(database, second, 1) == Rated(OWNER, changed=True)
    assert await vote(database, first, 1) == Rated(OWNER, changed=True)
    assert await vote(database, second, -1) == Rated(OWNER, changed=True)
    votes = {row["generation_id"]: row["value"] for row in await rows_of(database, Rating)}
    assert votes == {first: 1, second: -1}


async def test_changed_vote_takes_the_place_of_the_first(database: Database, clock: Clock) -> None:
    _, (generation_id,) = await add_story(database)
    await vote(database, generation_id, 1)
    (before,) = await rows_of(database, Rating)
    clock.move(MINUTE)
    assert await vote(database, generation_id, -1) == Rated(OWNER, changed=True)
    assert await rows_of(database, Rating) == [before | {"value": -1, "updated_at": clock.moment}]
    assert await vote(database, generation_id, 1) == Rated(OWNER, changed=True)


async def test_same_vote_again_changes_nothing(database: Database) -> None:
    _, (generation_id,) = await add_story(database)
    await vote(database, generation_id, 1)
    assert await vote(database, generation_id, 1) == Rated(OWNER, changed=False)
    assert [row["value"] for row in await rows_of(database, Rating)] == [1]


async def test_vote_of_another_reader_is_not_stored(database: Database) -> None:
    _, (generation_id,) = await add_story(database)
    await add_user(database, STRANGER)
    assert await vote(database, generation_id, 1, STRANGER) == Rated(OWNER, changed=False)
    assert await rows_of(database, Rating) == []
    await vote(database, generation_id, 1)
    assert await vote(database, generation_id, -1, STRANGER) == Rated(OWNER, changed=False)
    assert [row["value"] for row in await rows_of(database, Rating)] == [1]


async def test_vote_on_no_story_is_none(database: Database) -> None:
    await add_user(database)
    assert await vote(database, 404, 1) is None
    assert await rows_of(database, Rating) == []


@pytest.mark.parametrize("value", [0, 2, -2])
async def test_vote_that_is_neither_for_nor_against_is_refused(
    database: Database, value: int
) -> None:
    _, (generation_id,) = await add_story(database)
    with pytest.raises(IntegrityError):
        await vote(database, generation_id, value)


async def test_two_votes_of_a_reader_at_once_leave_one_row(database: Database) -> None:
    _, (generation_id,) = await add_story(database)
    async with asyncio.TaskGroup() as group, database.write() as session:
        await queries.rate(session, generation_id, OWNER, 1)
        second = group.create_task(vote(database, generation_id, -1))
        await asyncio.wait({second}, timeout=SOON)
    assert second.result() == Rated(OWNER, changed=True)
    assert [row["value"] for row in await rows_of(database, Rating)] == [-1]


async def test_many_votes_of_a_reader_at_once_leave_one_row(database: Database) -> None:
    _, (generation_id,) = await add_story(database)
    await asyncio.gather(*(vote(database, generation_id, value) for value in (1, -1, 1, -1)))
    assert len(await rows_of(database, Rating)) == 1


async def test_rated_is_every_vote_with_what_it_is_about_oldest_first(
    database: Database, clock: Clock
) -> None:
    _, (first, _) = await add_story(database, user_id=STRANGER, texts=(" Вечер.", " Утро."))
    job_id, (second,) = await add_story(database, user_id=OWNER, texts=(" Ночь.",))
    await set_job(database, job_id, prompt="Настала", context="Смеркалось.")
    await vote(database, second, 1)
    async with database.write() as session:
        await queries.set_consent(session, OWNER, True)
    clock.move(MINUTE)
    await vote(database, first, 1, STRANGER)
    clock.move(MINUTE)
    await vote(database, second, -1)  # he thought again: now his vote is the newest
    async with database.read() as session:
        older, newer = await queries.rated(session)
    assert (older.user_id, older.consent, older.value) == (STRANGER, None, 1)
    assert (older.text, older.context, older.version) == (" Вечер.", "", "pushkin 1")
    assert newer == queries.RatedStory(
        generation_id=second,
        prompt="Настала",
        context="Смеркалось.",
        text=" Ночь.",
        value=-1,
        user_id=OWNER,
        consent=True,
        version="pushkin 1",
        created_at=clock.moment,
    )


# Models


async def register(
    database: Database, version: str, meta: Mapping[str, Any] | None = None, **changes: Any
) -> int:
    values: dict[str, Any] = {"name": "pushkin", "prompt_tokens": 8, "prompt_characters": 30}
    values |= changes
    async with database.write() as session:
        return await queries.register_model(session, version=version, meta=meta or {}, **values)


async def speaker(database: Database) -> ModelVersion | None:
    async with database.read() as session:
        return await queries.speaking_model(session)


async def test_model_that_starts_again_is_the_same_row_with_what_is_new(
    database: Database, clock: Clock
) -> None:
    first_start = clock.moment
    version_id = await register(database, "1", {"слои": [2, {"ширина": 8}]})
    other_id = await register(database, "2")
    clock.move(MINUTE)
    again = await register(
        database, "1", {"потери": 1.5, "нет": None}, prompt_tokens=16, prompt_characters=60
    )
    assert again == version_id != other_id
    first, second = await rows_of(database, ModelVersion)
    assert first == {
        "id": version_id,
        "name": "pushkin",
        "version": "1",
        "status": VersionStatus.ACTIVE,
        "folder": None,
        "share": 0,
        "parent_id": None,
        "prompt_tokens": 16,
        "prompt_characters": 60,
        "meta": {"потери": 1.5, "нет": None},
        "created_at": first_start,
        "served_at": clock.moment,
        "retired_at": None,
        "trouble": None,
    }
    assert second["served_at"] == first_start
    assert second["status"] == VersionStatus.RETIRED


async def test_versions_of_two_names_are_two_models(database: Database) -> None:
    assert await register(database, "1") != await register(database, "1", name="gogol")


async def test_two_workers_that_start_at_once_register_one_model(database: Database) -> None:
    ids = await asyncio.gather(*(register(database, "1") for _ in range(4)))
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(ModelVersion)) == 1
    assert len(set(ids)) == 1


async def test_before_the_first_worker_no_model_speaks(database: Database) -> None:
    assert await speaker(database) is None


async def test_model_that_was_started_last_speaks(database: Database, clock: Clock) -> None:
    for version, expected in [("1", "1"), ("2", "2"), ("1", "1")]:
        clock.move(MINUTE)
        await register(database, version)
        model = await speaker(database)
        assert model is not None
        assert model.version == expected


async def test_different_models_that_start_at_once_leave_one_active(database: Database) -> None:
    await asyncio.gather(*(register(database, str(number)) for number in range(4)))
    statuses = [row["status"] for row in await rows_of(database, ModelVersion)]
    assert sorted(statuses) == [VersionStatus.ACTIVE] + 3 * [VersionStatus.RETIRED]


async def test_worker_that_starts_does_not_displace_a_retrained_version(database: Database) -> None:
    base = await register(database, "1")
    async with database.write() as session:
        retrained = await versions.add_candidate(
            session,
            name="pushkin",
            version="2",
            folder="models/pushkin/2",
            parent_id=base,
            prompt_tokens=8,
            prompt_characters=30,
            meta={},
        )
        await versions.activate(session, retrained.id)
    await register(database, "1")
    other = await register(database, "3")
    statuses = {row["id"]: row["status"] for row in await rows_of(database, ModelVersion)}
    assert statuses == {
        base: VersionStatus.RETIRED,
        retrained.id: VersionStatus.ACTIVE,
        other: VersionStatus.CANDIDATE,
    }
    model = await speaker(database)
    assert model is not None
    assert model.version == "2"
