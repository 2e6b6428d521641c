"""From votes to a candidate at toy size: every phase once, whatever cuts it off."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from ml import candidate, registry, votes
from ml.candidate import BaseTexts, CandidateConfig
from ml.checkpoint import export
from ml.finetune import FinetuneConfig
from ml.gate import Bars
from ml.preference import PreferenceConfig, StoppedError
from ml.registry import Version
from ml.scoring import Score
from ml.votes import Selection, Vote
from tests import toy

CONFIG = CandidateConfig(
    held_out=0.4,
    openings=2,
    tokens=8,
    sft=FinetuneConfig(
        seed=1, window=64, batch=2, rows=2, rate=0.01, rank=2, validate_every=0.5, log_every=1
    ),
    preference=PreferenceConfig(epochs=1, rate=0.01, batch=2, length=64, rank=2, save_every=2),
    bars=Bars(
        preference_accuracy=0.0,
        beyond_chance=-9.0,
        bits_worse=9.0,
        repeated_4grams=1.0,
        sentence_end=0.0,
    ),
)
BASE = BaseTexts([toy.ROAD, toy.MANOR], [toy.LETTER], ["Был вечер", "Шёл снег", "Он встал"])


def made_up_score(text: str, **_: object) -> Score:
    return Score(len(text), 9, 1.0, 0.5, 0.0, 0.9, True, 3, 1.0, "a", "a", True, 0.9)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def parent(tmp_path: Path, root: Path) -> Version:
    folder = tmp_path / "toy"
    export(toy.toy_model(300, context=64), toy.toy_tokenizer(), {"name": "toy"}, folder)
    return registry.publish(folder, "toy", {}, root)


@pytest.fixture
def selection() -> Selection:
    everything: Sequence[Vote] = [
        Vote(
            prompt=f"Открыв окно номер {number},",
            completion=f" он увидел {'снег' if liked else 'грязь'} и {number} саней у ворот.",
            liked=liked,
            user_id=number,
            consent=True,
            generation_id=2 * number + liked,
            version="toy 1",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for number in range(12)
        for liked in (True, False)
    ]
    return Selection(tuple(everything), {}, None)


class Making:
    """Calls ``make``, remembers the phases, stops where a test says."""

    def __init__(self, parent: Version, selection: Selection, work: Path, root: Path) -> None:
        self.given = parent, selection
        self.work, self.root = work, root
        self.phases: list[str] = []
        self.stop_at: str | None = None

    def __call__(self, config: CandidateConfig = CONFIG) -> candidate.Made:
        judges: Any = candidate.Judges(None, None)  # type: ignore[arg-type]
        parent, selection = self.given
        return candidate.make(
            parent, selection, BASE, judges, config, self.work, self.tell, root=self.root
        )

    def tell(self, phase: str, _: dict[str, Any]) -> bool:
        if self.phases[-1:] != [phase]:
            self.phases.append(phase)
        return phase != self.stop_at


@pytest.fixture
def making(
    parent: Version,
    selection: Selection,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Making:
    monkeypatch.setattr(candidate, "score", made_up_score)
    return Making(parent, selection, tmp_path / "work", root)


def test_candidate_is_a_small_version_of_its_parent_with_its_figures(
    making: Making, parent: Version
) -> None:
    made = making()
    assert making.phases == ["sft", "preference", "gate", "publish"]
    assert made.version.is_adapter
    assert made.version.meta["parent"] == f"toy/{parent.version}"
    assert made.version.meta["votes"]["votes"] == 24
    assert made.version.meta["figures"][0]["name"] == made.lines[0].name
    assert made.reasons == []
    learnt, held_out = votes.split(making.given[1].votes, CONFIG.held_out, CONFIG.seed)
    assert learnt
    assert held_out
    assert [story["opening"] for story in made.stories] == list(BASE.openings[:2])
    assert all(len(curve) >= 2 for curve in made.curves.values())
    model = AutoModelForCausalLM.from_pretrained(registry.open_version(made.version))
    before = AutoModelForCausalLM.from_pretrained(parent.folder)
    changed = [
        name
        for name, weights in model.state_dict().items()
        if not weights.equal(before.state_dict()[name].float())
    ]
    assert changed
    assert all(".h." in name for name in changed)  # the blocks' matrices and nothing else


@pytest.mark.parametrize("phase", ["sft", "preference", "gate", "publish"])
def test_retraining_that_was_stopped_goes_on_to_the_same_end(
    phase: str, making: Making, tmp_path: Path
) -> None:
    making.stop_at = phase
    with pytest.raises(StoppedError):
        making()
    assert making.phases[-1] == phase
    making.stop_at = None
    resumed = making()
    fresh = Making(*making.given, tmp_path / "fresh", making.root)()
    assert resumed.version.version == fresh.version.version  # the hash of the weights
    assert resumed.lines == fresh.lines


def test_finished_training_is_not_done_again(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    making.stop_at = "gate"
    with pytest.raises(StoppedError):
        making()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(candidate, "finetune", never)
    making.stop_at = None
    assert making().version.is_adapter


def test_candidate_that_misses_a_bar_is_published_with_its_reasons(making: Making) -> None:
    strict = replace(
        CONFIG, bars=Bars(bits_worse=-0.9, preference_accuracy=0.0, beyond_chance=-9.0)
    )
    made = making(strict)
    assert "bits_per_character" in made.reasons
    assert registry.read(made.version.folder).meta["figures"]


def test_recipe_changes_what_it_names_and_nothing_else() -> None:
    config = candidate.read_config('{"cap": 3, "preference": {"beta": 0.5}}')
    assert config == replace(CandidateConfig(), cap=3, preference=PreferenceConfig(beta=0.5))
    with pytest.raises(ValueError, match=r"recipe: .*capp"):
        candidate.read_config('{"capp": 3}')
    with pytest.raises(ValueError, match="recipe: "):
        candidate.read_config("{")


def test_shipped_recipe_can_be_read() -> None:
    file = Path(candidate.__file__).parent / "data" / "retrain.json"
    config = candidate.read_config(file.read_text("utf-8"))
    assert config.sft.rank > 0  # a candidate is an adapter
    assert config.preference.loss == "apo_zero_unpaired"


def test_completion_is_learnt_as_the_model_wrote_it(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined by a space more, every liked story taught two spaces or a space before a comma."""
    given: list[str] = []

    def mix(liked: Sequence[str], *_: object) -> list[str]:
        given.extend(liked)
        raise StoppedError

    monkeypatch.setattr(candidate, "_mix", mix)
    with pytest.raises(StoppedError):
        making()
    assert given
    for text in given:
        assert "  " not in text
        opening = text[: text.index(",") + 1]
        whole = toy.toy_tokenizer().encode(text)
        parts = [toy.toy_tokenizer().encode(part) for part in (opening, text[len(opening) :])]
        assert whole == parts[0] + parts[1]


def test_votes_of_one_kind_but_for_those_held_out_are_refused(making: Making) -> None:
    parent, selection = making.given
    liked = [vote for vote in selection.votes if vote.liked]
    making.given = parent, Selection(tuple(liked), {}, None)
    with pytest.raises(votes.VotesError, match="all of one kind"):
        making()
