"""Every other question to the database: plain functions that take a session first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from db.models import Generation, Job, ModelVersion, Rating, User, VersionStatus, now
from db.session import insert
from db.versions import activate, lock


async def remember_user(session: AsyncSession, user_id: int, language: str) -> None:
    """Add the user or note the language he now uses."""
    statement = insert(session, User).values(id=user_id, language=language, created_at=now())
    await session.execute(
        statement.on_conflict_do_update(index_elements=[User.id], set_={"language": language})
    )


async def set_consent(session: AsyncSession, user_id: int, consent: bool) -> None:
    """Note whether the user's votes may train a model."""
    await session.execute(
        update(User)
        .where(User.id == user_id)
        .values(consent=consent)
        .execution_options(synchronize_session=False)
    )


async def set_placeholder(session: AsyncSession, job_id: int, message_id: int) -> None:
    """Note which message stands in for the answer until it is there."""
    await session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(placeholder_id=message_id)
        .execution_options(synchronize_session=False)
    )


async def undelivered(
    session: AsyncSession, *, only: int | None = None, but: int | None = None
) -> Sequence[Job]:
    """Return all jobs whose reader still waits, oldest first, with users and generations.

    ``only`` and ``but`` name a chat: no other's jobs, or all others'.
    """
    chat = true() if only is None else Job.chat_id == only
    if but is not None:
        chat &= Job.chat_id != but
    jobs = await session.scalars(
        select(Job)
        .where(Job.delivered_at.is_(None), chat)
        .order_by(Job.id)
        .options(selectinload(Job.user), selectinload(Job.generations))
    )
    return jobs.all()


async def job_at(session: AsyncSession, chat_id: int, message_id: int) -> Job | None:
    """Return the job whose delivered story stands in this message, with its generations."""
    jobs = await session.scalars(
        select(Job)
        .where(Job.chat_id == chat_id, Job.message_id == message_id)
        .options(selectinload(Job.generations))
    )
    return jobs.one_or_none()


@dataclass(frozen=True)
class Rated:
    """The outcome of a vote: whose story it is, and whether the vote changed anything."""

    owner_id: int
    changed: bool


async def rate(session: AsyncSession, generation_id: int, user_id: int, value: int) -> Rated | None:
    """Store the owner's vote (1 or -1), replacing his earlier one.

    Returns None if there is no such generation; a vote of anybody else changes nothing.
    """
    owner_id = await session.scalar(
        select(Job.user_id).join(Generation).where(Generation.id == generation_id)
    )
    if owner_id is None:
        return None
    if owner_id != user_id:
        return Rated(owner_id, changed=False)
    before = await session.scalar(
        select(Rating.value).where(Rating.generation_id == generation_id, Rating.user_id == user_id)
    )
    moment = now()
    statement = insert(session, Rating).values(
        generation_id=generation_id,
        user_id=user_id,
        value=value,
        created_at=moment,
        updated_at=moment,
    )
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[Rating.generation_id, Rating.user_id],
            set_={"value": value, "updated_at": moment},
        )
    )
    return Rated(owner_id, changed=before != value)


@dataclass(frozen=True)
class RatedStory:
    """A vote with all that a model could learn from it; ``created_at`` is when it was last cast."""

    generation_id: int
    prompt: str
    context: str
    text: str
    value: int  # 1 liked, -1 disliked
    user_id: int
    consent: bool | None
    version: str  # name and version of the model that wrote it
    created_at: datetime


async def rated(session: AsyncSession) -> Sequence[RatedStory]:
    """Return every vote, oldest first; the reader's consent is for the caller to respect."""
    rows = await session.execute(
        select(
            Generation.id,
            Job.prompt,
            Job.context,
            Generation.text,
            Rating.value,
            User.id,
            User.consent,
            ModelVersion.name + " " + ModelVersion.version,
            Rating.updated_at,
        )
        .join(Generation, Rating.generation_id == Generation.id)
        .join(Job, Generation.job_id == Job.id)
        .join(User, Rating.user_id == User.id)
        .join(ModelVersion, Generation.model_version_id == ModelVersion.id)
        .order_by(Rating.updated_at, Rating.id)
    )
    return [RatedStory(*row) for row in rows]


async def register_model(
    session: AsyncSession,
    *,
    name: str,
    version: str,
    prompt_tokens: int,
    prompt_characters: int,
    meta: Mapping[str, Any],
) -> int:
    """Note that a worker was started with this version and return the version's id.

    It takes the place of another that a worker was started with, never of a retrained one.
    """
    values = {
        "prompt_tokens": prompt_tokens,
        "prompt_characters": prompt_characters,
        "meta": dict(meta),
        "served_at": now(),
        "trouble": None,
    }
    await lock(session, ModelVersion)  # two workers that start at once must not both be active
    statement = insert(session, ModelVersion).values(
        name=name,
        version=version,
        status=VersionStatus.CANDIDATE,
        share=0.0,
        created_at=now(),
        **values,
    )
    version_id: int | None = await session.scalar(
        statement.on_conflict_do_update(
            index_elements=[ModelVersion.name, ModelVersion.version], set_=values
        ).returning(ModelVersion.id)
    )
    assert version_id is not None
    active = await speaking_model(session)
    if active is None or active.folder is None:
        await activate(session, version_id)
    return version_id


async def speaking_model(session: AsyncSession) -> ModelVersion | None:
    """Return the active version; None before the first worker."""
    versions = await session.scalars(
        select(ModelVersion).where(ModelVersion.status == VersionStatus.ACTIVE)
    )
    return versions.one_or_none()


async def waiting_jobs(session: AsyncSession, user_id: int) -> int:
    """Return how many of a user's jobs are not delivered yet."""
    count = await session.scalar(
        select(func.count()).where(Job.user_id == user_id, Job.delivered_at.is_(None))
    )
    return count or 0
