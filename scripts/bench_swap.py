"""Measure what readers notice of a new model version: python -m scripts.bench_swap

[--model ml/pretrained/pushkin-mini] [--engine openvino] [--slots 16] [--longest 320] [--out FILE]

A worker writes out of a full queue while another version is activated, a copy of the model; its
conversion was made before. Printed: the longest pause between two changes
of any text in the database, before and after the activation, and the jobs that were dropped.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from db import jobs, queries, versions
from db.migrate import upgrade
from db.models import Generation, Job, JobStatus
from db.session import Database, connect
from ml import conversion, load, registry, results
from ml.engine import EngineError

LOOK = 0.02  # seconds between looks at the database
BEFORE, AFTER = 5.0, 5.0  # seconds of writing before the activation, and with the new version
PATIENCE = 300.0
_READER = 1
_NAMES = ("model", "engine", "slots", "longest")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("ml/pretrained/pushkin-mini"))
    parser.add_argument("--engine", default="openvino", help="as ENGINE")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--longest", type=int, default=320, help="story, in tokens")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "bench_swap.json")
    options = parser.parse_args(arguments)
    try:
        figures = asyncio.run(measure(options))
    except (EngineError, conversion.ConversionError, registry.RegistryError) as error:
        raise SystemExit(str(error)) from None
    results.save(
        options.out,
        figures,
        command="python -m scripts.bench_swap" + results.given(parser, options, *_NAMES),
        config={name: str(getattr(options, name)) for name in _NAMES},
    )


def other_version(model: Path, root: Path) -> registry.Version:
    """Publish the model's weights in a file of another hash, and convert it."""
    source = root / "source"
    shutil.copytree(model, source, ignore=shutil.ignore_patterns(conversion.BUNDLED))
    weights = source / "model.safetensors"
    data = weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = {"format": "pt", "copy": "of the same weights"}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    weights.write_bytes(len(words).to_bytes(8, "little") + words + data[8 + size :])
    version = registry.publish(source, "other", {}, root / "models")
    conversion.open_conversion(version.folder)
    return version


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        version = await asyncio.to_thread(other_version, options.model.resolve(), folder)
        url = f"sqlite+aiosqlite:///{folder}/neuropushkin.db"
        database = connect(url)
        stack.push_async_callback(database.close)
        await upgrade(database)
        async with database.write() as session:
            await queries.remember_user(session, _READER, "ru")
            candidate = await versions.add_candidate(
                session,
                name=version.name,
                version=version.version,
                folder=str(version.folder),
                parent_id=None,
                prompt_tokens=300,
                prompt_characters=1000,
                meta={},
            )
        settings = load.worker_settings(
            url,
            model=options.model,
            engine=options.engine,
            slots=options.slots,
            longest=options.longest,
        )
        worker = await stack.enter_async_context(load.started_worker(folder, settings))
        return await watch(database, candidate.id, worker, options)


async def watch(
    database: Database, candidate_id: int, worker: load.WorkerProcess, options: argparse.Namespace
) -> dict[str, Any]:
    """Keep the queue full, activate the candidate, note each moment at which a text changes."""
    changes: list[float] = []
    texts: dict[int, str] = {}
    asked = 0
    activated = written = 0.0
    started = time.perf_counter()
    async with asyncio.timeout(PATIENCE):
        while not written or time.perf_counter() < written + AFTER:
            async with database.read() as session:
                running = await session.execute(
                    select(Job.id, Job.partial).where(Job.status == JobStatus.RUNNING)
                )
                found = {row.id: row.partial for row in running}
                queued = await session.scalar(
                    select(func.count()).where(Job.status == JobStatus.QUEUED)
                )
                new = await session.scalar(
                    select(func.count()).where(Generation.model_version_id == candidate_id)
                )
            if found != texts:
                changes.append(time.perf_counter())
                texts = found
            if new and not written:
                written = time.perf_counter()
            if (queued or 0) < options.slots:
                await ask(database, asked, options)
                asked += 2 * options.slots
            if not activated and time.perf_counter() > started + BEFORE:
                async with database.write() as session:
                    await versions.activate(session, candidate_id)
                activated = time.perf_counter()
            await asyncio.sleep(LOOK)
        while (await counted(database, Job.status == JobStatus.RUNNING)) or (
            await counted(database, Job.status == JobStatus.QUEUED)
        ):
            await asyncio.sleep(LOOK)
    gaps = [(after, after - before) for before, after in pairwise(changes)]
    figures = {
        "ready_seconds": worker.ready_seconds,
        "longest_pause_before": max(gap for moment, gap in gaps if moment <= activated),
        "longest_pause_after": max(gap for moment, gap in gaps if moment > activated),
        "seconds_to_first_story": written - activated,
        "stories": asked,
        "dropped": asked - await counted(database, Job.status == JobStatus.DONE, Job.attempts == 1),
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value:.2f}".removesuffix(".00"))
    return figures


async def ask(database: Database, number: int, options: argparse.Namespace) -> None:
    asked = load.stories(2 * options.slots, longest=options.longest, seed=number)
    async with database.write() as session:
        for place, story in enumerate(asked):
            await jobs.enqueue(
                session,
                user_id=_READER,
                chat_id=_READER,
                private=True,
                request_message_id=number + place,
                prompt=story.prompt,
                settings={"max_tokens": story.tokens, "seed": story.seed},
            )


async def counted(database: Database, *which: Any) -> int:
    async with database.read() as session:
        return await session.scalar(select(func.count(Job.id)).where(*which)) or 0


if __name__ == "__main__":
    main()
