"""The one training loop: steps over a mixture, a schedule, checkpoints, metrics as JSON lines.

    best = train(model, mixture, config, Path("out/run"), validate)

Every model with ``forward(ids, targets) -> (logits, loss)`` trains here. The optimizer is AdamW or,
given a ``muon_rate``, Muon for the matrices inside the blocks and AdamW for the rest (embeddings,
norms, biases): K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ml.dataset import Mixture

Validate = Callable[[nn.Module], float]
Sample = Callable[[nn.Module], str]

_BLOCK = re.compile(r"\.(?:h|layers)\.\d+\.")  # GPT-2's and Llama's names


@dataclass(frozen=True)
class TrainingConfig:
    """What one run needs to be repeated, beside its data and its model."""

    steps: int
    batch: int  # sequences a step
    length: int  # tokens a sequence
    seed: int  # of dropout
    adam_rate: float  # peak learning rate of AdamW
    weight_decay: float
    warmup: float  # share of the steps with a rising rate
    decay: float  # share of the steps, at the end, with a falling rate
    clip: float  # the gradient's largest norm
    validate_every: int  # steps between validations and checkpoints
    precision: str  # "bf16" (autocast) or "fp32"
    compile: bool
    muon_rate: float | None = None  # peak learning rate of the blocks' matrices; None: AdamW's
    muon_iterations: int = 5  # Newton-Schulz steps of an update: fewer are cheaper and rougher
    average: float = 0.0  # decay a step of the averaged weights that are validated; 0: none


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Return the learning rate's factor: up, flat, then down in a line (a trapezoid)."""
    up = (step + 1) / max(1, round(config.warmup * config.steps))
    down = (config.steps - step) / max(1, round(config.decay * config.steps))
    return min(1.0, up, down)


def make_optimizers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW over all parameters or, given ``muon_rate``, Muon over the blocks' matrices too.

    Weight decay falls on matrices only, and on no embedding beside Muon.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    betas = (0.9, 0.95)
    if config.muon_rate is None:
        matrices = [p for _, p in named if p.ndim >= 2]
        vectors = [p for _, p in named if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [torch.optim.AdamW(groups, lr=config.adam_rate, betas=betas, fused=True)]
    hidden = [p for name, p in named if p.ndim == 2 and _BLOCK.search(name)]
    inside = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in inside]
    return [
        torch.optim.Muon(
            hidden,
            lr=config.muon_rate,
            weight_decay=config.weight_decay,
            ns_steps=config.muon_iterations,
            adjust_lr_fn="match_rms_adamw",  # so that both rates live on one scale
        ),
        torch.optim.AdamW(rest, lr=config.adam_rate, betas=betas, weight_decay=0.0, fused=True),
    ]


def train(
    model: nn.Module,
    mixture: Mixture,
    config: TrainingConfig,
    folder: Path,
    validate: Validate,
    device: str = "cpu",
    sample: Sample | None = None,
) -> float:
    """Train in place, leave the best weights in the model, return their validation figure.

    Writes to ``folder``: ``metrics.jsonl`` (a line a step), ``checkpoint.pt`` (to go on from) and
    ``best.pt`` (the weights with the lowest figure). If a checkpoint stands there already, goes on
    from it as if the run had never stopped. ``sample`` writes a text at each validation. Whatever
    ``validate`` raises ends the run; it can be resumed.
    """
    run = _Run(model, mixture, config, folder, device)
    run.resume()
    forward = torch.compile(model) if config.compile else model
    metrics = folder / "metrics.jsonl"
    _cut_lines(metrics, run.step)
    bar = tqdm(total=config.steps, initial=run.step, unit="step", dynamic_ncols=True)
    with metrics.open("a", encoding="utf-8") as log, bar:
        while run.step < config.steps:
            line = run.advance(forward)
            if run.step % config.validate_every == 0 or run.step == config.steps:
                line["validation"] = figure = validate(run.validated)
                bar.set_postfix(loss=f"{line['loss']:.3f}", bpc=f"{figure:.3f}")
                if sample is not None:
                    line["sample"] = sample(run.validated)
                    bar.write(f"{run.step}: {line['sample']}")
            log.write(json.dumps(line, ensure_ascii=False) + "\n")
            log.flush()
            if "validation" in line:  # after its line: a run killed here repeats the step
                run.save(line["validation"])
            bar.update()
    model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    return run.best


def thin(metrics: Path) -> list[dict[str, Any]]:
    """Return the lines with a validation, their loss being the mean since the one before."""
    curve: list[dict[str, Any]] = []
    losses: list[float] = []
    with metrics.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            losses.append(line["loss"])
            if "validation" in line:
                curve.append({**line, "loss": sum(losses) / len(losses)})
                losses = []
    return curve


class _Run:
    """What changes from step to step, and its way to the disk and back."""

    def __init__(
        self, model: nn.Module, mixture: Mixture, config: TrainingConfig, folder: Path, device: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self._model, self._mixture, self._config = model.to(device), mixture, config
        self._folder, self._device = folder, device
        self._optimizers = make_optimizers(model, config)
        self._peaks = [group["lr"] for group in self._groups()]
        self._averaged = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average))
            if config.average
            else None
        )
        self.step, self.best, self._seconds = 0, float("inf"), 0.0

    @property
    def validated(self) -> nn.Module:
        """The weights that are measured and kept."""
        return self._model if self._averaged is None else self._averaged.module

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def advance(self, forward: Callable[..., tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Take one step and return its line of the metrics, the loss in nats a token."""
        started = time.monotonic()
        factor = rate_factor(self.step, self._config)
        for group, peak in zip(self._groups(), self._peaks, strict=True):
            group["lr"] = peak * factor
        self._model.train()
        rows = self._mixture.next()
        ids, targets = (torch.from_numpy(part).to(self._device) for part in rows)
        bf16 = self._config.precision == "bf16"
        with torch.autocast(self._device, torch.bfloat16, enabled=bf16):
            _, loss = forward(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self._averaged is not None:
            self._averaged.update_parameters(self._model)
        value = loss.item()
        self.step += 1
        self._seconds += time.monotonic() - started
        seconds = round(self._seconds, 2)
        return {"step": self.step, "loss": value, "factor": factor, "seconds": seconds}

    def save(self, figure: float) -> None:
        """Write the checkpoint, and the weights too if they are the best so far."""
        if figure < self.best:
            self.best = figure
            _save(self.validated.state_dict(), self._folder / "best.pt")
        state = {
            "config": asdict(self._config),
            "step": self.step,
            "seconds": self._seconds,
            "best": self.best,
            "random": torch.get_rng_state(),
            "model": self._model.state_dict(),
            "averaged": None if self._averaged is None else self._averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        _save(state, self._folder / "checkpoint.pt")

    def resume(self) -> None:
        """Take up the checkpoint of the folder, if there is one."""
        checkpoint = self._folder / "checkpoint.pt"
        if not checkpoint.exists():
            return
        state = torch.load(checkpoint, weights_only=True)
        assert state["config"] == asdict(self._config), f"{checkpoint} belongs to another run"
        self._model.load_state_dict(state["model"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.best, self._seconds = state["step"], state["best"], state["seconds"]
        torch.set_rng_state(state["random"])
        self._mixture.skip(self.step)


def _save(state: dict[str, Any], path: Path) -> None:
    """Write a state whole or not at all."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _cut_lines(metrics: Path, steps: int) -> None:
    """Drop the lines written after the checkpoint that the run goes on from."""
    if metrics.exists():
        lines = metrics.read_text("utf-8").split("\n")  # a sample may hold other line breaks
        metrics.write_text("".join(f"{line}\n" for line in lines[:steps]), "utf-8")
