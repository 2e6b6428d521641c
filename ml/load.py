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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

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


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@dataclass
class WorkerProcess:
    """A worker that is ready, and how long it took from its process's start."""

    process: asyncio.subprocess.Process
    ready_seconds: float
    log: deque[str]

    def cpu(self) -> tuple[float, float]:
        """Return the seconds of processor time of the worker itself and of what runs its engine.

        That is a process of its own, or the worker.
        """
        own = _cpu(self.process.pid)
        children = psutil.Process(self.process.pid).children()
        return own, sum(_cpu(child.pid) for child in children) if children else own

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

    Raises EngineError with its last words if it ends instead, TimeoutError if it takes too long.
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


Written = Callable[[Sequence[Story]], Awaitable[tuple[int, float]]]  # tokens and seconds


async def compare(
    rounds: Sequence[Sequence[Story]], bare: Written, service: Written, worker: WorkerProcess
) -> dict[str, Any]:
    """Let two write the same stories in turns, the first round to warm up; print and return
    tokens a second, their ratios, and tokens a second of processor time of what runs the engine.

    Where others want the processor too, the latter says what the ratio would be without them: the
    worker's own share of a core needs another core.
    """
    found: dict[str, list[float]] = {
        name: [] for name in ("bare", "service", "ratios", "cpu_ratios", "worker_cores")
    }
    for number, asked in enumerate(rounds):
        row: dict[str, float] = {}
        for name, write in (("bare", bare), ("service", service))[:: -1 if number % 2 else 1]:
            here, own, children = _cpu(os.getpid()), *worker.cpu()
            tokens, seconds = await write(asked)
            engine = (_cpu(os.getpid()) - here) if name == "bare" else worker.cpu()[1] - children
            row[name], row[f"{name}_cpu"] = tokens / seconds, tokens / max(engine, 0.01)
            if name == "service":
                row["worker_cores"] = (worker.cpu()[0] - own) / seconds
        row["ratios"] = row["service"] / row["bare"]
        row["cpu_ratios"] = row["service_cpu"] / row["bare_cpu"]
        print(
            "bare engine {bare:.0f} tokens/s, service {service:.0f}, ratio {ratios:.3f}; by "
            "processor time {cpu_ratios:.3f}".format(**row),
            flush=True,
        )
        for name in found if number else ():
            found[name].append(row[name])
    ratio, cpu_ratio = median(found["ratios"]), median(found["cpu_ratios"])
    print(f"median ratio {ratio:.3f}, by processor time {cpu_ratio:.3f}")
    length = fmean(story.tokens for asked in rounds for story in asked)
    return {**found, "ratio": ratio, "cpu_ratio": cpu_ratio, "story_tokens": length}
