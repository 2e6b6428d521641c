"""The measures of one text against slow or textbook ones, and the index of quotations."""

import json
import random
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml import quotation, scoring
from ml.authors import Attribution, AuthorModel
from ml.corpus import CorpusError
from ml.quotation import EXACT, STEP, WINDOW, QuotationIndex, uniform
from ml.scoring import Filters, Score, summarise
from tests import toy

FINE = Score(
    characters=2000,
    words=330,
    cyrillic=1.0,
    function_words=0.35,
    repetition=0.0,
    variety=0.8,
    ends=True,
    quoted=20,
    delta=0.9,
    nearest="И. Белов",
    author="И. Белов",
    attributed=True,
    probability=0.7,
)


def noise(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("абвгдежзиклмн", k=length))


# --- measures of the text alone


@pytest.mark.parametrize(
    ("text", "share"),
    [("Ёж да уж", 1.0), ("да yes", 2 / 5), ("Bonjour!", 0.0), ("12, 13…", 0.0), ("", 0.0)],
)
def test_language_is_the_share_of_cyrillic_letters(text: str, share: float) -> None:
    assert scoring.cyrillic(text) == pytest.approx(share)


def test_repetition_is_one_minus_distinct_by_all() -> None:
    assert scoring.repetition(["а", "б", "в", "г", "а", "б", "в", "г"]) == pytest.approx(1 - 4 / 5)
    assert scoring.repetition(["а", "б", "в", "г", "д", "е"]) == 0
    assert scoring.repetition(["да"] * 104) == pytest.approx(1 - 1 / 101)
    assert scoring.repetition(["а", "б", "в"]) == 0


def test_words_ignore_case_and_punctuation() -> None:
    assert scoring.words_of("«Как-то раз, — Я…» 12") == ["как-то", "раз", "я"]


def test_variety_agrees_with_counting_each_window() -> None:
    words = random.Random(3).choices(["а", "б", "в", "г", "д", "е", "ж"], k=60)
    slow = np.mean([len(set(words[i : i + 10])) / 10 for i in range(51)])
    assert scoring.variety(words, window=10) == pytest.approx(slow)


def test_variety_does_not_fall_with_length() -> None:
    words = [str(n) for n in range(100)]
    assert scoring.variety(words) == scoring.variety(words * 5) == 1.0
    assert scoring.variety(words[:99]) is None


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Он уехал.", True),
        ("Уехал ли он?\n", True),
        ("Он уехал…»", True),
        ("(Он уехал!)", True),
        ('"Он уехал."', True),
        ("Он уехал", False),
        ("Он уехал,", False),
        ("Он сказал: «уехал»", False),
        ("", False),
    ],
)
def test_ending(text: str, ends: bool) -> None:
    assert scoring.ends_sentence(text) is ends


# --- quotation


def longest_common_run(one: str, other: str, length: int) -> int:
    """The obvious way, from a length that they are known to share."""
    while any(one[i : i + length + 1] in other for i in range(len(one) - length)):
        length += 1
    return length


@pytest.mark.parametrize("length", [EXACT, EXACT + 1, 97, 300])
def test_quotation_is_found_wherever_it_stands(length: int) -> None:
    collection = noise(900, seed=1)
    index = QuotationIndex.build([collection])
    for start in range(0, 17 * STEP, STEP + 1):  # every offset from the hashed windows
        quote = collection[start : start + length]
        text = noise(200, seed=start + 2) + quote + noise(90, seed=start + 3)
        found = index.longest(text)
        assert found == longest_common_run(text, collection, length)


def test_below_the_exact_length_the_answer_is_a_lower_bound() -> None:
    collection = noise(400, seed=1)
    index = QuotationIndex.build([collection])
    found = set()
    for length in range(10, EXACT):
        for start in range(0, 100, 3):
            text = "я" * 30 + collection[start : start + length] + "ю" * 30
            found.add(index.longest(text))
            assert index.longest(text) in {0, length}
            assert length >= WINDOW or index.longest(text) == 0
    assert len(found) > 2


def test_quotation_is_seen_through_the_edition() -> None:
    index = QuotationIndex.build(["«Ещё  снег, — сказал ямщик\nи не\nостановил усталых лошадей…»"])
    text = '"Еще снег, - сказал ямщик и не остановил усталых лошадей..."'
    assert index.longest(text) == len(text) == len(uniform(text))


def test_quotation_does_not_run_from_one_work_into_the_next() -> None:
    one, other = noise(60, seed=1), noise(60, seed=2)
    index = QuotationIndex.build([one, other])
    assert index.longest(one + other) == 60
    assert index.longest(f"{one}\n{other}") == 60


def test_longest_of_several_quotations_counts() -> None:
    work = noise(500, seed=1)
    index = QuotationIndex.build([work, noise(500, seed=2)])
    text = f"я{work[50:100]}я{work[200:290]}я{work[300:345]}я"
    assert index.longest(text) == 90


@pytest.mark.parametrize("text", ["", "коротко", "я" * 500])
def test_nothing_in_common_is_zero(text: str) -> None:
    assert QuotationIndex.build([toy.EVENING]).longest(text) == 0
    assert QuotationIndex.build([]).longest(text) == 0


def test_saved_index_answers_the_same(tmp_path: Path) -> None:
    index = QuotationIndex.build([toy.EVENING, toy.ROAD])
    index.save(tmp_path / "new" / "quotations.npz")
    loaded = QuotationIndex.load(tmp_path / "new" / "quotations.npz")
    text = "и вот. " + toy.ROAD[30:150]
    assert loaded.longest(text) == index.longest(text) > 100
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["quotations.npz"]


@pytest.mark.parametrize("harm", [b"", b"half", b"PK\3\4half"])
def test_broken_index_is_named(tmp_path: Path, harm: bytes) -> None:
    (tmp_path / "quotations.npz").write_bytes(harm)
    with pytest.raises(CorpusError, match=r"quotations\.npz: not a saved index"):
        QuotationIndex.load(tmp_path / "quotations.npz")


def test_full_disk_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "quotations.npz"
    QuotationIndex.build([toy.EVENING]).save(path)
    before = path.read_bytes()

    def fill(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quotation.np, "savez", fill)
    with pytest.raises(OSError, match="No space"):
        QuotationIndex.build([toy.ROAD]).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- all of it together


class TwoAuthors(AuthorModel):
    """Knows the answers beforehand."""

    def __init__(self) -> None:
        object.__setattr__(self, "target", "И. Белов")

    def attribute(self, texts: Any) -> list[Attribution]:
        return [Attribution("П. Горский", 0.8, {"И. Белов": 0.2, "П. Горский": 0.8})] * len(texts)

    def deltas(self, text: str) -> dict[str, float]:
        return {"И. Белов": len(text) / 1000, "П. Горский": 5.0}


def test_score_gathers_all_measures() -> None:
    index = QuotationIndex.build([toy.ROAD])
    found = scoring.score(toy.ROAD, index=index, authors=TwoAuthors())
    assert found.characters == len(toy.ROAD)
    assert found.quoted == len(uniform(toy.ROAD))
    assert (found.cyrillic, found.repetition, found.ends, found.variety) == (1.0, 0.0, True, None)
    assert 0.2 < found.function_words < 0.5
    assert (found.delta, found.nearest) == (len(toy.ROAD) / 1000, "И. Белов")
    assert (found.author, found.attributed, found.probability) == ("П. Горский", False, 0.2)
    assert Score(**json.loads(json.dumps(asdict(found)))) == found


def test_text_without_a_word_has_a_score() -> None:
    index = QuotationIndex.build([toy.ROAD])
    for text in ("", "…", "123"):
        found = scoring.score(text, index=index, authors=TwoAuthors())
        assert (found.words, found.cyrillic, found.repetition, found.quoted) == (0, 0, 0, 0)


def test_fine_text_passes_the_filters() -> None:
    assert Filters().failures(FINE) == []
    assert Filters().failures(replace(FINE, variety=None)) == []


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ({"characters": 999}, "min_characters"),
        ({"characters": 6001}, "max_characters"),
        ({"cyrillic": 0.9}, "min_cyrillic"),
        ({"function_words": 0.1}, "min_function_words"),
        ({"repetition": 0.04}, "max_repetition"),
        ({"variety": 0.5}, "min_variety"),
        ({"ends": False}, "min_ends"),
        ({"quoted": 81}, "max_quoted"),
        ({"delta": 1.3}, "max_delta"),
        ({"probability": 0.1}, "min_probability"),
    ],
)
def test_each_filter_drops_its_fault(fault: dict[str, Any], name: str) -> None:
    filters = Filters(max_delta=1.2, min_probability=0.2)
    assert filters.failures(replace(FINE, **fault)) == [name]


def test_every_filter_measures_something_and_has_a_reason() -> None:
    for bound in fields(Filters):
        side, _, measure = bound.name.partition("_")
        assert side in {"min", "max"}
        assert hasattr(FINE, measure)
        assert bound.metadata["help"]


def test_summary_holds_means_and_shares() -> None:
    poor = replace(FINE, ends=False, quoted=81, variety=None, attributed=False, repetition=0.5)
    summary = summarise([FINE, FINE, FINE, poor])
    assert summary["texts"] == 4
    assert summary["ends"] == summary["unquoted"] == summary["attributed"] == 0.75
    assert summary["repetition"] == 0.125
    assert summary["variety"] == pytest.approx(0.8)
    assert (summary["longest_quotation"], summary["delta"]) == (81, pytest.approx(0.9))
    assert summarise([poor])["variety"] is None
    assert summarise([replace(FINE, quoted=80)])["unquoted"] == 1
