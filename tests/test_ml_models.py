"""A model loaded back gives the figures it was measured with; what is no model is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ml import models
from ml.checkpoint import export
from ml.evaluate import bits_per_character
from ml.models import Loaded, ModelError, load
from ml.texts import Texts
from ml.texts import load as load_texts
from scripts.train_baselines import measure
from tests import toy
from tests.test_scripts_train_baselines import RECIPE

LINEAR = {
    **RECIPE["models"]["char GRU"],
    "family": "linear",
    "shape": {"window": 3, "embedding": 8, "hidden": 8},
}


class Place:
    """A folder with a model of each kind, and the row that each was measured with."""

    def __init__(self, folder: Path) -> None:
        corpus = toy.write_corpus(folder / "corpus")
        split = toy.write_json(folder / "split.json", toy.SPLIT)
        self.work, self.rows = folder / "work", {}
        self.data: Texts = load_texts(corpus, RECIPE["groups"], split_file=split)
        for name, model in {**RECIPE["models"], "linear": LINEAR}.items():
            spec = {**model, "tokenizer": RECIPE["tokenizers"][model["tokenizer"]], "seed": 7}
            if "family" in spec:
                spec["training"] = {**RECIPE["training"], **spec["training"]}
            self.rows[name] = measure(name, spec, self.data, self.work)
        self.gpt = folder / "gpt"
        model = toy.toy_model(300, context=24, sharpen=3)
        export(model, toy.toy_tokenizer(), {"name": "toy-mini"}, self.gpt)
        self.gpt_figure = bits_per_character(
            model.float(), toy.toy_tokenizer(), self.data.test, context=24
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def figure(loaded: Loaded, documents: list[str]) -> float:
    return bits_per_character(loaded.model, loaded.tokenizer, documents, context=loaded.context)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("char GRU", "char_GRU"), ("trigram (BPE)", "trigram_BPE"), ("linear", "linear")],
)
def test_baseline_gives_the_figures_of_its_row(name: str, folder: str, place: Place) -> None:
    row, loaded = place.rows[name], load(place.work / folder)
    assert (loaded.name, loaded.parameters, loaded.context) == (
        name,
        row["parameters"],
        row["context"],
    )
    assert not loaded.serves
    figures = {
        "validation": round(figure(loaded, place.data.validation), 4),
        "test": round(figure(loaded, place.data.test), 4),
    }
    assert figures == row["bits_per_character"]


def test_gpt_gives_the_figure_it_was_exported_with(place: Place) -> None:
    loaded = load(place.gpt)
    assert (loaded.name, loaded.serves, loaded.context) == ("toy-mini", True, 24)
    assert loaded.parameters == sum(p.numel() for p in toy.toy_model(300, context=24).parameters())
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert figure(loaded, place.data.test) == pytest.approx(place.gpt_figure, rel=1e-6)


def test_gpt_without_a_meta_is_called_by_its_folder(place: Place, tmp_path: Path) -> None:
    folder = shutil.copytree(place.gpt, tmp_path / "somebodys")
    (folder / "meta.json").unlink()
    assert load(folder).name == "somebodys"


def test_long_context_is_measured_with_the_common_one(tmp_path: Path) -> None:
    export(toy.toy_model(300, context=600), toy.toy_tokenizer(), {}, tmp_path)
    assert load(tmp_path).context == models.CONTEXT == 512


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def overwrite(file: Path) -> None:
    file.write_bytes(b"no arrays")


def widen(file: Path) -> None:
    row: dict[str, Any] = json.loads(file.read_text("utf-8"))
    row["spec"]["shape"]["hidden"] += 1
    toy.write_json(file, row)


@pytest.mark.parametrize(
    ("model", "file", "damage"),
    [
        ("gpt", "config.json", cut_off),
        ("gpt", "model.safetensors", cut_off),
        ("gpt", "model.safetensors", Path.unlink),
        ("gpt", "tokenizer.json", cut_off),
        ("work/char_GRU", "result.json", cut_off),
        ("work/char_GRU", "result.json", widen),
        ("work/char_GRU", "best.pt", cut_off),
        ("work/char_GRU", "best.pt", Path.unlink),
        ("work/char_GRU", "tokenizer/tokenizer.json", cut_off),
        ("work/trigram_BPE", "ngram.npz", overwrite),
        ("work/trigram_BPE", "ngram.npz", Path.unlink),
    ],
)
def test_damaged_folder_is_named_in_one_line(
    model: str, file: str, damage: Callable[[Path], None], place: Place, tmp_path: Path
) -> None:
    folder = shutil.copytree(place.gpt.parent / model, tmp_path / "model")
    damage(folder / file)
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value).startswith(f"{folder}: ")
    assert "\n" not in str(error.value)


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match="no model here") as error:
            load(folder)
        assert str(error.value).startswith(f"{folder}: ")
