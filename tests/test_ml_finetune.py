"""Fine-tuning at toy size: in full and by LoRA, cut off and gone on, alone and in two processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ml.checkpoint import export
from ml.finetune import FinetuneConfig, finetune, save
from ml.finetune_loop import FinetuneError
from scripts import finetune as script
from tests import toy

ROOT = Path(__file__).parents[1]
TEXTS = [toy.EVENING, toy.ROAD, toy.MANOR]
HELD_OUT = [toy.LETTER]
CONFIG = FinetuneConfig(
    seed=3, window=64, batch=4, rows=2, rate=0.01, epochs=4, validate_every=0.5, log_every=1
)


@pytest.fixture
def base(tmp_path: Path) -> str:
    folder = tmp_path / "base"
    export(toy.toy_model(300, context=64), toy.toy_tokenizer(), {"name": "toy"}, folder)
    return str(folder)


def lines(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text("utf-8").splitlines()]


def losses(work: Path) -> list[float]:
    return [line["loss"] for line in lines(work) if "loss" in line]


@pytest.mark.parametrize("rank", [0, 4])
def test_model_learns_and_its_best_weights_are_kept(base: str, tmp_path: Path, rank: int) -> None:
    made = finetune(replace(CONFIG, rank=rank), base, TEXTS, HELD_OUT, tmp_path / "work")
    curve = losses(tmp_path / "work")
    assert sum(curve[-3:]) < sum(curve[:3])
    measured = [line["validation"] for line in lines(tmp_path / "work") if "validation" in line]
    assert made.bits_per_character == min(measured[1:])  # the first is the base's
    assert made.epochs == pytest.approx(4)
    assert made.steps == len(curve)
    if rank:
        assert made.trained_parameters < made.parameters / 2
        assert made.adapter is not None
        assert (made.adapter / "adapter_model.safetensors").is_file()
    save(made, tmp_path / "out", {"name": "made"})
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(1, 9)[None]
    assert torch.allclose(saved(ids).logits.float(), made.model(ids).logits.float(), atol=0.05)
    meta = json.loads((tmp_path / "out/meta.json").read_text("utf-8"))
    assert meta["training"]["rate"] == CONFIG.rate
    assert list((tmp_path / "work").rglob("events.out.tfevents*"))  # TensorBoard's


def test_stopped_run_goes_on_with_the_same_losses(base: str, tmp_path: Path) -> None:
    finetune(CONFIG, base, TEXTS, HELD_OUT, tmp_path / "whole")
    count = 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count == 5

    cut = finetune(CONFIG, base, TEXTS, HELD_OUT, tmp_path / "cut", should_stop=stop)
    assert cut.stopped
    again = finetune(CONFIG, base, TEXTS, HELD_OUT, tmp_path / "cut")
    assert not again.stopped
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_patience_ends_a_run_that_gets_worse(base: str, tmp_path: Path) -> None:
    hot = replace(CONFIG, rate=3.0, epochs=20, patience=2)
    made = finetune(hot, base, TEXTS, HELD_OUT, tmp_path / "work")
    assert made.epochs < 20


def test_accumulated_batch_is_the_batch(base: str, tmp_path: Path) -> None:
    finetune(CONFIG, base, TEXTS, HELD_OUT, tmp_path / "two")
    finetune(replace(CONFIG, rows=4), base, TEXTS, HELD_OUT, tmp_path / "four")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "four"), rel=1e-3)


def test_missing_base_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match="nobody/nothing") as caught:
        finetune(CONFIG, "nobody/nothing", TEXTS, HELD_OUT, tmp_path / "work")
    assert "\n" not in str(caught.value)


def test_corrupted_weights_are_one_line(base: str, tmp_path: Path) -> None:
    (Path(base) / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(FinetuneError, match="base") as caught:
        finetune(CONFIG, base, TEXTS, HELD_OUT, tmp_path / "work")
    assert "\n" not in str(caught.value)


def test_full_disk_leaves_the_old_model_and_says_so(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finetune(replace(CONFIG, epochs=1), base, TEXTS, HELD_OUT, tmp_path / "work")
    out = tmp_path / "out"
    save(made, out, {"name": "first"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml.finetune.export", full)
    with pytest.raises(FinetuneError, match=r"out: cannot be written: .*No space left"):
        save(made, out, {"name": "second"})
    assert json.loads((out / "meta.json").read_text("utf-8"))["name"] == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "work"]


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "no texts"), ('{"text": "а"}\n{broken\n', "line 2"), ("[1]\n", "line 1")],
)
def test_script_names_broken_data_in_one_line(
    base: str, tmp_path: Path, content: str, words: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(content, "utf-8")
    with pytest.raises(SystemExit, match=words):
        script.main(["--base", base, "--data", str(data), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
