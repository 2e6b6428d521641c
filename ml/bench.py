"""Serving engines measured beside each other: what they are asked, and what is read off.

    texts = prompts(codec, Work(readers=8), seed=0)
    summary = summarise([write(texts, 48, 0) for _ in range(3)])

Who takes part stands in ``bench_engines`` and ``bench_others``, how they take turns in
``bench_seats``.
"""

import functools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import psutil
from tokenizers import Tokenizer

LIBRARIES = ("openvino", "openvino_genai", "torch", "transformers", "ctranslate2", "numpy")
STORIES = Path(__file__).parent / "data" / "sample_stories.jsonl"
_ARRAY = 2**30  # bytes, far beyond any cache
_READS = 8  # of the array; the best of them counts
# As Linux names them.
_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp")


class BenchError(Exception):
    """A contestant cannot go on: the message names it and says why."""


@dataclass(frozen=True)
class Work:
    """So many readers at once, each with an opening and a story of so many tokens."""

    readers: int
    prompt: int = 25
    story: int = 48


@dataclass(frozen=True)
class Run:
    """What came of one Work: for each reader, the seconds to the first and to the last token."""

    first: list[float]
    last: list[float]
    tokens: int  # of all stories
    processor: float = 0.0  # seconds that its processes computed, on all cores

    @property
    def speed(self) -> float:
        """Tokens a second, from the first request to the last token."""
        return self.tokens / max(self.last)


# Writes a story of so many tokens after each prompt, all at once, by a seed.
Writer = Callable[[list[str], int, int], Run]


@dataclass(frozen=True)
class Summary:
    """Of all rounds: medians, the slowest and the fastest, percentiles over all stories."""

    speed: float  # tokens a second
    slowest: float
    fastest: float
    first_p50: float  # seconds
    first_p95: float
    per_token: float  # seconds between two tokens of one story, median
    per_processor_second: float  # tokens; on one core the speed that others' work cannot change


def summarise(runs: Sequence[Run]) -> Summary:
    speeds = [run.speed for run in runs]
    first = [seconds for run in runs for seconds in run.first]
    gaps = [
        (last - first) / max(1, run.tokens / len(run.first) - 1)
        for run in runs
        for first, last in zip(run.first, run.last, strict=True)
    ]
    return Summary(
        speed=statistics.median(speeds),
        slowest=min(speeds),
        fastest=max(speeds),
        first_p50=float(np.percentile(first, 50)),
        first_p95=float(np.percentile(first, 95)),
        per_token=statistics.median(gaps),
        per_processor_second=statistics.median(
            run.tokens / run.processor if run.processor else 0.0 for run in runs
        ),
    )


def prompts(codec: Tokenizer, work: Work, seed: int) -> list[str]:
    """Return an opening for each reader out of our stories, all different, of equal length."""
    ids = _stories(codec)
    draw = random.Random(f"{seed} {work}")
    found: list[str] = []
    while len(found) < work.readers:
        begin = draw.randrange(len(ids) - work.prompt)
        text = codec.decode(ids[begin : begin + work.prompt])
        # Cut out of its surroundings a text may be split otherwise.
        if len(codec.encode(text, add_special_tokens=False).ids) == work.prompt:
            found.append(text)
    return found


@functools.cache
def _stories(codec: Tokenizer) -> list[int]:
    texts = [json.loads(line)["text"] for line in STORIES.read_text("utf-8").splitlines()]
    return codec.encode("\n".join(texts), add_special_tokens=False).ids


def machine() -> dict[str, Any]:
    """Describe where this runs: processor, memory, the libraries that matter."""
    names = _processor("model name")
    versions = {name: metadata.version(name) for name in LIBRARIES if find_spec(name)}
    return {
        "processor": names[0] if names else "unknown",
        "instructions": instructions(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": python_version(),
        "versions": versions,
    }


def instructions() -> list[str]:
    """Return what the processor knows of what decides how fast it multiplies."""
    flags = {word for line in _processor("flags", "Features") for word in line.split()}
    return [name for name in _INSTRUCTIONS if name in flags]


def _processor(*keys: str) -> list[str]:
    """Return what Linux says of the processor's cores under any of these keys."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(keys)]


def load_average() -> float:
    """Return how many processes wanted a core, the last minute's mean."""
    return psutil.getloadavg()[0]


def read_bandwidth() -> float:
    """Return the bytes a second that the machine reads out of memory, all cores at once."""
    array = np.ones(_ARRAY // 8, dtype=np.int64)
    best = 0.0
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        parts = np.array_split(array, cores)
        for _ in range(_READS):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, array.nbytes / (time.perf_counter() - started))
    return best
