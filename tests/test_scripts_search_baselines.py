"""The search at toy size: a line a trial, resumed exactly, its winners a recipe for the rest."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml import texts
from ml.evaluate import bits_per_character
from scripts import search_baselines
from scripts.train_baselines import measure
from tests import toy
from tests.test_ml_experiment import InterruptedRunError, interrupt

RECIPE: dict[str, Any] = {
    "seed": 7,
    "trials": 2,
    "groups": {"own": ["belov", "gorsky"]},
    "leave_out": [],
    "tokenizer": {"kind": "bpe", "vocabulary": 300},
    "context": 24,
    "training": {
        "steps": 4,
        "batch": 2,
        "length": 16,
        "weight_decay": 0.0,
        "warmup": 0.1,
        "decay": 0.4,
        "clip": 1.0,
        "validate_every": 2,
        "precision": "fp32",
        "compile": False,
    },
    "families": {"linear": {"family": "linear"}, "gru": {"family": "recurrent", "cell": "gru"}},
    "ranges": {
        "sane": {
            "layers": {"low": 1, "high": 2},
            "hidden": {"low": 8, "high": 24},
            "embedding": {"low": 8, "high": 24},
            "dropout": {"low": 0.0, "high": 0.2},
            "adam_rate": {"low": 0.002, "high": 0.02, "log": True},
        }
    },
    "only": {"linear": {"window": {"low": 2, "high": 4}}},
    "best": {"steps": 6, "batch": 2, "length": 16, "validate_every": 3},
}


class Place:
    def __init__(self, folder: Path) -> None:
        self.corpus = toy.write_corpus(folder / "corpus")
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)
        self.recipe = toy.write_json(folder / "recipe.json", RECIPE)
        self.work, self.out = folder / "work", folder / "out.json"

    def run(self) -> dict[str, Any]:
        options = [
            text
            for name in ("recipe", "split", "work", "out")
            for text in (f"--{name}", str(getattr(self, name)))
        ]
        search_baselines.main([str(self.corpus), *options])
        result: dict[str, Any] = json.loads(self.out.read_text("utf-8"))
        return result

    def data(self) -> texts.Texts:
        return texts.load(self.corpus, RECIPE["groups"], [], self.split)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    place = Place(tmp_path_factory.mktemp("finished"))
    return place, place.run()


def completed(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Each complete trial's family, settings, figure and curve: what no clock changes."""
    return [
        (trial["family"], trial["params"], trial["bits_per_character"], trial["curve"])
        for trial in result["trials"]
        if trial["state"] == "complete"
    ]


def test_each_trial_is_a_line_with_finite_figures(finished: tuple[Place, dict[str, Any]]) -> None:
    place, result = finished
    assert result["command"] == "python -m scripts.search_baselines CORPUS"
    assert (result["seed"], result["config"]) == (7, RECIPE)
    assert result["data_sha256"] == place.data().sha256
    assert 2 < result["trigram_bits_per_character"] < 12
    trials = result["trials"]
    assert [(trial["family"], trial["number"]) for trial in trials] == [
        ("linear", 0),
        ("linear", 1),
        ("gru", 0),
        ("gru", 1),
    ]
    for trial in trials:
        assert (trial["state"], trial["ranges"]) == ("complete", "sane")
        assert math.isfinite(trial["bits_per_character"])
        assert ("window" in trial["params"]) == (trial["family"] == "linear")
        assert min(trial["parameters"], trial["seconds"]) > 0
        validations = [point["validation"] for point in trial["curve"] if point["validation"]]
        assert len(validations) == 2
        assert trial["bits_per_character"] == min(validations)


def test_trial_leaves_its_figures_and_no_weights(finished: tuple[Place, dict[str, Any]]) -> None:
    work = finished[0].work
    assert len(list(work.rglob("metrics.jsonl"))) == 4
    assert not list(work.rglob("*.pt"))


def test_best_of_each_family_is_a_recipe_that_trains(
    finished: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, result = finished
    recipe = json.loads((place.work / "best.json").read_text("utf-8"))
    assert list(recipe["models"]) == ["linear (best of the search)", "gru (best of the search)"]
    for family, (name, model) in zip(("linear", "gru"), recipe["models"].items(), strict=True):
        figures = [t for t in result["trials"] if t["family"] == family]
        best = min(figures, key=lambda trial: trial["bits_per_character"])
        assert {**model["shape"], "adam_rate": model["training"]["adam_rate"]} == {
            **{k: v for k, v in RECIPE["families"][family].items() if k != "family"},
            **best["params"],
        }
        spec = {**model, "seed": recipe["seed"], "tokenizer": recipe["tokenizers"]["bpe"]}
        spec["training"] = {**recipe["training"], **model["training"]}
        row = measure(name, spec, place.data(), tmp_path)
        assert row["parameters"] == best["parameters"]
        assert row["curve"][-1]["step"] == 6


def test_interrupted_search_gives_the_figures_of_an_unbroken_one(
    finished: tuple[Place, dict[str, Any]], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(search_baselines, "bits_per_character", interrupt(at=4))
        with pytest.raises(InterruptedRunError):
            place.run()
    assert not place.out.exists()
    result = place.run()
    assert completed(result) == completed(finished[1])
    assert [t["state"] for t in result["trials"]].count("failed") == 1


def test_finished_search_trains_nothing(
    finished: tuple[Place, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(search_baselines, "train", never)
    place, result = finished
    assert place.run() == result


def test_trial_that_diverges_is_pruned_and_the_search_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It ended the search for a file that was not there, and again whenever the search was resumed.
    toy.write_json(place.recipe, {**RECIPE, "families": {"gru": RECIPE["families"]["gru"]}})
    numbers = iter([math.nan, 5.0, 4.0])

    def diverging(*arguments: Any, **named: Any) -> float:
        return next(numbers, None) or bits_per_character(*arguments, **named)

    monkeypatch.setattr(search_baselines, "bits_per_character", diverging)
    first, second = place.run()["trials"]
    assert (first["state"], first["bits_per_character"]) == ("pruned", None)
    assert (second["state"], second["bits_per_character"]) == ("complete", 4.0)
    assert not list(place.work.rglob("*.pt"))


def remove_corpus(place: Place) -> None:
    (place.corpus / "SOURCES.tsv").unlink()


def remove_held_out(place: Place) -> None:
    toy.write_json(place.split, {"validation": toy.SPLIT["validation"]})


def break_recipe(place: Place) -> None:
    place.recipe.write_text("{", "utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_corpus, r"SOURCES\.tsv: not found"),
        (remove_held_out, r"corpus: no prose for test$"),
        (break_recipe, r"recipe\.json: Expecting"),
    ],
)
def test_what_is_missing_or_broken_is_one_line(
    damage: Callable[[Place], None], message: str, place: Place
) -> None:
    damage(place)
    with pytest.raises(SystemExit, match=message):
        place.run()
    assert not place.out.exists()
