"""One training by a recipe: compute becomes steps, a run goes on, another's folder is refused."""

import json
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from ml import experiment
from ml.checkpoint import export
from ml.corpus import CorpusError
from ml.evaluate import bits_per_character
from ml.experiment import AnotherRunError, Trained, read_texts, run
from ml.gpt import flops_per_token
from ml.texts import Texts
from tests import toy

LIMITED = {name: value for name, value in toy.RECIPE["training"].items() if name != "steps"}
LIMITED.pop("validate_every")


class InterruptedRunError(Exception):
    """What stops a run in these tests."""


class Place:
    """A corpus and its split; ``run`` trains by the toy recipe with changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = toy.write_corpus(folder / "corpus")
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)

    def read(self, **changes: Any) -> Texts:
        return read_texts({**toy.RECIPE, **changes}, self.corpus, self.split)

    def run(self, work: str = "work", **changes: Any) -> Trained:
        recipe = {**toy.RECIPE, **changes}
        return run(recipe, self.read(**changes), self.folder / work, samples=False)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Trained]:
    """A run that nothing stopped."""
    place = Place(tmp_path_factory.mktemp("finished"))
    return place, place.run()


def course(trained: Trained) -> list[dict[str, Any]]:
    """The curve without what a clock changes."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in trained.curve]


def interrupt(at: int) -> Callable[..., float]:
    """Return a measure that stops the run at the validation of that number, from 1."""
    numbers = count(1)

    def measure(*arguments: Any, **named: Any) -> float:
        if next(numbers) == at:
            raise InterruptedRunError
        return bits_per_character(*arguments, **named)

    return measure


def test_curve_counts_tokens_and_compute(finished: tuple[Place, Trained]) -> None:
    _, trained = finished
    cost = flops_per_token(trained.model, 16)
    assert [line["step"] for line in trained.curve] == [2, 4, 6]
    assert [line["tokens"] for line in trained.curve] == [64, 128, 192]
    assert [line["flops"] for line in trained.curve] == [64 * cost, 128 * cost, 192 * cost]
    assert all(math.isfinite(line[k]) for line in trained.curve for k in ("loss", "validation"))
    assert trained.tokens == 192
    assert trained.parameters == sum(p.numel() for p in trained.model.parameters())
    assert trained.seconds == trained.curve[-1]["seconds"] > 0


def test_model_left_is_the_best_of_the_curve(finished: tuple[Place, Trained]) -> None:
    place, trained = finished
    best = min(line["validation"] for line in trained.curve)
    assert trained.measure(place.read().validation) == best


def test_identity_is_written_beside_the_checkpoint(finished: tuple[Place, Trained]) -> None:
    place, trained = finished
    assert json.loads((place.folder / "work/run.json").read_text("utf-8")) == trained.identity
    assert trained.identity == {
        **toy.RECIPE,
        "corpus_sha256": place.read().sha256,
        "held_out": toy.SPLIT,
    }


def test_finished_run_is_not_trained_again(
    finished: tuple[Place, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, trained = finished
    monkeypatch.setattr(experiment, "bits_per_character", interrupt(at=1))
    again = place.run()
    assert again.curve == trained.curve
    weights = again.model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in trained.model.state_dict().items())


def test_interrupted_run_gives_the_unbroken_curve(
    finished: tuple[Place, Trained], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "bits_per_character", interrupt(at=2))
        with pytest.raises(InterruptedRunError):
            place.run()
    assert course(place.run()) == course(finished[1])


@pytest.mark.parametrize(
    "changes",
    [{"seed": 8}, {"vocabulary": 310}, {"leave_out": []}, {"architecture": "llama"}],
    ids=lambda changes: next(iter(changes)),
)
def test_folder_of_another_run_is_refused_and_left_alone(
    changes: dict[str, Any], finished: tuple[Place, Trained]
) -> None:
    place, trained = finished
    with pytest.raises(AnotherRunError) as error:
        place.run(**changes)
    mark = place.folder / "work/run.json"
    assert str(error.value).startswith(f"{mark} is another run's")
    assert "\n" not in str(error.value)
    assert json.loads(mark.read_text("utf-8")) == trained.identity


def test_compute_becomes_steps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 x 32 tokens' worth and a bit, whatever the model costs.
    monkeypatch.setattr(experiment, "flops_per_token", lambda *_: 1000.0)
    trained = place.run(flops=32 * 1000.0 * 4.4, validations=3, training=LIMITED)
    assert trained.tokens == 4 * 32
    assert [line["step"] for line in trained.curve] == [2, 4]
    assert trained.curve[-1]["flops"] == 4 * 32 * 1000.0


def test_llama_trains_by_the_same_recipe(place: Place) -> None:
    shape = {"context": 16, "width": 16, "layers": 1, "heads": 2}
    trained = place.run(architecture="llama", model=shape)
    assert trained.model.model.config.model_type == "llama"
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]


def test_recipe_with_a_start_goes_on_from_that_model(
    finished: tuple[Place, Trained], place: Place
) -> None:
    first, start = finished[1], place.folder / "start"
    copy = toy.toy_model(len(first.tokenizer))
    copy.load_state_dict(first.model.state_dict())
    export(copy, first.tokenizer, {"name": "toy", "tokens_seen": 192}, start)
    # A rate of nearly nothing: what comes out is what went in.
    still = {**toy.RECIPE["training"], "steps": 1, "muon_rate": 1e-9, "adam_rate": 1e-9}
    trained = place.run(start=str(start), training=still)
    assert trained.identity["started_from"] == {"name": "toy", "tokens_seen": 192}
    best = min(line["validation"] for line in first.curve)
    assert trained.curve[-1]["validation"] == pytest.approx(best, abs=0.02)  # bf16 between
    assert trained.tokenizer.get_vocab() == first.tokenizer.get_vocab()


def test_stories_are_groups_beside_the_authors(place: Place) -> None:
    file = place.folder / "stories.jsonl"
    file.write_text(json.dumps({"text": " Снег  и   поле…\n\n— Ещё?"}) + "\n", "utf-8")
    data = place.read(stories={"stories": str(file)})
    assert list(data.train) == ["own", "others", "stories"]
    assert data.train["stories"] == ["Снег и поле...\n— Ещё?"]


def test_broken_story_is_named(place: Place) -> None:
    file = place.folder / "stories.jsonl"
    file.write_text('{"text": "Снег"}\n{"text": \n', "utf-8")
    with pytest.raises(CorpusError, match=r"stories\.jsonl, line 2: "):
        place.read(stories={"stories": str(file)})
