"""What a full disk and a killed process leave: whole checkpoints only, and metrics that agree."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from ml.checkpoint import export
from ml.finetune import FinetuneConfig, finetune
from ml.finetune_loop import FinetuneError, last_checkpoint
from tests import toy

CONFIG = FinetuneConfig(
    seed=3, window=64, batch=4, rows=4, rate=0.01, epochs=2, validate_every=0.5, log_every=1
)
TEXTS = [toy.EVENING, toy.ROAD, toy.MANOR]


@pytest.fixture
def base(tmp_path: Path) -> str:
    export(toy.toy_model(300, context=64), toy.toy_tokenizer(), {"name": "toy"}, tmp_path / "base")
    return str(tmp_path / "base")


def lines(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("file write failed")],
    ids=["Python's", "PyTorch's"],
)
def test_full_disk_leaves_no_half_checkpoint_and_the_run_can_go_on(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    finetune(CONFIG, base, TEXTS, [toy.LETTER], tmp_path / "whole")
    work, healthy, calls = tmp_path / "work", Trainer._save_optimizer_and_scheduler, 0

    def full(trainer: Trainer, folder: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        healthy(trainer, folder)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(FinetuneError, match=r"checkpoint-\d+: cannot be written: ") as caught:
            finetune(CONFIG, base, TEXTS, [toy.LETTER], work)
    assert "\n" not in str(caught.value)
    assert len(list(work.glob("checkpoint-*"))) == 1
    made = finetune(CONFIG, base, TEXTS, [toy.LETTER], work)
    assert not made.stopped
    for key in ("step", "epoch", "tokens", "loss", "validation"):
        assert [x.get(key) for x in lines(work)] == [x.get(key) for x in lines(tmp_path / "whole")]


def test_metrics_that_cannot_be_written_are_named(base: str, tmp_path: Path) -> None:
    (tmp_path / "work/metrics.jsonl").mkdir(parents=True)
    with pytest.raises(FinetuneError, match=r"metrics\.jsonl: cannot be written: "):
        finetune(CONFIG, base, TEXTS, [toy.LETTER], tmp_path / "work")


@pytest.mark.parametrize("left", [None, "", '{"epoch": 1.0, "glo'], ids=["none", "empty", "half"])
def test_checkpoint_cut_short_is_none(tmp_path: Path, left: str | None) -> None:
    whole, half = tmp_path / "checkpoint-9", tmp_path / "checkpoint-10"
    for folder in (whole, half):
        folder.mkdir()
        (folder / "model.safetensors").touch()
    (whole / "trainer_state.json").write_text('{"global_step": 9}', "utf-8")
    if left is not None:
        (half / "trainer_state.json").write_text(left, "utf-8")
    assert last_checkpoint(tmp_path) == whole
    assert not half.exists()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None


def test_metrics_count_what_was_learnt(base: str, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    made = finetune(CONFIG, base, TEXTS, [toy.LETTER], tmp_path / "work", progress=told.append)
    assert told == lines(tmp_path / "work")
    learnt = sum(len(toy.toy_tokenizer().encode(text)) + 1 for text in TEXTS)
    assert made.tokens == told[-1]["tokens"] == 2 * learnt  # two epochs
    steps = [line for line in told if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, made.steps + 1))
    assert [line["tokens"] for line in steps] == sorted(line["tokens"] for line in steps)
    assert all(line["tokens_per_second"] > 0 for line in steps)
    assert steps[-1]["epoch"] == 2
    assert made.bits_per_character == min(x["validation"] for x in told if "validation" in x)
