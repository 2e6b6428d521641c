"""A model folder: weights, tokenizer and ``meta.json``, in the layout that transformers reads.

export(model, tokenizer, meta, Path("ml/pretrained/pushkin-mini"))
AutoModelForCausalLM.from_pretrained("ml/pretrained/pushkin-mini")
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ml.gpt import CausalLM


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
