"""What the tests of the admins' side share: votes, versions, a retraining played by hand."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from db import queries, retraining, versions
from db.models import Generation, Job, JobStatus, Rating, Retraining, User, VersionStatus, now
from db.session import Database
from tests import telegram_server
from tests.stand import Stand, open_stand

ADMIN_ID = 900
MINIMUM = 2  # votes of each kind
_messages = count(1_000_000)


@asynccontextmanager
async def open_admin_stand(database: Database) -> AsyncIterator[tuple[Stand, telegram_server.User]]:
    """Run the bot with one admin, who has written to it."""
    async with open_stand(database, admin_ids=str(ADMIN_ID), retrain_min_ratings=MINIMUM) as stand:
        admin = stand.server.user(ADMIN_ID)
        await stand.server.say(admin, "/start")
        await stand.answer("/story", ADMIN_ID)
        yield stand, admin


async def add_votes(
    database: Database, values: Sequence[int], *, user_id: int = 7, consent: bool = True
) -> int:
    """Store votes on delivered stories of a reader; return the version that wrote them."""
    moment = now()
    async with database.write() as session:
        await queries.remember_user(session, user_id, "ru")
        (await session.get_one(User, user_id)).consent = consent
        version_id = await queries.register_model(
            session, name="pushkin", version="base", prompt_tokens=8, prompt_characters=30, meta={}
        )
        for value in values:
            message_id = next(_messages)
            job = Job(
                user_id=user_id,
                chat_id=user_id,
                private=True,
                request_message_id=message_id,
                message_id=message_id,
                prompt="Мороз",
                context="",
                settings={},
                status=JobStatus.DONE,
                available_at=moment,
                created_at=moment,
                delivered_at=moment,
            )
            generation = Generation(
                job=job,
                variant=0,
                model_version_id=version_id,
                text=" и солнце.",
                seed=1,
                settings={},
                tokens=2,
                finish_reason="stop",
                started_at=moment,
                finished_at=moment,
            )
            session.add(generation)
            await session.flush()
            session.add(
                Rating(
                    generation_id=generation.id,
                    user_id=user_id,
                    value=value,
                    created_at=moment,
                    updated_at=moment,
                )
            )
    return version_id


async def add_candidate(
    database: Database, version: str, parent_id: int | None = None, **meta: Any
) -> int:
    """Add a candidate and return its id."""
    async with database.write() as session:
        row = await versions.add_candidate(
            session,
            name="pushkin",
            version=version,
            folder=f"models/pushkin/{version}",
            parent_id=parent_id,
            prompt_tokens=8,
            prompt_characters=30,
            meta=meta,
        )
        return row.id


async def statuses(database: Database) -> dict[str, tuple[VersionStatus, float]]:
    """Return every version's status and share."""
    async with database.read() as session:
        rows = await versions.versions(session, 100)
    return {row.version: (row.status, row.share) for row in rows}


async def claim(database: Database) -> Retraining:
    """Take the retraining that waits, as a trainer does."""
    async with database.write() as session:
        row = await retraining.claim(session, "trainer")
    assert row is not None
    return row


async def tell(database: Database, row: Retraining, phase: str, **progress: Any) -> bool:
    """Say how far it is; False if it is to be stopped."""
    async with database.write() as session:
        return await retraining.report(
            session, row.id, "trainer", row.attempts, phase=phase, progress=progress
        )


async def finish(
    database: Database, row: Retraining, report: dict[str, Any], version_id: int | None = None
) -> None:
    """End it with a report."""
    async with database.write() as session:
        assert await retraining.finish(
            session, row.id, "trainer", row.attempts, report=report, version_id=version_id
        )


async def latest(database: Database) -> Retraining | None:
    """Return the retraining that was asked for last."""
    async with database.read() as session:
        return await retraining.latest(session)
