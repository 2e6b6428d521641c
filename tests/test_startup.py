"""A wrong setting ends a program with one line that names it, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def start(module: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module`` in an empty folder until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", module],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ENGINE": "echo"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "name", "value", "words"),
    [
        ("bot", "ADMIN_IDS", "12,abc", "ADMIN_IDS: Input should be a valid integer"),
        ("bot", "BOT_TOKEN", "abc", "does not know this BOT_TOKEN"),
        ("bot", "DATABASE_URL", "nonsense", "cannot use DATABASE_URL"),
        ("bot", "DATABASE_URL", "sqlite+aiosqlite:////proc/no/x.db", "cannot use DATABASE_URL"),
        (
            "bot",
            "DATABASE_URL",
            "postgresql+asyncpg://reader:secret@127.0.0.1:9/x",
            "cannot open postgresql+asyncpg://reader:***@127.0.0.1:9/x",
        ),
        ("ml.worker", "SLOTS", "0", "SLOTS: Input should be greater than or equal to 1"),
        ("ml.worker", "DEVICE", "tpu", "DEVICE: Input should be"),
        ("ml.worker", "DATABASE_URL", "nonsense", "cannot use DATABASE_URL"),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, module: str, name: str, value: str, words: str
) -> None:
    run = start(module, tmp_path, **{name: value})
    assert run.returncode == 1
    assert words in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert "secret" not in run.stderr


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_corrupted_model_is_named(engine: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in (ROOT / "ml/pretrained/pushkin-mini").glob("*.*"):
        (model / file.name).write_bytes(file.read_bytes()[:5000])
    run = start("ml.worker", tmp_path, ENGINE=engine, MODEL=str(model))
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"worker: cannot load the model '{model}'")
    assert "Traceback" not in run.stderr
