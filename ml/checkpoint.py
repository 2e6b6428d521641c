"""A model folder: weights, tokenizer and ``meta.json``, in the layout that transformers reads.

export(model, tokenizer, meta, Path("ml/pretrained/pushkin-mini"))
AutoModelForCausalLM.from_pretrained("ml/pretrained/pushkin-mini")
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from ml.gpt import CausalLM, load_gpt


def export(
    model: CausalLM, tokenizer: PreTrainedTokenizerFast, meta: dict[str, Any], folder: Path
) -> None:
    """Write the weights in bf16 as safetensors, the tokenizer and ``meta.json`` to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    model.bfloat16()
    model.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = json.dumps(meta, ensure_ascii=False, indent=2)
    (folder / "meta.json").write_text(text + "\n", "utf-8")


def average(folders: Sequence[Path], weights: Sequence[float]) -> CausalLM:
    """Return a model whose every parameter is the weighted mean of the folders' models.

    Models of one origin stay good on the way from one to the other (M. Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022).
    """
    models = [load_gpt(folder) for folder in folders]
    shares = [weight / sum(weights) for weight in weights]
    mixed = models[0]
    with torch.no_grad():
        states = [dict(model.named_parameters()) for model in models]
        for name, parameter in mixed.named_parameters():
            stacked = torch.stack([state[name] for state in states], dim=-1)
            parameter.copy_(stacked @ torch.tensor(shares))
    return mixed
