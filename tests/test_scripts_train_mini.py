"""The whole program at toy size: from a corpus folder to a model that transformers loads."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ml import corpus, experiment, tokenizer
from ml.corpus import PROSE, chapters, clean, corpus_hash, load_split, read_works, split_of
from ml.evaluate import bits_per_character
from ml.gpt import CausalLM
from ml.training import TrainingConfig
from scripts import train_mini
from tests import toy

SHIPPED_RECIPE = Path(train_mini.__file__).parent / "recipes" / "pushkin_mini.json"


class InterruptedRunError(Exception):
    """What stops a run in these tests."""


class Place:
    """A folder with everything one run needs."""

    def __init__(self, folder: Path) -> None:
        self.corpus = toy.write_corpus(folder / "corpus")
        self.recipe = toy.write_json(folder / "recipe.json", toy.RECIPE)
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)
        self.work, self.out = folder / "work", folder / "out"

    def train(self) -> None:
        options = {"recipe": self.recipe, "split": self.split, "work": self.work, "out": self.out}
        named = [text for name, path in options.items() for text in (f"--{name}", str(path))]
        train_mini.main([str(self.corpus), *named])

    def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self.out / "meta.json").read_text("utf-8"))
        return meta


def lasting(meta: dict[str, Any]) -> dict[str, Any]:
    """The part of the meta that no clock, no folder and no other test can change."""
    course = [{k: v for k, v in line.items() if k != "seconds"} for line in meta["curve"]]
    others = {"seconds", "command", "peak_memory_mb"}
    return {k: v for k, v in meta.items() if k not in others} | {"curve": course}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that nothing stopped."""
    place = Place(tmp_path_factory.mktemp("trained"))
    place.train()
    return place


def test_folder_holds_weights_in_bf16(trained: Place) -> None:
    weights = load_file(trained.out / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert (trained.out / "tokenizer.json").is_file()
    assert len((trained.work / "metrics.jsonl").read_text("utf-8").splitlines()) == 6


def test_meta_tells_how_the_model_came_about(trained: Place) -> None:
    meta = trained.meta()
    assert {name: meta[name] for name in toy.RECIPE} == toy.RECIPE
    assert (meta["seed"], meta["training"]["steps"]) == (7, 6)
    assert meta["held_out"] == toy.SPLIT
    assert meta["tokens_seen"] == 6 * 2 * 16
    assert set(meta["bits_per_character"]) == {"validation", "test"}
    assert all(2 < figure < 12 for figure in meta["bits_per_character"].values())
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert meta["commit"] == (head.stdout.strip() or None)


def test_meta_names_the_texts_that_were_read(trained: Place) -> None:
    used = [
        work
        for work in read_works(trained.corpus)
        if work.file not in {"belov/stikhi.txt", "gorsky/zametki.txt"}
    ]
    assert len(used) == 4
    assert trained.meta()["corpus_sha256"] == corpus_hash(used)


def test_transformers_loads_the_folder_and_gets_the_same_figures(trained: Place) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.out)
    loaded = AutoModelForCausalLM.from_pretrained(trained.out, dtype="auto")
    meta = trained.meta()
    assert sum(p.numel() for p in loaded.parameters()) == meta["parameters"]
    assert loaded.config.vocab_size == len(tokenizer) == 300
    for part, files in toy.SPLIT.items():
        documents = [c for w in read_works(trained.corpus) if w.file in files for c in chapters(w)]
        figure = bits_per_character(CausalLM(loaded), tokenizer, documents, context=16)
        assert round(figure, 4) == meta["bits_per_character"][part]


def test_loaded_model_writes(trained: Place) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.out)
    loaded: Any = AutoModelForCausalLM.from_pretrained(trained.out)
    ids = tokenizer("Был", return_tensors="pt").input_ids
    written = loaded.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert len(written[0]) > ids.size(1)
    assert str(tokenizer.decode(written[0])).startswith("Был")


def test_nothing_held_out_left_out_or_in_verse_is_learned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: dict[str, list[str]] = {"tokenizer": [], "model": []}
    train_tokenizer, pack = tokenizer.train, experiment.pack

    def tokenizer_spy(documents: Iterator[str], vocabulary: int) -> Any:
        learned["tokenizer"] += (texts := list(documents))
        return train_tokenizer(texts, vocabulary)

    def pack_spy(documents: list[str], codec: Any) -> Any:
        learned["model"] += documents
        return pack(documents, codec)

    monkeypatch.setattr(tokenizer, "train", tokenizer_spy)
    monkeypatch.setattr(experiment, "pack", pack_spy)
    place.train()
    texts = {work.file: work for work in read_works(place.corpus)}
    expected = [*chapters(texts["belov/vecher.txt"]), *chapters(texts["gorsky/doroga.txt"])]
    assert learned == {"tokenizer": expected, "model": expected}
    for hidden in (toy.LETTER, toy.MANOR, toy.VERSES, toy.NOTES):
        line = clean(hidden).split("\n")[-1]
        assert not any(line in document for document in learned["model"])


@pytest.mark.parametrize("stop_at", [2, 4])  # the second validation; the validation's own figure
def test_resumed_run_gives_the_same_meta_and_weights(
    stop_at: int, place: Place, trained: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements = count(1)

    def interrupted(*arguments: Any, **named: Any) -> float:
        if next(measurements) == stop_at:
            raise InterruptedRunError
        return bits_per_character(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "bits_per_character", interrupted)
        with pytest.raises(InterruptedRunError):
            place.train()
    assert not place.out.exists()
    place.train()
    assert lasting(place.meta()) == lasting(trained.meta())
    weights, expected = (load_file(p.out / "model.safetensors") for p in (place, trained))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("change", ["text", "split", "groups"])
def test_checkpoint_of_other_texts_is_refused(change: str, place: Place) -> None:
    # It was gone on from in silence: meta.json then named texts that the weights had not seen,
    # or held out works that they had learned.
    place.train()
    before = place.meta()
    if change == "text":
        (place.corpus / "belov/vecher.txt").write_text(
            toy.EVENING.replace("Дождь", "Снег"), "utf-8"
        )
    elif change == "split":
        toy.write_json(place.split, {"validation": toy.SPLIT["test"], "test": ["belov/vecher.txt"]})
    else:
        toy.write_json(place.recipe, {**toy.RECIPE, "leave_out": []})
    with pytest.raises((AssertionError, SystemExit)):
        place.train()
    assert place.meta() == before


def test_shipped_recipe_is_consistent() -> None:
    recipe = json.loads(SHIPPED_RECIPE.read_text("utf-8"))
    config = TrainingConfig(**recipe["training"], seed=recipe["seed"])
    assert config.length <= recipe["model"]["context"]
    assert config.warmup + config.decay <= 1
    assert config.precision in {"bf16", "fp32"}
    assert recipe["model"]["width"] % recipe["model"]["heads"] == 0
    assert recipe["vocabulary"] < 2**16
    folders = [folder for group in recipe["groups"].values() for folder in group]
    assert len(folders) == len(set(folders))
    assert all(set(stage["weights"]) <= set(recipe["groups"]) for stage in recipe["stages"])
    ends = [stage["end"] for stage in recipe["stages"]]
    assert ends == sorted(ends)
    assert ends[-1] == 1.0
    held_out = {file for files in load_split(corpus.SPLIT_FILE).values() for file in files}
    assert {file.split("/")[0] for file in held_out} <= set(folders)
    assert held_out & set(recipe["leave_out"]) == set()


def test_toy_split_holds_out_prose_of_the_toy_corpus(trained: Place) -> None:
    # The toy recipe is worth something only if each part gets a text.
    parts = [split_of(w, toy.SPLIT) for w in read_works(trained.corpus) if w.genre in PROSE]
    assert set(parts) == {"train", "validation", "test"}


def test_killed_process_goes_on_to_the_curve_of_an_unbroken_run(tmp_path: Path) -> None:
    recipe = {**toy.RECIPE, "training": {**toy.RECIPE["training"], "steps": 40}}
    recipe["training"]["validate_every"] = 5
    unbroken, killed = Place(tmp_path / "unbroken"), Place(tmp_path / "killed")
    for place in (unbroken, killed):
        toy.write_json(place.recipe, recipe)
    unbroken.train()

    options = {"recipe": killed.recipe, "split": killed.split, "work": killed.work}
    named = [text for name, path in options.items() for text in (f"--{name}", str(path))]
    program = [sys.executable, "-m", "scripts.train_mini", str(killed.corpus), *named]
    root = Path(train_mini.__file__).parents[1]
    metrics = killed.work / "metrics.jsonl"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*program, "--out", str(killed.out)], cwd=root, stdout=log, stderr=log
        )
        try:
            # Past the second checkpoint, which is of step 10, and before the end.
            while not metrics.exists() or metrics.read_bytes().count(b"\n") < 12:
                assert process.poll() is None, (tmp_path / "log").read_text("utf-8")
                time.sleep(0.002)
        finally:
            process.kill()  # SIGKILL: nothing is tidied up
            process.wait()
    assert 12 <= metrics.read_bytes().count(b"\n") < 40
    assert not killed.out.exists()

    killed.train()
    curves = [
        [{**json.loads(line), "seconds": 0} for line in file.read_text("utf-8").split("\n") if line]
        for file in (unbroken.work / "metrics.jsonl", metrics)
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 40
    weights, expected = (load_file(p.out / "model.safetensors") for p in (killed, unbroken))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert killed.meta()["bits_per_character"] == unbroken.meta()["bits_per_character"]
