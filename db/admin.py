"""What only admins ask the database: plain functions that take a session first."""

from dataclasses import dataclass

from sqlalchemy import CursorResult, case, func, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from db.models import ModelVersion, Rating, Retraining, RetrainingStatus, User, VersionStatus
from db.versions import VersionVotes, votes_by_version


@dataclass(frozen=True)
class VoteReport:
    """The votes that a model may learn from; ``fresh`` were cast since the last retraining."""

    votes: int
    readers: int
    liked: int
    disliked: int
    fresh: int


async def vote_report(session: AsyncSession) -> VoteReport:
    """Count the votes of the readers who consented."""
    learnt_at = await session.scalar(
        select(func.max(Retraining.started_at)).where(Retraining.status == RetrainingStatus.DONE)
    )
    fresh = true() if learnt_at is None else Rating.updated_at > learnt_at
    row = await session.execute(
        select(
            func.count(),
            func.count(Rating.user_id.distinct()),
            func.count(case((Rating.value == 1, 1))),
            func.count(case((Rating.value == -1, 1))),
            func.count(case((fresh, 1))),
        )
        .select_from(Rating)
        .join(User, Rating.user_id == User.id)
        .where(User.consent.is_(True))
    )
    return VoteReport(*row.one())


async def version_votes(session: AsyncSession, version_id: int) -> VersionVotes | None:
    """Return a version with its votes; None if there is none of this id."""
    found = (row for row in await votes_by_version(session) if row.version.id == version_id)
    return next(found, None)


async def predecessor(session: AsyncSession) -> ModelVersion | None:
    """Return the version that answered before the active one, to go back to; None if none did.

    Of those that workers were started with, a worker can open only the last.
    """
    last_start = select(func.max(ModelVersion.served_at)).scalar_subquery()
    found = await session.scalars(
        select(ModelVersion)
        .where(
            ModelVersion.status == VersionStatus.RETIRED,
            ModelVersion.retired_at.is_not(None),
            ModelVersion.folder.is_not(None) | (ModelVersion.served_at == last_start),
        )
        .order_by(ModelVersion.retired_at.desc())
        .limit(1)
    )
    return found.one_or_none()


async def note_asked(session: AsyncSession, user_id: int) -> bool:
    """Note that the reader is being asked for his consent: no, until he says yes.

    False if he has been asked before. One statement: two votes at once ask once.
    """
    result = await session.execute(
        update(User)
        .where(User.id == user_id, User.consent.is_(None))
        .values(consent=False)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1
