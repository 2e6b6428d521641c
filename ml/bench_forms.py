"""A model's weights in every form that was tried, for the bench of variants; needs torch.

save_forms(folder, Path("out"), ["int8", "int4"])                     # out/int8, out/int4
bits = measure_forms(registry.BUNDLED, Path("out"), ["int8", "int4"])  # per character
"""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ml.evaluate import bits_per_character
from ml.gpt import CausalLM
from ml.openvino_batch import MODEL
from ml.openvino_model import Converted, export, int4_group
from ml.openvino_weights import fitting, save, stories


def save_forms(
    folder: Path, target: Path, forms: Sequence[str], texts: Sequence[Sequence[int]] = ()
) -> None:
    """Write a folder a form, with the model's config.json, unless it is there already."""
    missing = [form for form in forms if not (target / form / "config.json").is_file()]
    if not missing:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, which torch deprecates
        model = _load(folder)
        exported = export(model)
    for form in missing:
        (target / form).mkdir(parents=True, exist_ok=True)
        save(exported, target / form / MODEL, form, group=int4_group(model), texts=texts)
        shutil.copy(folder / "config.json", target / form)


def measure_forms(folder: Path, target: Path, forms: Sequence[str]) -> dict[str, float]:
    """Return bits per character on our sample stories, of the original and of each form."""
    model, tokenizer = _load(folder), AutoTokenizer.from_pretrained(folder)
    context = int(model.config.max_position_embeddings)
    save_forms(folder, target, forms, fitting(tokenizer, context))
    models: dict[str, Any] = {"original": CausalLM(model)}
    models |= {form: Converted(target / form / MODEL) for form in forms}
    return {
        name: bits_per_character(one, tokenizer, stories(), context=context)
        for name, one in models.items()
    }


def _load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
