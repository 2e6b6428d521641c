"""Load any model of ours for measuring: a transformers folder, or a baseline's work folder.

loaded = load(Path("out/baselines/char_GRU"))
bits_per_character(loaded.model, loaded.tokenizer, documents, context=loaded.context)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedTokenizerFast

from ml import tokenizer
from ml.baselines import build
from ml.gpt import load_gpt
from ml.ngram import NGram

# What the libraries raise for files that are missing, cut off or another model's.
_BROKEN = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    BadZipFile,
    UnpicklingError,
    SafetensorError,
)

CONTEXT = 512  # tokens a transformers model is measured with, or its own limit if that is less


class ModelError(Exception):
    """A folder that holds no model that can be measured: the message names it."""


@dataclass(frozen=True)
class Loaded:
    """A model with what its figures need; ``serves`` is whether the bot's engine can load it."""

    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerFast
    context: int
    parameters: int
    serves: bool


def load(folder: Path) -> Loaded:
    """Load the model of a folder; raises ModelError."""
    try:
        if (folder / "config.json").is_file():
            return _load_transformers(folder)
        if (folder / "result.json").is_file():
            return _load_baseline(folder)
    except _BROKEN as error:
        reason = " ".join(str(error).split())  # torch's and transformers' take many lines
        raise ModelError(f"{folder}: {type(error).__name__}: {reason}") from error
    raise ModelError(f"{folder}: no model here (neither config.json nor result.json)")


def _load_transformers(folder: Path) -> Loaded:
    model = load_gpt(folder)
    meta: dict[str, Any] = {}
    if (folder / "meta.json").is_file():
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
    return Loaded(
        name=meta.get("name", folder.name),
        model=model,
        tokenizer=tokenizer.load(folder),
        context=min(CONTEXT, model.model.config.max_position_embeddings),
        parameters=sum(p.numel() for p in model.parameters()),
        serves=True,
    )


def _load_baseline(folder: Path) -> Loaded:
    """A folder that scripts.train_baselines left: its row, its weights and its tokenizer."""
    row = json.loads((folder / "result.json").read_text("utf-8"))
    codec, spec = tokenizer.load(folder / "tokenizer"), row["spec"]
    if "order" in spec:
        model: nn.Module = NGram.load(folder / "ngram.npz")
    else:
        model = build(spec["family"], len(codec), seed=spec["seed"], **spec["shape"])
        model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    return Loaded(row["name"], model, codec, row["context"], row["parameters"], serves=False)
