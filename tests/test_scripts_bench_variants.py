"""The bench of variants with a tiny shape."""

import json
from pathlib import Path

import pytest

from ml import registry
from ml.bench_variants import Variant
from scripts import bench_variants

TINY = {"vocabulary": 9000, "context": 512, "width": 64, "layers": 2, "heads": 2}


def test_every_variant_is_timed_and_its_weights_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = [Variant("as it comes"), Variant("smaller", "int4", 64)]
    monkeypatch.setattr(bench_variants, "RUGPT3_MEDIUM", TINY)
    monkeypatch.setattr(bench_variants, "variants", lambda width: tried if width == 64 else [])
    out = tmp_path / "variants.json"
    where = ["--work", str(tmp_path), "--out", str(out), "--quality", str(registry.BUNDLED)]
    bench_variants.main(["--rounds", "1", "--readers", "1", "2", *where])
    result = json.loads(out.read_text("utf-8"))
    assert [row["name"] for row in result["rows"]] == ["as it comes", "smaller"]
    for row in result["rows"]:
        assert set(row["milliseconds"]) == {"1", "2"}
        assert min(row["milliseconds"].values()) > 0
    int8, int4 = (row["worse"] for row in result["rows"])
    assert abs(int8) < 0.002
    assert int4 > 0.002  # 0.5 % with VNNI, 0.4 % without
