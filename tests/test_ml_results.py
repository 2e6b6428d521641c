"""A result on disk names its origin and is written whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from ml import results


def test_result_names_what_made_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "figures.json"
    results.save(file, {"rows": [1.5]}, command="python -m x", seed=7, config={"k": 1}, data="ab")
    saved = json.loads(file.read_text("utf-8"))
    assert saved.pop("commit") == results.commit()
    assert saved == {
        "command": "python -m x",
        "seed": 7,
        "config": {"k": 1},
        "data_sha256": "ab",
        "rows": [1.5],
    }


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "figures.json"
    results.write_text(file, "old")

    def full(self: Path, text: str, encoding: str) -> None:
        with self.open("w", encoding=encoding) as half:
            half.write(text[:1])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        results.write_text(file, "new")
    assert file.read_text("utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_commit_is_none_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The commit is asked for after the hours of training: nothing may fail there.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert results.commit() is None
