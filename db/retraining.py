"""Retrainings: the only code that changes a retraining's status.

          request              claim                   finish
    ─────────────► queued ─────────────► running ─────────────► done
                     │ ▲     release      │ ▲ │ └─── fail ────► failed
                     │ └──────────────────┘ │ │
                     │ cancel         claim └─┤ (a silent worker's, as long as attempts are left)
                     └────────► cancelled ◄───┘

One is under way at a time. A worker holds it by a lease that ``report`` renews; whoever lost it, or
whose retraining was cancelled, gets False from ``report``, ``finish`` and ``fail``, and must stop.
All functions take a session first and leave the commit to the caller.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import CursorResult, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from db.models import Retraining, RetrainingStatus, UtcDateTime, now
from db.versions import lock

MAX_ATTEMPTS = 8  # it goes on where it was: more than one a phase, should each meet restarts
LEASE = timedelta(minutes=1)  # a worker that is silent for so long has lost its retraining

UNDER_WAY = (RetrainingStatus.QUEUED, RetrainingStatus.RUNNING)


async def request(
    session: AsyncSession,
    *,
    requested_by: int,
    chat_id: int,
    language: str,
    settings: Mapping[str, Any],
) -> Retraining | None:
    """Ask for a retraining; None if one is queued or running already."""
    await lock(session, Retraining)  # two admins at once: the second sees the first's
    under_way = select(Retraining.id).where(Retraining.status.in_(UNDER_WAY))
    if await session.scalar(under_way.limit(1)) is not None:
        return None
    retraining = Retraining(
        requested_by=requested_by,
        chat_id=chat_id,
        language=language,
        settings=dict(settings),
        status=RetrainingStatus.QUEUED,
        created_at=now(),
    )
    session.add(retraining)
    await session.flush()
    return retraining


async def claim(session: AsyncSession, worker: str) -> Retraining | None:
    """Give the worker the retraining that waits, or that a silent worker has lost.

    The row keeps the phase and the progress of the attempt before, and when the first one started:
    votes that are cast later may not have been learnt. One that was lost ``MAX_ATTEMPTS`` times
    fails.
    """
    moment = now()
    lost = (Retraining.status == RetrainingStatus.RUNNING) & (Retraining.lease_until < moment)
    await session.execute(
        update(Retraining)
        .where(lost, Retraining.attempts >= MAX_ATTEMPTS)
        .values(
            status=RetrainingStatus.FAILED,
            finished_at=moment,
            error="the worker was lost",
            worker=None,
            lease_until=None,
        )
        .execution_options(synchronize_session=False)
    )
    due = (
        select(Retraining.id)
        .where((Retraining.status == RetrainingStatus.QUEUED) | lost)
        .order_by(Retraining.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # SQLite's dialect drops this: its writers are alone
        .cte("due")
    )
    claimed = await session.scalars(
        update(Retraining)
        .where(Retraining.id.in_(select(due.c.id)))
        .values(
            status=RetrainingStatus.RUNNING,
            worker=worker,
            attempts=Retraining.attempts + 1,
            lease_until=moment + LEASE,
            started_at=func.coalesce(Retraining.started_at, literal(moment, UtcDateTime)),
        )
        .returning(Retraining)
        .execution_options(populate_existing=True)
    )
    return claimed.one_or_none()


async def report(
    session: AsyncSession,
    retraining_id: int,
    worker: str,
    attempt: int,
    *,
    phase: str,
    progress: Mapping[str, Any],
) -> bool:
    """Store how far it is and renew the lease; False if it was cancelled or lost."""
    lease_until = now() + LEASE
    values = {"phase": phase, "progress": dict(progress), "lease_until": lease_until}
    return await _change(session, retraining_id, worker, attempt, **values)


async def finish(
    session: AsyncSession,
    retraining_id: int,
    worker: str,
    attempt: int,
    *,
    report: Mapping[str, Any],
    version_id: int | None,
) -> bool:
    """Close it with what came out (no version, if none was worth it); False if it is not held."""
    return await _change(
        session,
        retraining_id,
        worker,
        attempt,
        **_end(RetrainingStatus.DONE),
        report=dict(report),
        version_id=version_id,
    )


async def fail(
    session: AsyncSession, retraining_id: int, worker: str, attempt: int, *, error: str
) -> bool:
    """End it for good (too few votes, a full disk, …); False if it is not held."""
    values = _end(RetrainingStatus.FAILED) | {"error": error}
    return await _change(session, retraining_id, worker, attempt, **values)


async def release(session: AsyncSession, retraining_id: int, worker: str, attempt: int) -> bool:
    """Put it back as if this attempt had not been, for whoever comes next; False if not held."""
    values = {
        "status": RetrainingStatus.QUEUED,
        "attempts": attempt - 1,
        "worker": None,
        "lease_until": None,
    }
    return await _change(session, retraining_id, worker, attempt, **values)


async def cancel(session: AsyncSession, retraining_id: int) -> bool:
    """Stop a queued or running retraining; False if it is over."""
    result = await session.execute(
        update(Retraining)
        .where(Retraining.id == retraining_id, Retraining.status.in_(UNDER_WAY))
        .values(**_end(RetrainingStatus.CANCELLED))
        .execution_options(synchronize_session=False)
    )
    return _changed(result)


async def latest(session: AsyncSession) -> Retraining | None:
    """Return the retraining that was asked for last."""
    found = await session.scalars(select(Retraining).order_by(Retraining.id.desc()).limit(1))
    return found.one_or_none()


async def undelivered(session: AsyncSession) -> Sequence[Retraining]:
    """Return those whose admin still waits for the end, oldest first: over or not."""
    found = await session.scalars(
        select(Retraining).where(Retraining.delivered_at.is_(None)).order_by(Retraining.id)
    )
    return found.all()


async def set_message(session: AsyncSession, retraining_id: int, message_id: int) -> None:
    """Note which message shows the admin the progress."""
    await session.execute(
        update(Retraining)
        .where(Retraining.id == retraining_id)
        .values(message_id=message_id)
        .execution_options(synchronize_session=False)
    )


async def mark_delivered(session: AsyncSession, retraining_id: int) -> bool:
    """Record that the admin knows the end; False if he knew, or if there is no end yet."""
    result = await session.execute(
        update(Retraining)
        .where(
            Retraining.id == retraining_id,
            Retraining.status.not_in(UNDER_WAY),
            Retraining.delivered_at.is_(None),
        )
        .values(delivered_at=now())
        .execution_options(synchronize_session=False)
    )
    return _changed(result)


def _end(status: RetrainingStatus) -> dict[str, Any]:
    return {"status": status, "finished_at": now(), "worker": None, "lease_until": None}


async def _change(
    session: AsyncSession, retraining_id: int, worker: str, attempt: int, /, **values: Any
) -> bool:
    """Change a retraining that this attempt of this worker still holds."""
    result = await session.execute(
        update(Retraining)
        .where(
            Retraining.id == retraining_id,
            Retraining.worker == worker,
            Retraining.attempts == attempt,
            Retraining.status == RetrainingStatus.RUNNING,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return _changed(result)


def _changed(result: object) -> bool:
    assert isinstance(result, CursorResult)
    return result.rowcount == 1
