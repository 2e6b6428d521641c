"""The model of the serving bench: a shape with random weights, and a tokenizer of its vocabulary.

    folder = build(Path("out/bench_engines"), **RUGPT3_MEDIUM)

What random weights write means nothing; to read and to multiply them takes as long as any. The
tokenizer is pushkin-mini's and made-up words, which stand for what the model draws.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ml import tokenizer
from ml.checkpoint import export
from ml.conversion import whole
from ml.gpt import CausalLM, gpt_config, new_gpt

TOKENIZER = Path(__file__).parent / "pretrained" / "pushkin-mini"


def build(work: Path, *, seed: int = 0, **shape: int) -> Path:
    """Return the folder of the model in ``work``, built if it is not there yet.

    ``shape`` is what ``gpt_config`` takes.
    """
    name = "-".join(f"{key[0]}{value}" for key, value in sorted(shape.items()))
    folder = work / f"{name}-seed{seed}"
    if not folder.is_dir():
        with whole(folder) as part:
            codec = widened(tokenizer.load(TOKENIZER), shape["vocabulary"])
            model = new_gpt(gpt_config(**shape), seed)
            _never_end(model)
            export(model, codec, {"shape": shape, "seed": seed}, part)
    return folder


def _never_end(model: CausalLM) -> None:
    """Make token 0, which ends a text, too unlikely to be drawn, so that all do the same work.

    What goes into the head is normalised, with mean 0, and then shifted by the bias b: with b = 1
    and a row of one value r its product is r times the width, whatever was computed.
    """
    norm: Any = model.model.base_model.ln_f
    table: Any = model.model.get_input_embeddings()
    with torch.no_grad():
        norm.bias.fill_(1)
        table.weight[0].fill_(-20 / table.weight.shape[1])


def widened(codec: PreTrainedTokenizerFast, vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer that encodes as ``codec`` does and decodes ``vocabulary`` tokens."""
    written = json.loads(codec.backend_tokenizer.to_str())
    known = written["model"]["vocab"]
    # Words of a space (Ġ) and digits; no merge makes them out of a text.
    known |= {f"Ġ{token:06}": token for token in range(len(codec), vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)),
        eos_token=tokenizer.END_OF_TEXT,
        bos_token=tokenizer.END_OF_TEXT,
        unk_token=tokenizer.END_OF_TEXT,  # as GPT-2's; CTranslate2 reads no model without one
        clean_up_tokenization_spaces=False,
    )
