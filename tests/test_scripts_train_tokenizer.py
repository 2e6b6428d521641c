"""The program: saves a tokenizer of each kind, compares vocabulary sizes by both criteria."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ml import texts, tokenizer
from scripts import train_tokenizer
from tests import toy
from tests.test_ml_experiment import LIMITED

SIZES, THRESHOLDS = [300, 340], [1, 3, 10]
STUDY: dict[str, Any] = {
    "sizes": SIZES,
    "thresholds": THRESHOLDS,
    "base": {**toy.RECIPE, "training": LIMITED, "flops": 4e7, "validations": 1},
}
del STUDY["base"]["vocabulary"]


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = toy.write_corpus(folder / "corpus")
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)
        self.recipe = toy.write_json(folder / "recipe.json", STUDY)
        self.work, self.result = folder / "work", folder / "result.json"

    def run(self, *arguments: str) -> None:
        names = ("split", "recipe", "work", "result")
        options = [text for name in names for text in (f"--{name}", str(getattr(self, name)))]
        train_tokenizer.main([str(self.corpus), *options, *arguments])

    def learned(self) -> list[str]:
        base = STUDY["base"]
        return texts.load(self.corpus, base["groups"], base["leave_out"], self.split).everything()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    place = Place(tmp_path_factory.mktemp("swept"))
    place.run("--sweep")
    result: dict[str, Any] = json.loads(place.result.read_text("utf-8"))
    return place, result


@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_saved_tokenizer_is_of_its_kind_and_of_the_training_texts(kind: str, place: Place) -> None:
    out = place.folder / "tokenizer"
    place.run("--out", str(out), "--kind", kind, "--vocabulary", "320")
    loaded = tokenizer.load(out)
    expected = tokenizer.train(place.learned(), 320, kind)
    assert loaded.get_vocab() == expected.get_vocab()
    assert len(loaded) <= 320
    assert loaded.decode(loaded.encode(toy.LETTER)) == toy.LETTER
    assert not place.result.exists()


def test_sweep_gives_both_criteria_of_each_size(swept: tuple[Place, dict[str, Any]]) -> None:
    place, result = swept
    assert result["command"] == "python -m scripts.train_tokenizer CORPUS --sweep"
    assert (result["seed"], result["config"], result["thresholds"]) == (7, STUDY, THRESHOLDS)
    assert len(result["data_sha256"]) == 64
    documents = place.learned()
    for size, row in zip(SIZES, result["rows"], strict=True):
        codec = tokenizer.train(documents, size)
        times = Counter(token for document in documents for token in codec.encode(document))
        assert row["vocabulary"] == size
        for k in THRESHOLDS:
            often = [token for token, n in times.items() if n >= k]
            assert row["share"][str(k)] == len(often) / size
        characters = sum(map(len, documents))
        assert row["characters_per_token"] == characters / times.total()
        assert 2 < row["bits_per_character"] < 12
        assert row["parameters"] > 0
        assert row["tokens"] > 0
    small, large = result["rows"]
    assert large["characters_per_token"] > small["characters_per_token"]
    assert large["tokens"] < small["tokens"]  # the same compute for a dearer model


def test_finished_sweep_is_not_trained_again(
    swept: tuple[Place, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> float:
        raise AssertionError("trained again")

    place, result = swept
    monkeypatch.setattr("ml.experiment.bits_per_character", never)
    place.run("--sweep")
    assert json.loads(place.result.read_text("utf-8"))["rows"] == result["rows"]


def test_another_corpus_in_the_work_folder_is_refused(
    swept: tuple[Place, dict[str, Any]], place: Place
) -> None:
    place.work = swept[0].work
    (place.corpus / "belov/vecher.txt").write_text(toy.EVENING.replace("Дождь", "Снег"), "utf-8")
    with pytest.raises(SystemExit) as error:
        place.run("--sweep")
    assert str(error.value).startswith(f"{place.work / '300' / 'run.json'} is another run's")
    assert "\n" not in str(error.value)
    assert not place.result.exists()


def test_something_to_do_must_be_named(place: Place) -> None:
    with pytest.raises(SystemExit) as error:
        place.run()
    assert error.value.code == 2


def test_what_is_missing_or_broken_is_one_line(place: Place) -> None:
    out = place.folder / "tokenizer"
    (place.corpus / "gorsky/doroga.txt").write_bytes("Дорога".encode("cp1251"))
    with pytest.raises(SystemExit, match=r"doroga\.txt: not utf-8 at byte 0"):
        place.run("--out", str(out))
    (place.corpus / "SOURCES.tsv").unlink()
    with pytest.raises(SystemExit, match=r"SOURCES\.tsv: not found"):
        place.run("--out", str(out))
    place.recipe.unlink()
    with pytest.raises(SystemExit, match=r"recipe\.json: No such file or directory$"):
        place.run("--out", str(out))
    assert not out.exists()
