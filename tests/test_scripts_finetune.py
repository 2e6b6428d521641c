"""The program at toy size: stories and works joined, what it writes, and two processes as one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml.checkpoint import export
from ml.evaluate import bits_per_character
from ml.finetune_data import read
from ml.models import load
from scripts import finetune
from tests import toy

ROOT = Path(__file__).parents[1]
RECIPE = {
    "seed": 3,
    "held_out": 0.3,
    "groups": {"own": ["belov"]},
    "leave_out": [],
    "training": {
        "window": 64,
        "batch": 4,
        "rows": 2,
        "rate": 0.01,
        "epochs": 2,
        "validate_every": 0.5,
        "log_every": 1,
    },
}
STORIES = [toy.EVENING, toy.ROAD, toy.MANOR, toy.LETTER, toy.NOTES, toy.VERSES]


class Place:
    """A folder with all that one run needs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, folder / "base"
        export(toy.toy_model(300, context=64), toy.toy_tokenizer(), {"name": "toy"}, self.base)
        self.recipe = toy.write_json(folder / "recipe.json", RECIPE)
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)
        self.stories = folder / "stories.jsonl"
        lines = [{"text": text, "theme": str(number)} for number, text in enumerate(STORIES)]
        self.stories.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")

    def words(self, run: str, *sources: Path) -> list[str]:
        paths = {"base": self.base, "recipe": self.recipe, "split": self.split}
        paths |= {"work": self.folder / run, "out": self.folder / run / "model"}
        named = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
        return named + [text for source in sources for text in ("--data", str(source))]

    def losses(self, run: str) -> list[float]:
        lines = (self.folder / run / "metrics.jsonl").read_text("utf-8").splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]

    def meta(self, run: str) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads(
            (self.folder / run / "model/meta.json").read_text("utf-8")
        )
        return meta


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def alone(place: Place) -> Place:
    finetune.main(place.words("one", place.stories))
    return place


def test_model_can_be_measured_and_meta_tells_how_it_came_about(alone: Place) -> None:
    loaded, meta = load(alone.folder / "one/model"), alone.meta("one")
    assert (loaded.name, loaded.parameters) == ("model", meta["parameters"])
    assert meta["training"]["window"] == 64
    assert meta["parent"]["name"] == "toy"
    assert meta["epochs"] == pytest.approx(2)
    assert len(meta["train_sha256"]) == 64
    assert meta["command"].startswith(f"python -m scripts.finetune --base {alone.base} --data ")


def test_same_command_again_trains_no_more(alone: Place) -> None:
    before, figures = alone.losses("one"), alone.meta("one")["bits_per_character"]
    finetune.main(alone.words("one", alone.stories))
    assert alone.losses("one") == before
    assert alone.meta("one")["bits_per_character"] == figures


def test_stories_and_works_are_joined(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = toy.write_corpus(place.folder / "corpus")
    data = read([place.stories, corpus], RECIPE, place.split)
    assert toy.LETTER.split("\n")[0] in "\n".join(data.validation)  # held out by the split
    finetune.main(place.words("both", place.stories, corpus))
    told = f"{len(data.train)} texts to learn, {len(data.validation)} to validate by"
    assert told in capsys.readouterr().out
    figures = place.meta("both")["bits_per_character"]
    loaded = load(place.folder / "both/model")
    test = bits_per_character(loaded.model, loaded.tokenizer, data.test, context=64)
    assert figures["test"] == pytest.approx(test, rel=0.01)  # the model is written in bf16


def test_another_runs_folder_is_left_alone(alone: Place) -> None:
    words = alone.words("one", alone.stories)
    other = {**RECIPE, "seed": 4}
    words[words.index("--recipe") + 1] = str(toy.write_json(alone.folder / "other.json", other))
    with pytest.raises(SystemExit, match=r"run\.json is another run's"):
        finetune.main(words)


def test_setting_that_is_none_is_named(place: Place) -> None:
    words = place.words("none", place.stories)
    other = {**RECIPE, "training": {"widow": 64}}
    recipe = toy.write_json(place.folder / "misspelt.json", other)
    words[words.index("--recipe") + 1] = str(recipe)
    with pytest.raises(SystemExit, match=r"misspelt\.json: .*'widow'"):
        finetune.main(words)


@pytest.mark.timeout(300)  # three times torch is imported
def test_two_processes_have_the_losses_of_one(alone: Place) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]  # any free port
    launch += ["--local-addr", "127.0.0.1", "-m", "scripts.finetune"]
    process = subprocess.run(
        [*launch, *alone.words("two", alone.stories)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert alone.losses("two") == pytest.approx(alone.losses("one"), rel=1e-4)
    figures = (alone.meta(run)["bits_per_character"]["validation"] for run in ("one", "two"))
    assert next(figures) == pytest.approx(next(figures), rel=1e-4)
