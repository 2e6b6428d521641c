"""The bench of fine-tuning steps, on a small shape."""

from pathlib import Path
from typing import Any

import pytest

from scripts import bench_finetune

SMALL = {"vocabulary": 8192, "context": 64, "width": 16, "layers": 2, "heads": 2}


@pytest.mark.parametrize("changes", bench_finetune.WAYS.values(), ids=bench_finetune.WAYS)
def test_each_way_of_training_takes_its_steps(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_finetune, "RUGPT3_MEDIUM", SMALL)
    way = bench_finetune.take_steps(changes, steps=2, window=64, work=tmp_path / "work")
    assert len(way["losses"]) == 2
    assert way["tokens_per_second"] > 0
    assert (way["trained_parameters"] < way["parameters"]) == ("rank" in changes)
    assert not (tmp_path / "work").exists()  # gigabytes, at full size


def test_the_shape_is_ru_gpt3_mediums() -> None:
    # 355.9 million parameters.
    shape = bench_finetune.RUGPT3_MEDIUM
    width = shape["width"]
    embeddings = (shape["vocabulary"] + shape["context"]) * width
    layer = 12 * width * width + 13 * width
    assert embeddings + shape["layers"] * layer + 2 * width == 355_878_912
