"""The bench of speculation: the model in larger clothes, and the run with no larger ones."""

import json
from pathlib import Path

import pytest
import torch

from ml import registry
from ml.bench_speculation import widened
from ml.gpt import load_gpt
from scripts import bench_speculation


def test_a_widened_model_gives_the_same_logits() -> None:
    model = load_gpt(registry.BUNDLED).eval()
    wide = widened(model, copies=2, layers=8).eval()
    ids = torch.randint(1, 8192, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(wide(ids)[0], model(ids)[0], atol=1e-3, rtol=0)
    layers = wide.model.num_parameters() / 8 / (2 * 320) ** 2
    assert layers > 12  # attention's and the inner matrices of each layer


def test_a_draft_as_wise_as_the_model_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_speculation, "COPIES", 1)
    out = tmp_path / "speculation.json"
    where = ["--work", str(tmp_path), "--out", str(out), "--layers", "6"]
    bench_speculation.main(["--rounds", "1", "--readers", "1", "2", "--propose", "3", *where])
    rows = json.loads(out.read_text("utf-8"))["rows"]
    assert [(row["readers"], row["proposed"]) for row in rows] == [(1, 0), (1, 3), (2, 0), (2, 3)]
    for row in rows:
        assert row["tokens_per_second"] > 0
        if row["proposed"]:
            assert 1.5 < row["tokens_per_step"] <= 4
        else:
            assert row["tokens_per_step"] == 1
            assert row["ratio"] == 1
