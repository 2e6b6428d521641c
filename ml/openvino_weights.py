"""A model's weights in smaller numbers, on disk.

    save(exported, Path("openvino_model.xml"), "int4", group=128, texts=[[17, 4, 250], [3, 99]])

A conversion is in int4, int8, fp16 or fp32. int4 leaves embeddings and head in int8, and its
rounding is fitted to texts (GPTQ, E. Frantar et al., 2022). ``int8 symmetric`` was tried and is
hardly faster (docs/performance.md).
"""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml.openvino_quiet import openvino

INT4_GROUP = 128  # weights that share a scale, where that divides the inputs of every matrix
STORIES = Path(__file__).parent / "data" / "sample_stories.jsonl"
_MEASURED, _CHARACTERS = 8, 1000  # of the stories, to measure a form on
_FITTING, _TOKENS = 32, 256  # of the others, to fit int4 to


def save(
    model: openvino.Model,
    file: Path,
    form: str,
    *,
    group: int = INT4_GROUP,
    texts: Sequence[Sequence[int]] = (),
) -> None:
    """Write a copy of a model in fp32 with its weights in ``form``.

    In int4 ``group`` weights share a scale; ``texts`` are tokens to fit it to, without any it is
    rounded to the nearest.
    """
    model = model.clone()
    if form.startswith("int"):
        import nncf

        how: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_ASYM}
        if form == "int8 symmetric":
            how = {"mode": nncf.CompressWeightsMode.INT8_SYM}
        if form == "int4":
            how = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": group, "ratio": 1}
            if texts:
                data = nncf.Dataset([_inputs(ids) for ids in texts])
                how |= {"gptq": True, "dataset": data, "subset_size": len(texts)}
        nncf.set_log_level(30)
        # Its progress bars.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            model = nncf.compress_weights(model, **how)
    openvino.save_model(model, file, compress_to_fp16=form == "fp16")


def _inputs(ids: Sequence[int]) -> dict[str, Any]:
    """Return a text as the exported model takes it, with an empty cache."""
    return {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), dtype=np.int64),
        "position_ids": np.arange(len(ids))[None],
        "beam_idx": np.zeros(1, dtype=np.int32),
    }


def stories() -> list[str]:
    """Return the texts that a form is measured on."""
    return [json.loads(line)["text"][:_CHARACTERS] for line in _lines()[:_MEASURED]]


def fitting(tokenizer: Any, context: int) -> list[list[int]]:
    """Return other texts as tokens, to fit int4 to what it is not measured on.

    ``context`` is what the model holds, in tokens.
    """
    lines = _lines()[_MEASURED:][:_FITTING]
    tokens = min(_TOKENS, context)
    return [tokenizer.encode(json.loads(line)["text"])[:tokens] for line in lines]


def _lines() -> list[str]:
    return STORIES.read_text("utf-8").splitlines()
