"""Readers who come at random with openings of all sorts, and a worker of its own process for them.

    asked = stories(128, longest=320, seed=1799)  # the same every time
    times = arrivals(1.5, seconds=60, seed=1799)  # 1.5 a second
    tokens, seconds = await write_all(engine, asked, 16)  # an engine alone, 16 at a time
    async with started_worker(folder, settings) as worker: worker.ready_seconds, worker.rss()

It knows nothing of the database: who enqueues and looks for answers is a script's affair.
"""

import asyncio
import json
import math
import os
import random
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import psutil

from ml.decoding import Sampling
from ml.engine import EchoEngine, Engine, EngineError, Request

ROOT = Path(__file__).parents[1]
PROMPTS, THEMES = ROOT / "ml/data/prompts.json", ROOT / "ml/data/themes.json"
SHORTEST = 32  # tokens
# Of a story's length: half the longest in the middle, a third of all within 0.67 to 1.5 times that.
MIDDLE, SPREAD = 0.5, 0.6
STARTUP = 600.0  # seconds: a first start may convert the model
_READY = "started with"  # in the worker's log


@dataclass(frozen=True)
class Story:
    """What a reader asks for."""

    prompt: str
    tokens: int
    seed: int

    def request(self) -> Request:
        return Request(self.prompt, sampling=Sampling(max_tokens=self.tokens), seed=self.seed)


def stories(count: int, *, longest: int, seed: int) -> list[Story]:
    """Draw openings out of ours, and log-normal lengths, cut off at SHORTEST and ``longest``."""
    themes = json.loads(THEMES.read_text("utf-8"))
    openings = json.loads(PROMPTS.read_text("utf-8")) + [
        t for group in themes.values() for t in group
    ]
    draw = random.Random(seed)
    middle = math.log(MIDDLE * longest)
    return [
        Story(
            draw.choice(openings),
            int(min(longest, max(min(SHORTEST, longest), draw.lognormvariate(middle, SPREAD)))),
            draw.randrange(2**31),
        )
        for _ in range(count)
    ]


def arrivals(rate: float, *, seconds: float, seed: int) -> list[float]:
    """Return the moments, in seconds, at which readers come: a Poisson process of this rate."""
    draw = random.Random(seed)
    times: list[float] = []
    moment = draw.expovariate(rate)
    while moment < seconds:
        times.append(moment)
        moment += draw.expovariate(rate)
    return times


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 (nearest rank) and the largest."""
    ordered = sorted(values)
    found = {
        f"p{share}": ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]
        for share in (50, 95, 99)
    }
    return {**found, "max": ordered[-1]}


def settled(samples: Sequence[float]) -> tuple[float, float]:
    """Return the means of the second fifth, after the warm-up, and of the last."""
    fifth = max(1, len(samples) // 5)
    return fmean(samples[fifth : 2 * fifth] or samples), fmean(samples[-fifth:])


def bare_engine(*, model: str, engine: str, slots: int, longest: int) -> Engine:
    """Return what a worker of these settings runs, for this process and with nothing around it."""
    if engine == "openvino":
        from ml.engine_openvino import OpenVINOEngine

        return OpenVINOEngine(model, slots=slots)
    if engine == "torch":
        from ml.engine_torch import TorchEngine

        return TorchEngine(model, device="cpu", slots=slots)
    assert engine == "echo", engine
    return EchoEngine(delay=0.05, words=longest // 8)


async def write_all(engine: Engine, asked: Sequence[Story], at_once: int) -> tuple[int, float]:
    """Have an engine write the stories in their order; return the tokens and the seconds."""
    queue, tokens = deque(asked), 0

    async def write() -> None:
        nonlocal tokens
        while queue:
            stream = await engine.submit(queue.popleft().request())
            async for _ in stream:
                pass
            tokens += stream.tokens

    started = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(at_once)))
    return tokens, time.perf_counter() - started


@dataclass
class WorkerProcess:
    """A worker that is ready, and how long it took from its process's start."""

    process: asyncio.subprocess.Process
    ready_seconds: float
    log: deque[str]

    def rss(self) -> int:
        """Return the resident memory of the process and its children, in bytes."""
        own = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (own, *own.children(recursive=True)))


def worker_settings(
    url: str, *, model: str | Path, engine: str, slots: int, longest: int
) -> dict[str, str]:
    """Return a worker's settings as its environment names them."""
    return {
        "DATABASE_URL": url,
        "MODEL": str(Path(model).resolve()),
        "ENGINE": engine,
        "SLOTS": str(slots),
        "STORY_TOKENS": str(longest),
    }


@asynccontextmanager
async def started_worker(folder: Path, environment: dict[str, str]) -> AsyncIterator[WorkerProcess]:
    """Run ``python -m ml.worker`` in a folder, from when it is ready; SIGTERM at the end.

    Raises EngineError with its last words if it does not get ready.
    """
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ml.worker",
        cwd=folder,  # no .env there
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    log: deque[str] = deque(maxlen=50)
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(STARTUP):
            while _READY not in "".join(log):
                line = (await process.stderr.readline()).decode()
                if not line:
                    raise EngineError("the worker ended: " + "".join(log))
                log.append(line)
        ready = time.perf_counter() - started
        reading = asyncio.create_task(_drain(process.stderr, log))
        yield WorkerProcess(process, ready, log)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if reading:
            await reading


async def _drain(lines: asyncio.StreamReader, log: deque[str]) -> None:
    async for line in lines:
        log.append(line.decode())
