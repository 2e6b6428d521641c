"""Libraries that others serve a model with, for the serving bench: static batches on the CPU.

Each function loads a model folder in its contestant's own process and gives a ``Writer``; they
draw as our engines do by default.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ml.bench import Run, Writer
from ml.bench_engines import SETTINGS, encoder
from ml.conversion import whole

_ROWS, _INNER, _COLUMNS = 1024, 1024, 4096  # of matrices that keep all cores busy
_TRIES = 8  # the best of them counts


@contextlib.contextmanager
def transformers(folder: Path, dtype: str) -> Iterator[Writer]:
    """transformers' ``generate`` over one static batch: no story ends before the last."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
    from transformers.utils import logging

    logging.disable_progress_bar()
    encode = encoder(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))

    class Stamp(StoppingCriteria):  # the only hook that every step passes
        def __init__(self) -> None:
            self.first = 0.0

        def __call__(self, ids: Any, *_: Any, **__: Any) -> Any:
            self.first = self.first or time.perf_counter()
            return torch.zeros(len(ids), dtype=torch.bool)

    def write(texts: list[str], story: int, seed: int) -> Run:
        torch.manual_seed(seed)
        stamp, started = Stamp(), time.perf_counter()
        ids = torch.tensor([encode(text) for text in texts])
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=SETTINGS.temperature,
            top_p=SETTINGS.top_p,
            top_k=SETTINGS.top_k,
            max_new_tokens=story,
            min_new_tokens=story,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([stamp]),
        )
        last = time.perf_counter() - started
        tokens = (made.shape[1] - ids.shape[1]) * len(texts)
        return Run([stamp.first - started] * len(texts), [last] * len(texts), tokens)

    yield write


@contextlib.contextmanager
def ctranslate2(folder: Path) -> Iterator[Writer]:
    """CTranslate2 in int8 over one static batch."""
    import ctranslate2 as library

    codec = Tokenizer.from_file(str(folder / "tokenizer.json"))
    converted = for_ctranslate2(folder)
    generator = library.Generator(
        str(converted), compute_type="int8", intra_threads=len(os.sched_getaffinity(0))
    )

    def write(texts: list[str], story: int, seed: int) -> Run:
        library.set_random_seed(seed)
        started = time.perf_counter()
        first, last = [0.0] * len(texts), [0.0] * len(texts)

        def stamp(step: Any) -> bool:
            last[step.batch_id] = time.perf_counter() - started
            first[step.batch_id] = first[step.batch_id] or last[step.batch_id]
            return False

        results = generator.generate_batch(
            [codec.encode(text, add_special_tokens=False).tokens for text in texts],
            max_length=story,
            min_length=story,
            include_prompt_in_result=False,
            sampling_temperature=SETTINGS.temperature,
            sampling_topk=SETTINGS.top_k,
            sampling_topp=SETTINGS.top_p,
            callback=stamp,
        )
        return Run(first, last, sum(len(result.sequences_ids[0]) for result in results))

    yield write


def for_ctranslate2(folder: Path) -> Path:
    """Return a folder's weights in int8 as CTranslate2 reads them, converted the first time."""
    import ctranslate2 as library

    converted = folder.with_name(f"{folder.name}-ctranslate2")
    if not converted.is_dir():
        with whole(converted) as part:
            converter = library.converters.TransformersConverter(str(folder))
            converter.convert(str(part), quantization="int8", force=True)
    return converted


def multiply_rate() -> float:
    """Return the floating-point operations a second of large matrices in fp32, all cores at once.

    Instructions for small integers, where the processor has them, do several times
    as many operations.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    left, right = torch.ones(_ROWS, _INNER), torch.ones(_INNER, _COLUMNS)
    best = 0.0
    for _ in range(_TRIES):
        started = time.perf_counter()
        left @ right
        best = max(best, 2 * _ROWS * _INNER * _COLUMNS / (time.perf_counter() - started))
    torch.set_num_threads(before)
    return best
