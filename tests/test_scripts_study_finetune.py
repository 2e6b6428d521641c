"""The study of passes at toy size: a curve that begins before the training, and its best place."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from ml.checkpoint import export
from scripts import study_finetune
from tests import toy

RECIPE = {
    "seed": 3,
    "held_out": 0.3,
    "groups": {"own": ["belov", "gorsky"]},
    "leave_out": [],
    "training": {
        "window": 64,
        "batch": 2,
        "rows": 2,
        "rate": 0.01,
        "validate_every": 0.25,
        "log_every": 1,
    },
    "runs": {"one pass": {"epochs": 1}, "two passes": {"epochs": 2}},
}


def test_every_run_is_measured_before_and_each_quarter_of_a_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = tmp_path / "base", tmp_path / "finetuning.json"
    export(toy.toy_model(300, context=64), toy.toy_tokenizer(), {"name": "toy"}, base)
    words = [
        *(str(toy.write_corpus(tmp_path / "corpus")), "--base", str(base), "--out", str(out)),
        *("--split", str(toy.write_json(tmp_path / "split.json", toy.SPLIT))),
        *("--recipe", str(toy.write_json(tmp_path / "recipe.json", RECIPE))),
        *("--work", str(tmp_path / "work")),
    ]
    study_finetune.main(words)
    first = out.read_text("utf-8")
    result = json.loads(first)
    assert [run["name"] for run in result["runs"]] == list(RECIPE["runs"])  # type: ignore[call-overload]
    befores = set()
    for passes, run in enumerate(result["runs"], 1):
        measured = [line for line in run["curve"] if "validation" in line]
        assert measured[0]["step"] == 0
        befores.add(measured[0]["validation"])
        places = [line["epoch"] for line in measured]
        assert places[-1] == run["passes"] == passes
        assert max(b - a for a, b in pairwise(places)) <= 0.5
        assert run["validation"] == min(line["validation"] for line in measured[1:])
    assert len(befores) == 1  # both began with the base
    assert "one pass: " in capsys.readouterr().out
    study_finetune.main(words)  # finished runs are not trained again
    assert json.loads(out.read_text("utf-8"))["runs"] == result["runs"]


def test_missing_base_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere"):
        study_finetune.main(
            [
                *(str(toy.write_corpus(tmp_path / "corpus")), "--base", str(tmp_path / "nowhere")),
                *("--split", str(toy.write_json(tmp_path / "split.json", toy.SPLIT))),
                *("--recipe", str(toy.write_json(tmp_path / "recipe.json", RECIPE))),
                *("--work", str(tmp_path / "work")),
            ]
        )
