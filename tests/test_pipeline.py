"""Every experiment runs, in order, on the stories that ship with the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(900)  # a score of programs, each importing torch
def test_tiny_pipeline_runs_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    process = subprocess.run(
        ["bash", "scripts/pipeline_tiny.sh", str(out)],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    results = {
        file.stem: json.loads(file.read_text("utf-8")) for file in out.glob("results/*.json")
    }
    assert set(results) == {
        *("ablations", "authors", "autopsy", "baselines", "evaluate", "frequency", "mini_runs"),
        *("scaling", "search", "tokenizer_sweep"),
    }
    assert all(result["command"].startswith("python -m scripts.") for result in results.values())
    states = [trial["state"] for trial in results["search"]["trials"]]
    assert len(states) == 4 * 2 * 2  # families, ranges, trials
    assert set(states) <= {"complete", "pruned"}
    gpt, gru = results["evaluate"]["models"]
    assert (gpt["name"], gru["name"]) == ("tiny", "char GRU")
    assert all(1 < model["bits_per_character"]["test"] < 9 for model in (gpt, gru))
    assert gpt["generations"]["texts"] == 5
    plots = {file.stem for file in out.glob("plots/*.png")}
    assert {"baselines", "scaling", "search_curves", "tokenizer_sweep", "evaluate"} <= plots
