"""Measure the whole service under readers: queue, worker, database, beside the bare engine.

python -m scripts.bench_service [--model ml/pretrained/pushkin-mini] [--engine openvino]
    [--slots 16] [--longest 320] [--stories 48] [--rounds 10] [--readers 100] [--seconds 60]
    [--database-url URL] [--seed 1799] [--out FILE]
python -m scripts.bench_service --soak --minutes 120

A worker is started as its operator would, on an empty SQLite file or the database named. First
the capacity: the same stories by the bare engine, ``slots`` at a time, and by the service out of
a queue that never empties, in turns. Then readers come at random, at half of what was found, and
wait for their first words. --soak: a full queue for so many minutes, and the worker's memory.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import func, select

from db import jobs, queries
from db.migrate import upgrade
from db.models import Generation, Job, JobStatus, now
from db.session import Database, DatabaseError, connect
from db.settings import SettingsError
from ml import load, results
from ml.engine import Engine, EngineError

LOOK = 0.05  # seconds between looks at the database: the readers' patience is measured so finely
SAMPLE = 10.0  # seconds between looks at the worker's memory
PATIENCE = 900.0  # seconds for any part of a run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ml/pretrained/pushkin-mini")
    parser.add_argument("--engine", default="openvino", help="as ENGINE")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--longest", type=int, default=320, help="story, in tokens")
    parser.add_argument("--stories", type=int, default=48, help="of a round")
    parser.add_argument("--rounds", type=int, default=10, help="that count; one more warms up")
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="at half load")
    parser.add_argument("--soak", action="store_true", help="full load for --minutes instead")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--database-url", help="an empty database; default: a temporary file")
    parser.add_argument("--seed", type=int, default=1799)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    try:
        figures = asyncio.run(measure(options))
    except (DatabaseError, EngineError, SettingsError) as error:
        raise SystemExit(str(error)) from None
    name = "bench_service_soak" if options.soak else "bench_service"
    given = {k: v for k, v in vars(options).items() if k not in ("out", "database_url")}
    results.save(
        options.out or results.FOLDER / f"{name}.json",
        figures,
        command="python -m scripts.bench_service" + results.given(parser, options, *given),
        seed=options.seed,
        config=given,
    )


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run what the options ask for; return the figures and print them."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = options.database_url or f"sqlite+aiosqlite:///{folder}/neuropushkin.db"
        database = connect(url)
        stack.push_async_callback(database.close)
        await upgrade(database)
        async with database.write() as session:
            for reader in range(1, options.readers + 1):
                await queries.remember_user(session, reader, "ru")
        shape = {name: getattr(options, name) for name in ("model", "engine", "slots", "longest")}
        settings = load.worker_settings(url, **shape)
        worker = await stack.enter_async_context(load.started_worker(folder, settings))
        print(f"the worker was ready after {worker.ready_seconds:.1f} s", flush=True)
        readers = Readers(database, options)
        figures: dict[str, Any] = {"ready_seconds": worker.ready_seconds}
        if options.soak:
            return figures | await soak(readers, worker, options)
        engine = load.bare_engine(**shape)
        await engine.start()
        stack.push_async_callback(engine.close)
        figures["capacity"] = await capacity(readers, engine, worker, options)
        figures["half_load"] = await half_load(readers, figures["capacity"], options)
        figures["rss_mb"] = worker.rss() / 2**20
        print(f"the worker's memory: {figures['rss_mb']:.0f} MB")
        return figures


class Readers:
    """Ask the service for stories as the bot would, and look at the database for answers."""

    def __init__(self, database: Database, options: argparse.Namespace) -> None:
        self._database = database
        self._readers, self._messages = options.readers, 0
        self._draw = random.Random(options.seed)

    async def ask(self, asked: Sequence[load.Story]) -> list[int]:
        """Enqueue the stories, each for a reader drawn; return the jobs' ids."""
        async with self._database.write() as session:
            ids = []
            for story in asked:
                reader = self._draw.randint(1, self._readers)
                self._messages += 1
                job = await jobs.enqueue(
                    session,
                    user_id=reader,
                    chat_id=reader,
                    private=True,
                    request_message_id=self._messages,
                    prompt=story.prompt,
                    settings={"max_tokens": story.tokens, "seed": story.seed},
                )
                ids.append(job.id)
        return ids

    async def waiting(self) -> int:
        """Return how many jobs are queued or running."""
        open_ = Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING))
        async with self._database.read() as session:
            return await session.scalar(select(func.count()).where(open_)) or 0

    async def finished(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.waiting():
                await asyncio.sleep(5 * LOOK)

    async def first_words(self, seen: dict[int, float]) -> None:
        """Note for every job when words of it were first seen; until cancelled."""
        while True:
            async with self._database.read() as session:
                ids = await session.scalars(
                    select(Job.id).where(
                        (Job.status == JobStatus.RUNNING) & (Job.partial != "")
                        | (Job.status == JobStatus.DONE),
                        Job.id.not_in(seen),
                    )
                )
                moment = now().timestamp()
                seen |= dict.fromkeys(ids, moment)
            await asyncio.sleep(LOOK)

    async def done(self, ids: Sequence[int]) -> list[tuple[Job, int]]:
        """Return the jobs with their tokens. Raises EngineError unless all were answered."""
        async with self._database.read() as session:
            query = select(Job, Generation.tokens).join(Generation).where(Job.id.in_(ids))
            found = [(job, tokens) for job, tokens in await session.execute(query)]
        if len(found) < len(ids):
            raise EngineError(f"{len(ids) - len(found)} of {len(ids)} stories have failed")
        return found


async def capacity(
    readers: Readers, engine: Engine, worker: load.WorkerProcess, options: argparse.Namespace
) -> dict[str, Any]:
    """Let bare engine and service write the same stories in turns; see ``load.compare``."""

    async def bare(asked: Sequence[load.Story]) -> tuple[int, float]:
        return await load.write_all(engine, asked, options.slots)

    async def service(asked: Sequence[load.Story]) -> tuple[int, float]:
        ids = await readers.ask(asked)
        await readers.finished()
        rows = await readers.done(ids)
        begun = min(job.started_at for job, _ in rows if job.started_at)
        ended = max(job.finished_at for job, _ in rows if job.finished_at)
        return sum(tokens for _, tokens in rows), (ended - begun).total_seconds()

    rounds = [
        load.stories(options.stories, longest=options.longest, seed=options.seed + round_)
        for round_ in range(options.rounds + 1)
    ]
    return await load.compare(rounds, bare, service, worker)


async def half_load(
    readers: Readers, found: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Let readers come at random, at half the rate that the service can bear."""
    rate = median(found["service"]) / found["story_tokens"] / 2
    times = load.arrivals(rate, seconds=options.seconds, seed=options.seed)
    asked = load.stories(len(times), longest=options.longest, seed=options.seed)
    seen: dict[int, float] = {}
    looking = asyncio.create_task(readers.first_words(seen))
    started = time.perf_counter()
    ids: list[int] = []
    for moment, story in zip(times, asked, strict=True):
        await asyncio.sleep(started + moment - time.perf_counter())
        ids += await readers.ask([story])
    await readers.finished()
    await asyncio.sleep(2 * LOOK)
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    rows = [job for job, _ in await readers.done(ids)]
    created = {job.id: job.created_at.timestamp() for job in rows}
    figures: dict[str, Any] = {"stories_per_second": rate, "stories": len(ids)}
    for name, moments in (
        ("wait", {job.id: job.started_at.timestamp() for job in rows if job.started_at}),
        ("first_words", seen),
        ("end", {job.id: job.finished_at.timestamp() for job in rows if job.finished_at}),
    ):
        figures[name] = load.percentiles([moments[i] - created[i] for i in ids])
        words = ", ".join(f"{key} {value:.2f}" for key, value in figures[name].items())
        print(f"{rate:.2f} stories a second, {name}, seconds: {words}", flush=True)
    return figures


async def soak(
    readers: Readers, worker: load.WorkerProcess, options: argparse.Namespace
) -> dict[str, Any]:
    """Keep the queue full and sample the worker's memory; growth from the second fifth on."""
    samples: list[float] = []
    ids: list[int] = []
    number, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < 60 * options.minutes:
        if await readers.waiting() < 2 * options.slots:
            number += 1
            ids += await readers.ask(load.stories(64, longest=options.longest, seed=number))
        if elapsed >= SAMPLE * len(samples):
            samples.append(worker.rss() / 2**20)
        await asyncio.sleep(1.0)
    await readers.finished()
    written = len(await readers.done(ids))
    before, after = load.settled(samples)
    growth = after / before - 1
    print(f"{before:.0f} MB after the warm-up, {after:.0f} MB at the end: {growth:+.1%}")
    return {"stories": written, "rss_mb": samples, "growth": growth}


if __name__ == "__main__":
    main()
