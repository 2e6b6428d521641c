"""Fine-tune any model of transformers on our texts: in full or by LoRA, on one device or many.

    made = finetune(config, "ai-forever/rugpt3medium_based_on_gpt2", train, validation, work)
    save(made, Path("models/pushkin"), {"command": "…"})

A causal model learns packed documents (ml.packing), an encoder-decoder openings with their
continuations (ml.pairs). The loop is transformers' Trainer (ml.finetune_loop); the processes of
``accelerate launch`` share each batch. Interrupted, the same call goes on from the last checkpoint
in the work folder.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.pytorch_utils import Conv1D

from ml.checkpoint import export
from ml.evaluate import bits_per_character
from ml.finetune_loop import (
    FINISHED,
    FinetuneError,
    Measure,
    Metrics,
    OurTrainer,
    last_checkpoint,
    one_line,
)
from ml.gpt import CausalLM
from ml.packing import Packed, pack_documents
from ml.pairs import PairRows, bits_of_continuations, cut, teach_letters
from ml.results import write_text


@dataclass(frozen=True)
class FinetuneConfig:
    """What one run needs to be repeated, beside its base and its texts."""

    seed: int  # of the rows' order, of dropout, of LoRA's first weights
    window: int  # tokens a row
    batch: int  # rows a step, over all processes
    rows: int  # rows at once on a device; what is missing to a batch is accumulated
    rate: float  # peak learning rate; it falls by a cosine
    epochs: float = 1.0  # passes over the data
    flops: float = 0.0  # in place of epochs: 6 x parameters x tokens
    warmup: float = 0.05  # share of the steps with a rising rate
    weight_decay: float = 0.1
    clip: float = 1.0  # the gradient's largest norm
    validate_every: float = 0.25  # epochs between validations and checkpoints
    patience: int = 0  # validations without a better figure that end the run; 0: it never ends so
    log_every: int = 10  # steps between lines of metrics.jsonl
    rank: int = 0  # of LoRA's matrices; 0: all weights are trained
    alpha: int = 32  # LoRA's scale, as a multiple of 1 / rank
    dropout: float = 0.0  # of LoRA's input
    weights: str = "float32"  # what the base's weights are held in; "bfloat16" for a frozen giant
    bf16: bool | None = None  # autocast; None: on CUDA alone
    compile: bool = False  # torch.compile, on CUDA
    attention: str = "sdpa"  # or "flash_attention_2"; "eager" where a model knows no other
    checkpointing: bool = False  # work activations out again on the way back, to save memory
    opening: int = 200  # characters given to an encoder
    continuation: int = 400  # characters its decoder writes


@dataclass(frozen=True)
class Finetuned:
    """A finished run, or one that was stopped, with the best weights it had; LoRA is merged in."""

    model: Any
    tokenizer: Any
    identity: dict[str, Any]  # config, base, hashes of the texts
    bits_per_character: float | None  # of the validation; None: stopped before the first
    parameters: int
    trained_parameters: int
    steps: int
    epochs: float
    tokens: int  # that carried a loss
    flops: float
    seconds: float
    stopped: bool
    main: bool  # whether this process is the one that writes
    adapter: Path | None = None  # LoRA's matrices alone


def finetune(
    config: FinetuneConfig,
    base: str,
    documents: Sequence[str],
    validation: Sequence[str],
    work: Path,
    *,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Finetuned:
    """Train ``base``, a folder or a name on the hub, and return its best weights.

    ``work`` receives checkpoints, ``metrics.jsonl`` (its first line measures the base) and
    TensorBoard's files. ``progress`` is called
    with every line of the metrics, ``should_stop`` after every step: a stopped run can be resumed.
    Raises FinetuneError in one line: no such base, broken weights, a folder of another run, a disk
    that is full.
    """
    identity = {
        "base": base,
        "parent": _parent(Path(base)),
        "training": asdict(config),
        "train_sha256": _hash(documents),
        "validation_sha256": _hash(validation),
    }
    _claim(work, identity)
    set_seed(config.seed)
    model, tokenizer = load_base(base, config)
    fresh = teach_letters(tokenizer, documents)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    if fresh and config.rank:
        raise FinetuneError(f"{base}: knows {fresh} signs of the texts not at all; LoRA won't do")
    parameters = sum(p.numel() for p in model.parameters())
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rows = _rows(config, model, tokenizer, documents)
    positions = rows.positions if isinstance(rows, PairRows) else rows.ids.size
    if config.flops:
        config = replace(config, epochs=config.flops / (6 * parameters * positions))
    if config.rank:
        model = get_peft_model(model, _lora(config, model))
    metrics = Metrics(work / "metrics.jsonl", rows.tokens, progress, should_stop)
    trainer = OurTrainer(
        measure=_measuring(config, tokenizer, validation),
        model=model,
        args=_arguments(config, work, len(rows), world),
        train_dataset=rows,
        eval_dataset=list(validation),
        processing_class=tokenizer,
        data_collator=_collate(config, model, tokenizer),
        callbacks=[metrics, *([EarlyStoppingCallback(config.patience)] if config.patience else [])],
    )
    _run(trainer, metrics, work)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = trainer.state
    adapter = work / "adapter" if config.rank else None
    if adapter and state.is_world_process_zero:
        model.save_pretrained(str(adapter))
    epochs = state.epoch or 0.0
    return Finetuned(
        model=model.merge_and_unload() if config.rank else model,
        tokenizer=tokenizer,
        identity=identity,
        bits_per_character=state.best_metric,
        parameters=parameters,
        trained_parameters=trained,
        steps=state.global_step,
        epochs=epochs,
        tokens=metrics.tokens(state),
        flops=6.0 * parameters * positions * epochs,
        seconds=metrics.seconds,
        stopped=metrics.stopped,
        main=state.is_world_process_zero,
        adapter=adapter,
    )


def load_base(base: str, config: FinetuneConfig) -> tuple[Any, Any]:
    """Load a model and its tokenizer; raises FinetuneError if any of it is missing or broken."""
    dtype = getattr(torch, config.weights)
    try:
        shape = AutoConfig.from_pretrained(base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        kind: Any = AutoModelForSeq2SeqLM if shape.is_encoder_decoder else AutoModelForCausalLM
        model, info = kind.from_pretrained(
            base, dtype=dtype, attn_implementation=config.attention, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise FinetuneError(f"{base}: {type(error).__name__}: {one_line(error)}") from error
    if info["missing_keys"]:
        raise FinetuneError(f"{base}: has no weights for {', '.join(sorted(info['missing_keys']))}")
    if tokenizer.eos_token_id is None:
        raise FinetuneError(f"{base}: its tokenizer has no end of text")
    limit = getattr(shape, "max_position_embeddings", config.window)
    if config.window > limit and not shape.is_encoder_decoder:
        raise FinetuneError(f"{base}: takes {limit} tokens, not a window of {config.window}")
    return model, tokenizer


def measure(made: Finetuned, config: FinetuneConfig, documents: Sequence[str]) -> float:
    """Return bits per character of other texts, as the validation was measured."""
    bits, signs = _measuring(config, made.tokenizer, documents)(made.model, 0, 1)
    return bits / signs


def save(made: Finetuned, folder: Path, meta: dict[str, Any]) -> None:
    """Write the model in ml.checkpoint's layout: the whole folder or, at an error, none of it.

    A model that stood there is replaced only once the new one is written. Raises FinetuneError.
    """
    fresh, old = (folder.with_name(folder.name + end) for end in (".part", ".old"))
    for rest in (fresh, old):
        shutil.rmtree(rest, ignore_errors=True)
    try:
        export(CausalLM(made.model), made.tokenizer, {**made.identity, **meta}, fresh)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise FinetuneError(f"{folder}: cannot be written: {one_line(error)}") from error
    shutil.rmtree(old, ignore_errors=True)


def _rows(
    config: FinetuneConfig, model: Any, tokenizer: Any, documents: Sequence[str]
) -> Packed | PairRows:
    if model.config.is_encoder_decoder:
        pairs = cut(documents, opening=config.opening, continuation=config.continuation)
        rows = PairRows(tokenizer, pairs)
        limit = getattr(model.config, "max_position_embeddings", rows.longest)  # T5 has none
        if rows.longest > limit:
            raise FinetuneError(f"a pair of {rows.longest} tokens is too long: at most {limit}")
        return rows
    tokens = [tokenizer.encode(text, add_special_tokens=False) for text in documents]
    # Whole batches: as many rows, and so the same order, however many processes share them.
    return pack_documents(
        tokens, window=config.window, end=tokenizer.eos_token_id, multiple=config.batch
    )


class _Plain:
    """A tokenizer that adds nothing to a text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.eos_token_id = tokenizer, tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def _measuring(config: FinetuneConfig, tokenizer: Any, documents: Sequence[str]) -> Measure:
    """Return what measures a process's share of the documents: (bits, characters)."""

    def share_of(model: Any, rank: int, of: int) -> tuple[float, int]:
        share = documents[rank::of]
        if model.config.is_encoder_decoder:
            pairs = cut(share, opening=config.opening, continuation=config.continuation)
            signs = sum(len(pair.continuation) for pair in pairs)
            return (bits_of_continuations(model, tokenizer, pairs) * signs if pairs else 0.0), signs
        signs = sum(map(len, share))
        if not signs:
            return 0.0, 0
        figure = bits_per_character(
            CausalLM(model), _Plain(tokenizer), share, context=config.window
        )
        return figure * signs, signs

    return share_of


def _collate(config: FinetuneConfig, model: Any, tokenizer: Any) -> Callable[..., Any]:
    """Return what makes a batch of rows."""
    if model.config.is_encoder_decoder:
        return DataCollatorForSeq2Seq(tokenizer, model=model)

    def stack(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        if config.attention == "flash_attention_2":  # reads positions of one long row only
            batch = {name: ids.reshape(1, -1) for name, ids in batch.items()}
        return batch

    return stack


def _lora(config: FinetuneConfig, model: nn.Module) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),  # GPT-2's
    )


def _arguments(config: FinetuneConfig, work: Path, rows: int, world: int) -> TrainingArguments:
    together = config.rows * world
    if config.batch % together:
        raise FinetuneError(
            f"a batch of {config.batch} rows does not fall into {config.rows} on each of {world} "
            "processes"
        )
    cuda = torch.cuda.is_available()
    every = max(1, round(config.validate_every * rows / config.batch))
    return TrainingArguments(
        output_dir=str(work),
        seed=config.seed,
        data_seed=config.seed,
        per_device_train_batch_size=config.rows,
        gradient_accumulation_steps=config.batch // together,
        num_train_epochs=config.epochs,
        optim="adamw_torch_fused",
        learning_rate=config.rate,
        adam_beta2=0.95,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        activation_checkpointing=config.checkpointing,
        bf16=cuda if config.bf16 is None else config.bf16,
        torch_compile=config.compile and cuda,
        use_cpu=not cuda,
        ddp_backend="gloo" if world > 1 and not cuda else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        logging_steps=config.log_every,
        report_to=["tensorboard"],
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,  # the best and the last
        load_best_model_at_end=True,
        metric_for_best_model="bits_per_character",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
    )


def _run(trainer: OurTrainer, metrics: Metrics, work: Path) -> None:
    """Train from the last checkpoint on; of a finished run only take up the best weights."""
    finished = work / FINISHED
    with trainer.args.main_process_first():
        checkpoint = last_checkpoint(work)
    if finished.exists() and checkpoint:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        metrics.seconds = json.loads(finished.read_text("utf-8"))["seconds"]
        trainer._load_best_model()
        return
    trainer.args.eval_on_start = checkpoint is None  # what the base knows
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.is_world_process_zero and not metrics.stopped:
        write_text(finished, json.dumps({"seconds": metrics.seconds}) + "\n")


def _claim(work: Path, identity: dict[str, Any]) -> None:
    """Mark the folder as this run's, unless another run stands there."""
    mark = work / "run.json"
    text = json.dumps(identity, ensure_ascii=False, indent=2) + "\n"
    if mark.exists():
        if mark.read_text("utf-8") != text:
            raise FinetuneError(f"{mark} is another run's: name another --work or delete {work}")
    elif os.environ.get("RANK", "0") == "0":
        write_text(mark, text)


def _parent(base: Path) -> dict[str, Any]:
    """Return what a model folder of ours tells about itself."""
    if not (base / "meta.json").is_file():
        return {}
    meta = json.loads((base / "meta.json").read_text("utf-8"))
    return {key: meta[key] for key in ("name", "commit", "bits_per_character") if key in meta}


def _hash(documents: Sequence[str]) -> str:
    return hashlib.sha256("\n\n".join(documents).encode()).hexdigest()
