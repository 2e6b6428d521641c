"""The training loop: steps over a mixture, one schedule, checkpoints, metrics as JSON lines.

The optimizer is Muon for the matrices inside the blocks and AdamW for the rest (embeddings,
norms, biases): K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ml.dataset import Mixture


@dataclass(frozen=True)
class TrainingConfig:
    """What one run needs to be repeated, beside its data and its model."""

    steps: int
    batch: int  # sequences a step
    length: int  # tokens a sequence
    seed: int
    muon_rate: float  # peak learning rate of the matrices
    adam_rate: float  # peak learning rate of everything else
    weight_decay: float
    warmup: float  # share of the steps with a rising rate
    decay: float  # share of the steps, at the end, with a falling rate
    clip: float  # the gradient's largest norm
    validate_every: int  # steps between validations and checkpoints
    precision: str  # "bf16" (autocast) or "fp32"
    compile: bool


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Return the learning rate's factor: up, flat, then down in a line (a trapezoid)."""
    up = (step + 1) / max(1, round(config.warmup * config.steps))
    down = (config.steps - step) / max(1, round(config.decay * config.steps))
    return min(1.0, up, down)


def make_optimizers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Return Muon over the blocks' matrices and AdamW over all other parameters."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if p.ndim == 2 and ".h." in name]
    inside = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in inside]
    return [
        torch.optim.Muon(
            hidden,
            lr=config.muon_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",  # so that both rates live on one scale
        ),
        torch.optim.AdamW(rest, lr=config.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(
    model: nn.Module,
    mixture: Mixture,
    config: TrainingConfig,
    folder: Path,
    validate: Callable[[nn.Module], float],
    device: str = "cpu",
) -> float:
    """Train in place and return the last validation figure (bits per character).

    Writes ``metrics.jsonl`` (a line a step) and ``checkpoint.pt`` to ``folder``; if a checkpoint
    stands there already, goes on from it as if the run had never stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device)
    optimizers = make_optimizers(model, config)
    checkpoint, step, spent, figure = folder / "checkpoint.pt", 0, 0.0, float("nan")
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        assert state["config"] == asdict(config), f"{checkpoint} belongs to another run"
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent, figure = state["step"], state["seconds"], state["figure"]
        mixture.skip(step)
    forward = torch.compile(model) if config.compile else model
    peaks = [config.muon_rate, config.adam_rate]  # one group an optimizer
    metrics = folder / "metrics.jsonl"
    _cut_lines(metrics, step)
    with metrics.open("a", encoding="utf-8") as log:
        bar = tqdm(range(step, config.steps), initial=step, total=config.steps, unit="step")
        for step in bar:
            started = time.monotonic()
            factor = rate_factor(step, config)
            groups = [g for optimizer in optimizers for g in optimizer.param_groups]
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
            loss = _step(model, forward, optimizers, mixture, config, device)
            spent += time.monotonic() - started
            line: dict[str, Any] = {"step": step + 1, "loss": loss, "factor": factor}
            line |= {"seconds": round(spent, 2)}
            done = step + 1 == config.steps
            if (step + 1) % config.validate_every == 0 or done:
                figure = line["validation"] = validate(model)
                bar.set_postfix(loss=f"{loss:.3f}", bpc=f"{figure:.3f}")
            log.write(json.dumps(line) + "\n")
            log.flush()
            if "validation" in line:  # after its line: a run killed here repeats the step
                state = {
                    "config": asdict(config),
                    "step": step + 1,
                    "seconds": spent,
                    "figure": figure,
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                _save(state, checkpoint)
    return figure


def _step(
    model: nn.Module,
    forward: Callable[..., tuple[Tensor, Tensor]],
    optimizers: list[torch.optim.Optimizer],
    mixture: Mixture,
    config: TrainingConfig,
    device: str,
) -> float:
    """Take one step and return its loss in nats a token."""
    model.train()
    ids, targets = (torch.from_numpy(rows).to(device) for rows in mixture.next())
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16"):
        _, loss = forward(ids, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _save(state: dict[str, Any], path: Path) -> None:
    """Write the checkpoint whole or not at all."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _cut_lines(metrics: Path, steps: int) -> None:
    """Drop the lines written after the checkpoint that the run goes on from."""
    if metrics.exists():
        lines = metrics.read_text("utf-8").splitlines(keepends=True)
        metrics.write_text("".join(lines[:steps]), "utf-8")
