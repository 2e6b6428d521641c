"""Learning from votes, at toy size: what is liked becomes likelier, and a killed run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from ml.checkpoint import export
from ml.preference import PreferenceConfig, StoppedError, accuracy, prefer, rewards
from tests import toy

LIKED, DISLIKED = " снег и ветер.", " сапоги в грязи."
ROWS: list[dict[str, Any]] = [
    {"prompt": opening, "completion": text, "label": text == LIKED}
    for opening in ("Был вечер, и", "В поле лежал", "Он вспомнил", "Она видела")
    for text in (LIKED, DISLIKED)
]
CONFIG = PreferenceConfig(epochs=6, rate=0.02, batch=2, length=48, rank=4, save_every=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(toy.toy_model(300, context=64), toy.toy_tokenizer(), {"name": "toy"}, tmp_path / "toy")
    return tmp_path / "toy"


@pytest.mark.parametrize("loss", ["apo_zero_unpaired", "kto", "dpo"])
def test_liked_texts_gain_and_disliked_lose(folder: Path, tmp_path: Path, loss: str) -> None:
    rows = ROWS
    if loss == "dpo":
        openings = dict.fromkeys(row["prompt"] for row in ROWS)
        rows = [{"prompt": o, "chosen": LIKED, "rejected": DISLIKED} for o in openings]
    config = PreferenceConfig(**{**vars(CONFIG), "loss": loss})
    adapter = prefer(folder, None, rows, config, tmp_path / "work")
    found = rewards(folder, adapter, ROWS)
    assert accuracy(found, [row["label"] for row in ROWS]) == 1.0
    assert (tmp_path / "work/metrics.jsonl").read_text("utf-8").count("loss") >= 12


def test_finished_training_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    adapter = prefer(folder, None, ROWS, CONFIG, tmp_path / "work")
    before = (adapter / "adapter_model.safetensors").read_bytes()

    def never(_: object) -> bool:
        raise AssertionError("trained again")

    assert prefer(folder, None, ROWS, CONFIG, tmp_path / "work", never) == adapter
    assert (adapter / "adapter_model.safetensors").read_bytes() == before


def test_stopped_training_goes_on_from_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    def until_seven(line: dict[str, Any]) -> bool:
        steps.append(line["step"])
        return line["step"] < 7

    with pytest.raises(StoppedError):
        prefer(folder, None, ROWS, CONFIG, tmp_path / "work", until_seven)
    assert steps[-1] == 7
    assert not (tmp_path / "work/adapter").exists()
    steps.clear()

    def on(line: dict[str, Any]) -> bool:
        steps.append(line["step"])
        return True

    # A kill left half of a checkpoint: it is none.
    (tmp_path / "work/checkpoints/checkpoint-8").mkdir()
    prefer(folder, None, ROWS, CONFIG, tmp_path / "work", on)
    assert steps == list(range(7, 25))  # the last checkpoint was of step 6
    lines = (tmp_path / "work/metrics.jsonl").read_text("utf-8").splitlines()
    told = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert told == list(range(1, 25))  # no step twice


def test_adapter_that_is_gone_on_from_is_the_model_to_stay_near(
    folder: Path, tmp_path: Path
) -> None:
    first = prefer(folder, None, ROWS, CONFIG, tmp_path / "first")
    still = PreferenceConfig(**{**vars(CONFIG), "rate": 0.0})
    second = prefer(folder, first, ROWS, still, tmp_path / "second")
    assert rewards(folder, second, ROWS) == pytest.approx(rewards(folder, first, ROWS))


def test_accuracy_counts_couples_and_knows_no_couple() -> None:
    assert accuracy([3, 1, 2], [True, True, False]) == 0.5
    assert accuracy([1, 1], [True, False]) == 0.5  # a tie is chance
    assert accuracy([1, 2], [True, True]) is None
