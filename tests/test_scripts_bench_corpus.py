"""The speed of the corpus: the file that is measured, and what is said of it."""

from pathlib import Path

from ml.tokenizer import train
from scripts.bench_corpus import measure, repeat_texts, show
from tests import toy


def test_file_is_made_by_repetition(tmp_path: Path) -> None:
    folder = toy.write_corpus(tmp_path / "corpus")
    text = tmp_path / "text.txt"
    repeat_texts(folder, text, 20_000)
    assert 20_000 <= text.stat().st_size < 21_000
    assert text.read_text("utf-8").count("В исходе октября приехал я") > 1


def test_measures_are_of_the_real_thing(tmp_path: Path) -> None:
    folder = toy.write_corpus(tmp_path / "corpus")
    text, tokens = tmp_path / "text.txt", tmp_path / "tokens.bin"
    repeat_texts(folder, text, 10_000)
    train([toy.EVENING], vocabulary=500).save_pretrained(tmp_path / "tokenizer")
    row = measure(text, tmp_path / "tokenizer", tokens, library=True)
    assert row["megabytes"] == round(text.stat().st_size / 1e6, 3)
    assert 0 < row["both"]["count"] <= row["tokenising"]["count"]
    assert row["both"]["seconds"] > 0
    assert row["peak_mb"] > 10
    line = show(row)
    assert "both" in line
    assert "peak memory" in line
