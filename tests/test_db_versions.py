"""One version is active, candidates have their shares, on both databases; old rows fit in."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from db import queries, versions
from db.migrate import downgrade_on, upgrade_on
from db.models import ModelVersion, VersionStatus
from db.session import Database
from db.versions import VersionError, VersionVotes
from tests.db_helpers import OWNER, add_model, add_story, doomed_write


async def add(database: Database, version: str, **changes: Any) -> int:
    """Add a candidate and return its id."""
    values: dict[str, Any] = {
        "folder": f"models/pushkin/{version}",
        "parent_id": None,
        "prompt_tokens": 8,
        "prompt_characters": 30,
        "meta": {},
    }
    async with database.write() as session:
        added = await versions.add_candidate(
            session, name="pushkin", version=version, **values | changes
        )
        return added.id


async def activate(database: Database, version_id: int) -> None:
    async with database.write() as session:
        await versions.activate(session, version_id)


async def set_share(database: Database, version_id: int, share: float) -> None:
    async with database.write() as session:
        await versions.set_share(session, version_id, share)


async def serving(database: Database) -> list[tuple[int, float]]:
    async with database.read() as session:
        return [(found.id, found.share) for found in await versions.serving(session)]


async def read(database: Database, version_id: int) -> ModelVersion:
    async with database.read() as session:
        return await session.get_one(ModelVersion, version_id)


async def test_candidate_has_its_folder_and_parent_and_serves_nobody_yet(
    database: Database,
) -> None:
    base = await add_model(database)
    candidate = await read(database, await add(database, "2", parent_id=base, meta={"бит": 2.1}))
    assert candidate.status is VersionStatus.CANDIDATE
    assert (candidate.folder, candidate.parent_id) == ("models/pushkin/2", base)
    assert (candidate.share, candidate.served_at, candidate.meta) == (0, None, {"бит": 2.1})
    assert await serving(database) == [(base, 0)]


async def test_candidate_that_comes_twice_is_one_row_with_what_is_new(database: Database) -> None:
    first = await add(database, "2")
    assert await add(database, "2", meta={"бит": 2.0}) == first
    assert (await read(database, first)).meta == {"бит": 2.0}


async def test_version_that_answers_already_does_not_become_a_candidate(
    database: Database,
) -> None:
    base = await add_model(database, version="1")
    with pytest.raises(VersionError, match="pushkin 1"):
        await add(database, "1", parent_id=base)
    found = await read(database, base)
    assert (found.status, found.folder) == (VersionStatus.ACTIVE, None)


async def test_activated_version_retires_the_former_and_can_be_taken_back(
    database: Database,
) -> None:
    base = await add_model(database)
    candidate = await add(database, "2")
    await set_share(database, candidate, 0.5)
    await activate(database, candidate)
    assert await serving(database) == [(candidate, 0)]
    assert (await read(database, base)).status is VersionStatus.RETIRED
    await activate(database, candidate)  # a second tap changes nothing
    assert await serving(database) == [(candidate, 0)]
    await activate(database, base)
    assert await serving(database) == [(base, 0)]
    assert (await read(database, candidate)).status is VersionStatus.RETIRED


async def test_first_version_ever_retires_none(database: Database) -> None:
    candidate = await add(database, "2")
    await activate(database, candidate)
    assert await serving(database) == [(candidate, 0)]


async def test_activating_no_version_leaves_the_active_one(database: Database) -> None:
    base = await add_model(database)
    with pytest.raises(VersionError, match="404"):
        await activate(database, 404)
    assert await serving(database) == [(base, 0)]


async def test_admins_who_activate_at_once_leave_one_active(database: Database) -> None:
    base = await add_model(database)
    ids = [await add(database, str(number)) for number in range(2, 5)]
    await asyncio.gather(*(activate(database, version_id) for version_id in ids))
    ((last, _),) = await serving(database)
    for version_id in {base, *ids} - {last}:  # each retired the one before it
        assert (await read(database, version_id)).status is VersionStatus.RETIRED


async def test_database_bears_no_second_active_version(database: Database) -> None:
    await add_model(database)
    candidate = await add(database, "2")
    async with doomed_write(database) as session:
        found = await session.get_one(ModelVersion, candidate)
        found.status = VersionStatus.ACTIVE
        with pytest.raises(IntegrityError):
            await session.flush()


async def test_candidate_with_a_share_serves_after_the_active_version(database: Database) -> None:
    candidate = await add(database, "2")
    base = await add_model(database)
    await set_share(database, candidate, 0.1)
    assert await serving(database) == [(base, 0), (candidate, 0.1)]
    await set_share(database, candidate, 1)
    assert await serving(database) == [(base, 0), (candidate, 1)]
    await set_share(database, candidate, 0)
    assert await serving(database) == [(base, 0)]


async def test_share_of_one_candidate_takes_the_others_away(database: Database) -> None:
    """Each kept its own, and the worker, with room for one, gave the second no story."""
    base = await add_model(database)
    first, second = [await add(database, version) for version in "23"]
    await set_share(database, first, 0.25)
    await set_share(database, second, 0.25)
    assert await serving(database) == [(base, 0), (second, 0.25)]
    await set_share(database, first, 0)  # no trial: that ends nobody else's
    assert await serving(database) == [(base, 0), (second, 0.25)]


async def test_admins_who_give_shares_at_once_leave_one_trial(database: Database) -> None:
    await add_model(database)
    ids = [await add(database, str(number)) for number in range(2, 6)]
    await asyncio.gather(*(set_share(database, version_id, 0.5) for version_id in ids))
    assert len(await serving(database)) == 2


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
async def test_share_that_is_none_is_refused(database: Database, share: float) -> None:
    candidate = await add(database, "2")
    with pytest.raises(VersionError):
        await set_share(database, candidate, share)
    assert (await read(database, candidate)).share == 0


async def test_only_a_candidate_can_have_a_share(database: Database) -> None:
    base = await add_model(database)
    for version_id in (base, 404):
        with pytest.raises(VersionError, match="no candidate"):
            await set_share(database, version_id, 0.1)


async def test_trouble_is_noted_and_forgotten(database: Database) -> None:
    candidate, other = [await add(database, version) for version in "23"]
    for trouble in ("веса испорчены", None):
        async with database.write() as session:
            await versions.set_trouble(session, candidate, trouble)
        assert (await read(database, candidate)).trouble == trouble
        assert (await read(database, other)).trouble is None


async def test_versions_are_the_newest_first(database: Database) -> None:
    first, second, third = [await add(database, version) for version in "234"]
    async with database.read() as session:
        assert [row.id for row in await versions.versions(session, 2)] == [third, second]
        assert len(await versions.versions(session, 9)) == len([first, second, third])


async def test_votes_are_counted_for_the_version_that_wrote(database: Database) -> None:
    _, ids = await add_story(database, texts=("а", "б", "в", "г"))
    candidate = await add(database, "2")
    async with database.write() as session:
        for generation_id, value in zip(ids, (1, -1, 1), strict=False):
            await queries.rate(session, generation_id, OWNER, value)
    async with database.read() as session:
        first, second = await versions.votes_by_version(session)
    assert (first.version.version, first.likes, first.dislikes) == ("1", 2, 1)
    assert isinstance(second, VersionVotes)
    assert (second.version.id, second.likes, second.dislikes) == (candidate, 0, 0)


# The migration

OLD = """
INSERT INTO model_versions
(name, version, status, prompt_tokens, prompt_characters, meta, created_at, served_at)
VALUES ('pushkin', '{version}', 'active', 8, 30, '{{}}', '{served}', '{served}')
"""


async def test_of_the_versions_that_were_all_active_the_last_served_stays(
    database: Database,
) -> None:
    def act(connection: Connection) -> None:
        downgrade_on(connection, "0001")
        for version, day in [("1", 1), ("2", 3), ("3", 2)]:
            served = f"2026-01-0{day} 12:00:00.000000"
            connection.execute(text(OLD.format(version=version, served=served)))
        upgrade_on(connection)

    async with database.engine.begin() as connection:
        await connection.run_sync(act)
    async with database.read() as session:
        found = {row.version: row for row in await versions.versions(session, 9)}
    assert {version: row.status.value for version, row in found.items()} == {
        "1": "retired",
        "2": "active",
        "3": "retired",
    }
    assert {row.share for row in found.values()} == {0}


LATER = """
INSERT INTO model_versions (id, name, version, status, share, parent_id, prompt_tokens,
prompt_characters, meta, created_at)
VALUES ({number}, 'pushkin', '{number}', '{status}', {share}, {parent}, 8, 30, '{{}}', '{created}')
"""


async def test_way_back_of_old_is_kept_and_of_old_trials_the_one_that_was_served(
    database: Database,
) -> None:
    rows = [("retired", 0, "NULL"), ("active", 0, 1), ("candidate", 0.5, 1), ("candidate", 0.5, 2)]

    def act(connection: Connection) -> None:
        downgrade_on(connection, "0002")
        for number, (status, share, parent) in enumerate(rows, 1):
            values = {"number": number, "status": status, "share": share, "parent": parent}
            created = f"2026-01-0{number} 12:00:00.000000"
            connection.execute(text(LATER.format(**values, created=created)))
        upgrade_on(connection)

    async with database.engine.begin() as connection:
        await connection.run_sync(act)
    assert await serving(database) == [(2, 0), (3, 0.5)]
    moments = [(await read(database, number)).retired_at for number in (1, 2, 3, 4)]
    assert moments == [(await read(database, 2)).created_at, None, None, None]


async def test_candidate_that_never_served_survives_a_downgrade(database: Database) -> None:
    candidate = await add(database, "2")
    before = await read(database, candidate)

    def act(connection: Connection) -> None:
        downgrade_on(connection, "0001")
        upgrade_on(connection)

    async with database.engine.begin() as connection:
        await connection.run_sync(act)
    after = await read(database, candidate)
    assert (after.version, after.status) == (before.version, VersionStatus.CANDIDATE)
    assert after.served_at == before.created_at
