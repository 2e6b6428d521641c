"""The serving bench with a tiny shape: real processes, real libraries, its report."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from ml import bench
from ml.bench import BenchError, Run, Work, prompts, summarise
from ml.bench_model import build
from ml.bench_seats import Contestant, interleave, seated
from ml.gpt import load_gpt
from ml.tokenizer import load
from scripts import bench_engines
from tests.contestant import scripted

MINI = Path("ml/pretrained/pushkin-mini")
TINY = {"vocabulary": 9000, "context": 256, "width": 32, "layers": 2, "heads": 2}


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> dict[str, Any]:
    monkeypatch.setattr(bench_engines, "RUGPT3_MEDIUM", TINY)
    monkeypatch.setattr(bench, "_ARRAY", 2**20)
    out = folder / "bench.json"
    bench_engines.main(["--work", str(folder), "--out", str(out), "--rounds", "1", *flags])
    result: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return result


def test_engines_write_in_turns_and_the_report_says_how_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    four = ["ours", "int4", "bare", "one"]
    result = run(tmp_path, monkeypatch, "--readers", "1", "3", "--only", *four)
    assert result["command"].endswith("--rounds 1 --readers 1 3 --only ours int4 bare one")
    assert result["machine"]["cores"] >= 1
    ours, int4, bare, one = result["contestants"]
    assert [row["name"] for row in result["contestants"]] == four
    assert [level["readers"] for level in ours["levels"]] == [1, 3]
    assert [level["readers"] for level in one["levels"]] == [1]
    for row in (ours, int4, bare, one):
        assert 0.05 < row["peak_memory_gb"] < 3
        for level in row["levels"]:
            assert level["speed"] > 0
            assert 0 < level["first_p50"] <= level["first_p95"]
    assert one["bytes_per_token"] == 4 * ours["bytes_per_token"]
    assert int4["bytes_per_token"] < ours["bytes_per_token"]
    said = capsys.readouterr().out
    assert "ours ÷ another" in said
    assert "int4 ÷ another" in said


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("dies", "^a: its process died$"),
        ("fails", "^a: ValueError: no room$"),
        ("stops short", "^a: 95 tokens instead of 96$"),
    ],
)
def test_what_goes_wrong_in_a_contestant_is_named(ending: str, message: str) -> None:
    contestants = [Contestant("a", partial(scripted, ending))]
    with (
        seated(contestants, MINI / "tokenizer.json") as (seat,),
        pytest.raises(BenchError, match=message),
    ):
        seat.run(Work(2), seed=0)


def test_rounds_are_interleaved_and_the_first_only_warms_up() -> None:
    contestants = [
        Contestant("a", partial(scripted, "well")),
        Contestant("b", partial(scripted, "well"), most=1),
    ]
    works = [Work(1), Work(4)]
    with seated(contestants, MINI / "tokenizer.json") as seats:
        found = [
            (round_, work.readers, seat.contestant.name, run.speed)
            for round_, work, seat, run in interleave(seats, works, rounds=2)
        ]
    turns = [(1, "a", 96.0), (1, "b", 96.0), (4, "a", 384.0)]
    assert found == [(round_, *turn) for round_ in (1, 2) for turn in turns]


def test_openings_are_of_the_asked_length_and_all_different() -> None:
    codec = Tokenizer.from_file(str(MINI / "tokenizer.json"))
    for work in (Work(16), Work(2, prompt=300)):
        found = prompts(codec, work, seed=1)
        lengths = {len(codec.encode(text, add_special_tokens=False).ids) for text in found}
        assert (len(set(found)), lengths) == (work.readers, {work.prompt})
        assert prompts(codec, work, seed=1) == found
        assert not set(prompts(codec, work, seed=2)) & set(found)


def test_summary_is_of_all_rounds() -> None:
    runs = [Run([0.1, 0.2], [1.0, 2.0], 22), Run([0.3, 0.4], [2.0, 1.0], 22)]
    summary = summarise(runs)
    assert (summary.speed, summary.slowest, summary.fastest) == (11, 11, 11)
    assert summary.first_p50 == pytest.approx(0.25)
    assert summary.per_token == pytest.approx((0.09 + 0.17) / 2)  # of 0.06, 0.09, 0.17, 0.18


def test_bench_model_knows_all_its_tokens_and_never_ends(tmp_path: Path) -> None:
    folder = build(tmp_path, **TINY)
    codec, mini = load(folder), load(MINI)
    assert len(codec) == TINY["vocabulary"]
    text = "Ещё снег…\nМороз и солнце"
    assert codec.encode(text) == mini.encode(text)
    assert codec.decode([8999]) == " 008999"
    with torch.inference_mode():
        logits, _ = load_gpt(folder)(torch.randint(0, 9000, (4, 64)))
    assert logits[..., 0].max() < logits[..., 1:].min() - 10
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert build(tmp_path, **TINY) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
