"""The bench of the service, with an engine that echoes: a real worker process, a real database."""

import asyncio
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ml import load
from scripts import bench_service

FEW = "--engine echo --longest 16 --slots 4 --stories 8 --rounds 1 --readers 5 --seconds 1"


def run(folder: Path, *flags: str) -> dict[str, Any]:
    out = folder / "service.json"
    bench_service.main([*FEW.split(), *flags, "--out", str(out)])
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


async def test_service_is_measured_beside_its_engine_and_under_readers(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = await asyncio.to_thread(run, tmp_path, "--database-url", database_url)
    assert database_url not in str(result)
    capacity = result["capacity"]
    assert len(capacity["ratios"]) == 1
    assert 0 < capacity["ratio"] < 2
    assert result["command"].startswith("python -m scripts.bench_service --engine echo")
    under = result["half_load"]
    for name in ("wait", "first_words", "end"):
        assert 0 <= under[name]["p50"] <= under[name]["p95"] <= under[name]["max"]
    assert under["wait"]["p50"] <= under["end"]["p50"]
    assert "ratio" in capsys.readouterr().out


def test_soak_reads_the_workers_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_service, "SAMPLE", 0.5)
    result = run(tmp_path, "--soak", "--minutes", "0.05")
    assert len(result["rss_mb"]) > 1
    assert all(size > 20 for size in result["rss_mb"])
    assert -0.5 < result["growth"] < 0.5


def test_readers_ask_the_same_with_the_same_seed() -> None:
    asked = load.stories(200, longest=320, seed=1)
    assert asked == load.stories(200, longest=320, seed=1)
    assert asked != load.stories(200, longest=320, seed=2)
    lengths = [story.tokens for story in asked]
    assert load.SHORTEST <= min(lengths) < max(lengths) == 320
    assert 130 < sorted(lengths)[100] < 190


def test_readers_come_as_often_as_they_should_and_at_random() -> None:
    times = load.arrivals(5.0, seconds=1000, seed=1)
    assert times == sorted(times)
    assert len(times) == pytest.approx(5000, rel=0.05)
    gaps = sorted(after - before for before, after in pairwise(times))
    assert gaps[len(gaps) // 2] == pytest.approx(0.139, rel=0.1)  # ln 2 / 5: no clockwork


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    random.Random(1).shuffle(values)
    assert load.percentiles(values) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert load.percentiles([3.0]) == {"p50": 3, "p95": 3, "p99": 3, "max": 3}
