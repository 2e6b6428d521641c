"""The bench's report: its rows, its ratio, and the command as it was given."""

import json
from pathlib import Path

import pytest

from ml.throughput import Setting, Speed
from scripts import bench_training
from tests import toy


def run(folder: Path, *flags: str) -> dict[str, object]:
    out = folder / "speed.json"
    corpus = toy.write_corpus(folder / "corpus")
    (corpus / "pushkin").mkdir()
    (corpus / "pushkin" / "a.txt").write_text(toy.ROAD, "utf-8")
    (corpus / "pushkin" / "b.txt").write_text(toy.LETTER, "utf-8")
    (corpus / "pushkin" / "c.txt").write_text(toy.MANOR, "utf-8")
    with (corpus / "SOURCES.tsv").open("a", encoding="utf-8") as table:
        for file in "abc":
            table.write(f"pushkin/{file}.txt\tА. П.\tОтрывок {file}\tprose\n")
    split = {"validation": ["pushkin/b.txt"], "test": ["pushkin/c.txt"]}
    toy.write_json(folder / "split.json", split)
    options = ["--split", str(folder / "split.json"), "--out", str(out)]
    bench_training.main([str(corpus), *options, *flags])
    result: dict[str, object] = json.loads(out.read_text("utf-8"))
    return result


def test_report_names_the_command_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Setting, int, bool]] = []

    def compare(setting: Setting, *_: object, steps: int, compiled: bool, **__: object) -> Speed:
        asked.append((setting, steps, compiled))
        return Speed(setting, 7, ours=30.0, trainer=20.0)

    monkeypatch.setattr(bench_training, "compare", compare)
    (tmp_path / "all").mkdir()
    result = run(tmp_path / "all")
    assert result["command"] == "python -m scripts.bench_training CORPUS"
    rows = result["rows"]
    assert isinstance(rows, list)
    assert len(rows) == len(asked) > 3
    assert rows[0]["ratio"] == 1.5
    asked.clear()
    (tmp_path / "mini").mkdir()
    result = run(tmp_path / "mini", "--only-mini", "--no-compile", "--steps", "4")
    command = "python -m scripts.bench_training CORPUS --steps 4 --only-mini --no-compile"
    assert result["command"] == command
    assert [(steps, compiled) for _, steps, compiled in asked] == [(4, False)]
