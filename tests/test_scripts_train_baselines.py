"""The baselines at toy size: a process each, trained once, every figure with its origin."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml import texts
from scripts import train_baselines
from tests import toy

TRAINING = {
    "steps": 4,
    "batch": 2,
    "length": 16,
    "adam_rate": 0.01,
    "validate_every": 2,
}
RECIPE: dict[str, Any] = {
    "seed": 7,
    "groups": {"own": ["belov", "gorsky"]},
    "leave_out": ["gorsky/zametki.txt"],
    "tokenizers": {
        "bpe": {"kind": "bpe", "vocabulary": 300},
        "character": {"kind": "character", "vocabulary": 310},
    },
    "training": {
        "weight_decay": 0.0,
        "warmup": 0.1,
        "decay": 0.4,
        "clip": 1.0,
        "precision": "fp32",
        "compile": False,
    },
    "models": {
        "trigram (BPE)": {"tokenizer": "bpe", "order": 3},
        "char GRU": {
            "tokenizer": "character",
            "family": "recurrent",
            "context": 24,
            "shape": {"cell": "gru", "embedding": 16, "hidden": 16},
            "training": TRAINING,
        },
    },
}
META = {
    "name": "toy-mini",
    "parameters": 5,
    "seconds": 120,
    "bits_per_character": {"validation": 2.5, "test": 2.6},
    "peak_memory_mb": 9,
    "curve": [],
    "seed": 1,
}


class Inline:
    """Runs at once what the program hands to another process, which takes seconds to start."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Inline":
        self.value = function(*arguments)
        return self

    def result(self) -> Any:
        return self.value


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = toy.write_corpus(folder / "corpus")
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)
        self.recipe = toy.write_json(folder / "recipe.json", RECIPE)
        self.work, self.out = folder / "work", folder / "out.json"

    def run(self, *names: str, inline: bool = True) -> dict[str, Any]:
        options = [
            text
            for name in ("recipe", "split", "work", "out")
            for text in (f"--{name}", str(getattr(self, name)))
        ]
        with pytest.MonkeyPatch.context() as patch:
            if inline:
                patch.setattr(train_baselines, "ProcessPoolExecutor", Inline)
            train_baselines.main([str(self.corpus), *names, *options])
        result: dict[str, Any] = json.loads(self.out.read_text("utf-8"))
        return result


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    place = Place(tmp_path_factory.mktemp("finished"))
    return place, place.run()


def test_result_says_how_it_came_about(finished: tuple[Place, dict[str, Any]]) -> None:
    place, result = finished
    assert result["command"] == "python -m scripts.train_baselines CORPUS"
    assert (result["seed"], result["config"]) == (7, RECIPE)
    data = texts.load(place.corpus, {}, RECIPE["leave_out"], place.split)
    assert result["data_sha256"] == data.sha256


def test_each_model_has_its_row_with_finite_figures(
    finished: tuple[Place, dict[str, Any]],
) -> None:
    rows = {row["name"]: row for row in finished[1]["models"]}
    assert set(rows) == set(RECIPE["models"])
    for row in rows.values():
        assert set(row["bits_per_character"]) == {"validation", "test"}
        assert all(1 < figure < 12 for figure in row["bits_per_character"].values())
        for key in ("parameters", "minutes", "peak_memory_mb", "characters_per_token"):
            assert math.isfinite(row[key])
            assert row[key] > 0
    network, trigram = rows["char GRU"], rows["trigram (BPE)"]
    assert (network["kind"], trigram["kind"]) == ("character", "ngram")
    assert [line["step"] for line in network["curve"]] == [2, 4]
    best = min(line["validation"] for line in network["curve"])
    assert network["bits_per_character"]["validation"] == round(best, 4)
    assert network["sample"].startswith("В начале осени")
    assert (trigram["curve"], trigram["sample"]) == ([], "")


def test_finished_model_is_not_trained_again(
    finished: tuple[Place, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(train_baselines.tokenizer, "train", never)
    place, result = finished
    assert place.run()["models"] == result["models"]


def test_named_model_alone_is_trained_and_all_rows_of_the_folder_are_written(place: Place) -> None:
    recipe = {**RECIPE, "models": {**RECIPE["models"], "unigram": {"tokenizer": "bpe", "order": 1}}}
    toy.write_json(place.recipe, recipe)
    assert [row["name"] for row in place.run("unigram")["models"]] == ["unigram"]
    rows = place.run("trigram (BPE)")["models"]
    assert [row["name"] for row in rows] == ["trigram (BPE)", "unigram"]
    unigram, trigram = (row["bits_per_character"]["test"] for row in reversed(rows))
    assert trigram < unigram


def test_own_process_trains_and_refuses_the_result_of_another_recipe(place: Place) -> None:
    [row] = place.run("trigram (BPE)", inline=False)["models"]
    assert row["peak_memory_mb"] > 10
    before = place.out.read_text("utf-8")
    toy.write_json(place.recipe, {**RECIPE, "seed": 8})
    with pytest.raises(SystemExit) as error:
        place.run("trigram (BPE)", inline=False)
    folder = place.work / "trigram_BPE"
    refusal = f"{folder / 'result.json'} is of another recipe or corpus: delete {folder}"
    assert str(error.value) == refusal
    assert place.out.read_text("utf-8") == before


def test_result_of_another_corpus_is_refused(
    finished: tuple[Place, dict[str, Any]], place: Place
) -> None:
    place.work = finished[0].work
    (place.corpus / "belov/vecher.txt").write_text(toy.EVENING.replace("Дождь", "Снег"), "utf-8")
    with pytest.raises(SystemExit, match=r"result\.json is of another recipe or corpus: delete"):
        place.run("char GRU")
    assert not place.out.exists()


def test_row_of_the_mini_comes_from_its_meta(
    finished: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, result = finished
    toy.write_json(tmp_path / "meta.json", META)
    rows = place.run("char GRU", "--mini", str(tmp_path))["models"]
    assert rows[:2] == result["models"]
    mini = {key: META[key] for key in META if key not in {"seconds", "seed"}}
    assert rows[2:] == [{**mini, "kind": "gpt", "minutes": 2.0}]


def test_unknown_name_is_refused(place: Place) -> None:
    with pytest.raises(SystemExit) as error:
        place.run("char GRU", "char GPT", "bigram")
    assert str(error.value) == f"{place.recipe} has no bigram, char GPT"
    assert not place.work.exists()


def test_what_is_missing_is_named_before_anything_is_trained(place: Place) -> None:
    with pytest.raises(SystemExit, match=r"nowhere/meta\.json: No such file or directory$"):
        place.run("--mini", str(place.folder / "nowhere"))
    toy.write_json(place.split, {"validation": toy.SPLIT["validation"]})
    with pytest.raises(SystemExit, match=r"corpus: no prose for test$"):
        place.run()
    (place.corpus / "SOURCES.tsv").unlink()
    with pytest.raises(SystemExit, match=r"SOURCES\.tsv: not found"):
        place.run()
    place.recipe.write_text("{", "utf-8")
    with pytest.raises(SystemExit, match=r"recipe\.json: Expecting"):
        place.run()
    assert not place.work.exists()
