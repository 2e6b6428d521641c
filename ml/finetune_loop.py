"""transformers' Trainer with our figure: bits per character validate, JSON Lines tell the course.

Used by ml.finetune. A checkpoint that was not written to its end is none: ``last_checkpoint``
deletes it, and one that cannot be written is deleted at once.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

FIGURE = "eval_bits_per_character"
FINISHED = "finished.json"

Measure = Callable[[nn.Module, int, int], tuple[float, int]]  # (model, rank, of) -> (bits, signs)


class FinetuneError(Exception):
    """What stops a fine-tuning: the message is one line and names the file or model."""


def one_line(error: BaseException) -> str:
    """Return an error's words in one line; torch's and transformers' take many."""
    return " ".join(str(error).split()) or type(error).__name__


class OurTrainer(Trainer):
    """Validates by ``measure``, of which every process takes a share of the documents."""

    def __init__(self, *, measure: Measure, **rest: Any) -> None:
        super().__init__(**rest)
        self._measure = measure

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return and log bits per character, the same in every process."""
        rank, of = self.accelerator.process_index, self.accelerator.num_processes
        with self.accelerator.autocast():
            share = self._measure(cast(nn.Module, self.model), rank, of)
        both = torch.tensor(share, dtype=torch.float64, device=self.args.device)
        bits, signs = self.accelerator.reduce(both, "sum").tolist()
        metrics = {FIGURE: bits / signs}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save_checkpoint(self, *arguments: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*arguments)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, as each says it
            shutil.rmtree(folder, ignore_errors=True)
            raise FinetuneError(f"{folder}: cannot be written: {one_line(error)}") from error


class Metrics(TrainerCallback):
    """Writes ``metrics.jsonl``: a line a log with the loss, a line a validation with its figure.

    ``epoch`` counts passes over the data, ``tokens`` those that carried a loss, ``seconds`` are of
    training steps alone.
    """

    def __init__(
        self,
        path: Path,
        tokens: int,
        progress: Callable[[dict[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._path, self._tokens = path, tokens
        self._progress, self._should_stop = progress, should_stop
        self._started = self.seconds = self._before = 0.0
        self._lines: list[dict[str, Any]] = []
        self.stopped = False

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002 (the library's signature, here and below)
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Drop the lines written after the checkpoint that the run goes on from."""
        if self._path.exists() and state.global_step:
            lines = map(json.loads, self._path.read_text("utf-8").splitlines())
            self._lines = [line for line in lines if line["step"] <= state.global_step]
        if self._lines:
            self.seconds = self._before = self._lines[-1]["seconds"]
        if state.is_world_process_zero:
            self._write("w", self._lines)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        self.seconds += time.monotonic() - self._started
        if self._should_stop is not None and self._should_stop():
            self.stopped = control.should_training_stop = control.should_save = True
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        logs: dict[str, Any] = kwargs["logs"]
        line = {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
            "tokens": self.tokens(state),
            "seconds": round(self.seconds, 2),
        }
        if "loss" in logs:
            before = next((x["tokens"] for x in reversed(self._lines) if "loss" in x), 0)
            speed = (line["tokens"] - before) / max(self.seconds - self._before, 1e-9)
            self._before = self.seconds
            line |= {"loss": logs["loss"], "rate": logs["learning_rate"]}
            line["tokens_per_second"] = round(speed, 1)
        elif FIGURE in logs:
            line["validation"] = logs[FIGURE]
        else:  # the library's summary at the end
            return
        self._lines.append(line)
        if state.is_world_process_zero:
            self._write("a", [line])
        if self._progress is not None:
            self._progress(line)

    def _write(self, mode: str, lines: list[dict[str, Any]]) -> None:
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise FinetuneError(f"{self._path}: cannot be written: {one_line(error)}") from error

    def tokens(self, state: TrainerState) -> int:
        """How many tokens have carried a loss by now."""
        return round((state.epoch or 0.0) * self._tokens)


def last_checkpoint(work: Path) -> Path | None:
    """Return the last checkpoint that is whole, deleting those after it that are not."""
    while work.is_dir() and (name := get_last_checkpoint(str(work))):
        folder = Path(name)
        try:
            TrainerState.load_from_json(str(folder / "trainer_state.json"))  # written last
        except (OSError, ValueError, TypeError):
            shutil.rmtree(folder)
        else:
            return folder
    return None
