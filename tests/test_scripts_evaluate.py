"""The evaluation at toy size: figures and texts of every kind of model, JSON, table and lines."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ml import authors
from ml.checkpoint import export
from ml.quotation import QuotationIndex
from scripts import evaluate
from tests import toy
from tests.test_ml_authors import SMALL, SPLIT, library
from tests.test_ml_models import Place as Models

OPENINGS = ["Вечер был тихий", "Пушкин звонит Гоголю", "Старый дом"]
GENERATIONS = {
    "texts",
    "characters",
    "repeated_4grams",
    "attributed_to_pushkin",
    "verbatim_under_80",
    "longest_verbatim",
    "sentence_end",
    "mattr",
    "delta",
    "authors",
}


class Place:
    """A model that serves, two that don't, and judges of an invented author."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trained = folder, Models(folder)
        self.corpus, self.split = folder / "corpus", folder / "split.json"
        self.gpt = folder / "serving"
        # The engine wants room for a story.
        model = toy.toy_model(300, context=192, sharpen=3)
        export(model, toy.toy_tokenizer(), {"name": "toy-mini"}, self.gpt)
        self.network, self.ngram = (self.trained.work / n for n in ("char_GRU", "trigram_BPE"))
        self.authors = folder / "authors"
        authors.fit(library(), SPLIT, SMALL).save(self.authors)
        index = QuotationIndex.build(work.text for work in library())
        index.save(self.authors / "quotations.npz")
        self.prompts = toy.write_json(folder / "prompts.json", OPENINGS)

    def run(self, out: Path, *models: Path, openings: int, **changes: Path) -> dict[str, Any]:
        names = ("corpus", "split", "authors", "prompts")
        paths = {"out": out, **{name: getattr(self, name) for name in names}, **changes}
        options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
        evaluate.main([*map(str, models), *options, "--openings", str(openings)])
        result: dict[str, Any] = json.loads(out.read_text("utf-8"))
        return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    threads = torch.get_num_threads()
    yield Place(tmp_path_factory.mktemp("place"))
    torch.set_num_threads(threads)  # the engine's start sets it


@pytest.fixture(scope="module")
def finished(place: Place) -> tuple[Path, dict[str, Any]]:
    out = place.folder / "results/evaluate.json"
    return out, place.run(out, place.gpt, place.network, openings=2)


def test_row_has_the_figures_the_model_was_measured_with(
    place: Place, finished: tuple[Path, dict[str, Any]]
) -> None:
    gpt, network = finished[1]["models"]
    row = place.trained.rows["char GRU"]
    for key in ("name", "parameters", "context", "bits_per_character"):
        assert network[key] == row[key]
    assert (gpt["name"], gpt["context"]) == ("toy-mini", 192)
    assert all(math.isfinite(figure) for figure in gpt["bits_per_character"].values())
    assert finished[1]["seed"] == 1799
    assert finished[1]["data_sha256"] == place.trained.data.sha256
    assert finished[1]["command"] == (
        f"python -m scripts.evaluate {place.gpt} {place.network} --corpus CORPUS"
    )


def test_generations_are_judged(finished: tuple[Path, dict[str, Any]]) -> None:
    for row in finished[1]["models"]:
        figures = row["generations"]
        assert set(figures) == GENERATIONS
        assert figures["texts"] == sum(figures["authors"].values()) == 2
        assert set(figures["authors"]) <= {"И. Белов", "П. Горский", "К. Зимин"}
        for share in ("repeated_4grams", "attributed_to_pushkin", "sentence_end"):
            assert 0 <= figures[share] <= 1
        assert figures["verbatim_under_80"] == 1


def test_texts_are_kept_without_their_openings(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    lines = out.with_suffix(".jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line) for line in lines]
    assert [(line["model"], line["opening"]) for line in texts] == [
        (model, opening) for model in ("toy-mini", "char GRU") for opening in OPENINGS[:2]
    ]
    assert not any(line["text"].startswith(line["opening"]) for line in texts)
    for row, first in zip(result["models"], (0, 2), strict=True):
        mean = sum(len(line["text"]) for line in texts[first : first + 2]) / 2
        assert row["generations"]["characters"] == mean > 0


def test_table_has_a_line_a_model(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    head, rule, *lines = out.with_suffix(".md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, rule, *lines)]
    assert {len(line) for line in cells} == {8}
    assert cells[0][:4] == ["model", "parameters", "validation", "test"]
    for line, row in zip(cells[2:], result["models"], strict=True):
        assert line[0] == row["name"]
        assert line[3] == f"{row['bits_per_character']['test']:.3f}"
        assert line[7] == f"{row['generations']['sentence_end']:.1%}"


def test_without_openings_no_authors_are_needed(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "evaluate.json"
    nowhere = tmp_path / "nowhere"
    out.with_suffix(".jsonl").write_text("the texts of an older table\n")
    [row] = place.run(out, place.ngram, openings=0, authors=nowhere)["models"]
    assert "generations" not in row
    assert row["bits_per_character"] == place.trained.rows["trigram (BPE)"]["bits_per_character"]
    assert out.with_suffix(".md").read_text("utf-8").splitlines()[2].endswith("| – | – | – | – |")
    assert not out.with_suffix(".jsonl").exists()


def test_model_without_room_for_a_story_is_named(place: Place, tmp_path: Path) -> None:
    # It was a traceback: the context of 24 tokens holds no opening.
    with pytest.raises(SystemExit) as error:
        place.run(tmp_path / "out.json", place.trained.gpt, openings=1)
    assert str(error.value).startswith(f"{place.trained.gpt} cannot write: ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_one_line(place: Place, tmp_path: Path) -> None:
    out, nowhere = tmp_path / "out.json", tmp_path / "nowhere"
    with pytest.raises(SystemExit, match=r"nowhere: no model here"):
        place.run(out, nowhere, openings=0)
    with pytest.raises(SystemExit, match=r"nowhere/SOURCES\.tsv: not found"):
        place.run(out, place.ngram, openings=0, corpus=nowhere)
    with pytest.raises(SystemExit, match=r"nowhere/quotations\.npz: No such file"):
        place.run(out, place.ngram, openings=1, authors=nowhere)
    with pytest.raises(SystemExit, match=r"nowhere: No such file or directory$"):
        place.run(out, place.ngram, openings=1, prompts=nowhere)
    split = toy.write_json(tmp_path / "split.json", {"test": toy.SPLIT["test"]})
    with pytest.raises(SystemExit, match=r"corpus: no prose for validation$"):
        place.run(out, place.ngram, openings=0, split=split)
    assert [file.name for file in tmp_path.iterdir()] == ["split.json"]
