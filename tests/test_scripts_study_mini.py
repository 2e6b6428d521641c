"""The study at toy size: the same compute for every variant, resumed exactly, bad input named."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ml import experiment, texts
from ml.evaluate import bits_per_character
from ml.gpt import flops_per_token, gpt_config, new_gpt
from scripts import study_mini
from scripts.study_mini import merge
from tests import toy
from tests.test_ml_experiment import LIMITED, InterruptedRunError, interrupt

FLOPS = 1.2e7
BASE = {**toy.RECIPE, "training": LIMITED, "flops": FLOPS, "validations": 2}
STUDY: dict[str, Any] = {
    "base": BASE,
    "variants": {"small": {}, "twice as wide": {"model": {"width": 32}}},
}


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = toy.write_corpus(folder / "corpus")
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)
        self.study = toy.write_json(folder / "study.json", STUDY)
        self.work, self.out = folder / "work", folder / "out.json"

    def run(self) -> dict[str, Any]:
        named = {"study": self.study, "split": self.split, "work": self.work, "out": self.out}
        options = [text for name, path in named.items() for text in (f"--{name}", str(path))]
        study_mini.main([str(self.corpus), *options])
        result: dict[str, Any] = json.loads(self.out.read_text("utf-8"))
        return result


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    place = Place(tmp_path_factory.mktemp("finished"))
    return place, place.run()


def lasting(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs without what a clock changes."""
    return [
        {**{k: v for k, v in run.items() if k != "seconds"}, "curve": course}
        for run in result["runs"]
        for course in [[{**line, "seconds": 0} for line in run["curve"]]]
    ]


def test_result_says_how_it_came_about(finished: tuple[Place, dict[str, Any]]) -> None:
    place, result = finished
    assert result["command"] == f"python -m scripts.study_mini CORPUS --study {place.study}"
    assert (result["seed"], result["config"]) == (7, STUDY)
    data = texts.load(place.corpus, {}, toy.RECIPE["leave_out"], place.split)
    assert result["data_sha256"] == data.sha256
    assert [run["name"] for run in result["runs"]] == ["small", "twice as wide"]
    for run in result["runs"]:
        assert math.isfinite(run["bits_per_character"])
        assert run["bits_per_character"] == min(line["validation"] for line in run["curve"])
        assert len(run["curve"]) == 2


def test_variants_get_steps_in_inverse_proportion_to_their_cost(
    finished: tuple[Place, dict[str, Any]],
) -> None:
    steps, costs = [], []
    for run, width in zip(finished[1]["runs"], (16, 32), strict=True):
        shape = gpt_config(vocabulary=300, context=16, width=width, layers=2, heads=2)
        model = new_gpt(shape, seed=0)
        assert run["parameters"] == sum(p.numel() for p in model.parameters())
        costs.append(flops_per_token(model, 16))
        steps.append(run["curve"][-1]["step"])
        assert run["tokens"] == steps[-1] * 2 * 16
        # As near to the study's compute as whole steps come.
        assert abs(run["curve"][-1]["flops"] - FLOPS) <= costs[-1] * 32 / 2
    assert steps == [round(FLOPS / 32 / cost) for cost in costs]
    assert steps[0] > 2 * steps[1] > 2


def test_resumed_study_gives_the_same_figures(
    finished: tuple[Place, dict[str, Any]], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "bits_per_character", interrupt(at=4))  # in the second variant
        with pytest.raises(InterruptedRunError):
            place.run()
    assert len(json.loads(place.out.read_text("utf-8"))["runs"]) == 1  # what is finished
    measured = []

    def counted(*arguments: Any, **named: Any) -> float:
        measured.append(bits_per_character(*arguments, **named))
        return measured[-1]

    monkeypatch.setattr(experiment, "bits_per_character", counted)
    assert lasting(place.run()) == lasting(finished[1])
    assert len(measured) == 1  # what was finished is not trained again


def test_another_study_in_the_work_folder_is_refused(
    finished: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, result = finished
    other = toy.write_json(tmp_path / "other.json", {**STUDY, "base": {**BASE, "seed": 8}})
    place.study, study = other, place.study
    try:
        with pytest.raises(SystemExit) as error:
            place.run()
    finally:
        place.study = study
    assert str(error.value).startswith(f"{place.work / 'small' / 'run.json'} is another run's")
    assert "\n" not in str(error.value)
    assert json.loads(place.out.read_text("utf-8")) == result


def test_what_is_missing_or_broken_is_one_line(place: Place) -> None:
    toy.write_json(place.split, {"validation": [], "test": toy.SPLIT["test"]})
    with pytest.raises(SystemExit, match=r"corpus: no prose for validation$"):
        place.run()
    (place.corpus / "SOURCES.tsv").unlink()
    with pytest.raises(SystemExit, match=r"SOURCES\.tsv: not found"):
        place.run()
    place.study.write_text("{", "utf-8")
    with pytest.raises(SystemExit, match=r"study\.json: Expecting"):
        place.run()
    place.study.unlink()
    with pytest.raises(SystemExit, match=r"study\.json: No such file or directory$"):
        place.run()


def test_changes_are_merged_into_dictionaries_and_replace_the_rest() -> None:
    base = {"model": {"width": 1, "heads": 2}, "stages": [1, 2], "seed": 3}
    changes = {"model": {"width": 5}, "stages": [9], "start": {"a": 1}}
    assert merge(base, changes) == {
        "model": {"width": 5, "heads": 2},
        "stages": [9],
        "seed": 3,
        "start": {"a": 1},
    }
    assert base == {"model": {"width": 1, "heads": 2}, "stages": [1, 2], "seed": 3}
