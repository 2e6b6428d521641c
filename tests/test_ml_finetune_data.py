"""Stories and works for fine-tuning: no theme on both sides, and broken lines are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from ml.corpus import CorpusError
from ml.finetune_data import is_held_out, read
from tests import toy

RECIPE = {"seed": 1, "held_out": 0.3, "groups": {"own": ["belov"]}, "leave_out": []}


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.parametrize("key", ["theme", "work"])
def test_no_theme_stands_on_both_sides(tmp_path: Path, key: str) -> None:
    lines = [{"text": f"Рассказ {n} о предмете {n % 40}.", key: str(n % 40)} for n in range(200)]
    one, two = write(tmp_path / "a", *lines[:100]), write(tmp_path / "b", *lines[100:])
    data = read([one, two], RECIPE)
    assert len(data.train) + len(data.validation) == 200
    sides = [{text.split()[-1] for text in side} for side in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert 5 <= len(sides[1]) <= 20  # of forty themes about three in ten


def test_split_depends_on_the_seed_alone() -> None:
    def drawn(seed: int) -> list[bool]:
        return [is_held_out(str(n), seed, 0.5) for n in range(50)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_answers_that_are_not_good_are_left_out(tmp_path: Path) -> None:
    lines = [{"text": f"Текст {n}.", "theme": str(n), "good": n % 2 == 0} for n in range(40)]
    data = read([write(tmp_path / "a", *lines)], RECIPE)
    assert {int(text[6:-1]) % 2 for text in data.train + data.validation} == {0}


def test_works_are_held_out_whole(tmp_path: Path) -> None:
    split = toy.write_json(tmp_path / "split.json", toy.SPLIT)
    data = read([toy.write_corpus(tmp_path / "corpus")], RECIPE, split)
    assert "приехал я на станцию" in "\n".join(data.train)
    assert "милый друг" in "\n".join(data.validation)
    assert "Старый дом" in "\n".join(data.test)
    assert len(data.train) == 2


def test_hash_tells_texts_and_their_parts_apart(tmp_path: Path) -> None:
    lines = [{"text": f"Текст {n}.", "theme": str(n)} for n in range(40)]
    one = read([write(tmp_path / "a", *lines)], RECIPE).sha256
    assert one == read([write(tmp_path / "b", *lines)], RECIPE).sha256
    assert one != read([write(tmp_path / "c", *lines)], {**RECIPE, "held_out": 0.6}).sha256


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "a: no texts"),
        ('{"text": ""}\n', "a: no texts"),
        ('{"text": "Вот."}\n{"text"', "a, line 2: no JSON with a text"),
        ('{"story": "Вот."}', "a, line 1: no JSON with a text"),
        ('{"text": 5}', "a, line 1: no JSON with a text"),
        ('{"text": "Вот.", "theme": "одна"}', "nothing to validate on"),
    ],
)
def test_broken_file_is_named_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a").write_text(content, "utf-8")
    with pytest.raises(CorpusError, match=words) as caught:
        read([tmp_path / "a"], {**RECIPE, "held_out": 0.0})
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere: No such file"):
        read([tmp_path / "nowhere"], RECIPE)
