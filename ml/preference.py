"""Learn from votes: LoRA weights that make liked stories likelier and disliked ones less likely.

    prefer(folder, adapter, rows, PreferenceConfig(), Path("out/preference"))
    rewards(folder, adapter, rows)  # log-ratios to the model in the folder

TRL's trainers do the work: from single votes KTO (K. Ethayarajh et al., arXiv 2402.01306, 2024) and
APO (K. D'Oosterlinck et al., arXiv 2408.06266, 2024), from pairs DPO (R. Rafailov et al., arXiv
2305.18290, 2023). A row is TRL's: ``prompt``, ``completion`` and ``label``, or ``prompt``,
``chosen`` and ``rejected``.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from ml.finetune_loop import last_checkpoint

Row = dict[str, Any]
Progress = Callable[[dict[str, Any]], bool]  # told of every step; False ends the training


class StoppedError(Exception):
    """The training was told to end; what it had is in its work folder."""


@dataclass(frozen=True)
class PreferenceConfig:
    """What one training on votes needs to be repeated, beside its votes and its model."""

    loss: str = "apo_zero_unpaired"  # or "kto", or "dpo" (on pairs)
    beta: float = 0.2  # how dear it is to leave the model one starts from
    epochs: int = 1
    rate: float = 3e-4  # peak learning rate, falling in a line
    batch: int = 8  # rows a step
    length: int = 512  # tokens of prompt and completion together; the end is cut off
    rank: int = 16  # of the LoRA matrices
    save_every: int = 10  # steps between checkpoints
    seed: int = 1799


def prefer(
    folder: Path,
    adapter: Path | None,
    rows: Sequence[Row],
    config: PreferenceConfig,
    work: Path,
    progress: Progress = lambda _: True,
) -> Path:
    """Train LoRA weights on the model of ``folder`` and return the folder they are in.

    Goes on from ``adapter`` if there is one, which then is the model to stay near, too. A run that
    was killed goes on from its last checkpoint in ``work``. Raises StoppedError.
    """
    result = work / "adapter"
    if result.is_dir():
        return result
    model, tokenizer = _load(folder)
    torch.manual_seed(config.seed)
    if adapter is None:
        shape = LoraConfig(
            r=config.rank,
            lora_alpha=2 * config.rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            fan_in_fan_out=model.config.model_type == "gpt2",  # its linear layers are transposed
        )
        learner: Any = get_peft_model(model, shape)
    else:
        learner = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    checkpoint = last_checkpoint(work / "checkpoints")  # whole: kill -9 may leave half of another
    report = _Report(progress, work / "metrics.jsonl")
    kind: Any = DPOTrainer if config.loss == "dpo" else KTOTrainer
    trainer = kind(
        model=learner,
        args=_arguments(config, rows, work / "checkpoints"),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        callbacks=[report],
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if report.stopped:
        raise StoppedError
    part = work / "adapter.part"
    learner.save_pretrained(str(part), selected_adapters=["default"])
    part.rename(result)
    return result


@torch.inference_mode()
def rewards(folder: Path, adapter: Path, rows: Sequence[Row], length: int = 512) -> list[float]:
    """Return log p(completion | prompt) by the adapted model minus the same by the folder's, nats.

    That is the reward implied by the adapter, up to beta and a term of the prompt alone.
    """
    model, tokenizer = _load(folder)
    learner: Any = PeftModel.from_pretrained(model, str(adapter)).eval()
    found = []
    for row in rows:
        prompt = tokenizer.encode(row["prompt"], add_special_tokens=False)
        text = tokenizer.encode(row["completion"], add_special_tokens=False)
        ids = torch.tensor([[*prompt, *text, tokenizer.eos_token_id][:length]])
        with learner.disable_adapter():
            before = _log_probability(learner, ids, len(prompt))
        found.append(_log_probability(learner, ids, len(prompt)) - before)
    return found


def accuracy(found: Sequence[float], liked: Sequence[bool]) -> float | None:
    """Return the share of couples (one liked, one disliked) in which the liked has more reward.

    0.5 is chance, as is a tie; None if all votes are alike.
    """
    ups = [reward for reward, label in zip(found, liked, strict=True) if label]
    downs = [reward for reward, label in zip(found, liked, strict=True) if not label]
    if not (ups and downs):
        return None
    won = sum((up > down) + 0.5 * (up == down) for up in ups for down in downs)
    return won / (len(ups) * len(downs))


def _log_probability(model: Any, ids: torch.Tensor, begin: int) -> float:
    """Return log p(ids[begin:] | ids[:begin]) of ids (1, T); the first token has no probability."""
    logits = model(ids[:, :-1]).logits[0].float().log_softmax(-1)
    chosen = logits.gather(-1, ids[0, 1:, None])[:, 0]
    return float(chosen[max(begin - 1, 0) :].sum())


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model, tokenizer


def _arguments(config: PreferenceConfig, rows: Sequence[Row], folder: Path) -> Any:
    cuda = torch.cuda.is_available()
    shared: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch,
        "learning_rate": config.rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 5,
        "optim": "adamw_torch_fused",
        "max_length": config.length,
        "beta": config.beta,
        "bf16": True,
        "use_cpu": not cuda,
        "activation_checkpointing": False,
        "gradient_checkpointing": None,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "seed": config.seed,
        "dataloader_pin_memory": cuda,
    }
    if config.loss == "dpo":
        return DPOConfig(**shared)
    likes = sum(row["label"] for row in rows)
    balance = (len(rows) - likes) / likes if likes else 1.0
    shuffled = "sequential" if config.loss == "kto" else "random"
    return KTOConfig(
        **shared,
        loss_type=config.loss,
        # The rarer side weighs more, so that both weigh the same in all.
        desirable_weight=max(1.0, balance),
        undesirable_weight=max(1.0, 1 / balance) if balance else 1.0,
        train_sampling_strategy=shuffled,
    )


class _Report(TrainerCallback):
    """Writes the metrics and asks whether to go on."""

    def __init__(self, progress: Progress, metrics: Path) -> None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        self._progress, self._metrics = progress, metrics
        self.stopped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Drop the lines written after the checkpoint that the run goes on from."""
        lines: list[str] = []
        if self._metrics.exists() and state.global_step:
            lines = self._metrics.read_text("utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        self._metrics.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        line = {"step": state.global_step, "steps": state.max_steps, **kwargs["logs"]}
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "loss" in line and not self._progress(line):
            self.stopped = control.should_training_stop = True
