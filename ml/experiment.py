"""One training of a small GPT by a recipe: what train_mini, the studies and the sweep share.

    data = read_texts(recipe, Path("corpus"))
    trained = run(recipe, data, Path("out/mini"))
    trained.model, trained.tokenizer, trained.curve

A recipe is JSON: ``model`` (shape), ``architecture``, ``vocabulary`` or ``start`` (a folder to go
on from), ``groups`` of authors, ``stories`` (groups from JSON Lines), ``stages`` of their mixture
and ``training`` (TrainingConfig). In place of ``training.steps`` a recipe may name ``flops``.
"""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast

from ml import texts, tokenizer
from ml.corpus import SPLIT_FILE
from ml.dataset import Mixture, Stage, pack
from ml.evaluate import bits_per_character
from ml.generation import write
from ml.gpt import ARCHITECTURES, CausalLM, flops_per_token, load_gpt, new_gpt
from ml.results import write_text
from ml.training import TrainingConfig, thin, train

OPENING = "В начале осени"  # of the samples that a training run prints


class AnotherRunError(Exception):
    """The work folder holds a run of another recipe or other texts."""


@dataclass(frozen=True)
class Trained:
    """A finished run; ``curve`` has a line a validation, the loss being the mean since the last."""

    model: CausalLM
    tokenizer: PreTrainedTokenizerFast
    identity: dict[str, Any]
    curve: list[dict[str, Any]]
    parameters: int
    tokens: int
    seconds: float

    def measure(self, documents: list[str]) -> float:
        """Return bits per character with the recipe's context."""
        context = self.identity["model"]["context"]
        return bits_per_character(self.model, self.tokenizer, documents, context=context)


def read_texts(recipe: dict[str, Any], folder: Path, split: Path = SPLIT_FILE) -> texts.Texts:
    """Read what the recipe trains on; raises CorpusError."""
    data = texts.load(folder, recipe["groups"], recipe["leave_out"], split)
    stories = {name: texts.read_stories(Path(f)) for name, f in recipe.get("stories", {}).items()}
    return replace(data, train={**data.train, **stories})


def run(recipe: dict[str, Any], data: texts.Texts, work: Path, *, samples: bool = True) -> Trained:
    """Train by the recipe in the folder ``work``; interrupted, goes on from there.

    Raises AnotherRunError if the folder is another run's.
    """
    start = Path(recipe["start"]) if recipe.get("start") else None
    identity = {**recipe, "corpus_sha256": data.sha256, "held_out": data.split}
    if recipe.get("stories"):
        documents = [text for name in recipe["stories"] for text in data.train[name]]
        identity["stories_sha256"] = hashlib.sha256("\n\n".join(documents).encode()).hexdigest()
    if start:
        identity["started_from"] = json.loads((start / "meta.json").read_text("utf-8"))
    _claim(work, identity)
    if start:
        model, codec = load_gpt(start), tokenizer.load(start)
    else:
        codec = tokenizer.train(data.everything(), recipe["vocabulary"])
        make = ARCHITECTURES[recipe.get("architecture", "gpt2")]
        model = new_gpt(make(vocabulary=len(codec), **recipe["model"]), recipe["seed"])
    context = recipe["model"]["context"]
    cost = flops_per_token(model, context)
    config = _configure(recipe, cost)
    mixture = Mixture(
        {name: pack(documents, codec) for name, documents in data.train.items()},
        [Stage(**stage) for stage in recipe["stages"]],
        steps=config.steps,
        batch=config.batch,
        length=config.length,
        seed=recipe["seed"],
    )

    def validate(model: nn.Module) -> float:
        return bits_per_character(model, codec, data.validation, context=context)

    def sample(model: nn.Module) -> str:
        return write(model, codec, OPENING, tokens=60, context=context, seed=recipe["seed"])

    train(model, mixture, config, work, validate, sample=sample if samples else None)
    a_step = config.batch * config.length
    curve = [
        {**line, "tokens": line["step"] * a_step, "flops": line["step"] * a_step * cost}
        for line in thin(work / "metrics.jsonl")
    ]
    return Trained(
        model=model,
        tokenizer=codec,
        identity=identity,
        curve=curve,
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=config.steps * a_step,
        seconds=curve[-1]["seconds"],
    )


def _configure(recipe: dict[str, Any], cost: float) -> TrainingConfig:
    """Return the recipe's training settings, the steps worked out from ``flops`` if it has them."""
    settings = dict(recipe["training"])
    if "flops" in recipe:
        a_step = settings["batch"] * settings["length"] * cost
        settings["steps"] = max(1, round(recipe["flops"] / a_step))
        settings["validate_every"] = math.ceil(settings["steps"] / recipe["validations"])
    return TrainingConfig(**settings, seed=recipe["seed"])


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Mark the folder as this run's, unless a run of other texts stands there."""
    mark = folder / "run.json"
    if mark.exists() and json.loads(mark.read_text("utf-8")) != identity:
        raise AnotherRunError(f"{mark} is another run's: name another --work or delete {folder}")
    write_text(mark, json.dumps(identity, ensure_ascii=False, indent=2) + "\n")
