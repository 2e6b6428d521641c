"""The model that ships: what its folder promises, and that it writes Russian."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from ml import registry
from ml.corpus import load_split
from ml.decoding import trim
from ml.engine import Request
from ml.engine_torch import TorchEngine

FOLDER = Path(__file__).parents[1] / "ml/pretrained/pushkin-mini"


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((FOLDER / "meta.json").read_text("utf-8"))
    return meta


def test_the_weights_are_small_and_in_bf16() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 32_000_000
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert {str(tensor.dtype) for tensor in tensors} == {"torch.bfloat16"}
    assert 8_000_000 <= sum(tensor.numel() for tensor in tensors) <= 20_000_000


def test_the_meta_says_how_it_was_made(meta: dict[str, Any]) -> None:
    assert meta["name"] == "pushkin-mini"
    assert re.fullmatch("[0-9a-f]{64}", meta["corpus_sha256"])
    assert meta["training"]["steps"] > 0
    assert isinstance(meta["seed"], int)
    assert set(meta["bits_per_character"]) == {"validation", "test"}
    assert meta["held_out"] == load_split()
    config = json.loads((FOLDER / "config.json").read_text("utf-8"))
    assert config["model_type"] == "gpt2"
    assert (config["n_embd"], config["n_layer"], config["n_positions"]) == (
        meta["model"]["width"],
        meta["model"]["layers"],
        meta["model"]["context"],
    )


@pytest.mark.parametrize(
    "text",
    ["— Ещё! — вскричал он…", "Ёлка", "«Мороз»\n\n— И солнце?", "Hélas, mon ami 🌞", " ё Ё ъ Ъ "],
)
def test_the_tokenizer_loses_nothing(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_knows_its_letters_and_signs() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for sign in ["ё", "П", "—", "«", "»", "…", "\n", " солнце"]:
        assert len(tokenizer.encode(sign)) == 1, sign
    assert tokenizer.encode("<|endoftext|>") == [tokenizer.eos_token_id]


async def test_it_writes_russian_prose_that_ends_with_a_sentence() -> None:
    engine = TorchEngine(str(FOLDER), device="cpu", slots=4)
    await engine.start()
    assert engine.card.version == registry.bundled().version
    prompts = ["Мороз и солнце", "Пушкин звонит Гоголю", "В комнате на стене висел ковёр."] * 4

    async def write(prompt: str, seed: int) -> str:
        stream = await engine.submit(Request(prompt, seed=seed))
        return trim("".join([piece async for piece in stream]))

    stories = await asyncio.gather(*(write(prompt, i) for i, prompt in enumerate(prompts)))
    await engine.close()
    flaws = [flaw for story in stories if (flaw := flaw_of(story))]
    assert len(flaws) <= 2, flaws  # it draws: now and then a story is French, or goes in circles


def flaw_of(story: str) -> str:
    """Return what a reader would object to at first sight, if anything."""
    letters = [c for c in story.lower() if c.isalpha()]
    if len(story) <= 200:
        return f"short: {story}"
    if sum(c in "абвгдеёжзийклмнопрстуфхцчшщъыьэюя" for c in letters) <= 0.95 * len(letters):
        return f"not Russian: {story}"
    if story[-1] not in ".!?…»)":
        return f"no end: {story}"
    if len(set(story.split())) <= 0.4 * len(story.split()):
        return f"in circles: {story}"
    return ""
