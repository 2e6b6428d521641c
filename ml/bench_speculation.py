"""What speculative decoding could bring at best: a model of ruGPT-3 medium's size, a draft as wise.

    folder = save_pair(registry.BUNDLED, Path("out/bench_speculation"), copies=3, layers=31)
    plain, drafted = Speculation(folder), Speculation(folder, tokens=3)
    speed = drafted.write(readers=1, story=48, seed=1)

Random weights accept no draft. So the model here is pushkin-mini in a larger one's clothes, three
copies of its state side by side: it costs as the larger one and writes as pushkin-mini, which is
then a draft that proposes what the model itself would say. No other can be right more often.
Y. Leviathan et al., "Fast inference from transformers via speculative decoding", ICML 2023.
"""

import contextlib
import io
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ml import tokenizer
from ml.bench import Work, prompts
from ml.bench_forms import save_forms
from ml.checkpoint import export
from ml.decoding import Sampling
from ml.gpt import CausalLM, gpt_config, load_gpt, new_gpt
from ml.openvino_batch import properties, settings
from ml.openvino_quiet import openvino, openvino_genai

FORM = "int8"
MODEL, DRAFT = "model", "draft"
_NOISE = 1e-7


def widened(model: CausalLM, *, copies: int, layers: int) -> CausalLM:
    """Return a GPT-2 of ``copies`` times the width and of more layers, with the same logits.

    Copies of a state side by side have its mean and variance, so that a layer computes out of the
    first what it would have, and writes it to all. Where the model has no values stands noise too
    small to matter: zeros would be stored, and read, once for all layers.
    """
    config = model.model.config
    shape = gpt_config(
        vocabulary=config.vocab_size,
        context=config.n_positions,
        width=copies * config.n_embd,
        layers=layers,
        heads=copies * config.n_head,
    )
    wide = new_gpt(shape, seed=0)
    own = dict(model.model.named_parameters())
    with torch.no_grad():
        for name, into in wide.model.named_parameters():
            into.normal_(0, _NOISE)
            if name in own:
                _place(name.split(".")[-2], own[name], into, copies)
        norm: Any = wide.model.base_model.ln_f  # the head sees the first copy
        norm.weight[config.n_embd :] = 0
        norm.bias[config.n_embd :] = 0
    return wide


def _place(kind: str, value: Tensor, into: Tensor, copies: int) -> None:
    """Write a module's weight or bias into the wider one's: it reads one copy and writes all."""
    if kind in ("c_attn", "c_fc"):
        parts = 3 if kind == "c_attn" else 1  # queries, keys and values side by side
        for one, place in zip(value.chunk(parts, -1), into.chunk(parts, -1), strict=True):
            place[tuple(slice(length) for length in one.shape)] = one
    else:
        wide = torch.cat([value] * copies, -1)
        into[tuple(slice(length) for length in wide.shape)] = wide


def save_pair(bundled: Path, work: Path, *, copies: int, layers: int) -> Path:
    """Return a folder of the widened model and the bundled one as its draft, converted.

    With the library's own tokenizer beside them, without which it takes no draft.
    """
    work = work / f"{copies}-copies-{layers}-layers"
    if all((work / name / FORM / "openvino_detokenizer.xml").is_file() for name in (MODEL, DRAFT)):
        return work
    from openvino_tokenizers import convert_tokenizer

    codec = tokenizer.load(bundled)
    wide = widened(load_gpt(bundled), copies=copies, layers=layers)
    export(wide, codec, {}, work / "widened")
    for name, folder in ((MODEL, work / "widened"), (DRAFT, bundled)):
        save_forms(folder, work / name, [FORM])
        with contextlib.redirect_stdout(io.StringIO()):
            encode, decode = convert_tokenizer(codec, with_detokenizer=True)
        openvino.save_model(encode, work / name / FORM / "openvino_tokenizer.xml")
        openvino.save_model(decode, work / name / FORM / "openvino_detokenizer.xml")
    return work


@dataclass(frozen=True)
class Speed:
    """After the first step: tokens a second of all stories, tokens a step of each."""

    tokens_per_second: float
    tokens_per_step: float


class Speculation:
    """The library's pipeline over a pair; ``tokens`` are proposed a step, none without a draft."""

    def __init__(self, work: Path, *, tokens: int = 0, slots: int = 8) -> None:
        config = openvino_genai.SchedulerConfig()
        config.num_kv_blocks = 8 * (slots + 1)  # 256 tokens each
        config.max_num_batched_tokens = 256
        width = 320  # of activations that share a scale: divides the widths of both
        chosen = properties(width)
        if tokens:
            draft = openvino_genai.draft_model(work / DRAFT / FORM, "CPU", **chosen)
            chosen = {**chosen, "draft_model": draft}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            work / MODEL / FORM, config, "CPU", chosen
        )
        self._codec = tokenizer.load(work / "widened").backend_tokenizer
        self._tokens, self._names = tokens, count()

    def write(self, readers: int, story: int, seed: int) -> Speed:
        handles = []
        for text in prompts(self._codec, Work(readers, story=story), seed):
            ids = np.array([self._codec.encode(text).ids])
            how = settings(Sampling(max_tokens=story), seed=seed, room=story, end=0)
            how.ignore_eos = True
            if self._tokens:
                how.num_assistant_tokens = self._tokens
            handles.append(self._pipeline.add_request(next(self._names), openvino.Tensor(ids), how))
        counted: list[int] = []
        started = 0.0
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            started = started or time.perf_counter()
            counted.append(sum(_read(handle) for handle in handles))
        after = sum(counted[1:])
        seconds = time.perf_counter() - started
        return Speed(after / seconds, after / readers / (len(counted) - 1))


def _read(handle: Any) -> int:
    """Return how many tokens have come."""
    found = 0
    while handle.can_read():
        found += sum(len(output.generated_ids) for output in handle.read().values())
    return found
