"""The queue: the only code that changes a job's status.

          enqueue              claim                   finish
    ─────────────► queued ─────────────► running ─────────────► done
                    ▲ │ cancel            │ │ └── fail, attempts left ──► queued
     rescue ────────┘ ▼                   │ └──── fail, none left ──────► failed
                  cancelled ◄── cancel ───┘

A worker holds a job by a lease that ``stream`` renews. Whoever lost his lease, or whose job was
cancelled, does not get the job's id back from ``stream`` and can no longer finish or fail it.

The queue is fair between readers: everybody's first job comes before anybody's second, among
equals the oldest. A job is its reader's first when none of his runs or was queued before it; its
rank, how many do, falls as they end. Hence nobody starves, and no clock is needed: a reader either
has a story being written, or only the first jobs of readers who asked before him are ahead of his.

All functions take a session first and leave the commit to the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Subquery, case, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from db.models import Generation, Job, JobStatus, now
from db.session import insert

MAX_ATTEMPTS = 3
LEASE = timedelta(seconds=30)  # a worker that is silent for so long has lost its jobs
RETRY_AFTER = timedelta(seconds=2)  # times the attempts so far

FINISHED = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job: one attempt of one worker."""

    job_id: int
    worker: str
    attempt: int


@dataclass(frozen=True)
class Answer:
    """What a worker made: the columns of a generation."""

    text: str
    model_version_id: int
    seed: int
    settings: dict[str, Any]
    tokens: int
    finish_reason: str
    started_at: datetime


async def enqueue(
    session: AsyncSession,
    *,
    user_id: int,
    chat_id: int,
    private: bool,
    request_message_id: int,
    prompt: str,
    context: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Job:
    """Add a job at the end of the queue and return it with its id.

    Telegram repeats an update that a killed bot had not confirmed: the same request message
    gives the same job.
    """
    moment = now()
    values = {
        "user_id": user_id,
        "chat_id": chat_id,
        "private": private,
        "request_message_id": request_message_id,
        "prompt": prompt,
        "context": context,
        "settings": dict(settings or {}),
        "status": JobStatus.QUEUED,
        "available_at": moment,
        "created_at": moment,
    }
    # A bot that is still leaving may hold the same update: the second waits and adds nothing.
    await session.execute(insert(session, Job).values(values).on_conflict_do_nothing())
    jobs = await session.scalars(
        select(Job).where(Job.chat_id == chat_id, Job.request_message_id == request_message_id)
    )
    return jobs.one()


async def places(session: AsyncSession) -> dict[int, int]:
    """Return every queued job's place in the order of claiming, 1 being next, by the job's id.

    The first job of a reader is never further back than the count of the jobs queued before it;
    the others make way for those who come later and have less.
    """
    ranked = _ranked()
    queued = await session.scalars(
        select(Job.id)
        .join(ranked, ranked.c.id == Job.id)
        .where(Job.status == JobStatus.QUEUED)
        .order_by(ranked.c.rank, Job.id)
    )
    return {job_id: place for place, job_id in enumerate(queued, 1)}


def _ranked() -> Subquery:
    """Return the jobs that wait or run, each with how many of its reader's come before it, plus 1.

    Jobs that run come first; one that waits to be tried again counts though it is not due.
    """
    own = func.row_number().over(
        partition_by=Job.user_id,
        order_by=(case((Job.status == JobStatus.RUNNING, 0), else_=1), Job.id),
    )
    return (
        select(Job.id, own.label("rank"))
        .where(Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))
        .subquery("ranked")
    )


async def claim(session: AsyncSession, worker: str, limit: int) -> Sequence[Job]:
    """Give the worker up to ``limit`` due jobs in the queue's order, each with a fresh lease.

    One statement: two workers never get the same job. The jobs come in no promised order.
    """
    moment = now()
    ranked = _ranked()
    due = (
        select(Job.id)
        .join(ranked, ranked.c.id == Job.id)
        .where(Job.status == JobStatus.QUEUED, Job.available_at <= moment)
        .order_by(ranked.c.rank, Job.id)
        .limit(limit)
        # PostgreSQL locks no rows of a window, so the ranks stand in a subquery that is not locked.
        # SQLite's dialect drops this: its writers are alone.
        .with_for_update(of=Job, skip_locked=True)
        .cte("due")
    )
    claimed = await session.scalars(
        update(Job)
        .where(Job.id.in_(select(due.c.id)))
        .values(
            status=JobStatus.RUNNING,
            worker=worker,
            attempts=Job.attempts + 1,
            lease_until=moment + LEASE,
            started_at=moment,
            partial="",
            error=None,
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return claimed.all()


async def stream(session: AsyncSession, texts: Mapping[Claim, str]) -> set[Claim]:
    """Store the text so far of all the worker's jobs, renew their leases, return those alive.

    One statement for the batch. A claim that does not come back was cancelled or lost: the
    worker must stop writing it.
    """
    if not texts:
        return set()
    held = [(claim.job_id, claim.worker, claim.attempt) for claim in texts]
    # By attempt too: a worker may have taken back a job that it is still writing.
    partial = case(
        *(
            ((Job.id == claim.job_id) & (Job.attempts == claim.attempt), text)
            for claim, text in texts.items()
        )
    )
    rows = await session.execute(
        update(Job)
        .where(tuple_(Job.id, Job.worker, Job.attempts).in_(held), Job.status == JobStatus.RUNNING)
        .values(partial=partial, lease_until=now() + LEASE)
        .returning(Job.id, Job.worker, Job.attempts)
        .execution_options(synchronize_session=False)
    )
    alive = {(job_id, worker, attempt) for job_id, worker, attempt in rows}
    return {claim for claim in texts if (claim.job_id, claim.worker, claim.attempt) in alive}


async def finish(session: AsyncSession, claim: Claim, answers: Sequence[Answer]) -> bool:
    """Store the answers and close the job; False if the worker no longer holds it."""
    if not await _leave(session, claim, status=JobStatus.DONE, finished_at=now()):
        return False
    moment = now()
    session.add_all(
        Generation(
            job_id=claim.job_id,
            variant=variant,
            text=answer.text,
            model_version_id=answer.model_version_id,
            seed=answer.seed,
            settings=answer.settings,
            tokens=answer.tokens,
            finish_reason=answer.finish_reason,
            started_at=answer.started_at,
            finished_at=moment,
        )
        for variant, answer in enumerate(answers)
    )
    await session.flush()
    return True


async def fail(session: AsyncSession, claim: Claim, error: str, *, retry: bool) -> bool:
    """Put the job back if it may be tried again, else end it; False if it is not held."""
    if retry and claim.attempt < MAX_ATTEMPTS:
        later = now() + RETRY_AFTER * claim.attempt
        return await _leave(
            session, claim, status=JobStatus.QUEUED, available_at=later, error=error
        )
    return await _leave(session, claim, status=JobStatus.FAILED, finished_at=now(), error=error)


async def release(session: AsyncSession, claim: Claim) -> bool:
    """Give a job back unharmed (a worker that shuts down): the attempt does not count."""
    return await _leave(session, claim, status=JobStatus.QUEUED, attempts=claim.attempt - 1)


async def _leave(session: AsyncSession, claim: Claim, **values: Any) -> bool:
    """End the worker's hold, if he still has it."""
    result = await session.execute(
        update(Job)
        .where(
            Job.id == claim.job_id,
            Job.worker == claim.worker,
            Job.attempts == claim.attempt,
            Job.status == JobStatus.RUNNING,
        )
        .values(worker=None, lease_until=None, **values)
        .execution_options(synchronize_session=False)
    )
    return _changed(result) == 1


async def cancel(session: AsyncSession, job_id: int, user_id: int) -> bool:
    """Stop a queued or running job of this user; False if it is over or not his."""
    result = await session.execute(
        update(Job)
        .where(
            Job.id == job_id,
            Job.user_id == user_id,
            Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)),
        )
        .values(
            status=JobStatus.CANCELLED, finished_at=now(), worker=None, lease_until=None, error=None
        )
        .execution_options(synchronize_session=False)
    )
    return _changed(result) == 1


async def rescue(session: AsyncSession) -> int:
    """Take back the jobs of silent workers and return how many; any worker may call it."""
    moment = now()
    lost = (Job.status == JobStatus.RUNNING) & (Job.lease_until < moment)
    spent = Job.attempts >= MAX_ATTEMPTS
    result = await session.execute(
        update(Job)
        .where(lost)
        .values(
            status=case((spent, JobStatus.FAILED.value), else_=JobStatus.QUEUED.value),
            finished_at=case((spent, moment), else_=None),
            error=case((spent, "the worker was lost"), else_=None),
            worker=None,
            lease_until=None,
            available_at=moment,
        )
        .execution_options(synchronize_session=False)
    )
    return _changed(result)


async def mark_delivered(session: AsyncSession, job_id: int, message_id: int | None) -> bool:
    """Record that the reader has his answer, and in which message; False if he had it before."""
    result = await session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status.in_(FINISHED), Job.delivered_at.is_(None))
        .values(delivered_at=now(), message_id=message_id)
        .execution_options(synchronize_session=False)
    )
    return _changed(result) == 1


def _changed(result: object) -> int:
    """Return how many rows an UPDATE changed."""
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
