"""Model versions: which answers readers, which are on trial, which are over.

             add_candidate            activate                  activate another
    ──────────────────────► candidate ────────► active ────────────────────────► retired
                                                   ▲────────── activate ─────────────┘

One version is active. One candidate at a time may take a ``share`` of the stories beside it: a
trial. All functions take a session first and leave the commit to the caller.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import case, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from db.models import Generation, ModelVersion, Rating, VersionStatus, now
from db.session import insert


class VersionError(Exception):
    """What was asked of a version cannot be: the message says why."""


class VersionVotes(NamedTuple):
    """How readers liked what a version wrote: votes, not readers."""

    version: ModelVersion
    likes: int
    dislikes: int


async def lock(session: AsyncSession, table: type[DeclarativeBase]) -> None:
    """Let nobody else write the table until this transaction ends.

    For a look and a change that must be one. SQLite's writers are alone anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        name = table.__tablename__
        await session.execute(text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))


async def add_candidate(
    session: AsyncSession,
    *,
    name: str,
    version: str,
    folder: str,
    parent_id: int | None,
    prompt_tokens: int,
    prompt_characters: int,
    meta: Mapping[str, Any],
) -> ModelVersion:
    """Add a version that may answer readers once it is activated or gets a share.

    A retraining that was killed and runs again may bring its candidate a second time: that is the
    same row. Raises VersionError if the version is not a candidate any more.
    """
    values = {
        "folder": folder,
        "parent_id": parent_id,
        "prompt_tokens": prompt_tokens,
        "prompt_characters": prompt_characters,
        "meta": dict(meta),
    }
    statement = insert(session, ModelVersion).values(
        name=name,
        version=version,
        status=VersionStatus.CANDIDATE,
        share=0.0,
        created_at=now(),
        **values,
    )
    added: ModelVersion | None = await session.scalar(
        statement.on_conflict_do_update(
            index_elements=[ModelVersion.name, ModelVersion.version],
            set_=values,
            where=ModelVersion.status == VersionStatus.CANDIDATE,
        )
        .returning(ModelVersion)
        .execution_options(populate_existing=True)
    )
    if added is None:
        raise VersionError(f"{name} {version} is there already and no candidate")
    return added


async def activate(session: AsyncSession, version_id: int) -> None:
    """Let this version answer readers and retire the one that did.

    Raises VersionError if there is no such version.
    """
    await lock(session, ModelVersion)
    previous = await session.scalar(
        select(ModelVersion.id).where(ModelVersion.status == VersionStatus.ACTIVE)
    )
    if await session.scalar(select(ModelVersion.id).where(ModelVersion.id == version_id)) is None:
        raise VersionError(f"there is no version {version_id}")
    if previous != version_id:  # the former first: the index bears no second active version
        await _set(session, previous, status=VersionStatus.RETIRED, share=0.0, retired_at=now())
        await _set(session, version_id, status=VersionStatus.ACTIVE, share=0.0, retired_at=None)


async def set_share(session: AsyncSession, version_id: int, share: float) -> None:
    """Give a candidate this part (0..1) of the stories, and take another's away: a worker has room
    for one beside the active version.

    Raises VersionError if it is no candidate, or if there is no such part.
    """
    if not 0 <= share <= 1:
        raise VersionError(f"a share of {share:g} is not 0..1")
    await lock(session, ModelVersion)
    candidate = (ModelVersion.id == version_id) & (ModelVersion.status == VersionStatus.CANDIDATE)
    if await session.scalar(select(ModelVersion.id).where(candidate)) is None:
        raise VersionError(f"version {version_id} is no candidate")
    if share:
        await session.execute(update(ModelVersion).where(ModelVersion.share > 0).values(share=0.0))
    await _set(session, version_id, share=share)


async def set_trouble(session: AsyncSession, version_id: int, trouble: str | None) -> None:
    """Note what keeps a worker from loading a version, for the admins; None: it is loaded.

    Of several workers the last to try has the word.
    """
    await _set(session, version_id, trouble=trouble)


async def serving(session: AsyncSession) -> Sequence[ModelVersion]:
    """Return the active version, then the candidate on trial, if there is one."""
    active = ModelVersion.status == VersionStatus.ACTIVE
    tried = (ModelVersion.status == VersionStatus.CANDIDATE) & (ModelVersion.share > 0)
    found = await session.scalars(
        select(ModelVersion)
        .where(active | tried)
        .order_by(case((active, 0), else_=1), ModelVersion.id)
    )
    return found.all()


async def versions(session: AsyncSession, limit: int) -> Sequence[ModelVersion]:
    """Return the newest versions, newest first."""
    found = await session.scalars(
        select(ModelVersion).order_by(ModelVersion.id.desc()).limit(limit)
    )
    return found.all()


async def votes_by_version(session: AsyncSession) -> Sequence[VersionVotes]:
    """Return every version with its votes, oldest first; one without votes has zeros."""
    likes = func.count(case((Rating.value == 1, 1)))
    dislikes = func.count(case((Rating.value == -1, 1)))
    rows = await session.execute(
        select(ModelVersion, likes, dislikes)
        .outerjoin(Generation, Generation.model_version_id == ModelVersion.id)
        .outerjoin(Rating, Rating.generation_id == Generation.id)
        .group_by(ModelVersion.id)
        .order_by(ModelVersion.id)
    )
    return [VersionVotes(*row) for row in rows]


async def _set(session: AsyncSession, version_id: int | None, **values: Any) -> None:
    await session.execute(
        update(ModelVersion).where(ModelVersion.id == version_id).values(**values)
    )
