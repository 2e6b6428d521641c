"""Every architecture's path from end to end, by tiny random models, at the same compute."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from scripts import compare_pretrained
from tests import toy

ENDS = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
DECODER = {**ENDS, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2}
ENCODER_DECODER = {**ENDS, "d_model": 16, "decoder_start_token_id": 0}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": DECODER,
    "gptj": {**DECODER, "rotary_dim": 4},
    "bart": {
        **ENCODER_DECODER,
        "max_position_embeddings": 128,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "forced_eos_token_id": None,
    },
    "t5": {**ENCODER_DECODER, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
}
FLOPS = 2e8
RECIPE: dict[str, Any] = {
    "seed": 5,
    "flops": FLOPS,
    "held_out": 0.3,
    "groups": {"own": ["belov"], "others": ["gorsky"]},
    "leave_out": [],
    "training": {
        "window": 64,
        "batch": 2,
        "rows": 2,
        "rate": 0.01,
        "opening": 30,
        "continuation": 60,
        "log_every": 1,
    },
}
OWN = {"gptj": {"rank": 2, "weights": "bfloat16", "attention": "eager"}}


def build(folder: Path, name: str) -> str:
    """Write a random model of the architecture with the toy tokenizer, and return its folder."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SHAPES[name])
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    codec = PreTrainedTokenizerFast(tokenizer_object=toy.toy_tokenizer().backend_tokenizer)
    codec.add_special_tokens({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
    codec.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    bases = {name: build(folder / name, name) for name in SHAPES}
    bases["absent"] = "nobody/nothing"
    models = {
        name: {"base": base, "training": OWN.get(name, {})}
        for name, base in sorted(bases.items())  # the absent one first
    }
    recipe = toy.write_json(folder / "recipe.json", {**RECIPE, "models": models})
    split = toy.write_json(folder / "split.json", toy.SPLIT)
    options = {"data": toy.write_corpus(folder / "corpus"), "recipe": recipe, "split": split}
    options |= {"work": folder / "work", "out": folder / "results/compare.json"}
    compare_pretrained.main([x for name, path in options.items() for x in (f"--{name}", str(path))])
    return folder / "results/compare.json"


def rows(out: Path) -> dict[str, dict[str, Any]]:
    result = json.loads(out.read_text("utf-8"))
    return {row["name"]: row for row in result["models"]}


@pytest.mark.parametrize("name", SHAPES)
def test_architecture_is_trained_and_measured(finished: Path, name: str) -> None:
    row = rows(finished)[name]
    assert row["encoder_decoder"] == (name in {"bart", "t5"})
    assert set(row["bits_per_character"]) == {"validation", "test"}
    assert all(1 < figure < 20 for figure in row["bits_per_character"].values())
    assert (row["trained_parameters"] < row["parameters"] / 2) == (name == "gptj")
    work = finished.parents[1] / "work" / name
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_all_spend_the_same_compute(finished: Path) -> None:
    for name in SHAPES:
        # To the end of the step that reaches it.
        assert FLOPS <= rows(finished)[name]["flops"] < 1.1 * FLOPS


def test_model_that_cannot_be_loaded_gets_a_row_with_the_reason(finished: Path) -> None:
    row = rows(finished)["absent"]
    assert "nobody/nothing" in row["reason"]
    assert "\n" not in row["reason"]


def test_table_has_a_line_for_every_model(finished: Path) -> None:
    lines = finished.with_suffix(".md").read_text("utf-8").splitlines()
    assert len(lines) == 2 + len(SHAPES) + 1
    assert len({line.count("|") for line in lines}) == 1
    figure = rows(finished)["bart"]["bits_per_character"]["test"]
    assert f"| {figure:.3f} | encoder-decoder |" in next(x for x in lines if "| bart" in x)


def test_result_says_how_it_was_made(finished: Path) -> None:
    result = json.loads(finished.read_text("utf-8"))
    assert result["command"].startswith("python -m scripts.compare_pretrained --data ")
    assert (result["seed"], result["config"]["flops"]) == (5, FLOPS)
    assert len(result["data_sha256"]) == 64


def test_shipped_recipe_names_the_seven() -> None:
    recipe = json.loads(
        (Path(compare_pretrained.__file__).parent / "recipes/compare_pretrained.json").read_text(
            "utf-8"
        )
    )
    assert len(recipe["models"]) == 7
    configs = {
        name: compare_pretrained._config(recipe, model) for name, model in recipe["models"].items()
    }
    assert (configs["gpt-j-6B"].rank, configs["gpt-j-6B"].weights) == (16, "bfloat16")
    assert {config.flops for config in configs.values()} == {recipe["flops"]}
