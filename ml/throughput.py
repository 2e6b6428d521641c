"""Tokens a second of our training loop beside transformers' Trainer, in one process, interleaved.

    compare(Setting(width=320, layers=6, heads=5), stream, vocabulary=8192, steps=6, rounds=2)

Both train the same shape on the same chunks with the same batch and precision, each on its own
copy. The Trainer is as it comes: default collator, AdamW, no torch.compile.

Shapes: N tokens in the stream, T tokens in a chunk.
"""

import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from ml.dataset import Mixture, Stage
from ml.gpt import CausalLM, gpt_config, new_gpt
from ml.training import TrainingConfig, train

_WARMUP = 2  # steps of each round that do not count: compilation, first allocations


@dataclass(frozen=True)
class Setting:
    """A shape of the small GPT and the batch it trains on."""

    width: int
    layers: int
    heads: int
    context: int = 512
    batch: int = 8


@dataclass(frozen=True)
class Speed:
    """Tokens a second of the middle step of all rounds."""

    setting: Setting
    parameters: int
    ours: float
    trainer: float

    @property
    def ratio(self) -> float:
        return self.ours / self.trainer


def compare(
    setting: Setting,
    stream: NDArray[np.uint16],
    *,
    vocabulary: int,
    steps: int,
    rounds: int,
    compiled: bool = True,
) -> Speed:
    """Time ``rounds`` times ``steps`` steps of each, ours first in every round.

    The stream (N,) must hold two chunks at least.
    """
    config = gpt_config(
        vocabulary=vocabulary,
        context=setting.context,
        width=setting.width,
        layers=setting.layers,
        heads=setting.heads,
    )
    ours = new_gpt(config, seed=0)
    theirs = AutoModelForCausalLM.from_config(config)  # with the library's own attention
    theirs.load_state_dict(ours.model.state_dict())
    our_times: list[float] = []
    their_times: list[float] = []
    for round_ in range(rounds):
        our_times += _time_ours(ours, setting, stream, steps, round_, compiled)
        their_times += _time_trainer(theirs, setting, stream, steps, round_)
    tokens = setting.batch * setting.context
    return Speed(
        setting=setting,
        parameters=sum(p.numel() for p in ours.parameters()),
        ours=tokens / statistics.median(our_times),
        trainer=tokens / statistics.median(their_times),
    )


def _time_ours(
    model: CausalLM,
    setting: Setting,
    stream: NDArray[np.uint16],
    steps: int,
    seed: int,
    compiled: bool,
) -> list[float]:
    """Return the seconds of each counted step."""
    config = TrainingConfig(
        steps=_WARMUP + steps,
        batch=setting.batch,
        length=setting.context,
        seed=seed,
        muon_rate=0.005,
        muon_iterations=3,
        adam_rate=0.005,
        weight_decay=0.1,
        warmup=0.0,
        decay=0.0,
        clip=1.0,
        validate_every=_WARMUP + steps,
        precision="bf16",
        compile=compiled,
    )
    mixture = Mixture(
        {"all": stream},
        [Stage(1.0, {"all": 1.0})],
        steps=config.steps,
        batch=config.batch,
        length=config.length,
        seed=seed,
    )
    moments: list[float] = []
    draw = mixture.next

    def stamped() -> Any:
        moments.append(time.monotonic())
        return draw()

    mixture.next = stamped  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:

        def validate(_: object) -> float:
            moments.append(time.monotonic())  # the end of the last step
            return 0.0

        train(model, mixture, config, Path(folder), validate)
    return _differences(moments)


def _time_trainer(
    model: PreTrainedModel, setting: Setting, stream: NDArray[np.uint16], steps: int, seed: int
) -> list[float]:
    """Return the seconds of each counted step."""
    moments: list[float] = []

    class Stamp(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            moments.append(time.monotonic())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.monotonic())

    length = setting.context
    count = min(len(stream) // length, 64 * setting.batch)
    rows = stream[: count * length].reshape(count, length).astype(np.int64)
    chunks = [{"input_ids": row, "labels": row} for row in rows]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Trainer's own, on machines without an accelerator
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=_WARMUP + steps,
            per_device_train_batch_size=setting.batch,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=chunks,
            data_collator=default_data_collator,
            callbacks=[Stamp()],
        ).train()
    return _differences(moments)


def _differences(moments: list[float]) -> list[float]:
    return np.diff(np.array(moments))[_WARMUP:].tolist()
